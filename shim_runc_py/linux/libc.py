"""System calls that Python's `os` does not have, through the C library that is loaded anyway.

Imported late and only by what needs it: `ctypes` costs 0.6 MB and 3 ms.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

_libc.mount.argtypes = (
    ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p,
)  # fmt: skip
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def _check(result: int, path: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """mount(2); raises OSError."""
    _check(
        _libc.mount(
            os.fsencode(source), os.fsencode(target), os.fsencode(kind), flags, os.fsencode(data)
        ),
        target,
    )


def umount2(target: str, flags: int) -> None:
    """umount(2) with flags; raises OSError."""
    _check(_libc.umount2(os.fsencode(target), flags), target)


_PR_SCHED_CORE, _PR_SCHED_CORE_CREATE, _SCOPE_PROCESS_GROUP = 62, 1, 2


def share_core_with_group() -> None:
    """Give the process group a core-scheduling cookie (prctl PR_SCHED_CORE); raises OSError."""
    result = _libc.prctl(_PR_SCHED_CORE, _PR_SCHED_CORE_CREATE, 0, _SCOPE_PROCESS_GROUP, 0)
    _check(result, "")
