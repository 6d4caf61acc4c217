"""`pyrunc demo`: the main job, once, in front of your eyes.

A private containerd runs a busybox container through the shim. Everything lives in a temporary
directory and is gone at the end. The exit status is 0 only if the output, the exit codes and the
task events that containerd told of were what they have to be.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from shim_runc_py.testing import bundles, launcher, leaks
from shim_runc_py.testing.daemon import Daemon, wait_until

ID = "demo"
GREETING = "hello from a container"
EXEC_STATUS = 5
# Topic, the fields that are certain.
EXPECTED: list[tuple[str, dict[str, Any]]] = [
    ("/tasks/create", {"container_id": ID}),
    ("/tasks/start", {"container_id": ID}),
    ("/tasks/exec-added", {"container_id": ID, "exec_id": "look"}),
    ("/tasks/exec-started", {"container_id": ID, "exec_id": "look"}),
    ("/tasks/exit", {"container_id": ID, "id": "look", "exit_status": EXEC_STATUS}),
    ("/tasks/exit", {"container_id": ID, "id": ID, "exit_status": 137}),
    ("/tasks/delete", {"container_id": ID, "exit_status": 137}),
]


class DemoError(Exception):
    """Something was not what it has to be."""


class Timeline:
    """The task events that containerd tells a subscriber, as they come."""

    def __init__(self, daemon: Daemon) -> None:
        self._began = time.monotonic()
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        self.others = 0
        self._process = subprocess.Popen(
            daemon.ctr_argv("events"),
            env=daemon.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # <time> <namespace> <topic> <json>
            _, found, after = line.partition(" /tasks/")
            if not found:
                self.others += 1
                continue
            topic, _, body = after.partition(" ")
            at = time.monotonic() - self._began
            self.events.append((at, f"/tasks/{topic}", json.loads(body)))

    def restart_clock(self) -> None:
        self._began = time.monotonic()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()


def run(runtime: str) -> int:
    """Show it; returns the exit status."""
    for name in ("containerd", "ctr", "runc"):
        if shutil.which(name) is None:
            print(f"pyrunc demo: {name} is not installed; `make run` installs it", file=sys.stderr)
            return 1
    if os.geteuid() != 0:
        print("pyrunc demo: containers need root; try sudo", file=sys.stderr)
        return 1
    place = Path(tempfile.mkdtemp(prefix="pyrunc-demo-", dir="/tmp"))
    daemon = Daemon(
        place,
        shim_directories=[str(launcher.write(place / "bin").parent)],
        environ={"PYRUNC_ZYGOTE": str(place / "zygotes")},
    )
    before = leaks.Before(str(place))
    try:
        _say(f"starting a private containerd in {place}")
        rootfs = bundles.make_rootfs(place / "rootfs")
        daemon.start()
        version = daemon.ctr("version").stdout
        found = [line.split()[-1] for line in version.splitlines() if "Version:" in line]
        _say(f"containerd {found[-1] if found else 'of unknown version'} answers")
        count = _show(daemon, rootfs, runtime)
    except (DemoError, AssertionError, TimeoutError, OSError) as error:
        print(f"pyrunc demo: FAILED: {error}", file=sys.stderr)
        print(daemon.log()[-3000:], file=sys.stderr)
        return 1
    finally:
        daemon.clean_up()
        daemon.stop()
        launcher.end_zygotes(place / "zygotes")
        left = before.left()
        shutil.rmtree(place, ignore_errors=True)
    if left:
        print("pyrunc demo: FAILED: left behind:\n  " + "\n  ".join(left), file=sys.stderr)
        return 1
    _say("cleaned up: no process, mount, socket or cgroup is left")
    print(f"OK: {count} task events in order", flush=True)
    return 0


def _show(daemon: Daemon, rootfs: Path, runtime: str) -> int:
    timeline = Timeline(daemon)
    try:
        _subscribe(daemon, timeline)
        script = f"echo {GREETING}; sleep 1000"
        words = ["run", "--runtime", runtime, "--rootfs", str(rootfs), ID, "/bin/sh", "-c", script]
        _say(f"ctr {' '.join(words[:4])} ... /bin/sh -c '{script}'")
        timeline.restart_clock()
        container = subprocess.Popen(
            daemon.ctr_argv(*words),
            env=daemon.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert container.stdout is not None
        try:
            line = container.stdout.readline()
            print(f"    | {line.rstrip()}")
            _expect("the container's output", line, f"{GREETING}\n")
            _say("ctr task exec")
            look = f"echo pid 1 runs: $(tr '\\0' ' ' </proc/1/cmdline); exit {EXEC_STATUS}"
            words = ["task", "exec", "--exec-id", "look", ID, "/bin/sh", "-c", look]
            done = daemon.ctr(*words, check=False)
            print(f"    | {done.stdout.rstrip()}")
            _expect("the exec's exit status", done.returncode, EXEC_STATUS)
            _expect("the exec's output", "sleep 1000" in done.stdout, True)
            for shim in leaks.shims(str(daemon.directory)):
                _say(f"the shim: {shim}")
            _say("ctr task kill -s KILL")
            daemon.ctr("task", "kill", "-s", "KILL", ID)
            status = container.wait(30)
            _expect("the exit status of ctr run", status, 137)
        finally:
            if container.poll() is None:
                container.kill()
                container.wait()
            container.stdout.close()
        daemon.ctr("containers", "rm", ID)
        try:
            wait_until(lambda: len(timeline.events) >= len(EXPECTED), "all events came", 10)
        except TimeoutError:
            pass  # which ones are missing is said below
        _say("task events, as containerd told them:")
        for at, topic, body in timeline.events:
            details = " ".join(f"{k}={v}" for k, v in body.items() if k in _SHOWN)
            print(f"    {at * 1000:7.1f} ms  {topic:22} {details}")
        _check(timeline.events)
        return len(timeline.events)
    finally:
        timeline.close()


_SHOWN = ("container_id", "id", "exec_id", "pid", "exit_status")


def _subscribe(daemon: Daemon, timeline: Timeline) -> None:
    """Until the subscription is there, events pass by: make some that do not count."""
    for number in range(200):
        daemon.ctr("namespaces", "create", f"probe{number}")
        daemon.ctr("namespaces", "remove", f"probe{number}")
        if timeline.others:
            return
        time.sleep(0.02)
    raise DemoError("containerd tells no events")


def _check(events: list[tuple[float, str, dict[str, Any]]]) -> None:
    _expect("the topics", [topic for _, topic, _ in events], [topic for topic, _ in EXPECTED])
    for (_, topic, body), (_, fields) in zip(events, EXPECTED, strict=True):
        for name, value in fields.items():
            _expect(f"{name} of {topic}", body.get(name), value)


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise DemoError(f"{what}: expected {wanted!r}, got {found!r}")


def _say(text: str) -> None:
    print(f"==> {text}", flush=True)
