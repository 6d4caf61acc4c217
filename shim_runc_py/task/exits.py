"""The order in which the ends of a container's processes become known (SEMANTICS 5.3).

Two promises that every client builds on:

* The start of a process is published before its exit, however short its life.
* The exit of the init process is published last, after those of all execs.

There is one thread, so both are plain. An exit that comes while the create or start of its process
is under way is put aside (`Process.early`) until that is announced. The init's exit waits until no
exec is left that runs or is being started; the wait has a bound, because a process in the kernel's
hands may never die.

This module knows neither the engine nor what ends a container's leftovers; it is told.
"""

from __future__ import annotations

from shim_runc_py import log
from shim_runc_py.loop import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shim_runc_py.loop import Loop
    from shim_runc_py.reaper import Exit
    from shim_runc_py.task.process import Process

EXECS_BOUND = 30.0  # seconds that the init's exit waits for execs that will not die


class ExitOrder:
    """One for a container. `init_reaped` is true from the moment the init is a zombie no more."""

    def __init__(
        self,
        loop: Loop,
        init_gone: Callable[[Exit], Awaitable[None]],
        tell: Callable[[Process, Exit], object],
    ) -> None:
        """`init_gone` is awaited before the execs are; `tell` makes an exit known."""
        self._loop = loop
        self._init_gone = init_gone
        self._tell = tell
        self._execs = 0
        self._no_execs: Future[None] | None = None
        self.init_reaped = False

    def begin(self, process: Process) -> None:
        """A create or start of `process` is under way: its exit is put aside."""
        process.announced = False
        if not process.is_init:
            self._execs += 1

    def announce(self, process: Process) -> None:
        """What was begun is told, or has failed: the exit may be told, if it came meanwhile."""
        process.announced = True
        early, process.early = process.early, None
        if early is not None:
            self._seen(process, early)

    def watch(self, process: Process) -> None:
        """Wait for the reaper's word, which may have come already."""
        assert process.gone is not None
        process.gone.then(lambda future: self._seen(process, future.result()))

    def exec_failed(self, process: Process) -> None:
        """The start that was begun has failed, and nothing of it runs any more."""
        process.announced = True
        process.early = None
        self._exec_ended()

    def _seen(self, process: Process, how: Exit) -> None:
        if process.is_init:
            self.init_reaped = True
        if not process.announced:
            process.early = how
        elif process.is_init:
            self._loop.spawn(self._end_init(process, how), f"exit of {process.id}")
        else:
            self._tell(process, how)
            self._exec_ended()

    def _exec_ended(self) -> None:
        self._execs -= 1
        if not self._execs and self._no_execs is not None:
            self._no_execs.settle(None)

    async def _end_init(self, init: Process, how: Exit) -> None:
        await self._init_gone(how)
        if self._execs:
            self._no_execs = Future()
            try:
                await self._loop.within(self._no_execs, EXECS_BOUND)
            except TimeoutError:
                log.error("execs outlive their container", container=init.id)
        self._tell(init, how)
