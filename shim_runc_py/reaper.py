"""The only caller of wait: every child of a shim ends here, and nowhere else.

Two kinds of children exist. Those that the shim spawned (engine commands, loggers) are known by
pid from the moment of the fork. Container processes are not: the engine creates them, writes
their pid to a file and exits; as a subreaper the shim inherits them, perhaps already dead. So an
exit can be seen before anybody knows whose it is. While an engine is about to bring such a child
(`expecting`), exits of unknown pids are parked, and `adopt` finds them. Everything else that ends
here (hooks, loggers' children, orphans of a container) is swept and forgotten.

Kernel facts
------------
* A pid is not reused before its zombie was waited for. Between fork (or adoption) and the wait, a
  pid therefore names exactly one process, and signalling it cannot hit another. Nobody else in
  this process may wait, which is why there is no `subprocess` in a shim (FAILURES 46).
* One SIGCHLD may stand for many children: sweep until nothing is left.

An exit status is the exit code, or 128 + the signal's number (SEMANTICS 5.1).
"""

from __future__ import annotations

import time

from shim_runc_py.linux import wait
from shim_runc_py.loop import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable

    from shim_runc_py.loop import Loop
else:
    import _signal


class Exit:
    """How and when a process ended: `status` 0 – 255, `at` in nanoseconds since 1970."""

    __slots__ = ("at", "status")

    def __init__(self, status: int, at: int) -> None:
        self.status = status
        self.at = at

    def __repr__(self) -> str:
        return f"Exit(status={self.status}, at={self.at})"


class Reaper:
    """Delivers each exit to the one future that stands for the process."""

    def __init__(self, loop: Loop, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._waiting: dict[int, Future[Exit]] = {}
        self._expecting = 0
        self._parked: dict[int, Exit] = {}
        loop.on_signal(_signal.SIGCHLD, self.sweep)

    def child(self, pid: int) -> Future[Exit]:
        """The exit of `pid`, a child that was just forked here or is known to be ours."""
        return self._waiting.setdefault(pid, Future())

    def expecting(self) -> Expecting:
        """`with reaper.expecting():` around an engine command that brings a child of its own."""
        return Expecting(self)

    def adopt(self, pid: int) -> Future[Exit]:
        """The exit of `pid`, which an engine brought inside an `expecting` block.

        A parked exit counts only if no living child has the number: the parked one may be that of
        an orphan which had the pid before.
        """
        future = self.child(pid)
        parked = self._parked.pop(pid, None)
        if parked is not None and not wait.is_child(pid):
            self._waiting.pop(pid, None)
            future.settle(parked)
        return future

    def watched(self) -> int:
        """How many processes somebody waits for."""
        return len(self._waiting)

    def sweep(self) -> None:
        """Take every dead child and tell whoever waits for it. Never blocks."""
        while True:
            found = wait.next_exit()
            if found is None:
                return
            pid, status = found
            gone = Exit(status, self._clock())
            future = self._waiting.pop(pid, None)
            if future is not None:
                future.settle(gone)
            elif self._expecting:
                self._parked[pid] = gone


class Expecting:
    """Keeps exits of unknown pids while an engine brings a child."""

    __slots__ = ("_reaper",)

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper

    def __enter__(self) -> None:
        self._reaper._expecting += 1

    def __exit__(self, *_: object) -> None:
        reaper = self._reaper
        reaper.sweep()
        reaper._expecting -= 1
        if not reaper._expecting:
            reaper._parked.clear()
