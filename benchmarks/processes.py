"""What the kernel says of a process: processor time, wake-ups, and which ones are zygotes."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def is_zygote(cmdline: bytes) -> bool:
    """The rule: a command line with our binary's name and the word zygote."""
    return b"containerd-shim-pyrunc-v2" in cmdline and b"zygote" in cmdline


def zygotes() -> list[int]:
    """Zygotes in our own mount namespace, which is where the shims of this run are, too."""
    ours = os.readlink("/proc/self/ns/mnt")
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            if (
                is_zygote(Path(entry.path, "cmdline").read_bytes())
                and os.readlink(f"{entry.path}/ns/mnt") == ours
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(found)


def end_zygotes() -> None:
    """Leave none behind; what they have started is not touched."""
    for pid in zygotes():
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            if not select.select([pidfd], [], [], 5)[0]:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], 5)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all of its threads, without children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wake_ups(pid: int) -> int:
    """How often its threads have gone to sleep of their own accord, which is to say, woken up."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total
