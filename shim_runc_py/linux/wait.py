"""waitid(2): the next dead child, or a certain one within a bound.

A serving shim waits through `reaper` only. `within` is for the short-lived commands, which have one
child and no loop.
"""

from __future__ import annotations

import os
import select


def next_exit() -> tuple[int, int] | None:
    """(pid, status) of a dead child, taken from the kernel; None when there is none now."""
    try:
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    return None if info is None else (info.si_pid, _status(info))


def is_child(pid: int) -> bool:
    """Is `pid` a child of this process, running or waiting to be waited for?"""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def has_children() -> bool:
    """Is there any child, running or waiting to be waited for?"""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def within(pid: int, seconds: float) -> int | None:
    """The status of child `pid`; None if it outlives `seconds`."""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(max(0, int(seconds * 1000))):
            return None
        info = os.waitid(os.P_PID, pid, os.WEXITED)
        assert info is not None
        return _status(info)
    finally:
        os.close(pidfd)


def _status(info: os.waitid_result) -> int:
    """The exit code, or 128 + the signal's number (SEMANTICS 5.1)."""
    return info.si_status if info.si_code == os.CLD_EXITED else 128 + info.si_status
