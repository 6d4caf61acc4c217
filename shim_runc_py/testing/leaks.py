"""What is left behind: processes, mounts, sockets, cgroups and descriptors, by name.

A zombie whose parent is process 1 is nobody's leak: reaping it is up to the machine's init.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from shim_runc_py.linux import procfs
from shim_runc_py.testing.conditions import CGROUP_PREFIX, SLOW

SOCKETS = Path("/run/containerd/s")
CGROUPS = Path("/sys/fs/cgroup")


def shims(token: str) -> list[str]:
    """Running shims whose command line has `token`, as `pid: command line`."""
    return [text for text in _processes() if "containerd-shim-" in text and token in text]


def _processes() -> list[str]:
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                words = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            if words:  # a zombie has none
                found.append(f"{entry.name}: {words.decode('utf-8', 'replace').strip()}")
    return found


def contained() -> list[str]:
    """Processes in cgroups of test containers."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                text = Path(entry.path, "cgroup").read_text()
                state = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f":{CGROUP_PREFIX}/" in text and state not in "ZX":
                words = Path(entry.path, "cmdline")
                try:
                    command = words.read_bytes().replace(b"\0", b" ").decode()
                except OSError:
                    continue
                found.append(f"{entry.name}: {command}")
    return found


def cgroups() -> list[str]:
    """Directories of test containers' cgroups."""
    name = CGROUP_PREFIX.strip("/")
    found = []
    for hierarchy in [CGROUPS, *CGROUPS.iterdir()]:
        top = hierarchy / name
        if top.is_dir():
            found += [str(path) for path in top.iterdir() if path.is_dir()]
    return sorted(found)


def remove_cgroup_parents() -> None:
    """At the end of a session: the empty directories above its containers' cgroups."""
    for hierarchy in [CGROUPS, *CGROUPS.iterdir()]:
        try:
            (hierarchy / CGROUP_PREFIX.strip("/")).rmdir()
        except OSError:
            continue


def sockets() -> list[str]:
    return sorted(str(path) for path in SOCKETS.iterdir()) if SOCKETS.is_dir() else []


def mounts(token: str) -> list[str]:
    """Mount points with `token` in them."""
    text = procfs.read("/proc/self/mountinfo")
    return [line for line in text.splitlines() if token in line]


def descriptors(pid: int | str = "self") -> dict[str, str]:
    """Open descriptors of a process: number to what it is."""
    found = {}
    directory = f"/proc/{pid}/fd"
    for name in os.listdir(directory):
        try:
            found[name] = os.readlink(f"{directory}/{name}")
        except OSError:
            continue
    return found


class Before:
    """What was there when something began; `left` is what it has not taken away again."""

    def __init__(self, token: str) -> None:
        """`token` stands in the paths of everything that will be made."""
        self._token = token
        self._sockets = sockets()
        self._cgroups = cgroups()

    def find(self) -> list[str]:
        """Everything that is left now, one line each."""
        found = [f"shim {line}" for line in shims(self._token)]
        found += [f"process in a test cgroup {line}" for line in contained()]
        found += [f"mount {line}" for line in mounts(self._token)]
        found += [f"socket {path}" for path in sockets() if path not in self._sockets]
        found += [f"cgroup {path}" for path in cgroups() if path not in self._cgroups]
        return found

    def left(self, seconds: float = 5.0 * SLOW) -> list[str]:
        """`find`, after waiting for at most `seconds` until nothing is left."""
        deadline = time.monotonic() + seconds
        while (found := self.find()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return found


def clean_up(token: str) -> None:
    """After a leak was reported: end what a test has left, for the sake of the next one."""
    for line in shims(token) + contained():
        try:
            os.kill(int(line.partition(":")[0]), 9)
        except ProcessLookupError:
            pass
    for path in cgroups():
        for directory, _, _ in os.walk(path, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                pass
