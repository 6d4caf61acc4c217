"""The rootfs of a container whose Create request brought mounts (SEMANTICS 3.4).

The mounts are made in the child that becomes the engine's create, the unmounting in a child of its
own: a slow disk must not stop the loop (FAILURES 2).
"""

from __future__ import annotations

import os

from shim_runc_py.errors import ShimError
from shim_runc_py.linux import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shim_runc_py.api.types_pb2 import Mount
    from shim_runc_py.loop import Loop
    from shim_runc_py.reaper import Reaper

UNMOUNT_BOUND = 60.0  # seconds


class Rootfs:
    """`<bundle>/rootfs`. Without mounts it is somebody else's, and nothing is done to it."""

    def __init__(self, loop: Loop, reaper: Reaper, bundle: str, mounts: Iterable[Mount]) -> None:
        self._loop = loop
        self._reaper = reaper
        self._path = f"{bundle}/rootfs"
        self._mounts = list(mounts)
        self._mounted = False

    def mount_action(self) -> Callable[[], object] | None:
        """What the engine's child does before the engine; None when there is nothing to mount."""
        if not self._mounts:
            return None
        from shim_runc_py.linux import mounts

        try:
            os.mkdir(self._path, 0o711)
        except FileExistsError:
            pass
        entries = [
            mounts.Entry(entry.type, entry.source, entry.target, entry.options)
            for entry in self._mounts
        ]
        self._mounted = True
        return lambda: mounts.mount_all(entries, self._path)

    async def unmount(self) -> None:
        """Undo `mount_action`. Raises ShimError, and may then be tried again."""
        if not self._mounted:
            return
        from shim_runc_py.linux import mounts

        child = spawn.call(lambda: mounts.unmount_below(self._path))
        try:
            gone = self._reaper.child(child.pid)
            try:
                await self._loop.within(gone, UNMOUNT_BOUND)
            except TimeoutError:
                raise ShimError(f"failed rootfs umount: {self._path} takes too long") from None
            trouble = child.failure()
        finally:
            child.close()
        if trouble is not None:
            raise ShimError(f"failed rootfs umount: {trouble.words}")
        self._mounted = False
