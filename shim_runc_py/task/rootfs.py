"""The rootfs of a container whose Create request brought mounts (SEMANTICS 3.4).

The mounts are made in the child that becomes the engine's create, the unmounting in a child of its
own: a slow disk must not stop the loop (FAILURES 2).
"""

from __future__ import annotations

import os

from shim_runc_py import log
from shim_runc_py.errors import ShimError, words
from shim_runc_py.linux import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from shim_runc_py.api.types_pb2 import Mount
    from shim_runc_py.loop import Loop
    from shim_runc_py.reaper import Reaper

BOUND = 60.0  # seconds for mounting or unmounting


class Rootfs:
    """`<bundle>/rootfs`. Without mounts it is somebody else's, and nothing is done to it."""

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        bundle: str,
        mounts: Iterable[Mount],
        environ: Mapping[str, str],
    ) -> None:
        """`environ` is for programs that mount; it may allow unmounting lazily (see `unmount`)."""
        self._loop = loop
        self._reaper = reaper
        self._path = f"{bundle}/rootfs"
        self._mounts = list(mounts)
        self._environ = environ
        self._mounted = False

    def mount_action(self) -> Callable[[], object] | None:
        """What the engine's child does before the engine; None when there is nothing to mount."""
        if not self._mounts:
            return None
        from shim_runc_py.linux import mounts
        from shim_runc_py.linux.mount_options import Entry

        try:
            os.mkdir(self._path, 0o711)
        except FileExistsError:
            pass
        except OSError as error:
            raise ShimError(f"mkdir {self._path}: {words(error)}") from None
        entries = [
            Entry(entry.type, entry.source, entry.target, entry.options) for entry in self._mounts
        ]
        self._mounted = True
        return lambda: mounts.mount_all(entries, self._path, self._environ)

    async def mount(self) -> None:
        """Mount in a child of its own, when no engine is to follow. Raises ShimError."""
        action = self.mount_action()
        if action is not None:
            await self._call(action, "failed to mount rootfs component")

    async def unmount(self) -> None:
        """Undo the mounting. Raises ShimError, and may then be tried again.

        An operator who would rather lose sight of a busy mount than keep a task that cannot be
        deleted says PYRUNC_LAZY_UNMOUNT=1 (FAILURES 20).
        """
        if not self._mounted:
            return
        from shim_runc_py.linux import unmounts

        lazily = self._environ.get("PYRUNC_LAZY_UNMOUNT") == "1"

        def undo() -> None:
            for point in unmounts.unmount_below(self._path, detach=lazily):
                log.warning("busy mount was detached", mount=point)

        await self._call(undo, "failed rootfs umount")
        self._mounted = False

    async def _call(self, action: Callable[[], object], prefix: str) -> None:
        child = spawn.call(action)
        try:
            gone = self._reaper.child(child.pid)
            try:
                await self._loop.within(gone, BOUND)
            except TimeoutError:
                os.kill(child.pid, 9)  # not waited for, so it cannot be another
                raise ShimError(f"{prefix}: {self._path} takes too long") from None
            trouble = child.failure()
        finally:
            child.close()
        if trouble is not None:
            raise ShimError(f"{prefix}: {trouble.words}")
