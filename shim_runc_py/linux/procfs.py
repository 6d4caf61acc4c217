"""What /proc says about processes and mounts, as values.

Kernel facts
------------
* The second field of /proc/PID/stat is the command in parentheses and may contain anything, also
  parentheses: split at the last one.
* /proc/PID/mountinfo escapes space, tab, newline and backslash as three octal digits
  (SECURITY 14).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


_PORTION = 65536


def read(path: str) -> str:
    """The whole of a small file; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = part = os.read(fd, _PORTION)
        while part:
            part = os.read(fd, _PORTION)
            data += part
    finally:
        os.close(fd)
    return data.decode("utf-8", "surrogateescape")


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which `pid` began; None when there is no such process."""
    try:
        stat = read(f"/proc/{pid}/stat")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def cgroup_paths(pid: int) -> dict[str, str]:
    """Controller to path, from /proc/PID/cgroup; "" is the unified hierarchy. Raises OSError."""
    return parse_cgroup_paths(read(f"/proc/{pid}/cgroup"))


def parse_cgroup_paths(text: str) -> dict[str, str]:
    """See `cgroup_paths`. A line is `number:controllers:path`; the path may contain colons."""
    paths = {}
    for line in text.split("\n"):
        parts = line.split(":", 2)
        if len(parts) == 3:
            for controller in parts[1].split(","):
                paths[controller] = parts[2]
    return paths


def unescape(text: str) -> str:
    r"""Undo the \040 escapes of mountinfo."""
    if "\\" not in text:
        return text
    head, *rest = text.split("\\")
    out = [head]
    for part in rest:
        if len(part) >= 3 and part[:3].isdigit():
            out.append(chr(int(part[:3], 8)) + part[3:])
        else:
            out.append("\\" + part)
    return "".join(out)


def mount_points(text: str, below: str) -> list[str]:
    """The mount points at or below `below` in a mountinfo text, in the order of the text."""
    prefix = below.rstrip("/") + "/"
    found = []
    for line in text.split("\n"):
        fields = line.split(" ", 5)
        if len(fields) > 4:
            point = unescape(fields[4])
            if point == below or point.startswith(prefix):
                found.append(point)
    return found


def own_mount_points(below: str) -> list[str]:
    """`mount_points` of this process's namespace."""
    return mount_points(read("/proc/self/mountinfo"), below)


def read_pids(paths: Iterable[str]) -> list[int]:
    """The numbers in cgroup.procs files, without doubles, in order; missing files are empty."""
    pids: dict[int, None] = {}
    for path in paths:
        try:
            text = read(path)
        except OSError:
            continue
        pids.update(dict.fromkeys(int(word) for word in text.split()))
    return list(pids)


def canonical(path: str) -> str | None:
    """`path` without symlinks, or None when it does not exist."""
    try:
        return os.path.realpath(path, strict=True)
    except OSError:
        return None
