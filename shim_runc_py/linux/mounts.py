"""Mount and unmount a bundle's rootfs, as containerd's mount lists ask for it (SEMANTICS 3.4).

The first half is pure: words of fstab to flags and data, and the plan for an overlay whose
options are longer than the kernel takes. The second half makes the system calls. It is run in a
child process (`linux.spawn`), because a mount or unmount may take as long as a slow disk wants to,
and because the long-overlay plan changes the working directory.

Kernel facts
------------
* mount(2) takes at most one page of data. Lower directories may be relative to the working
  directory, so a long list is mounted from their common parent.
* A read-only bind takes two calls: MS_RDONLY is ignored by the first one.
* A mount lands on top of whatever is mounted at the place already, also when the place is given
  as /proc/self/fd/N of a directory below. Places are opened with O_NOFOLLOW first, so a symlink
  put at `rootfs` leads nowhere (SECURITY 13, 15).
* umount2 without MNT_DETACH fails with EBUSY while anything uses the mount; users may be on their
  way out, so it is tried for 2.5 s.
"""

from __future__ import annotations

import os
import time

from shim_runc_py.errors import words
from shim_runc_py.linux import libc, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

RDONLY, NOSUID, NODEV, NOEXEC, SYNCHRONOUS, REMOUNT, MANDLOCK, DIRSYNC = (1 << n for n in range(8))
NOATIME, NODIRATIME, BIND, REC = 1 << 10, 1 << 11, 1 << 12, 1 << 14
RELATIME, STRICTATIME = 1 << 21, 1 << 24
UMOUNT_NOFOLLOW = 8

# word: (clears, flag)
_FLAGS = {
    "async": (True, SYNCHRONOUS), "sync": (False, SYNCHRONOUS),
    "atime": (True, NOATIME), "noatime": (False, NOATIME),
    "bind": (False, BIND), "rbind": (False, BIND | REC),
    "dev": (True, NODEV), "nodev": (False, NODEV),
    "diratime": (True, NODIRATIME), "nodiratime": (False, NODIRATIME),
    "dirsync": (False, DIRSYNC),
    "exec": (True, NOEXEC), "noexec": (False, NOEXEC),
    "mand": (False, MANDLOCK), "nomand": (True, MANDLOCK),
    "relatime": (False, RELATIME), "norelatime": (True, RELATIME),
    "strictatime": (False, STRICTATIME), "nostrictatime": (True, STRICTATIME),
    "suid": (True, NOSUID), "nosuid": (False, NOSUID),
    "remount": (False, REMOUNT),
    "ro": (False, RDONLY), "rw": (True, RDONLY),
}  # fmt: skip


class Entry:
    """One mount of a Create request: `target` is a directory below the rootfs, usually ""."""

    __slots__ = ("kind", "options", "source", "target")

    def __init__(self, kind: str, source: str, target: str, options: Sequence[str]) -> None:
        self.kind = kind
        self.source = source
        self.target = target
        self.options = tuple(options)


def parse_options(options: Sequence[str]) -> tuple[int, str]:
    """(flags, data) for mount(2); unknown words are the file system's own and go into data.

    Raises ValueError for options that only containerd's mount manager may consume.
    """
    flags = 0
    data = []
    for option in options:
        if option.startswith("X-containerd."):
            raise ValueError(
                f'internal mount option "{option}" was not consumed by the mount manager'
            )
        clears, flag = _FLAGS.get(option, (False, 0))
        if not flag:
            data.append(option)
        elif clears:
            flags &= ~flag
        else:
            flags |= flag
    return flags, ",".join(data)


def shorten_overlay(options: Sequence[str], limit: int) -> tuple[str, list[str]]:
    """(directory to mount from, options) for an overlay; ("", unchanged) when it fits or cannot.

    `limit` is the room in bytes. The lower directories get relative names and move to the end.
    """
    unchanged = "", list(options)
    if sum(len(option) for option in options) < limit:
        return unchanged
    lowers: list[str] = []
    others = []
    for option in options:
        if option.startswith("lowerdir="):
            lowers = option.removeprefix("lowerdir=").split(":")
        else:
            others.append(option)
    if len(lowers) < 2:
        return unchanged
    try:
        common = os.path.commonpath(lowers)
    except ValueError:  # some relative, some absolute
        return unchanged
    if common in lowers:
        common = os.path.dirname(common)
    if common in ("", "/", "."):
        return unchanged
    names = [lower[len(common) + 1 :] for lower in lowers]
    if not all(names):
        return unchanged
    return common, [*others, "lowerdir=" + ":".join(names)]


def mount_all(entries: Sequence[Entry], rootfs: str) -> None:
    """Mount `entries` in order onto `rootfs`. On failure nothing of it stays mounted.

    Changes the working directory of the process. Raises OSError and ValueError.
    """
    mounted = False
    try:
        for entry in entries:
            mount(entry, rootfs)
            mounted = True
    except BaseException:
        if mounted:
            unmount_below(rootfs)
        raise


def mount(entry: Entry, rootfs: str) -> None:
    """Mount one entry. Raises OSError with the stock shim's description of the mount."""
    options = list(entry.options)
    if entry.kind == "overlay":
        directory, options = shorten_overlay(options, os.sysconf("SC_PAGESIZE") - 512)
        if directory:
            os.chdir(directory)
    flags, data = parse_options(options)
    if len(data) >= os.sysconf("SC_PAGESIZE"):
        raise ValueError("mount options is too long")
    try:
        if not flags & REMOUNT or data:
            with _Target(rootfs, entry.target) as place:
                libc.mount(entry.source, place, entry.kind, flags, data)
        if flags & (BIND | RDONLY) == BIND | RDONLY:
            with _Target(rootfs, entry.target) as place:
                libc.mount(entry.source, place, entry.kind, flags | REMOUNT, data)
    except OSError as error:
        raise OSError(
            error.errno,
            f'mount source: "{entry.source}", target: "{rootfs}", fstype: {entry.kind}, '
            f'flags: {flags}, data: "{data}", err: {words(error)}',
        ) from None


class _Target:
    """The place to mount on as a path that cannot be led elsewhere."""

    def __init__(self, rootfs: str, inside: str) -> None:
        self._path = rootfs
        self._inside = inside
        self._fd = -1

    def __enter__(self) -> str:
        names = [name for name in self._inside.split("/") if name not in ("", ".")]
        if ".." in names:
            raise ValueError(f'mount target "{self._inside}" leaves the rootfs')
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._path, flags)
        for name in names:
            above = self._fd
            try:
                self._fd = os.open(name, flags, dir_fd=above)
            finally:
                os.close(above)
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def unmount_below(rootfs: str) -> None:
    """Unmount everything at and below `rootfs`, deepest first; a missing path is success.

    Only the failure of `rootfs` itself is raised (OSError), after 2.5 s of EBUSY.
    """
    parent = procfs.canonical(os.path.dirname(rootfs))
    if parent is None:
        return
    top = os.path.join(parent, os.path.basename(rootfs))
    points = sorted(procfs.own_mount_points(top), key=len, reverse=True)
    for point in points:
        try:
            unmount(point)
        except OSError:
            if point == top:
                raise


def unmount(point: str, tries: int = 50, pause: float = 0.05) -> None:
    """umount(2), trying again while it is busy; nothing mounted there (any more) is success."""
    for left in range(tries, 0, -1):
        try:
            libc.umount2(point, UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in (22, 2):  # EINVAL: no mount point; ENOENT: gone
                return
            if error.errno != 16 or left == 1:  # EBUSY
                text = f"failed to unmount target {point}: {words(error)}"
                raise OSError(error.errno, text) from None
            time.sleep(pause)
        else:
            return
