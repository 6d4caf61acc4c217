"""What a list of mount options means, worked out before any system call (SEMANTICS 3.4). Pure.

Words of fstab become flags, some words are for the shim itself (a loop device, id maps), and the
rest is the file system's own data. An overlay whose options are longer than the kernel takes gets
names relative to a directory. Types that begin with `fuse.` or `fuse3.` are mounted by a program.

Kernel facts
------------
* mount(2) takes at most one page of data. Lower directories may be relative to the working
  directory, so a long list is mounted from their common parent.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

RDONLY, NOSUID, NODEV, NOEXEC, SYNCHRONOUS, REMOUNT, MANDLOCK, DIRSYNC = (1 << n for n in range(8))
NOATIME, NODIRATIME, BIND, REC = 1 << 10, 1 << 11, 1 << 12, 1 << 14
RELATIME, STRICTATIME = 1 << 21, 1 << 24

HELPERS = ("mount.fuse", "mount.fuse3")

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
    """One mount of a Create request: `target` is a place below the rootfs, usually ""."""

    __slots__ = ("kind", "options", "source", "target")

    def __init__(self, kind: str, source: str, target: str, options: Sequence[str]) -> None:
        self.kind = kind
        self.source = source
        self.target = target
        self.options = tuple(options)


class Options:
    """Options taken apart: `flags` and `data` are for mount(2), the others for whoever calls it.

    `loop` asks for a loop device in the place of the source, `direct_io` for one that passes the
    page cache by; `id_maps` are the words of `uidmap=` and `gidmap=`, None unless both are there.
    """

    __slots__ = ("data", "direct_io", "flags", "id_maps", "loop")

    def __init__(self, words: Sequence[str]) -> None:
        """Raises ValueError for words that only containerd's mount manager may consume."""
        self.flags = 0
        self.loop = False
        uids = gids = ""
        data = []
        for word in words:
            refuse_internal(word)
            clears, flag = _FLAGS.get(word, (False, 0))
            if flag:
                self.flags = self.flags & ~flag if clears else self.flags | flag
            elif word == "loop":
                self.loop = True
            elif word.startswith("uidmap="):
                uids = word.removeprefix("uidmap=")
            elif word.startswith("gidmap="):
                gids = word.removeprefix("gidmap=")
            else:
                data.append(word)
        self.direct_io = self.loop and "direct-io" in data
        if self.direct_io:
            data = [word for word in data if word != "direct-io"]
        self.id_maps = (id_map(uids), id_map(gids)) if uids and gids else None
        self.data = ",".join(data)


def refuse_internal(word: str) -> None:
    """Raises ValueError for an option that was not meant to get as far as here."""
    if word.startswith("X-containerd."):
        raise ValueError(f'internal mount option "{word}" was not consumed by the mount manager')


def id_map(text: str) -> str:
    """The lines of a /proc/PID/uid_map from `inside:outside:count`, several joined by commas.

    Raises ValueError.
    """
    lines = []
    for mapping in text.split(","):
        numbers = mapping.split(":")
        if len(numbers) != 3 or not all(n.isascii() and n.isdigit() for n in numbers):
            raise ValueError(
                "user namespace mappings require the format `container-id:host-id:size`, "
                f"not {mapping!r}"
            )
        if any(int(number) > 0xFFFFFFFF for number in numbers):
            raise ValueError(f"user namespace mapping {mapping!r} has an id beyond 32 bits")
        lines.append(" ".join(numbers))
    return "".join(f"{line}\n" for line in lines)


def helper(entry: Entry) -> tuple[str, str] | None:
    """(program, type it is told) for a type that a program mounts, else None."""
    for program in HELPERS:
        prefix = program.removeprefix("mount.") + "."
        if entry.kind.startswith(prefix):
            return program, entry.kind.removeprefix(prefix)
    return None


def helper_argv(entry: Entry, program: str, kind: str, place: str) -> list[str]:
    """The command line of mount.fuse(8). Raises ValueError for an internal option."""
    argv = [program, entry.source, place]
    for word in entry.options:
        refuse_internal(word)
        argv += ["-o", word]
    return [*argv, "-t", kind]


def split_lowers(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(lower directories, all other options) of an overlay; the last `lowerdir=` counts."""
    lowers: list[str] = []
    others = []
    for word in words:
        if word.startswith("lowerdir="):
            lowers = word.removeprefix("lowerdir=").split(":")
        else:
            others.append(word)
    return lowers, others


def relative_lowers(lowers: Sequence[str]) -> tuple[str, list[str]] | None:
    """(a directory above all of them, their names below it); None if there is none but the root.

    Snapshots are called 1, 10, 100, so a common beginning of the text is not enough.
    """
    try:
        common = os.path.commonpath(lowers)
    except ValueError:  # none at all, or some relative and some absolute
        return None
    if common in lowers:
        common = os.path.dirname(common)
    if common in ("", "/", "."):
        return None
    names = [lower[len(common) + 1 :] for lower in lowers]
    return (common, names) if all(names) else None


def shorten_overlay(words: Sequence[str], limit: int) -> tuple[str, list[str]]:
    """(directory to mount from, options) for an overlay; ("", unchanged) when it fits or cannot.

    `limit` is the room in bytes. The lower directories get relative names and move to the end.
    """
    unchanged = "", list(words)
    if sum(len(word) for word in words) < limit:
        return unchanged
    lowers, others = split_lowers(words)
    found = relative_lowers(lowers) if len(lowers) > 1 else None
    if found is None:
        return unchanged
    return found[0], [*others, "lowerdir=" + ":".join(found[1])]
