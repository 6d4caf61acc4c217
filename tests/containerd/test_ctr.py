"""ctr, containerd, the shim and runc, all real: what a user does."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time

import pytest

from shim_runc_py.testing import leaks
from shim_runc_py.testing.daemon import wait_until


def run_words(runtime, rootfs, id, *command, options=()):
    return ["run", *runtime, *options, "--rootfs", str(rootfs), id, *command]


def test_output_and_exit_code(daemon, runtime, rootfs):
    done = daemon.ctr(
        *run_words(runtime, rootfs, "c1", "/bin/sh", "-c", "echo out; exit 7", options=["--rm"]),
        check=False,
    )
    assert (done.stdout, done.returncode) == ("out\n", 7)
    assert daemon.ctr("containers", "ls", "-q").stdout == ""


def test_standard_error_stays_apart(daemon, runtime, rootfs):
    done = daemon.ctr(
        *run_words(
            runtime, rootfs, "c1", "/bin/sh", "-c", "echo out; echo err >&2", options=["--rm"]
        )
    )
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_stdin_that_is_piped_in_arrives_and_ends(daemon, runtime, rootfs):
    # ctr notices the end only of a stdin that outlasts the creation of the task.
    words = run_words(runtime, rootfs, "c1", "/bin/cat", options=["--rm"])
    process = subprocess.Popen(
        daemon.ctr_argv(*words),
        env=daemon.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: "RUNNING" in daemon.ctr("tasks", "ls").stdout, "the task runs")
    out, err = process.communicate(b"piped in\n" * 10000, timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert out == b"piped in\n" * 10000


class Terminal:
    """ctr on a terminal of its own."""

    def __init__(self, daemon, words):
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

    def wait_for(self, pattern):
        deadline = time.monotonic() + 30
        while not re.search(pattern, self.seen):
            assert time.monotonic() < deadline, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.master, 65536)
                except OSError:
                    break
        assert re.search(pattern, self.seen), self.seen

    def type(self, text):
        os.write(self.master, text)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


def test_a_terminal_with_resize(daemon, runtime, rootfs):
    import fcntl
    import signal
    import struct
    import termios

    terminal = Terminal(daemon, run_words(runtime, rootfs, "c1", "/bin/sh", options=["--rm", "-t"]))
    try:
        terminal.wait_for(rb"[#$] ")
        terminal.type(b"test -t 0 && echo is-a-$((1))tty\n")
        terminal.wait_for(rb"is-a-1tty")
        fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
        os.kill(terminal.process.pid, signal.SIGWINCH)
        deadline = time.monotonic() + 20
        while b"33 111" not in terminal.seen and time.monotonic() < deadline:
            terminal.type(b"stty size; echo ask$((1))ed\n")
            terminal.seen = terminal.seen.replace(b"ask1ed", b"")
            terminal.wait_for(rb"ask1ed")
        assert b"33 111" in terminal.seen
        terminal.type(b"exit 4\n")
        assert terminal.process.wait(30) == 4
    finally:
        terminal.close()


def test_detach_exec_kill_and_rm(daemon, runtime, rootfs):
    daemon.ctr(*run_words(runtime, rootfs, "c1", "/bin/sleep", "1000", options=["-d"]))
    tasks = daemon.ctr("tasks", "ls").stdout.splitlines()
    assert tasks[1].split()[0::2] == ["c1", "RUNNING"]
    pid = int(tasks[1].split()[1])
    done = daemon.ctr(
        "tasks", "exec", "--exec-id", "e1", "c1", "/bin/sh", "-c", "echo in; exit 3", check=False
    )
    assert (done.stdout, done.returncode) == ("in\n", 3)
    assert str(pid) in daemon.ctr("tasks", "ps", "c1").stdout
    daemon.ctr("tasks", "kill", "-s", "KILL", "c1")
    wait_until(lambda: "STOPPED" in daemon.ctr("tasks", "ls").stdout, "the task has stopped")
    done = daemon.ctr("tasks", "rm", "c1", check=False)
    assert (done.returncode, "exit with non-zero exit code 137" in done.stderr) == (0, True)
    daemon.ctr("containers", "rm", "c1")
    assert not leaks.shims(str(daemon.directory))


def test_a_missing_executable_is_told_by_runc_and_leaves_nothing(daemon, runtime, rootfs):
    done = daemon.ctr(*run_words(runtime, rootfs, "c1", "/nosuch", options=["--rm"]), check=False)
    assert done.returncode == 1
    assert (
        "OCI runtime create failed: runc create failed: unable to start container process: "
        'exec: "/nosuch": stat /nosuch: no such file or directory'
    ) in done.stderr
    assert daemon.ctr("tasks", "ls", "-q").stdout == ""
    assert daemon.ctr("containers", "ls", "-q").stdout == ""
    state = daemon.directory / "state" / "io.containerd.runtime.v2.task" / "default"
    assert list(state.iterdir()) == []


def test_fifty_containers_in_parallel(daemon, runtime, rootfs):
    processes = {
        number: subprocess.Popen(
            daemon.ctr_argv(
                *run_words(
                    runtime, rootfs, f"p{number}",
                    "/bin/sh", "-c", f"echo number {number}; exit {number}", options=["--rm"],
                )
            ),
            env=daemon.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(50)
    }  # fmt: skip
    for number, process in processes.items():
        out, err = process.communicate(timeout=120)
        assert (out, process.returncode) == (f"number {number}\n", number), err
    wait_until(lambda: not leaks.shims(str(daemon.directory)), "all shims are gone", 10)


def test_the_task_list_of_events(daemon, runtime, rootfs):
    process = subprocess.Popen(
        daemon.ctr_argv("events"),
        env=daemon.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    lines: list[str] = []
    try:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)

        def read():
            lines.extend(process.stdout.readlines())
            return lines

        def subscribed():
            daemon.ctr("namespaces", "create", "probe")
            daemon.ctr("namespaces", "remove", "probe")
            return any("/namespaces/" in line for line in read())

        wait_until(subscribed, "the subscription is there")
        daemon.ctr(*run_words(runtime, rootfs, "c1", "/bin/true", options=["--rm"]))
        wait_until(lambda: any("/tasks/delete" in line for line in read()), "delete was told")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
    topics = [word for line in lines for word in line.split() if word.startswith("/tasks/")]
    assert topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]


@pytest.mark.parametrize("signum", ["TERM", "KILL"])
def test_containerd_may_be_restarted_while_containers_run(own_daemon, runtime, rootfs, signum):
    import signal

    daemon = own_daemon
    for name in ("stays", "ends"):
        script = "sleep 1000" if name == "stays" else "sleep 1000 & wait; exit 9"
        daemon.ctr(*run_words(runtime, rootfs, name, "/bin/sh", "-c", script, options=["-d"]))
    pids = {
        line.split()[0]: line.split()[1] for line in daemon.ctr("tasks", "ls").stdout.splitlines()
    }
    daemon.stop(getattr(signal, f"SIG{signum}"))
    daemon.start()
    tasks = daemon.ctr("tasks", "ls").stdout
    assert re.search(rf"stays +{pids['stays']} +RUNNING", tasks), tasks
    done = daemon.ctr(
        "tasks",
        "exec",
        "--exec-id",
        "e1",
        "stays",
        "/bin/sh",
        "-c",
        "echo back; exit 3",
        check=False,
    )
    assert (done.stdout, done.returncode) == ("back\n", 3), done.stderr
    for name in ("stays", "ends"):
        daemon.ctr("tasks", "kill", "-s", "KILL", name)
        wait_until(
            lambda name=name: re.search(rf"{name} .*STOPPED", daemon.ctr("tasks", "ls").stdout),
            f"{name} has stopped",
        )
        daemon.ctr("tasks", "rm", name)
        daemon.ctr("containers", "rm", name)
    assert not leaks.shims(str(daemon.directory))


def test_a_shim_that_was_killed_is_told_as_137_and_cleaned_up(daemon, runtime, rootfs):
    daemon.ctr(*run_words(runtime, rootfs, "c1", "/bin/sleep", "1000", options=["-d"]))
    line = leaks.shims(str(daemon.directory))[0]
    pid = int(daemon.ctr("tasks", "ls").stdout.splitlines()[1].split()[1])
    os.kill(int(line.partition(":")[0]), 9)
    wait_until(lambda: daemon.ctr("tasks", "ls", "-q").stdout == "", "the task is gone")
    wait_until(lambda: not os.path.exists(f"/proc/{pid}/exe"), "its process is gone")
    for name in os.listdir("/run/containerd/s"):
        os.unlink(f"/run/containerd/s/{name}")  # what a killed shim cannot remove itself


def test_an_overlay_rootfs_is_mounted_and_unmounted(daemon, runtime, rootfs, binary):
    """containerd's own snapshots: import an image of one layer and run it."""
    import json
    import tarfile
    from hashlib import sha256

    directory = daemon.directory / "image"
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data):
        digest = sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    layer_path = directory / "layer.tar"
    with tarfile.open(layer_path, "w") as layer:
        layer.add(rootfs, arcname=".")
    layer_data = layer_path.read_bytes()
    layer_path.unlink()
    config = put(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Env": ["PATH=/bin"]},
                "rootfs": {
                    "type": "layers",
                    "diff_ids": [f"sha256:{sha256(layer_data).hexdigest()}"],
                },
            }
        ).encode()
    )
    kinds = "application/vnd.oci.image"
    manifest = put(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{kinds}.manifest.v1+json",
                "config": {"mediaType": f"{kinds}.config.v1+json", **config},
                "layers": [{"mediaType": f"{kinds}.layer.v1.tar", **put(layer_data)}],
            }
        ).encode()
    )
    name = f"example.test/busybox-{binary.name}:latest"
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": f"{kinds}.manifest.v1+json",
                **manifest,
                "annotations": {"io.containerd.image.name": name},
            }
        ],
    }
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    archive = daemon.directory / "image.tar"
    with tarfile.open(archive, "w") as tar:
        for path in ("oci-layout", "index.json", "blobs"):
            tar.add(directory / path, arcname=path)
    daemon.ctr("images", "import", str(archive))
    options = ["--rm", "--snapshotter", "native"] if not overlay_works(daemon) else ["--rm"]
    done = daemon.ctr(
        "run", *runtime, *options, name, "c1",
        "/bin/sh", "-c", "echo written >/tmp/x; cat /tmp/x; grep ' / ' /proc/mounts",
    )  # fmt: skip
    assert done.stdout.startswith("written\n")
    assert not leaks.mounts(str(daemon.directory / "state"))
    daemon.ctr("images", "rm", "--sync", name)


def overlay_works(daemon):
    return "overlayfs" in daemon.ctr("plugins", "ls").stdout and not re.search(
        r"overlayfs .* (error|skip)", daemon.ctr("plugins", "ls").stdout
    )
