"""A private containerd: root, state, sockets and PATH of its own, everything in one directory.

What it cannot have for itself is /run/containerd/s, where containerd up to 2.2 makes its shims
listen (CONTRACT 4.1); names there are hashes of the private address.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from shim_runc_py.testing.conditions import SLOW

BOUND = 60.0 * SLOW


class Daemon:
    """One containerd process; `ctr` runs its client."""

    def __init__(
        self,
        directory: Path,
        *,
        containerd: str = "containerd",
        ctr: str = "ctr",
        shim_directories: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        debug: bool = False,
    ) -> None:
        """`directory` must be short: socket paths have room for 107 bytes."""
        self.directory = directory
        self.address = directory / "c.sock"
        self._containerd = containerd
        self._ctr = ctr
        path = ":".join([*shim_directories, os.environ.get("PATH", "")])
        self.environ = {**os.environ, "PATH": path, **(environ or {})}
        self._config = directory / "config.toml"
        self._log_path = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._level = "debug" if debug else "info"
        self._config.write_text(self.settings())

    def settings(self) -> str:
        """The text of its config file."""
        return f"""version = 2
root = "{self.directory}/root"
state = "{self.directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime",
  "io.containerd.cri.v1.images", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{self.address}"
[debug]
  level = "{self._level}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.directory}/opt"
"""

    def words(self) -> tuple[list[str], Sequence[int]]:
        """The command line that runs it, and the descriptors that it inherits."""
        return [self._containerd, "--config", str(self._config)], ()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers; raises TimeoutError with the end of its log."""
        words, descriptors = self.words()
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                words,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
            )
        deadline = time.monotonic() + BOUND
        while self.ctr("version", check=False, timeout=10).returncode:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError(f"containerd does not answer: {self.log()[-2000:]}")
            time.sleep(0.05)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """End it with a signal and wait."""
        if self._process is not None:
            self._process.send_signal(signum)
            try:
                self._process.wait(BOUND)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def log(self) -> str:
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def ctr_argv(self, *words: str) -> list[str]:
        return [self._ctr, "--address", str(self.address), *words]

    def ctr(
        self,
        *words: str,
        check: bool = True,
        timeout: float = BOUND,
        stdin: bytes | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run ctr with `words`; with `check`, raises AssertionError when it fails.

        Its own words about the age of the host are not in `stderr`.
        """
        done = subprocess.run(
            self.ctr_argv(*words),
            env=self.environ,
            input=stdin.decode() if stdin is not None else None,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        done.stderr = without_warnings(done.stderr)
        if check and done.returncode:
            raise AssertionError(
                f"ctr {' '.join(words)}: status {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done

    def clean_up(self, namespace: str = "default") -> None:
        """Kill and remove every task and container of `namespace`."""
        ctr = ("--namespace", namespace)
        for id in self.ctr(*ctr, "tasks", "ls", "-q", check=False).stdout.split():
            self.ctr(*ctr, "tasks", "resume", id, check=False)
            self.ctr(*ctr, "tasks", "kill", "-s", "KILL", "-a", id, check=False)
            deadline = time.monotonic() + 10
            while self.ctr(*ctr, "tasks", "rm", id, check=False).returncode:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
        for id in self.ctr(*ctr, "containers", "ls", "-q", check=False).stdout.split():
            self.ctr(*ctr, "containers", "rm", id, check=False)


def without_warnings(stderr: str) -> str:
    """What ctr has written, without what it says about cgroup v1 from containerd 2.2 on."""
    lines = stderr.splitlines(keepends=True)
    return "".join(line for line in lines if 'level=warning msg="DEPRECATION' not in line)


def wait_until(condition: object, what: str, seconds: float = BOUND) -> None:
    """Poll a callable `condition` of another program's state; raises TimeoutError naming `what`."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)
