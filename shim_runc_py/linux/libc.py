"""System calls that Python's `os` does not have, through the C library that is loaded anyway.

Imported late and only by what needs it: `ctypes` costs 0.6 MB and 3 ms.

Kernel facts
------------
* The mount API with descriptors (open_tree, move_mount, Linux 5.2; mount_setattr, 5.12) has no
  wrappers in C libraries before glibc 2.36; numbers from 424 on are the same on all machines that
  containerd runs on.
* Mounts are idmapped since Linux 5.12, by file system; overlays with idmapped layers since 5.19.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

_libc.mount.argtypes = (
    ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p,
)  # fmt: skip
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.syscall.restype = ctypes.c_long

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_CLONE, _CLOEXEC, _EMPTY_PATH, _RECURSIVE = 1, os.O_CLOEXEC, 0x1000, 0x8000
_FROM_EMPTY_PATH, _TO_EMPTY_PATH = 0x04, 0x40
_ATTR_RDONLY, _ATTR_IDMAP, _PRIVATE = 0x1, 0x100000, 1 << 18
_NEWNS, _NEWUSER = 0x20000, 0x10000000


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


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


def _descriptors(number: int, *arguments: object) -> int:
    """One of the calls that take descriptors; every argument is a word on its own."""
    given = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    return _check(_libc.syscall(ctypes.c_long(number), *given), "")


def open_tree(fd: int, *, recursive: bool = False) -> int:
    """A detached copy of the mount that `fd` is in, from `fd` downwards; raises OSError."""
    flags = _CLONE | _CLOEXEC | _EMPTY_PATH | (_RECURSIVE if recursive else 0)
    return _descriptors(_OPEN_TREE, fd, b"", flags)


def move_mount(tree: int, place: int) -> None:
    """Attach a detached mount on the directory or file `place`; raises OSError."""
    _descriptors(_MOVE_MOUNT, tree, b"", place, b"", _FROM_EMPTY_PATH | _TO_EMPTY_PATH)


def map_ids(tree: int, user_namespace: int, *, read_only: bool = False) -> None:
    """Let a detached mount and all below it show ids as that namespace maps them; raises OSError.

    The mounts become private, so that what happens to the originals does not reach them.
    """
    attributes = _ATTR_IDMAP | (_ATTR_RDONLY if read_only else 0)
    given = _MountAttr(attributes, 0, _PRIVATE, user_namespace)
    flags = _EMPTY_PATH | _RECURSIVE
    size = ctypes.sizeof(given)
    _descriptors(_MOUNT_SETATTR, tree, b"", flags, ctypes.byref(given), size)


def new_user_namespace() -> None:
    """unshare(2) into a user namespace without any maps; raises OSError."""
    _check(_libc.unshare(_NEWUSER), "")


def new_mount_namespace() -> None:
    """unshare(2) into a copy of the mount namespace; raises OSError."""
    _check(_libc.unshare(_NEWNS), "")


def enter_mount_namespace(fd: int) -> None:
    """setns(2); afterwards root and working directory are those of the namespace. OSError."""
    _check(_libc.setns(fd, _NEWNS), "")


_PR_SCHED_CORE, _PR_SCHED_CORE_CREATE, _SCOPE_PROCESS_GROUP = 62, 1, 2


def share_core_with_group() -> None:
    """Give the process group a core-scheduling cookie (prctl PR_SCHED_CORE); raises OSError."""
    result = _libc.prctl(_PR_SCHED_CORE, _PR_SCHED_CORE_CREATE, 0, _SCOPE_PROCESS_GROUP, 0)
    _check(result, "")


def trim_heap() -> None:
    """Put the free memory of malloc in order, and give back what can be given back.

    Freed blocks wait in a list until somebody needs one, and whoever comes first writes to all of
    them; in a fork that is a page each.
    """
    _libc.malloc_trim(0)
