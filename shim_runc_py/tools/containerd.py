"""The containerd of this node, as `pyrunc install` meets it: its configuration's dump, a restart.

It knows programs and sockets, not what is registered or why.
"""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

RESTART = "systemctl restart containerd"
BOUND = 60.0  # seconds for containerd to come up


class ContainerdError(Exception):
    """containerd refused or did not come up; the text has its words."""


class Containerd:
    """`program` is None where there is none, as in the making of a node's image."""

    def __init__(self, program: str | None = None, bound: float | None = None) -> None:
        self.program = shutil.which(program or "containerd")
        self._bound = BOUND if bound is None else bound

    def dump(self, config: Path) -> dict[str, Any]:
        """What it makes of a configuration: its own defaults and imports included."""
        assert self.program is not None
        done = subprocess.run(
            [self.program, "--config", str(config), "config", "dump"],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        if done.returncode:
            words = (done.stderr.strip() or "no message").splitlines()[-1]
            raise ContainerdError(f"containerd cannot read it: {words}")
        try:
            return tomllib.loads(done.stdout)
        except tomllib.TOMLDecodeError as error:
            raise ContainerdError(f"containerd's dump of it is no TOML: {error}") from None

    def restart(self, command: str, address: str) -> None:
        """Run `command` and wait until CRI is there again."""
        try:
            done = subprocess.run(
                shlex.split(command), capture_output=True, text=True, check=False, timeout=180
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ContainerdError(f"`{command}`: {error}") from None
        if done.returncode:
            words = (done.stderr.strip() or "no message").splitlines()[-1]
            raise ContainerdError(f"`{command}`: status {done.returncode}: {words}")
        deadline = time.monotonic() + self._bound
        while not self.serves(address):
            if time.monotonic() > deadline:
                raise ContainerdError(f"no CRI at {address} within {self._bound:g} s")
            time.sleep(0.1)

    def serves(self, address: str) -> bool:
        """Does CRI work there? Without ctr: does anybody listen there?"""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(address)
            except OSError:
                return False
        near = Path(self.program or "/").with_name("ctr")
        ctr = str(near) if near.exists() else shutil.which("ctr")
        if ctr is None:
            return True
        done = subprocess.run(
            [ctr, "--address", address, "plugins", "ls"],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        rows = [line.split() for line in done.stdout.splitlines()]
        return ["io.containerd.grpc.v1", "cri", "ok"] in [[*row[:2], *row[-1:]] for row in rows]


def address_of(dump: dict[str, Any]) -> str:
    """Where a daemon with this configuration listens: `grpc` up to version 3, a plugin since."""
    plugin = (dump.get("plugins") or {}).get("io.containerd.server.v1.grpc") or {}
    found = plugin.get("address") or (dump.get("grpc") or {}).get("address")
    return str(found or "/run/containerd/containerd.sock")
