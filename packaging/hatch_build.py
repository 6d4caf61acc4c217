"""Compiles the native launcher into the wheel, where there is a C compiler.

Without one the wheel is made for any platform, and everything works without the launcher.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAME = "containerd-shim-pyrunc-v2"


class LauncherHook(BuildHookInterface[Any]):
    """Called by hatchling for each wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if version == "editable" or compiler is None:
            return
        out = Path(self.directory) / "native" / NAME
        out.parent.mkdir(parents=True, exist_ok=True)
        source = Path(self.root) / "packaging" / "launcher.c"
        for options in (["-static"], []):
            words = [compiler, "-O2", "-s", *options, "-o", str(out), str(source)]
            if subprocess.run(words, capture_output=True, check=False).returncode == 0:
                platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
                build_data["force_include"][str(out)] = f"shim_runc_py/native/{NAME}"
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-{platform}"
                return
