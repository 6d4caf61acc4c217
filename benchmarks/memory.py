"""Memory of processes, as /proc/<pid>/smaps_rollup tells it (proc(5)).

Private dirty is what a process has written and shares with nobody: what its end would give back.
PSS counts a page that n processes share as 1/n for each, so the sum over a set of processes is what
the set costs, if nobody else has the same pages. The benchmark itself is such a somebody: it is a
Python, too, and would take a share of the interpreter's pages. `borrowed` says how much, and the
sums here have it added.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

_FIELDS = {"Private_Dirty": 0, "Pss": 1, "Rss": 2}


class Memory(NamedTuple):
    """In KiB."""

    private_dirty: int
    pss: int
    rss: int


def parse_rollup(text: str) -> Memory:
    """The text of smaps_rollup; raises KeyError when a field is not there."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in _FIELDS:
            found[name] = int(rest.split()[0])
    return Memory(found["Private_Dirty"], found["Pss"], found["Rss"])


def shared_by_file(smaps: str) -> dict[str, int]:
    """Of the text of smaps: device and inode of a mapped file to KiB of PSS shared with others."""
    found: dict[str, int] = {}
    file, pss, private = "", 0, 0
    for line in [*smaps.splitlines(), "0-0 - 0 0:0 0"]:
        words = line.split()
        if not words[0].endswith(":"):  # range, rights, offset, device, inode: a new mapping
            if file:
                found[file] = found.get(file, 0) + pss - private
            file = f"{words[3]} {words[4]}" if words[4] != "0" else ""
            pss = private = 0
        elif words[0] == "Pss:":
            pss = int(words[1])
        elif words[0] in ("Private_Clean:", "Private_Dirty:"):
            private += int(words[1])
    return found


def read(pid: int) -> Memory:
    """Of one process; raises OSError when it is gone."""
    return parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())


def borrowed(pids: Iterable[int]) -> int:
    """KiB of these processes' file pages that are accounted to this benchmark's own process."""
    ours = shared_by_file(Path("/proc/self/smaps").read_text())
    theirs: set[str] = set()
    for pid in pids:
        theirs |= shared_by_file(Path(f"/proc/{pid}/smaps").read_text()).keys()
    return sum(amount for file, amount in ours.items() if file in theirs)


def settled(pids: Sequence[int], seconds: float = 8.0, interval: float = 0.5) -> list[Memory]:
    """Of each process, once their sum has stopped changing (1%), or after `seconds`.

    A runtime gives memory back some time after it was used, so the first reading is too high.
    """
    deadline = time.monotonic() + seconds
    before = -1
    while True:
        found = [read(pid) for pid in pids]
        total = sum(memory.private_dirty for memory in found)
        if abs(total - before) <= total / 100 or time.monotonic() > deadline:
            return found
        before = total
        time.sleep(interval)
