"""Scarcity, interruptions and impatient clients (docs/failures.md has the row of each)."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import pytest

from shim_runc_py.linux import sock
from shim_runc_py.testing.daemon import wait_until
from shim_runc_py.testing.sequence import complaints
from shim_runc_py.testing.shims import refused
from shim_runc_py.ttrpc.status import RpcError

ALREADY_EXISTS = 6


@pytest.fixture
def running(make_bundle, start_shim):
    """(shim, container id) of a container that sleeps."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    return shim, bundle.id


def switches(pid):
    """Context switches of a process's first thread."""
    text = Path(f"/proc/{pid}/status").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if "ctxt_switches" in line)


@pytest.mark.stock(skip="has threads of a runtime that wake up")
def test_an_idle_shim_does_nothing(running):
    shim, _ = running
    shim.task.call("Connect", id="x")
    before = switches(shim.pid)
    time.sleep(2)  # the interval in which nothing is to happen
    assert switches(shim.pid) - before < 10


def test_a_shim_that_was_stopped_for_a_while_goes_on(running, sink):
    shim, id = running
    os.kill(shim.pid, signal.SIGSTOP)
    try:
        waiting = shim.task.begin("Wait", id=id)
        os.kill(int(Path(f"/proc/{shim.pid}/task/{shim.pid}/children").read_text().split()[0]), 9)
    finally:
        os.kill(shim.pid, signal.SIGCONT)
    assert shim.task.finish("Wait", waiting, 10).exit_status == 137
    sink.wait_for("/tasks/exit", id=id)


@pytest.mark.stock(skip="kills the engine of a call whose client is lost")
def test_a_client_that_comes_back_learns_what_became_of_its_kill(running):
    shim, id = running
    shim.task.begin("Kill", id=id, signal=9)
    shim.task.client.close()
    shim.task = shim.connect()
    assert shim.task.wait(id, timeout=10).exit_status == 137
    with refused(5, "process already finished: not found"):
        shim.task.kill(id, 9)
    assert shim.task.state(id).exit_status == 137


def test_one_of_many_execs_of_one_name_is_taken(running):
    shim, id = running
    spec = {"args": ["/bin/true"]}
    others = [shim.connect() for _ in range(3)]
    outcomes = []
    for task in others * 10:
        try:
            task.exec(id, "same", spec)
            outcomes.append(0)
        except RpcError as error:
            outcomes.append(error.code)
    assert outcomes == [0] + [ALREADY_EXISTS] * 29


def test_pids_of_nested_cgroups_are_told(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    pid = shim.task.create(bundle).pid
    shim.task.start(bundle.id)
    line = Path(f"/proc/{pid}/cgroup").read_text()
    path = next(text.split(":", 2)[2] for text in line.splitlines() if ":devices:" in text)
    nested = Path(f"/sys/fs/cgroup/devices{path}/inner")
    nested.mkdir()
    (nested / "cgroup.procs").write_text(str(pid))
    assert [process.pid for process in shim.task.call("Pids", id=bundle.id).processes] == [pid]
    shim.task.kill(bundle.id)
    shim.task.wait(bundle.id)
    nested.rmdir()


@pytest.mark.stock(varies="may drop its connections")
def test_descriptors_may_run_out_and_come_back(running):
    shim, id = running
    soft, hard = resource.prlimit(shim.pid, resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir(f"/proc/{shim.pid}/fd")) + 1
    crowd = []
    resource.prlimit(shim.pid, resource.RLIMIT_NOFILE, (used + 3, hard))
    try:
        crowd = [sock.connect(shim.path) for _ in range(12)]
        shim.task.exec(id, "e1", {"args": ["/bin/true"]})
        with pytest.raises(RpcError):
            shim.task.start(id, "e1")
        assert shim.task.state(id).status == 2
    finally:
        resource.prlimit(shim.pid, resource.RLIMIT_NOFILE, (soft, hard))
        for connection in crowd:
            connection.close()
    wait_until(lambda: shim.connect().call("Connect", id=id).task_pid > 0, "it accepts again", 8)
    shim.task.start(id, "e1")
    assert shim.task.wait(id, "e1").exit_status == 0


def test_a_shutdown_is_not_held_up_by_what_waits(make_bundle, start_shim, inputs, outputs):
    bundle = make_bundle("cat")
    shim = start_shim(bundle)
    shim.task.create(bundle, stdin=str(inputs()), stdout=str(outputs()), stderr=str(outputs()))
    shim.task.start(bundle.id)
    idle = shim.connect()
    idle.begin("Wait", id=bundle.id)
    shim.task.kill(bundle.id)
    shim.task.wait(bundle.id)
    shim.task.delete(bundle.id)
    shim.task.shutdown()
    shim.wait_gone(3)


def test_resize_in_every_state_is_no_surprise(make_bundle, start_shim, outputs):
    bundle = make_bundle("tty", ["/bin/sleep", "1000"])
    shim = start_shim(bundle)
    shim.task.create(bundle, terminal=True, stdout=str(outputs()))

    def resize(exec_id=""):
        shim.task.call("ResizePty", id=bundle.id, exec_id=exec_id, width=90, height=30)

    resize()
    shim.task.start(bundle.id)
    resize()
    shim.task.exec(bundle.id, "e1", {"args": ["/bin/true"]}, terminal=True, stdout=str(outputs()))
    resize("e1")
    shim.task.kill(bundle.id)
    shim.task.wait(bundle.id)
    resize()
    shim.task.delete(bundle.id)
    with refused(5, "container not created: not found"):
        resize()


@pytest.mark.stock(skip="kills the engine of a call whose client is lost")
def test_a_create_whose_client_is_lost_is_whole_or_not_there(make_bundle, start_shim, sink):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.begin("Create", id=bundle.id, bundle=str(bundle))
    shim.task.client.close()
    shim.task = shim.connect()
    sink.wait_for("/tasks/create")
    assert shim.task.state(bundle.id).status == 1
    assert shim.task.delete(bundle.id).pid > 0
    assert complaints(sink.events()) == []
