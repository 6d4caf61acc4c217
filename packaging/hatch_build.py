"""Compiles what is written in C into the wheel, where there is a C compiler.

Without one the wheel is made for any platform, and everything works without these. An editable
installation has pages.so in the source tree, and no launcher: that one belongs into PATH.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeHook(BuildHookInterface[Any]):
    """Called by hatchling for each wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        native = _load(root / "shim_runc_py" / "tools" / "native.py")
        if version == "editable":
            native.build(native.PAGES, root, root / native.DIRECTORY / native.PAGES)
            return
        for name in native.PROGRAMS:
            out = Path(self.directory) / "native" / name
            if native.build(name, root, out):
                platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
                build_data["force_include"][str(out)] = f"{native.DIRECTORY}/{name}"
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-{platform}"


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
