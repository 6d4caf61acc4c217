"""Tells when the kernel has killed a process of a container for want of memory (SEMANTICS 7).

Watched from the end of Create on, so that the quickest hog is seen, and looked at once more when
init has gone, *before* its exit is published: clients that see the exit first say "Error" instead
of "OOMKilled" (FAILURES 23).

Kernel facts
------------
* cgroup v1: an eventfd registered in cgroup.event_control for memory.oom_control is signalled
  before the victim is killed, and once more when the cgroup is removed. So a count of two or more
  with no cgroup left means that there was an OOM; the stock shim drops that one.
* cgroup v2: a change of memory.events is an exceptional condition of the open file (EPOLLPRI,
  together with EPOLLERR), until it is read again; no inotify is needed. Of its counters, `oom_kill`
  is the one that also counts kills because of a limit further up.
* Reading a file of a removed cgroup gives ENODEV.
"""

from __future__ import annotations

import os
import select

from shim_runc_py import log
from shim_runc_py.linux import cgroup1
from shim_runc_py.linux.files import numbers_by_key
from shim_runc_py.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim_runc_py.linux.cgroup import Cgroup
    from shim_runc_py.loop import Loop


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
        """Report what has not been reported yet; called before the exit of init is published."""

    def close(self) -> None:
        """Give up the descriptor; more than once does no harm."""


class LegacyWatch(Watch):
    """cgroup v1."""

    def __init__(self, loop: Loop, directory: str, report: Callable[[], object]) -> None:
        self._loop = loop
        self._directory = directory
        self._report = report
        self._reported = False
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

    def _signalled(self, _: int = 0) -> None:
        try:
            count = os.eventfd_read(self._fd)
        except BlockingIOError:
            return
        if os.path.isdir(self._directory):
            self._tell()
            return
        if count > 1:
            self._tell()
        self.close()

    def _tell(self) -> None:
        self._reported = True
        self._report()

    def look(self) -> None:
        if self._fd < 0:
            return
        self._signalled()
        if not self._reported:
            found = cgroup1.oom_control(self._directory)
            if found is not None and found[2]:
                self._tell()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1


class UnifiedWatch(Watch):
    """cgroup v2."""

    def __init__(self, loop: Loop, directory: str, report: Callable[[], object]) -> None:
        self._loop = loop
        self._report = report
        self._fd = os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        self._kills = 0
        self._kills = self._read() or 0
        loop.watch(self._fd, select.EPOLLPRI, self._changed)

    def _read(self) -> int | None:
        try:
            text = os.pread(self._fd, 4096, 0)
        except OSError:
            return None
        return numbers_by_key(text).get(b"oom_kill", 0)

    def _changed(self, _: int = 0) -> None:
        kills = self._read()
        if kills is None:
            self.close()
        elif kills > self._kills:
            self._kills = kills
            self._report()

    def look(self) -> None:
        if self._fd >= 0:
            self._changed()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
