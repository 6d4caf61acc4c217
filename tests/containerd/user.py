"""Someone with ctr: runs containers of one shim in one containerd, and looks at them."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shim_runc_py.testing import leaks
from shim_runc_py.testing.daemon import Daemon, wait_until
from tests.containerd.pairings import NAMESPACE, Pairing

# ctr gives up a stream whose FIFO it has not quite opened when the process ends. On a busy machine
# it so loses the output of one quick container in two hundred, whatever the shim (measured with
# ctr 1.6.20: 2 of 500 with ours, 3 of 500 with the stock shim). Who is listened to lives a little.
LINGER = "sleep 0.1; "


class User:
    """`words` are ctr's for a container with the test rootfs; ids need to be unique in a test."""

    def __init__(self, daemon: Daemon, pairing: Pairing, rootfs: Path) -> None:
        self.daemon = daemon
        self.pairing = pairing
        self.rootfs = rootfs

    def words(self, id: str, *command: str, options: Sequence[str] = ()) -> list[str]:
        runtime = ["--runtime", self.pairing.runtime]
        return ["run", *runtime, *options, "--rootfs", str(self.rootfs), id, *command]

    def run(self, id: str, *command: str, options: Sequence[str] = ("--rm",), **how: Any) -> Any:
        """The finished ctr; raises AssertionError when it fails, unless check=False."""
        return self.daemon.ctr(*self.words(id, *command, options=options), **how)

    def detach(self, id: str, *command: str, options: Sequence[str] = ()) -> int:
        """Run a container in the background; returns the pid of its init."""
        self.run(id, *command, options=["-d", *options])
        return self.tasks()[id][0]

    def shell(self, id: str, script: str, **how: Any) -> Any:
        return self.run(id, "/bin/sh", "-c", LINGER + script, **how)

    def exec(self, id: str, exec_id: str, script: str, *options: str) -> Any:
        """A shell script inside a running container; the finished ctr."""
        words = [
            "tasks",
            "exec",
            "--exec-id",
            exec_id,
            *options,
            id,
            "/bin/sh",
            "-c",
            LINGER + script,
        ]
        return self.daemon.ctr(*words, check=False)

    def popen(self, *words: str, **how: Any) -> subprocess.Popen[bytes]:
        """ctr in the background with pipes."""
        streams: dict[str, Any] = {
            name: subprocess.PIPE for name in ("stdin", "stdout", "stderr") if name not in how
        }
        return subprocess.Popen(
            self.daemon.ctr_argv(*words), env=self.daemon.environ, **streams, **how
        )

    def tasks(self) -> dict[str, tuple[int, str]]:
        """(pid, status) of each task."""
        rows = [line.split() for line in self.daemon.ctr("tasks", "ls").stdout.splitlines()[1:]]
        return {row[0]: (int(row[1]), row[2]) for row in rows}

    def until(self, id: str, status: str) -> None:
        """Wait for a task's status: RUNNING, STOPPED, PAUSED."""
        wait_until(lambda: self.tasks().get(id, (0, ""))[1] == status, f"{id} is {status}", 30)

    def kill(self, id: str, signal: str = "KILL") -> None:
        self.daemon.ctr("tasks", "kill", "-s", signal, id)

    def remove(self, id: str) -> Any:
        """Kill if needed, then remove the task and the container; the finished `tasks rm`."""
        if self.tasks()[id][1] != "STOPPED":
            self.kill(id)
            self.until(id, "STOPPED")
        done = self.daemon.ctr("tasks", "rm", id, check=False)
        self.daemon.ctr("containers", "rm", id)
        return done

    def remove_exec(self, id: str, exec_id: str) -> None:
        """Kill an exec and remove it as soon as it has ended."""
        self.daemon.ctr("tasks", "kill", "--exec-id", exec_id, "-s", "KILL", id)
        words = ["tasks", "rm", "--exec-id", exec_id, id]
        # ctr's own status is that of the process.
        wait_until(lambda: self.daemon.ctr(*words, check=False).returncode == 137, "it is gone", 15)

    def shims(self) -> list[int]:
        """Pids of the running shims of this containerd."""
        lines = leaks.shims(str(self.daemon.directory))
        return [int(line.partition(":")[0]) for line in lines]

    def shim_of(self, id: str) -> int:
        lines = leaks.shims(str(self.daemon.directory))
        found = [line for line in lines if f"-id {id} " in line]
        assert len(found) == 1, lines
        return int(found[0].partition(":")[0])

    def bundle(self, id: str) -> Path:
        state = self.daemon.directory / "state"
        return state / "io.containerd.runtime.v2.task" / NAMESPACE / id


class Terminal:
    """ctr on a terminal of its own."""

    def __init__(self, daemon: Daemon, words: Sequence[str]) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            daemon.ctr_argv(*words),
            env={**daemon.environ, "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = b""

    def wait_for(self, pattern: bytes) -> None:
        deadline = time.monotonic() + 30
        while not re.search(pattern, self.seen):
            assert time.monotonic() < deadline, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.master, 65536)
                except OSError:
                    break
        assert re.search(pattern, self.seen), self.seen

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


class Events:
    """`ctr events`: what containerd tells its subscribers, from a moment that is certain."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._process = subprocess.Popen(
            daemon.ctr_argv("events"),
            env=daemon.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout
        os.set_blocking(self._out.fileno(), False)
        self._seen = b""
        # Subscribed is who sees an event; one label after another until then.
        wait_until(self._probe, "the subscription is there")
        self._seen = b""

    def _probe(self) -> bool:
        self._daemon.ctr("namespaces", "create", "probe")
        self._daemon.ctr("namespaces", "remove", "probe")
        return "/namespaces/delete" in self._read()

    def _read(self) -> str:
        self._seen += self._out.read() or b""
        return self._seen.decode()

    def tasks(self) -> list[tuple[str, str]]:
        """(topic without /tasks/, the rest of the line) of the task events so far, in order."""
        complete = self._read().rpartition("\n")[0]
        found = re.findall(r"^.* /tasks/(\S+) (.*)$", complete, re.MULTILINE)
        return [(topic, body) for topic, body in found]

    def until(self, topic: str, count: int = 1) -> list[tuple[str, str]]:
        """All task events, as soon as there are `count` of `topic`."""

        def enough() -> bool:
            return sum(found == topic for found, _ in self.tasks()) >= count

        wait_until(enough, f"{count} x /tasks/{topic}", 30)
        return self.tasks()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._out.close()
