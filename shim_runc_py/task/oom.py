"""Tells when the kernel has killed a process of a container for want of memory (SEMANTICS 7).

Watched from the end of Create on, so that the quickest hog is seen, and looked at once more when
init has gone, *before* its exit is published: clients that see the exit first say "Error" instead
of "OOMKilled" (FAILURES 23).

Kernel facts
------------
* A kill is counted, and its watchers are told, before the victim is sent SIGKILL: once init is
  dead, everything that there is to know is known.
* cgroup v1: an eventfd registered in cgroup.event_control for memory.oom_control is signalled
  for an OOM, and once more some time after the cgroup was removed. A removed cgroup has no files
  to ask any more; but then a signal that another one follows was an OOM. The stock shim drops it.
* cgroup v2: a change of memory.events is an exceptional condition of the open file (EPOLLPRI,
  together with EPOLLERR), until it is read again; no inotify is needed. Of its counters, `oom_kill`
  is the one that also counts kills because of a limit further up. Reading it gives ENODEV once the
  cgroup was removed, which systemd does as soon as a scope is empty; what it has counted remains
  in the counters of the cgroup above, summed up with those of its siblings. crun has a cgroup of
  its own inside the scope: then that is the one above the scope.
"""

from __future__ import annotations

import os
import select

from shim_runc_py import log
from shim_runc_py.linux import cgroup1
from shim_runc_py.linux.files import numbers_by_key, read_bytes
from shim_runc_py.loop import READ, Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim_runc_py.linux.cgroup import Cgroup
    from shim_runc_py.loop import Loop

REMOVAL_BOUND = (
    0.5  # seconds between a removal and its signal; a grace period of RCU, usually 20 ms
)


def watch(loop: Loop, cgroup: Cgroup | None, report: Callable[[], object]) -> Watch:
    """Call `report()` at every OOM kill in `cgroup`; without one, or when it cannot, never."""
    if cgroup is not None:
        try:
            if cgroup.unified:
                return UnifiedWatch(loop, cgroup.directories[""], report)
            if "memory" in cgroup.directories:
                return LegacyWatch(loop, cgroup.directories["memory"], report)
        except OSError as error:
            log.warning("add cg to OOM monitor", error=error)
    return Watch()


class Watch:
    """Sees nothing: there is no memory controller."""

    def look(self) -> None:
        """Report what has not been reported yet; called before an exit is published."""

    async def settle(self, killed: bool) -> None:
        """The same for init, which has just ended, `killed` by SIGKILL or not; called at once."""

    def close(self) -> None:
        """Give up the descriptors; more than once does no harm."""


class LegacyWatch(Watch):
    """cgroup v1."""

    def __init__(self, loop: Loop, directory: str, report: Callable[[], object]) -> None:
        self._loop = loop
        self._directory = directory
        self._report = report
        self._reported = False
        self._unclear: Future[None] | None = None  # a signal of an OOM, or of the removal
        self._kills = self._read()
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                register = os.open(f"{directory}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(register, f"{self._fd} {control}".encode())
                finally:
                    os.close(register)
            finally:
                os.close(control)
        except OSError:
            os.close(self._fd)
            raise
        loop.watch(self._fd, READ, self._signalled)

    def _read(self) -> int:
        found = cgroup1.oom_control(self._directory)
        return found[2] if found is not None else 0

    def _signalled(self, _: int = 0) -> None:
        try:
            count = os.eventfd_read(self._fd)
        except BlockingIOError:
            return
        if os.path.isdir(self._directory):
            self._tell()
        elif count > 1 or self._unclear is not None:
            self._tell()
            self.close()
        else:
            self._unclear = Future()

    def _tell(self) -> None:
        self._reported = True
        self._report()

    def look(self) -> None:
        if self._fd < 0:
            return
        self._signalled()
        if not self._reported and self._read() > self._kills:
            self._tell()

    async def settle(self, killed: bool) -> None:
        self.look()
        if killed and self._unclear is not None:
            try:
                await self._loop.within(self._unclear, REMOVAL_BOUND)
            except TimeoutError:
                pass  # it was the removal

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._unclear is not None:
            self._unclear.settle(None)


class UnifiedWatch(Watch):
    """cgroup v2."""

    def __init__(self, loop: Loop, directory: str, report: Callable[[], object]) -> None:
        self._loop = loop
        self._report = report
        self._fd = os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        parent = os.path.dirname(directory)
        self._above = [f"{path}/memory.events" for path in (parent, os.path.dirname(parent))]
        self._kills_above = self._read_above()
        self._kills = self._read() or 0
        self._removed = False
        loop.watch(self._fd, select.EPOLLPRI, self._changed)

    def _read(self) -> int | None:
        try:
            text = os.pread(self._fd, 4096, 0)
        except OSError:
            return None
        return _oom_kills(text)

    def _read_above(self) -> list[int | None]:
        """Of the two cgroups above, nearest first; None for what is not there."""
        texts = [read_bytes(path) for path in self._above]
        return [None if text is None else _oom_kills(text) for text in texts]

    def _changed(self, _: int = 0) -> None:
        # In this order: a kill that comes in between is in the first number, or in neither.
        above = self._read_above()
        kills = self._read()
        if kills is None:
            self._removed = True
            self.close()
            return
        self._kills_above = above
        if kills > self._kills:
            self._kills = kills
            self._report()

    def look(self) -> None:
        if self._fd >= 0:
            self._changed()

    async def settle(self, killed: bool) -> None:
        self.look()
        if not (killed and self._removed):
            return
        for before, now in zip(self._kills_above, self._read_above(), strict=True):
            if now is not None:  # the nearest that is left
                if now > (before or 0):
                    self._report()
                return

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1


def _oom_kills(text: bytes) -> int:
    return numbers_by_key(text).get(b"oom_kill", 0)
