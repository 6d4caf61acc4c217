"""Execs in a container (SEMANTICS 1.3, 1.9, 2.2, 4.8, 5.3)."""

from __future__ import annotations

import json
import signal

import pytest
from google.protobuf.any_pb2 import Any

from shim_runc_py.api.runc_options_pb2 import ProcessDetails
from shim_runc_py.testing.sequence import complaints
from shim_runc_py.testing.shims import refused

CREATED, RUNNING, STOPPED = 1, 2, 3


@pytest.fixture
def running(make_bundle, start_shim):
    """(shim, container id) of a container that sleeps."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    return shim, bundle.id


def sh(script):
    return {"args": ["/bin/sh", "-c", script]}


def test_an_exec_runs_and_its_exit_is_told(running, sink, outputs):
    shim, id = running
    out, err = outputs(), outputs()
    shim.task.exec(id, "e1", sh("echo in; exit 5"), stdout=str(out), stderr=str(err))
    created = shim.task.state(id, "e1")
    assert (created.id, created.status, created.pid) == ("e1", CREATED, 0)
    pid = shim.task.start(id, "e1").pid
    assert pid > 0
    assert shim.task.wait(id, "e1").exit_status == 5
    assert out.read() == b"in\n"
    stopped = shim.task.state(id, "e1")
    assert (stopped.status, stopped.pid, stopped.exit_status) == (STOPPED, pid, 5)
    deleted = shim.task.delete(id, "e1")
    assert (deleted.pid, deleted.exit_status) == (pid, 5)
    with refused(5, "process does not exist e1: not found"):
        shim.task.state(id, "e1")
    exited = sink.wait_for("/tasks/exit", id="e1").message
    assert (exited.container_id, exited.pid, exited.exit_status) == (id, pid, 5)
    added = sink.wait_for("/tasks/exec-added").message
    assert (added.container_id, added.exec_id) == (id, "e1")
    assert sink.wait_for("/tasks/exec-started").message.pid == pid
    # Deleting an exec publishes nothing.
    assert sink.topics()[2:] == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]


def test_the_pid_file_of_an_exec_goes_with_it(running):
    shim, id = running
    bundle = shim._bundles[0].path
    shim.task.exec(id, "e1", sh("true"))
    shim.task.start(id, "e1")
    shim.task.wait(id, "e1")
    assert (bundle / "e1.pid").exists()
    shim.task.delete(id, "e1")
    assert not (bundle / "e1.pid").exists()


def test_an_exec_may_be_deleted_before_it_was_started(running):
    shim, id = running
    shim.task.exec(id, "e1", sh("true"))
    deleted = shim.task.delete(id, "e1")
    assert (deleted.pid, deleted.exit_status, deleted.exited_at.seconds) == (0, 0, -62135596800)
    shim.task.exec(id, "e1", sh("true"))


def test_refusals_of_execs(running):
    shim, id = running
    shim.task.exec(id, "e1", sh("sleep 1000"))
    with refused(6, "id e1: already exists"):
        shim.task.exec(id, "e1", sh("true"))
    with refused(9, "process not created: failed precondition"):
        shim.task.kill(id, 9, "e1")
    shim.task.start(id, "e1")
    with refused(2, "cannot start a running process"):
        shim.task.start(id, "e1")
    with refused(2, "cannot delete a running process"):
        shim.task.delete(id, "e1")
    shim.task.kill(id, 9, "e1")
    assert shim.task.wait(id, "e1").exit_status == 137
    with refused(2, "cannot start a stopped process"):
        shim.task.start(id, "e1")
    with refused(5, "process already finished: not found"):
        shim.task.kill(id, 9, "e1")
    with refused(2, "cannot resize a stopped container"):
        shim.task.call("ResizePty", id=id, exec_id="e1", width=80, height=25)
    with refused(5, "process does not exist e2: not found"):
        shim.task.start(id, "e2")


def test_close_io_of_an_unknown_exec_is_the_one_that_answers_unknown(running):
    shim, id = running
    with refused(2, "process does not exist e2: not found"):
        shim.task.call("CloseIO", id=id, exec_id="e2", stdin=True)


@pytest.mark.cgroup
def test_an_exec_is_killed_by_its_pid_and_the_container_lives(running):
    shim, id = running
    shim.task.exec(id, "e1", sh("trap 'exit 9' TERM; sleep 1000 & wait"))
    shim.task.start(id, "e1")
    shim.task.kill(id, signal.SIGTERM, "e1")
    assert shim.task.wait(id, "e1").exit_status in (9, 143)
    assert shim.task.state(id).status == RUNNING
    with refused(2, "exec kill error: unknown error after kill: invalid argument"):
        shim.task.exec(id, "e2", sh("sleep 1000"))
        shim.task.start(id, "e2")
        shim.task.kill(id, 200, "e2")


def test_a_missing_executable_in_an_exec_is_told_in_the_words_of_runc(running, sink):
    shim, id = running
    shim.task.exec(id, "e1", {"args": ["nosuch"]})
    waiting = shim.task.begin("Wait", id=id, exec_id="e1")
    with refused(
        2,
        "OCI runtime exec failed: exec failed: unable to start container process: "
        'exec: "nosuch": executable file not found in $PATH',
    ):
        shim.task.start(id, "e1")
    # Nothing ran: the state stays created, waiters are let go with status 0.
    assert shim.task.state(id, "e1").status == CREATED
    assert shim.task.finish("Wait", waiting).exit_status == 0
    assert shim.task.wait(id, "e1").exit_status == 0
    with refused(9, "process not created: failed precondition"):
        shim.task.kill(id, 9, "e1")
    shim.task.delete(id, "e1")
    assert "/tasks/exec-started" not in sink.topics()


@pytest.mark.stock(skip="dies: it closes a closed channel")
def test_a_second_start_of_a_failed_exec_fails_again_and_cleanly(running):
    shim, id = running
    shim.task.exec(id, "e1", {"args": ["nosuch"]})
    for _ in range(2):
        with refused(2, "executable file not found in $PATH"):
            shim.task.start(id, "e1")
    shim.task.delete(id, "e1")


def test_an_exec_in_a_created_container_comes_before_its_start(make_bundle, start_shim, sink):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.exec(bundle.id, "e1", sh("exit 4"))
    shim.task.start(bundle.id, "e1")
    assert shim.task.wait(bundle.id, "e1").exit_status == 4
    shim.task.start(bundle.id)
    sink.wait_for("/tasks/start")
    assert sink.topics() == [
        "/tasks/create",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/exit",
        "/tasks/start",
    ]


@pytest.mark.stock(varies="init may come first", before=(1, 7, 22))
def test_the_exit_of_init_is_published_after_those_of_all_execs(running, sink):
    shim, id = running
    for number in range(5):
        shim.task.exec(id, f"e{number}", sh("sleep 1000"))
        shim.task.start(id, f"e{number}")
    shim.task.kill(id, 9)
    assert shim.task.wait(id).exit_status == 137
    sink.wait_for("/tasks/exit", id=id)
    exits = [event.message.id for event in sink.events() if event.topic == "/tasks/exit"]
    assert exits[-1] == id
    assert sorted(exits[:-1]) == [f"e{number}" for number in range(5)]


@pytest.mark.cgroup
def test_pids_say_which_ones_are_execs(running):
    shim, id = running
    shim.task.exec(id, "e1", sh("sleep 1000"))
    pid = shim.task.start(id, "e1").pid
    init = shim.task.state(id).pid
    found = {p.pid: p for p in shim.task.call("Pids", id=id).processes}
    assert not found[init].HasField("info")
    assert found[pid].info.type_url == "containerd.runc.v1.ProcessDetails"
    assert ProcessDetails.FromString(found[pid].info.value).exec_id == "e1"


def test_a_spec_is_read_as_json_whatever_its_type_is_called(running):
    shim, id = running
    value = json.dumps({"args": ["/bin/true"], "cwd": "/", "terminal": True}).encode()
    shim.task.call("Exec", id=id, exec_id="e1", spec=Any(type_url="x", value=value))
    # The request's terminal flag overrides the one in the spec.
    shim.task.start(id, "e1")
    assert shim.task.wait(id, "e1").exit_status == 0


@pytest.mark.stock(fails="gives an exec a read-only /dev/null")
def test_an_exec_without_streams_may_write(running):
    shim, id = running
    shim.task.exec(id, "e1", sh("echo hi || exit 9"))
    shim.task.start(id, "e1")
    assert shim.task.wait(id, "e1").exit_status == 0


def test_many_execs_at_once_all_get_their_exit(running, sink):
    shim, id = running
    streams = []
    for number in range(30):
        shim.task.exec(id, f"e{number}", sh(f"exit {number}"))
        streams.append(shim.task.begin("Start", id=id, exec_id=f"e{number}"))
    for stream in streams:
        shim.task.finish("Start", stream)
    for number in range(30):
        assert shim.task.wait(id, f"e{number}").exit_status == number
        sink.wait_for("/tasks/exit", id=f"e{number}", exit_status=number)
    topics = sink.topics()
    assert topics.count("/tasks/exit") == topics.count("/tasks/exec-started") == 30


def test_many_execs_in_a_row_all_get_their_own_status(running, sink):
    """Also run by `test_order` where pids go round while it lasts."""
    shim, id = running
    for number in range(25):
        name = f"e{number}"
        shim.task.exec(id, name, sh(f"(true &); exit {number}"))
        pid = shim.task.start(id, name).pid
        assert shim.task.wait(id, name).exit_status == number
        sink.wait_for("/tasks/exit", id=name, pid=pid, exit_status=number)
        shim.task.delete(id, name)
    assert complaints(sink.events()) == []
