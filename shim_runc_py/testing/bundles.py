"""Bundles from `bundle_fixtures/`: a config.json and a rootfs of one static busybox."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from shim_runc_py.testing import conditions

# In a checkout the fixtures lie beside the package, in a wheel inside this one.
_PLACES = (
    Path(__file__).resolve().parent / "bundle_fixtures",
    Path(__file__).resolve().parents[2] / "bundle_fixtures",
)


def fixtures() -> Path:
    """The folder with the fixture bundles."""
    for place in _PLACES:
        if place.is_dir():
            return place
    raise FileNotFoundError("bundle_fixtures: neither in the package nor beside it")


def names() -> list[str]:
    """The fixture bundles that there are."""
    return sorted(path.parent.name for path in fixtures().glob("*/config.json"))


def make_rootfs(directory: Path) -> Path:
    """A rootfs with busybox and a link for each of its commands; returns `directory`.

    Raises FileNotFoundError when there is no static busybox (Debian: busybox-static).
    """
    busybox = shutil.which("busybox")
    if busybox is None:
        raise FileNotFoundError("busybox: install the package busybox-static")
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "tmp").chmod(0o1777)
    shutil.copy2(busybox, directory / "bin" / "busybox")
    commands = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for command in commands.stdout.split():
        link = directory / "bin" / command
        if not link.exists():
            link.symlink_to("busybox")
    (directory / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000::/:\n")
    (directory / "etc" / "group").write_text("root:x:0:\nuser:x:1000:\n")
    return directory


def spec(fixture: str, args: list[str] | None = None) -> dict[str, Any]:
    """The config of a fixture, a copy to be changed; `args` replaces what it runs."""
    path = fixtures() / fixture / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no fixture {fixture!r}; there are {', '.join(names())}")
    found: dict[str, Any] = json.loads(path.read_text())
    if args is not None:
        found["process"]["args"] = args
    return found


class Bundle:
    """A directory with config.json, prepared as containerd prepares it."""

    def __init__(self, path: Path, config: dict[str, Any], rootfs: Path) -> None:
        """`rootfs` may be shared by many bundles."""
        self.path = path
        self.id = path.name
        self.config = copy.deepcopy(config)
        self.config["root"]["path"] = str(rootfs)
        self.config["linux"].setdefault("cgroupsPath", conditions.cgroups_path(self.id))
        path.mkdir(mode=0o700, parents=True)
        (path / "rootfs").mkdir(mode=0o711)
        os.mkfifo(path / "log", 0o700)
        work = path.parent / f".work-{self.id}"
        work.mkdir()
        (path / "work").symlink_to(work)
        self.save()

    def save(self) -> None:
        """Write config.json as it is now."""
        (self.path / "config.json").write_text(json.dumps(self.config))

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)
