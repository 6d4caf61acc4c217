"""What is written in C, and how it is compiled.

Two small programs that everything works without: the launcher, which saves the start of an
interpreter, and pages.so, which lets shims share their memory. Imports nothing of the package,
because the build of the wheel loads this file, too (`packaging/hatch_build.py`).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

LAUNCHER = "containerd-shim-pyrunc-v2"
PAGES = "pages.so"
DIRECTORY = "shim_runc_py/native"  # where the compiled ones are in a wheel, below the root
# Name to source below the root of the project, and the sets of options to try in their order: a
# static program starts in half the time, and cannot be linked everywhere.
PROGRAMS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    LAUNCHER: ("packaging/launcher.c", (("-static",), ())),
    PAGES: ("shim_runc_py/linux/pages.c", (("-shared", "-fPIC", "-Wl,-z,now"),)),
}


def build(name: str, root: Path, out: Path) -> bool:
    """Compile one of PROGRAMS to the file `out`; False if the source or a compiler is missing."""
    source, variants = PROGRAMS[name]
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not (root / source).is_file():
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.new")
    for options in variants:
        words = [compiler, "-O2", "-s", *options, "-o", str(fresh), str(root / source)]
        if subprocess.run(words, capture_output=True, check=False).returncode == 0:
            fresh.rename(out)
            return True
    return False
