"""Real containerds to test with: Debian's packages of three suites, unpacked into a cache.

Nothing is installed. apt fetches the packages of each suite from the mirror that this machine is
configured for, with lists and caches of its own, and dpkg unpacks them; they run from there.
Newer ones than any suite has are those that `scripts/build-containerd` has put into the cache.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

# containerd 1.6.20, 1.7.24, 2.1.9 at the time of writing; PYRUNC_SUITES chooses among them.
SUITES = tuple((os.environ.get("PYRUNC_SUITES") or "bookworm trixie forky").split())
PACKAGES = ("containerd", "runc")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Generation:
    """One unpacked containerd with its shim and the runc of its suite."""

    def __init__(self, suite: str, root: Path) -> None:
        self.suite = suite
        self.root = root
        self.containerd = str(root / "usr/bin/containerd")
        self.ctr = str(root / "usr/bin/ctr")
        self.shim = str(root / "usr/bin/containerd-shim-runc-v2")
        self.runc = str(root / "usr/sbin/runc")
        self.version = _version(self.containerd)

    @property
    def major(self) -> tuple[int, int]:
        """(1, 6), (1, 7), (2, 1), ..."""
        first, second = self.version.split(".")[:2]
        return int(first), int(second)

    @property
    def name(self) -> str:
        """For test ids: `1.6.20`."""
        return self.version

    def __repr__(self) -> str:
        return f"containerd {self.version}"


class Unavailable(Exception):
    """A suite that cannot be had here; the text says why."""


def cache_directory() -> Path:
    """PYRUNC_CACHE, else a folder in the user's cache."""
    chosen = os.environ.get("PYRUNC_CACHE")
    if chosen:
        return Path(chosen).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyrunc"


def get(suite: str) -> Generation:
    """The generation of a suite, fetched if it is not in the cache. Raises Unavailable."""
    cache = cache_directory() / "containerd"
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / suite
    with (cache / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "usr/bin/containerd").exists():
            fetch(suite, PACKAGES, root)
    try:
        return Generation(suite, root)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"containerd of {suite} does not run here: {error}") from None


def built() -> list[Generation]:
    """The generations that were built from source, by version; often none."""
    roots = (cache_directory() / "containerd").glob("v[0-9]*/usr/bin/containerd")
    found = [Generation(path.parents[2].name, path.parents[2]) for path in roots]
    return sorted(found, key=lambda generation: generation.major)


def _version(containerd: str) -> str:
    done = subprocess.run(
        [containerd, "--version"], capture_output=True, text=True, check=True, timeout=30
    )
    found = re.search(r" v?(\d+\.\d+\.\d+)", done.stdout)
    if found is None:
        raise OSError(f"{containerd} --version says {done.stdout!r}")
    return found[1]


def fetch(suite: str, packages: Sequence[str], root: Path) -> None:
    """Unpack `packages` of a suite into `root`, which is replaced. Raises Unavailable."""
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not here to fetch the packages of {suite}")
    work = root.with_name(f"{suite}.work")
    shutil.rmtree(work, ignore_errors=True)
    for directory in ("state/lists/partial", "cache/archives/partial", "root"):
        (work / directory).mkdir(parents=True)
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {suite} main\n")
    options = [
        "-qq",
        "-o", f"Dir::Etc::sourcelist={work}/sources.list",
        "-o", "Dir::Etc::sourceparts=-",
        "-o", f"Dir::State={work}/state",
        "-o", f"Dir::Cache={work}/cache",
        "-o", "Dir::State::status=/dev/null",
        "-o", "APT::Sandbox::User=root",
        "-o", "Acquire::Languages=none",
    ]  # fmt: skip
    _run(["apt-get", *options, "update"], work)
    _run(["apt-get", *options, "download", *packages], work)
    for package in sorted(work.glob("*.deb")):
        _run(["dpkg", "-x", str(package), "root"], work)
    shutil.rmtree(root, ignore_errors=True)
    (work / "root").rename(root)
    shutil.rmtree(work, ignore_errors=True)


def _mirror() -> str:
    """The mirror of the distribution that apt is configured for."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    for site in done.stdout.split():
        if site.rstrip("/").endswith("/debian"):
            return site
    raise Unavailable("apt is not configured for a Debian mirror")


def _run(words: list[str], cwd: Path) -> None:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        shutil.rmtree(cwd, ignore_errors=True)
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise Unavailable(f"{' '.join(words[:1] + words[-3:])}: {last}")
