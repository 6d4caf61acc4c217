"""Small kernel files, read with as few calls as there can be.

Stats is called for every container every few seconds: `open` with its layers costs three times as
much as the three system calls that it takes.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NO_LIMIT = (1 << 64) - 1
# Not there: no file, no device any more (a removed cgroup), not supported (pressure without PSI).
_MISSING = (2, 19, 95)


def read_bytes(path: str) -> bytes | None:
    """The contents, None when the file or its cgroup is not there; raises other OSErrors."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise
    try:
        data = os.read(fd, 65536)
        if len(data) == 65536:
            while part := os.read(fd, 65536):
                data += part
        return data
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise
    finally:
        os.close(fd)


def read_number(path: str, *, unlimited: int = 0) -> int:
    """A number; `unlimited` for `max`, 0 when the file is not there or the number is negative."""
    return parse_number(read_bytes(path) or b"0", unlimited)


def parse_number(text: bytes, unlimited: int) -> int:
    """See `read_number`."""
    text = text.strip()
    if text == b"max":
        return unlimited
    return max(0, int(text or b"0"))


def numbers_by_key(text: bytes) -> dict[bytes, int]:
    """Lines of `key number`; others are passed over."""
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(b" ")
        if value.isdigit():
            found[key] = int(value)
    return found


def page_sizes(names: Iterable[str]) -> list[str]:
    """Page sizes as cgroup files spell them, from `hugepages-2048kB` and the like."""
    sizes = []
    for name in names:
        digits = name.removeprefix("hugepages-").removesuffix("kB")
        if not digits.isdigit():
            continue
        size, unit = int(digits), 0
        while size >= 1024 and unit < 2:
            size //= 1024
            unit += 1
        sizes.append(f"{size}{('KB', 'MB', 'GB')[unit]}")
    return sorted(sizes)


def huge_page_sizes() -> list[str]:
    """Of this machine; [] when it has none."""
    try:
        return page_sizes(os.listdir("/sys/kernel/mm/hugepages"))
    except OSError:
        return []


def block_devices() -> dict[tuple[int, int], str]:
    """(major, minor) to /dev/name; the first name counts."""
    found: dict[tuple[int, int], str] = {}
    for line in (read_bytes("/proc/partitions") or b"").decode().splitlines():
        words = line.split()
        if len(words) == 4 and words[0].isdigit():
            found.setdefault((int(words[0]), int(words[1])), f"/dev/{words[3]}")
    return found
