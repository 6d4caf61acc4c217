"""On what a run was made: machine and versions, in words for a table."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import google.protobuf

import shim_runc_py
from shim_runc_py.testing.generations import Generation


def machine() -> dict[str, str]:
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    return {
        "processor": cpu[1] if cpu else platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "unknown",
        "kernel": platform.release(),
        "cgroup": "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1",
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def versions(generations: Iterable[Generation]) -> dict[str, str]:
    found = {
        "containerd-shim-pyrunc-v2": f"{shim_runc_py.__version__} ({commit()})",
        "python": platform.python_version(),
        "protobuf": google.protobuf.__version__,
        "runc": first_line([shutil.which("runc") or "runc", "--version"]).removeprefix(
            "runc version "
        ),
    }
    for generation in generations:
        go = re.search(r"Go version:\s*(\S+)", printed([generation.shim, "-v"]))
        found[f"stock shim of containerd {generation.version}"] = go[1] if go else "unknown"
    return found


def commit() -> str:
    """Of this checkout, with a + when something is not committed."""
    here = Path(__file__).parent
    words = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*"]
    return first_line(words) or "no checkout"


def first_line(words: list[str]) -> str:
    """The first line that a command prints, or nothing."""
    return printed(words).strip().partition("\n")[0]


def printed(words: list[str]) -> str:
    """What a command prints on stdout; nothing when there is no such command."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return ""
    return done.stdout
