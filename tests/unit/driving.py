"""What unit tests drive the package with: a clock that is theirs, a loop with a bound, forks.

Nothing here sleeps. A test either turns the loop until something has happened, within `BOUND`, or
moves its own clock.
"""

from __future__ import annotations

import os
import select
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from shim_runc_py.linux import wait
from shim_runc_py.loop import Future, Loop

BOUND = 10.0  # seconds; only a failing test ever waits for so long
T = TypeVar("T")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Descriptors:
    """Descriptors that a test has opened."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def keep(self, fd: int) -> int:
        """Close `fd` after the test."""
        self._open.append(fd)
        return fd

    def pipe(self, flags: int = os.O_NONBLOCK) -> tuple[int, int]:
        """(read end, write end)."""
        read_end, write_end = os.pipe2(flags | os.O_CLOEXEC)
        return self.keep(read_end), self.keep(write_end)

    def open(self, path: object, flags: int) -> int:
        return self.keep(os.open(str(path), flags | os.O_CLOEXEC))

    def close(self, *fds: int) -> None:
        for fd in fds:
            self._open.remove(fd)
            os.close(fd)

    def close_all(self) -> None:
        self.close(*list(self._open))


def turn(loop: Loop, times: int = 1) -> None:
    """Turns that do not wait for anything."""
    for _ in range(times):
        loop.soon(lambda: None)
        loop.turn()


def asleep(loop: Loop) -> bool:
    """Would the next turn wait? False for a loop that is busy, or spins."""
    # Asking the epoll for its events would use up those that are told of once; poll(2) does not.
    poll = select.poll()
    poll.register(loop._epoll.fileno(), select.POLLIN)
    return not loop._ready and not poll.poll(0)


def until(loop: Loop, condition: Callable[[], object], what: str = "") -> None:
    """Turn until `condition()`; for a loop on real time."""
    over = False

    def give_up() -> None:
        nonlocal over
        over = True

    timer = loop.after(BOUND, give_up)
    while not condition():
        assert not over, f"did not happen: {what or condition}"
        loop.turn()
    timer.cancel()


def run(loop: Loop, coroutine: Coroutine[Any, Any, T]) -> T:
    """What `coroutine` returns; for a loop on real time."""
    task = loop.spawn(coroutine, "the test")
    return loop.run(loop.spawn(loop.within(task, BOUND), "the test's bound"))


def result(loop: Loop, future: Future[T]) -> T:
    """What `future` is settled with; for a loop on real time."""
    until(loop, future.done, "a future's result")
    return future.result()


def in_fork(action: Callable[[], object]) -> None:
    """Run `action` in a fork of this process; an exception there fails the test here."""
    said_end, say_end = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(said_end)
            action()
        except BaseException:
            os.write(say_end, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(say_end)
    try:
        with open(said_end, encoding="utf-8") as file:
            said = file.read()
        status = wait.within(pid, BOUND)
        pid = 0
    finally:
        if pid:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    assert status == 0, status
    assert not said, said


def fork(action: Callable[[], object]) -> int:
    """The pid of a child that runs `action` and exits with 0, or with what it returns."""
    pid = os.fork()
    if not pid:
        status = 255
        try:
            returned = action()
            status = returned if isinstance(returned, int) else 0
        finally:
            os._exit(status)
    return pid


def await_zombie(pid: int) -> None:
    """Wait until child `pid` is dead, and leave it to whoever reaps."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
