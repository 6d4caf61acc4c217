"""What the files of a cgroup v1 say, as plain values (CONTRACT 8.11, SEMANTICS 8.2).

Each function takes directories and gives numbers; what is not there is left out, because a cgroup
may vanish between two reads. Every OSError but "not there" is raised.

Kernel facts
------------
* Numbers are decimal, `max` stands for no limit. cpuacct.stat counts in ticks of 1/100 s.
* Files of one controller belong together: when the first is missing (no swap accounting, no kernel
  memory accounting), so are those after it.
* blkio has two families: `*_recursive` of the BFQ and CFQ schedulers, and `throttle.*`, which is
  there without them. Lines are `major:minor Operation value`, and a `Total value` at the end.
"""

from __future__ import annotations

from shim_runc_py.linux.files import numbers_by_key, read_bytes, read_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

TICK = 10_000_000  # nanoseconds

BLKIO_FILES = (
    "io_serviced_recursive",  # there if and only if the family is
    "io_service_bytes_recursive",
    "io_queued_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "time_recursive",
    "sectors_recursive",
)


def pids(directory: str) -> tuple[int, int]:
    """(current, limit); 0 for no limit, which v1 consumers expect."""
    return read_number(f"{directory}/pids.current"), read_number(f"{directory}/pids.max")


def cpu_usage(directory: str) -> tuple[int, int, int, list[int]]:
    """(total, kernel, user, per cpu) in nanoseconds; all 0 when the first file is missing."""
    total = read_bytes(f"{directory}/cpuacct.usage")
    if total is None:
        return 0, 0, 0, []
    ticks = numbers_by_key(read_bytes(f"{directory}/cpuacct.stat") or b"")
    each = read_bytes(f"{directory}/cpuacct.usage_percpu") or b""
    return (
        int(total),
        ticks.get(b"system", 0) * TICK,
        ticks.get(b"user", 0) * TICK,
        [int(word) for word in each.split()],
    )


def throttling(directory: str) -> tuple[int, int, int]:
    """(periods, throttled periods, throttled time in ns)."""
    found = numbers_by_key(read_bytes(f"{directory}/cpu.stat") or b"")
    return (
        found.get(b"nr_periods", 0),
        found.get(b"nr_throttled", 0),
        found.get(b"throttled_time", 0),
    )


def memory_stat(directory: str) -> dict[bytes, int]:
    """memory.stat by the kernel's keys."""
    return numbers_by_key(read_bytes(f"{directory}/memory.stat") or b"")


def memory_entries(directory: str) -> list[tuple[int, int, int, int] | None]:
    """(limit, usage, max, failcnt) of memory, memsw, kmem, kmem.tcp; None from the first that is
    missing on."""
    found: list[tuple[int, int, int, int] | None] = []
    for middle in ("", ".memsw", ".kmem", ".kmem.tcp"):
        base = f"{directory}/memory{middle}"
        if found and found[-1] is None:
            found.append(None)
            continue
        usage = read_bytes(f"{base}.usage_in_bytes")
        if usage is None:
            found.append(None)
            continue
        found.append(
            (
                read_number(f"{base}.limit_in_bytes"),
                int(usage),
                read_number(f"{base}.max_usage_in_bytes"),
                read_number(f"{base}.failcnt"),
            )
        )
    return found


def oom_control(directory: str) -> tuple[int, int, int] | None:
    """(oom_kill_disable, under_oom, oom_kill); None when it is not there."""
    text = read_bytes(f"{directory}/memory.oom_control")
    if text is None:
        return None
    found = numbers_by_key(text)
    return (
        found.get(b"oom_kill_disable", 0),
        found.get(b"under_oom", 0),
        found.get(b"oom_kill", 0),
    )


Entry = tuple[str, str, int, int, int]  # operation, device, major, minor, value


def blkio(directory: str, devices: dict[tuple[int, int], str]) -> dict[str, list[Entry]]:
    """Entries by file name; the throttle family under the names of the recursive one."""
    found: dict[str, list[Entry]] = {}
    first = read_bytes(f"{directory}/blkio.{BLKIO_FILES[0]}")
    if first is not None:
        for name in BLKIO_FILES:
            text = first if name == BLKIO_FILES[0] else read_bytes(f"{directory}/blkio.{name}")
            if text is not None:
                found[name] = parse_blkio(text, devices)
    if not any(found.values()):
        for name, file in (
            ("io_serviced_recursive", "throttle.io_serviced"),
            ("io_service_bytes_recursive", "throttle.io_service_bytes"),
        ):
            text = read_bytes(f"{directory}/blkio.{file}")
            if text is not None:
                found[name] = parse_blkio(text, devices)
    return found


def parse_blkio(text: bytes, devices: dict[tuple[int, int], str]) -> list[Entry]:
    """Lines of a blkio file without the sums; a file without operations gives "" for them."""
    entries = []
    for line in text.decode().splitlines():
        words = line.replace(":", " ").split()
        if len(words) not in (3, 4) or not all(words[at].isdigit() for at in (0, 1, -1)):
            continue  # the sum of all devices, or a limit
        major, minor = int(words[0]), int(words[1])
        operation = words[2] if len(words) == 4 else ""
        if operation == "Total":
            continue
        device = devices.get((major, minor), "")
        entries.append((operation, device, major, minor, int(words[-1])))
    return entries


def hugetlb(directory: str, sizes: Iterable[str]) -> list[tuple[str, int, int, int]]:
    """(page size, usage, max, failcnt) for each size that there is."""
    found = []
    for size in sizes:
        base = f"{directory}/hugetlb.{size}"
        usage = read_bytes(f"{base}.usage_in_bytes")
        if usage is not None:
            most = read_number(f"{base}.max_usage_in_bytes")
            found.append((size, int(usage), most, read_number(f"{base}.failcnt")))
    return found
