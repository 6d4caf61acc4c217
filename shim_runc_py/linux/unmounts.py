"""Undo the mounts of a bundle's rootfs, whoever made them and in whatever state (SEMANTICS 3.4).

Run in a child process, because an unmount may take as long as a slow disk wants to. Nothing but
mountinfo is asked: a statfs or a stat would wait for a file system whose server hangs (FUSE, NFS).

Kernel facts
------------
* umount(2) without MNT_DETACH fails with EBUSY while anything uses the mount, also an O_PATH
  descriptor of it; users may be on their way out, so it is tried again for 2.5 s.
* The path of a mount point as mountinfo has it leads through directories that a container may have
  written to. So it is walked without following symlinks up to the directory above, and the last
  name is looked up from there with UMOUNT_NOFOLLOW (SECURITY 14).
* A mount may hide others at and below its place. They can be reached once it is gone, so the
  list is read again as long as there is progress.
* A FUSE mount needs no fusermount when the caller may call umount(2); fusermount would look at the
  mount first, and hang where its server hangs.
"""

from __future__ import annotations

import errno
import os
import time

from shim_runc_py.errors import words
from shim_runc_py.linux import libc, procfs

BOUND = 2.5  # seconds that users of a mount get to go
_PAUSE = 0.05
_DETACH, _NOFOLLOW = 2, 8


def unmount_below(rootfs: str, seconds: float = BOUND, *, detach: bool = False) -> list[str]:
    """Unmount everything at and below `rootfs`; a missing path is success.

    `seconds` bounds the waiting for all busy mounts together. With `detach`, what is busy even
    then leaves the tree at once and the kernel when its last user goes; such mounts are returned.
    Raises OSError for a mount that stays.
    """
    parent = procfs.canonical(os.path.dirname(rootfs))
    if parent is None:
        return []
    top = os.path.join(parent, os.path.basename(rootfs))
    deadline = time.monotonic() + seconds
    detached: list[str] = []
    points = procfs.own_mount_points(top)
    while points:
        failure: OSError | None = None
        for point in sorted(points, key=len, reverse=True):
            try:
                _unmount(parent, point, deadline)
            except OSError as error:
                if detach and error.errno == errno.EBUSY and _detach(parent, point):
                    detached.append(point)
                    continue
                text = f"failed to unmount target {point}: {words(error)}"
                failure = OSError(error.errno, text)
        left = procfs.own_mount_points(top)
        if len(left) >= len(points):
            if failure is None:  # mounts on directories that have no name any more
                break
            raise failure
        points = left
    return detached


def _unmount(parent: str, point: str, deadline: float) -> None:
    """Try until `deadline`; nothing mounted there (any more) is success. Raises OSError."""
    while True:
        try:
            _call(parent, point, _NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return
            if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _detach(parent: str, point: str) -> bool:
    try:
        _call(parent, point, _NOFOLLOW | _DETACH)
    except OSError:
        return False
    return True


def _call(parent: str, point: str, flags: int) -> None:
    """umount2(2) of `point`, which is below the directory `parent`. Raises OSError."""
    *names, last = point[len(parent.rstrip("/")) + 1 :].split("/")
    walk = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(parent, walk)
    try:
        for name in names:
            above = fd
            try:
                fd = os.open(name, walk, dir_fd=above)
            except BaseException:
                fd = -1
                raise
            finally:
                os.close(above)
        libc.umount2(f"/proc/self/fd/{fd}/{last}", flags)
    finally:
        if fd >= 0:
            os.close(fd)
