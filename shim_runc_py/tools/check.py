"""`pyrunc check`: is what root runs on this node ours alone, and is the engine new enough?

The shim itself does not ask engines for their version: that would cost a process for each pod. An
operator asks once for each node image (SECURITY 10 - 12, 20, 33).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from shim_runc_py.linux import spawn, trust
from shim_runc_py.runc import argv

# The first runc of each line without CVE-2024-21626, -2025-31133, -52565, -52881, -2026-41579.
FIXED = ((1, 3, 6), (1, 4, 3), (1, 5, 0))


class Finding:
    """One thing that was looked at; `trouble` is "" when it is as it should be."""

    def __init__(self, what: str, found: str, trouble: str) -> None:
        self.what = what
        self.found = found
        self.trouble = trouble

    def __str__(self) -> str:
        line = f"{'ok  ' if not self.trouble else 'LOOK'}  {self.what}: {self.found}"
        return f"{line}\n      {self.trouble}" if self.trouble else line


def version_trouble(output: str) -> str:
    """What is wrong with an engine whose --version says `output`; "" for nothing known."""
    match = re.match(r"runc version (\d+)\.(\d+)\.(\d+)(\S*)", output)
    if match is None:
        return ""  # another engine, or a wrapper; nothing is known of it
    found = tuple(int(part) for part in match.groups()[:3])
    minimum = next((fixed for fixed in FIXED if fixed[:2] == found[:2]), FIXED[-1])
    if found >= minimum:
        return ""
    wanted = " or ".join(".".join(map(str, fixed)) for fixed in FIXED)
    return (
        f"runc before {wanted} lets an image write to files of the host (CVE-2025-31133 and "
        "others), unless the distribution has patched this one: ask its security tracker"
    )


def findings(engine: str, environ: dict[str, str]) -> list[Finding]:
    """Everything that there is to look at; `engine` is a name or an absolute path."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    found = [
        Finding("interpreter", sys.executable, trust.doubt(sys.executable)),
        Finding("package", here, _tree_doubt(here)),
    ]
    executable = spawn.find(engine, environ.get("PATH", ""))
    if executable is None:
        return [*found, Finding("engine", engine, "it is not in PATH: install it, or name it")]
    found.append(Finding("engine", executable, trust.doubt(executable)))
    done = subprocess.run(
        [executable, "--version"], capture_output=True, text=True, check=False, timeout=10,
        env=argv.environment(environ),
    )  # fmt: skip
    first = (done.stdout.splitlines() or ["it says nothing"])[0]
    found.append(Finding("engine's version", first, version_trouble(first)))
    for logger in filter(None, environ.get("PYRUNC_LOGGERS", "").split(":")):
        found.append(Finding("logger", logger, trust.doubt(logger)))
    return found


def _tree_doubt(top: str) -> str:
    """`trust.doubt` of a directory and of every file below it."""
    for directory, _, names in os.walk(top):
        for name in ("", *names):
            reason = trust.doubt(os.path.join(directory, name).rstrip("/"))
            if reason:
                return reason
    return ""


def run(engine: str) -> int:
    """Print the findings; 1 when there is one to look at."""
    found = findings(engine, dict(os.environ))
    print("\n".join(map(str, found)))
    return 1 if any(finding.trouble for finding in found) else 0
