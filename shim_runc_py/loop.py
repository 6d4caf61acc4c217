"""One thread, one epoll, `async def` handlers: everything a shim waits for, it waits for here.

A turn of the loop is: wait for file descriptors or the next timer, call the watchers of what is
ready, fire the timers that are due, then run what was queued meanwhile. A reader who knows this
one sentence can follow the whole shim, because nothing in it runs anywhere else.

Rules
-----
* Callbacks do not block. What may block (an engine, a mount) runs in a child process.
* All descriptors are non-blocking, and watchers tolerate a spurious call: a descriptor can be
  closed and its number reused by an earlier watcher of the same turn.
* Whoever watches a descriptor forgets it *before* closing it. The kernel keys an epoll entry by
  the open file, not by the number: an entry whose number is closed while a duplicate of the file
  is alive can never be removed again, and fires for ever.
* A `Future` is settled once. A `Task` is a future that runs a coroutine. A task that fails while
  nobody awaits it is reported to `on_failure` (the log), never lost.

Signals arrive through the interpreter's wake-up descriptor (`signal.set_wakeup_fd`), so that
handlers run as ordinary callbacks of a turn and not between two byte codes. `_signal` is the
built-in module below `signal`; the latter brings `enum` along, which is outside the import budget.

This module knows nothing of ttrpc, processes or containers.
"""

from __future__ import annotations

import heapq
import os
import select
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Coroutine, Generator
    from typing import Any, Generic, TypeVar

    T = TypeVar("T")
else:
    import _signal

    # `Future[int]` in annotations is enough for the type checker; at run time the classes are
    # not subscripted, and `typing` is never imported.
    T = None

    class _Subscriptable:
        __slots__ = ()

        def __class_getitem__(cls, item: object) -> type:
            return cls

    Generic = _Subscriptable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
EDGE = select.EPOLLET
HANGUP = select.EPOLLHUP
FAILED = select.EPOLLERR


REST = 0.25  # seconds


class Cancelled(BaseException):
    """Thrown into a coroutine whose task is cancelled. Not an Exception: nobody swallows it."""


class Future(Generic[T]):
    """A value that will be there later; `await future` gives it or raises its exception."""

    __slots__ = ("_callbacks", "_error", "_settled", "_value")

    def __init__(self) -> None:
        self._settled = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Future[T]], object]] = []

    def done(self) -> bool:
        """Is there a value or an exception?"""
        return self._settled

    def result(self) -> T:
        """The value; raises the exception if that is what the future was settled with."""
        if not self._settled:
            raise RuntimeError("the future is not settled yet")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def settle(self, value: T) -> None:
        """Give the value. A second call is ignored: of two racing reasons the first one counts."""
        if not self._settled:
            self._value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        """Give an exception instead of a value."""
        if not self._settled:
            self._error = error
            self._finish()

    def then(self, callback: Callable[[Future[T]], object]) -> None:
        """Call `callback(future)` when settled; at once if it is already."""
        if self._settled:
            callback(self)
        else:
            self._callbacks.append(callback)

    def unthen(self, callback: Callable[[Future[T]], object]) -> None:
        """Take back a `then`; no error if it has been called or was never there."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def _finish(self) -> None:
        self._settled = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def __await__(self) -> Generator[Future[T], None, T]:
        if not self._settled:
            yield self
        return self.result()


class Task(Future[T]):
    """A running coroutine; itself a future for what the coroutine returns."""

    __slots__ = ("_awaiting", "_coroutine", "_loop", "name")

    def __init__(self, loop: Loop, coroutine: Coroutine[Any, Any, T], name: str) -> None:
        super().__init__()
        self._loop = loop
        self._coroutine = coroutine
        self._awaiting: Future[Any] | None = None
        self.name = name

    def cancel(self) -> None:
        """Throw `Cancelled` into the coroutine at the place where it waits, in the next turn."""
        if not self._settled:
            self._loop.soon(self._step, Cancelled())

    def where(self) -> str:
        """The place in the code at which the task waits, innermost last; for a dump."""
        places = []
        found: Any = self._coroutine
        while found is not None:
            frame = getattr(found, "cr_frame", None)
            if frame is not None:
                places.append(f"{found.__qualname__}:{frame.f_lineno}")
            found = getattr(found, "cr_await", None)
        return " > ".join(places) or "its beginning"

    def _wake(self, future: Future[Any]) -> None:
        self._loop.soon(self._resume, future)

    def _resume(self, future: Future[Any]) -> None:
        # Thrown out of this wait in the same turn, it may be in another one by now.
        if self._awaiting is future:
            self._awaiting = None
            self._step()

    def _step(self, error: BaseException | None = None) -> None:
        if self._settled:
            return
        if self._awaiting is not None:  # thrown out of its wait
            self._awaiting.unthen(self._wake)
            self._awaiting = None
        try:
            if error is None:
                awaiting = self._coroutine.send(None)
            else:
                awaiting = self._coroutine.throw(error)
        except StopIteration as stop:
            self.settle(stop.value)
        except BaseException as failure:
            watched = bool(self._callbacks)
            self.fail(failure)
            if not watched and not isinstance(failure, Cancelled):
                self._loop.on_failure(self.name, failure)
        else:
            self._awaiting = awaiting
            awaiting.then(self._wake)


class Timer:
    """A callback at a time; `cancel` takes it back."""

    __slots__ = ("_loop", "callback", "when")

    def __init__(self, loop: Loop, when: float, callback: Callable[[], object]) -> None:
        self._loop = loop
        self.when = when
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self._loop._timer_cancelled()

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when


class Loop:
    """See the module's text. `clock` gives seconds and only ever grows."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._epoll = select.epoll()
        self._watchers: dict[int, Callable[[int], object]] = {}
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[Timer] = []
        self._cancelled_timers = 0
        self._signal_pipe: tuple[int, int] | None = None
        self._signal_callbacks: dict[int, Callable[[], object]] = {}
        self.rest = REST
        self._rested = False

    def on_rest(self) -> None:
        """Nothing has happened for `rest` seconds; not called again before something has.

        Replaced by whoever has something to do then.
        """

    def on_failure(self, name: str, error: BaseException) -> None:
        """A callback or an unawaited task failed. Replaced by the log in a shim."""
        raise error

    # file descriptors

    def watch(self, fd: int, events: int, callback: Callable[[int], object]) -> None:
        """Call `callback(ready_events)` whenever `fd` is ready for one of `events`."""
        self._epoll.register(fd, events)
        self._watchers[fd] = callback

    def rewatch(self, fd: int, events: int) -> None:
        """Change the events of a watched `fd`; 0 leaves hang-ups and errors only."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching `fd`, which must still be open; no error if it is not watched."""
        if self._watchers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def readable(self, fd: int) -> None:
        """Wait once until `fd`, not watched by anybody else, is readable or hung up."""
        ready: Future[None] = Future()
        self.watch(fd, READ, lambda _: ready.settle(None))
        try:
            await ready
        finally:
            self.forget(fd)

    # time and order

    def soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call `callback(*args)` in this or the next turn, after everything queued before."""
        self._ready.append((callback, args))

    def after(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback()` in `seconds`."""
        timer = Timer(self, self.clock() + seconds, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def _timer_cancelled(self) -> None:
        # Lazy removal, but bounded: thousands of calls with long timeouts leave no heap behind.
        self._cancelled_timers += 1
        if self._cancelled_timers > 64 and self._cancelled_timers * 2 > len(self._timers):
            self._timers = [timer for timer in self._timers if timer.callback is not None]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str = "") -> Task[T]:
        """Run `coroutine` as a task, beginning in this or the next turn."""
        task = Task(self, coroutine, name or getattr(coroutine, "__qualname__", "task"))
        self.soon(task._step)
        return task

    async def sleep(self, seconds: float) -> None:
        """Come back in `seconds`."""
        over: Future[None] = Future()
        timer = self.after(seconds, lambda: over.settle(None))
        try:
            await over
        finally:
            timer.cancel()

    async def within(self, future: Future[T], seconds: float | None) -> T:
        """Await `future` for at most `seconds` (None: for ever); raises TimeoutError when over.

        The future itself is left alone: others may be waiting for it, too.
        """
        if seconds is None or future.done():
            return await future
        done: Future[bool] = Future()

        def settled(_: Future[T]) -> None:
            done.settle(True)

        timer = self.after(max(0.0, seconds), lambda: done.settle(False))
        future.then(settled)
        try:
            if not await done:
                raise TimeoutError(f"not done within {seconds:.1f} s")
        finally:
            timer.cancel()
            future.unthen(settled)
        return future.result()

    # signals

    def on_signal(self, signum: int, callback: Callable[[], object]) -> None:
        """Call `callback()` in a turn of the loop after `signum` was received (once or often)."""
        if self._signal_pipe is None:
            read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._signal_pipe = (read_end, write_end)
            _signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
            self.watch(read_end, READ, self._signalled)
        self._signal_callbacks[signum] = callback
        _signal.signal(signum, lambda *_: None)

    def _signalled(self, _: int) -> None:
        assert self._signal_pipe is not None
        try:
            numbers = os.read(self._signal_pipe[0], 4096)
        except BlockingIOError:
            return
        for signum in dict.fromkeys(numbers):
            callback = self._signal_callbacks.get(signum)
            if callback is not None:
                callback()

    # turns

    def run(self, until: Future[T]) -> T:
        """Turn until `until` is settled; returns its value."""
        while not until.done():
            self.turn()
        return until.result()

    def turn(self) -> None:
        """One turn; sleeps until there is something to do."""
        if self._ready:
            timeout: float | None = 0
        elif self._timers:
            timeout = max(0.0, self._timers[0].when - self.clock())
        else:
            timeout = None
        if self._rested or (timeout is not None and timeout <= self.rest):
            found = self._epoll.poll(timeout, 64)
        else:
            found = self._epoll.poll(self.rest, 64)
            if not found:
                self._rested = True
                self.on_rest()
                return
        self._rested = False
        for fd, events in found:
            watcher = self._watchers.get(fd)
            if watcher is not None:
                self._guard(watcher, events)
        if self._timers:
            now = self.clock()
            while self._timers and self._timers[0].when <= now:
                timer = heapq.heappop(self._timers)
                due, timer.callback = timer.callback, None
                if due is None:
                    self._cancelled_timers = max(0, self._cancelled_timers - 1)
                else:
                    self._guard(due)
        for _ in range(len(self._ready)):
            callback, args = self._ready.popleft()
            self._guard(callback, *args)

    def _guard(self, callback: Callable[..., object], *args: Any) -> None:
        try:
            callback(*args)
        except Exception as error:
            self.on_failure(getattr(callback, "__qualname__", "callback"), error)

    def close(self) -> None:
        """Give back the loop's own descriptors; watched ones belong to their watchers."""
        if self._signal_pipe is not None:
            _signal.set_wakeup_fd(-1)
            for fd in self._signal_pipe:
                self.forget(fd)
                os.close(fd)
            self._signal_pipe = None
        self._epoll.close()


class Gate:
    """Lets one holder through at a time, in the order of arrival.

    Orders the verbs on one process. Used as `async with gate:`.
    """

    __slots__ = ("_held", "_queue")

    def __init__(self) -> None:
        self._held = False
        self._queue: deque[Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._held:
            turn: Future[None] = Future()
            self._queue.append(turn)
            try:
                await turn  # the gate is handed over held
            except BaseException:
                if turn.done():
                    self._pass_on()
                else:
                    self._queue.remove(turn)
                raise
        self._held = True

    async def __aexit__(self, *_: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        if self._queue:
            self._queue.popleft().settle(None)
        else:
            self._held = False
