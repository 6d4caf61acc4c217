"""A node whose default runtime is pyrunc, with options in its config; its containerd dies."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.testing import cri_daemon, generations, leaks, plugin
from shim_runc_py.testing.daemon import wait_until
from tests.cri.conftest import make_daemon
from tests.cri.node import Node, script

RUNNING, EXITED = pb.ContainerState.CONTAINER_RUNNING, pb.ContainerState.CONTAINER_EXITED
READY, NOT_READY = pb.PodSandboxState.SANDBOX_READY, pb.PodSandboxState.SANDBOX_NOTREADY

_ENGINE = """#!/bin/sh
# The real engine, after its words were noted; this host has no systemd to ask for cgroups.
echo "$*" >>{calls}
for word in "$@"; do
    shift
    [ "$word" = --systemd-cgroup ] || set -- "$@" "$word"
done
exec {real} "$@"
"""


@pytest.fixture(scope="module", params=generations.SUITES)
def own_daemon(request):
    """A containerd whose default runtime is pyrunc, with an engine and a root from the options."""
    name = f"r{request.param[0]}"
    files = Path(plugin._session) / f"{name}-files"
    files.mkdir()
    engine = files / "engine"
    engine.write_text(_ENGINE.format(calls=files / "calls", real=shutil.which("runc")))
    engine.chmod(0o755)
    options: dict[str, cri_daemon.Value] = {
        "BinaryName": str(engine),
        "Root": str(files / "state"),
        "SystemdCgroup": True,
        "NoNewKeyring": True,
    }
    daemon = make_daemon(name, request.param, default_handler="pyrunc", options=options)
    try:
        daemon.start()
        daemon.import_images()
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(daemon.directory, ignore_errors=True)
        shutil.rmtree(files, ignore_errors=True)


@pytest.fixture
def daemon(own_daemon, nothing_is_left):
    """It without pods when the test begins and ends."""
    yield own_daemon
    cri_daemon.remove_pod_cgroups()


@pytest.fixture
def node(daemon):
    """A connection for each test: it is made anew when the daemon was."""
    made = Node(daemon)
    yield made
    made.remove_all()
    made.close()


@pytest.fixture
def dead_sockets(nothing_is_left):
    """A shim that is killed leaves its socket behind, ours like the stock one."""
    yield
    for path in leaks.sockets():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == errno.ECONNREFUSED:
                os.unlink(path)


def test_pods_without_a_runtime_class_use_the_default_runtime(node):
    with node.running(node.spec("")):
        assert len(node.shims()) == 1
        assert "containerd-shim-pyrunc-v2" in node.shims()[0]


def test_the_options_of_the_handlers_table_reach_the_engine(node):
    files = node.daemon.directory.with_name(f"{node.daemon.directory.name}-files")
    with node.running(node.spec("pyrunc")) as running:
        assert running.exec("true").exit_code == 0
        assert (files / "state" / "k8s.io" / running.id()).is_dir()
    calls = (files / "calls").read_text().splitlines()
    assert all(f"--root {files}/state/k8s.io " in call for call in calls)
    create = [call for call in calls if " create " in call]
    assert create
    assert all("--systemd-cgroup" in call and "--no-new-keyring" in call for call in create)


def pod_pids(running):
    """The pids of a pod's init processes, its sandbox's first."""
    info = running.node.runtime.pod_sandbox_status(running.sandbox, verbose=True).info["info"]
    return [int(json.loads(info)["pid"]), running.pid()]


def test_pods_outlive_containerd(node, handler):
    text = "n=0; while :; do echo $n; n=$((n+1)); sleep 0.05; done"
    specs = [node.spec(handler, script("main", text)) for _ in range(3)]
    with (
        node.running(specs[0]) as stays,
        node.running(specs[1]) as loses_its_container,
        node.running(specs[2]) as dies,
    ):
        before = node.shims()
        assert len(before) == 3
        pids = pod_pids(stays)
        ids = [running.id() for running in (stays, loses_its_container, dies)]
        victims = [loses_its_container.pid(), *pod_pids(dies)]
        node.daemon.stop(signal.SIGKILL)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        written = len(stays_log(node, specs[0]))
        node.daemon.start()

        assert stays.status.ready
        assert pod_pids(stays) == pids
        assert stays.id() == ids[0]
        assert stays.exec("true").exit_code == 0
        wait_until(lambda: len(stays_log(node, specs[0])) > written, "its log goes on")
        assert node.runtime.container_stats(ids[0]).memory.working_set_bytes.value > 0

        wait_until(lambda: loses_its_container.state() == EXITED, "the exit is known")
        assert loses_its_container.status.ready
        wait_until(lambda: dies.state() == EXITED, "the exit is known")
        wait_until(lambda: not dies.status.ready, "the sandbox's exit is known")
        # Since 1.7 a containerd that starts may give up a task without processes before it has
        # asked how it ended.
        codes = [137] if node.major < (1, 7) else [137, 255]
        for running in (loses_its_container, dies):
            assert running.status.container("main").exit_code in codes

        node.runtime.stop_container(ids[0], 0)
        assert stays.status.container("main").exit_code == 137
    node.await_no_shims()


def stays_log(node, pod):
    """Read without containerd."""
    return (pod.log_directory / "main" / "0.log").read_bytes().splitlines()


def test_a_pod_whose_shim_died_meanwhile_is_given_up(dead_sockets, node, handler):
    with node.running(node.spec(handler)) as running:
        shim = int(node.shims()[0].partition(":")[0])
        pids = pod_pids(running)
        node.daemon.stop(signal.SIGKILL)
        os.kill(shim, signal.SIGKILL)
        node.daemon.start()
        wait_until(lambda: running.state() == EXITED, "the container is given up")
        wait_until(lambda: not running.status.ready, "the sandbox is given up")
        await_end(pids)
    node.await_no_shims()


def test_a_shim_that_is_killed_takes_its_pod_along(dead_sockets, node, handler):
    if handler == "runc" and node.major >= (2, 0):
        pytest.skip(
            "stock shim: as Task v3 its containers are not cleaned up, their processes stay"
        )
    with node.running(node.spec(handler)) as running:
        pids = pod_pids(running)
        os.kill(int(node.shims()[0].partition(":")[0]), signal.SIGKILL)
        wait_until(lambda: running.state() == EXITED, "the container is given up")
        wait_until(lambda: not running.status.ready, "the sandbox is given up")
        await_end(pids)
    node.await_no_shims()


def await_end(pids):
    """A zombie of a machine whose init does not reap has ended, too: it has no memory."""
    wait_until(
        lambda: not [pid for pid in pids if cmdline(pid)], f"the processes {pids} are gone", 10
    )


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""
