"""What the files of a cgroup v2 say, as plain values (CONTRACT 8.10, SEMANTICS 8.3).

Each function takes the directory and gives numbers; a file that is missing, because its controller
is not enabled or the cgroup has just gone, gives zero or nothing.

Kernel facts
------------
* `max` stands for no limit and is 2^64 - 1 in the metrics.
* cpu.stat is there without the cpu controller.
* Pressure files answer EOPNOTSUPP when the kernel was booted without PSI.
* memory.stat of newer kernels has split some counters (workingset_refault into _anon and _file);
  the old names are then missing and stay 0.
"""

from __future__ import annotations

import os

from shim_runc_py.linux.files import NO_LIMIT, numbers_by_key, read_bytes, read_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def check(directory: str) -> None:
    """Raises FileNotFoundError when the cgroup has gone."""
    os.stat(f"{directory}/cgroup.controllers")


def pids(directory: str) -> tuple[int, int]:
    """(current, limit)."""
    current = read_number(f"{directory}/pids.current")
    return current, read_number(f"{directory}/pids.max", unlimited=NO_LIMIT)


def flat(directory: str, name: str) -> dict[bytes, int]:
    """A file of `key number` lines: cpu.stat, memory.stat, memory.events."""
    return numbers_by_key(read_bytes(f"{directory}/{name}") or b"")


def memory_numbers(directory: str) -> tuple[int, int, int, int, int, int]:
    """(usage, limit, swap usage, swap limit, peak, swap peak)."""
    return (
        read_number(f"{directory}/memory.current"),
        read_number(f"{directory}/memory.max", unlimited=NO_LIMIT),
        read_number(f"{directory}/memory.swap.current"),
        read_number(f"{directory}/memory.swap.max", unlimited=NO_LIMIT),
        read_number(f"{directory}/memory.peak"),
        read_number(f"{directory}/memory.swap.peak"),
    )


Pressure = dict[str, tuple[float, float, float, int]]


def pressure(directory: str, name: str) -> Pressure:
    """`some` and `full` to (avg10, avg60, avg300, total in µs) from cpu.pressure and the like."""
    return parse_pressure(read_bytes(f"{directory}/{name}.pressure") or b"")


def parse_pressure(text: bytes) -> Pressure:
    """Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`."""
    found: Pressure = {}
    for line in text.decode().splitlines():
        kind, _, rest = line.partition(" ")
        pairs = rest.split()
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        try:
            found[kind] = (
                float(values["avg10"]),
                float(values["avg60"]),
                float(values["avg300"]),
                int(values["total"]),
            )
        except (KeyError, ValueError):
            continue
    return found


def io(directory: str) -> list[dict[str, int]]:
    """One dict a device: major, minor, rbytes, wbytes, rios, wios."""
    return parse_io((read_bytes(f"{directory}/io.stat") or b"").decode())


def parse_io(text: str) -> list[dict[str, int]]:
    """Lines of `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`; bare devices are left out."""
    found = []
    for line in text.splitlines():
        device, _, rest = line.partition(" ")
        pairs = rest.split()
        major, _, minor = device.partition(":")
        if not pairs or not major.isdigit() or not minor.isdigit():
            continue
        entry = {"major": int(major), "minor": int(minor)}
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in ("rbytes", "wbytes", "rios", "wios") and value.isdigit():
                entry[key] = int(value)
        found.append(entry)
    return found


def rdma(directory: str) -> tuple[list[Rdma], list[Rdma]] | None:
    """(current, limits) of each device; None without the controller.

    A device that came or went between the two readings makes both empty.
    """
    current = read_bytes(f"{directory}/rdma.current")
    limits = read_bytes(f"{directory}/rdma.max")
    if current is None or limits is None:
        return None
    found = parse_rdma(current.decode()), parse_rdma(limits.decode())
    return found if len(found[0]) == len(found[1]) else ([], [])


Rdma = tuple[str, int, int]  # device, hca handles, hca objects


def parse_rdma(text: str) -> list[Rdma]:
    """Lines of `mlx4_0 hca_handle=2 hca_object=max`; 2^32 - 1 is no limit."""
    found = []
    for line in text.splitlines():
        device, _, rest = line.partition(" ")
        values = dict(pair.split("=", 1) for pair in rest.split() if "=" in pair)
        handles, objects = (values.get(key, "") for key in ("hca_handle", "hca_object"))
        if handles and objects:
            found.append((device, _uint32(handles), _uint32(objects)))
    return found


def _uint32(text: str) -> int:
    return 0xFFFF_FFFF if text == "max" else int(text)


def hugetlb(directory: str, sizes: Iterable[str]) -> list[tuple[str, int, int, int]]:
    """(page size, current, max, failures) for each size that there is."""
    found = []
    for size in sizes:
        base = f"{directory}/hugetlb.{size}"
        current = read_bytes(f"{base}.current")
        if current is not None:
            most = read_number(f"{base}.max", unlimited=NO_LIMIT)
            events = numbers_by_key(read_bytes(f"{base}.events") or b"")
            found.append((size, int(current), most, events.get(b"max", 0)))
    return found
