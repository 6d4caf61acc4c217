"""CNI plugins for pods of tests: those of the distribution, installed or unpacked into a cache."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

from shim_runc_py.testing import generations

PLACES = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
NEEDED = ("bridge", "host-local", "loopback")
PACKAGE = "containernetworking-plugins"
SUITE = "bookworm"


def get() -> Path:
    """A directory with the plugins of NEEDED, fetched if there is none. Raises Unavailable."""
    cache = generations.cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    unpacked = cache / "cni"
    for place in (*PLACES, unpacked / "usr/lib/cni"):
        if all(shutil.which(name, path=str(place)) for name in NEEDED):
            return place
    with (cache / "cni.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place = unpacked / "usr/lib/cni"
        if not place.is_dir():
            generations.fetch(SUITE, [PACKAGE], unpacked)
    return place
