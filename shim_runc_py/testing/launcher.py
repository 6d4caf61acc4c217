"""A launcher script in a directory of its own: what containerd executes, for tests and trials.

An isolated interpreter (-I: nothing from the environment or the working directory, -S: no site
packages) finds exactly two places: this package and its dependencies (SECURITY 32).
"""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
from pathlib import Path

from shim_runc_py.linux import procfs, sock

NAME = "containerd-shim-pyrunc-v2"

_SCRIPT = """#!{python} -IS
import sys
sys.path[:0] = {places!r}
from shim_runc_py.entry import main
main()
"""


def places() -> list[str]:
    """Directories with this package and with what it depends on."""
    package = Path(__file__).resolve().parents[2]
    found = [str(package)]
    for name in ("purelib", "platlib"):
        path = sysconfig.get_path(name)
        if path not in found:
            found.append(path)
    return found


def script(python: str, directories: list[str]) -> str:
    """The text of a launcher that finds its modules in `directories`."""
    return _SCRIPT.format(python=python, places=directories)


def write(directory: Path) -> Path:
    """Put the launcher into `directory`; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / NAME
    path.write_text(script(interpreter(), places()))
    path.chmod(0o755)
    return path


def end_zygotes(directory: Path) -> None:
    """End the zygotes that listen in `directory`; their shims are not touched."""
    for path in directory.iterdir() if directory.is_dir() else ():
        try:
            connection = sock.connect(str(path))
        except OSError:
            continue
        try:
            pid = sock.peer(connection)[0]
            if "zygote" in procfs.read(f"/proc/{pid}/cmdline"):
                os.kill(pid, signal.SIGTERM)
        except (ProcessLookupError, FileNotFoundError):
            pass
        finally:
            connection.close()
        path.unlink(missing_ok=True)


def interpreter() -> str:
    """The interpreter's path, short enough for a #! line."""
    path = sys.executable
    if len(path) > 120:
        path = os.path.realpath(path)
    return path
