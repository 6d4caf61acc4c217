"""Old bugs of shims, each shown not to be one of ours (SEMANTICS 13.2; docs/regressions.md).

Most of that list is covered by tests named after what they promise; here is the rest.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from shim_runc_py.api.runc_options_pb2 import Options
from shim_runc_py.testing import leaks
from shim_runc_py.testing.daemon import wait_until
from shim_runc_py.testing.shims import refused
from shim_runc_py.ttrpc.status import RpcError

RUNNING = 2
SLEEP = {"args": ["/bin/sleep", "1000"]}


@pytest.fixture
def running(make_bundle, start_shim):
    """(shim, container id) of a container that sleeps."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    return shim, bundle.id


@pytest.mark.stock(fails="publishes the exit twice, and dies at that of init", since=(1, 7))
def test_a_second_start_of_a_running_exec_does_no_harm(running, sink):
    shim, id = running
    shim.task.exec(id, "e1", SLEEP)
    shim.task.start(id, "e1")
    with refused(2, "cannot start a running process"):
        shim.task.start(id, "e1")
    shim.task.kill(id, 9, exec_id="e1")
    shim.task.wait(id, "e1")
    shim.task.delete(id, "e1")
    shim.task.kill(id, 9)
    assert shim.task.wait(id).exit_status == 137
    sink.wait_for("/tasks/exit", id=id)
    assert sink.topics().count("/tasks/exit") == 2
    shim.task.delete(id)


@pytest.mark.stock(skip="may stop answering for minutes in an exec storm (1.6)")
def test_a_hundred_execs_at_once_all_end(running):
    shim, id = running
    begun = []
    for number in range(100):
        shim.task.exec(id, f"e{number}", {"args": ["/bin/sh", "-c", f"exit {number}"]})
        begun.append(shim.task.begin("Start", id=id, exec_id=f"e{number}"))
    for stream in begun:
        shim.task.finish("Start", stream, 60)
    for number in range(100):
        assert shim.task.wait(id, f"e{number}").exit_status == number


def test_each_member_of_a_group_has_its_own_pid_in_its_events(make_bundle, start_shim, sink):
    bundles = [make_bundle("sleep") for _ in range(3)]
    shim = start_shim(bundles[0])
    pids = {}
    for bundle in bundles:
        shim.owns(bundle)
        pids[bundle.id] = shim.task.create(bundle).pid
        shim.task.start(bundle.id)
    assert len(set(pids.values())) == 3
    for bundle in reversed(bundles):
        shim.task.kill(bundle.id, 9)
        shim.task.wait(bundle.id)
        assert shim.task.delete(bundle.id).pid == pids[bundle.id]
        for topic in ("/tasks/start", "/tasks/exit", "/tasks/delete"):
            told = sink.wait_for(topic, container_id=bundle.id).message
            assert told.pid == pids[bundle.id], topic


def test_a_terminal_works_after_another_one_was_deleted(make_bundle, start_shim, outputs):
    bundles = [make_bundle("tty", ["/bin/sh", "-c", "echo here; read x"]) for _ in range(2)]
    shim = start_shim(bundles[0])
    for bundle in bundles:
        shim.owns(bundle)
        out = outputs()
        shim.task.create(bundle, terminal=True, stdout=str(out))
        shim.task.start(bundle.id)
        out.wait_for(b"here")
        shim.task.kill(bundle.id, 9)
        shim.task.wait(bundle.id)
        shim.task.delete(bundle.id)


def test_a_terminal_does_not_open_its_stderr(make_bundle, start_shim, outputs, place):
    bundle = make_bundle("tty", ["/bin/echo", "here"])
    shim = start_shim(bundle)
    out = outputs()
    shim.task.create(bundle, terminal=True, stdout=str(out), stderr=str(place / "nowhere"))
    shim.task.start(bundle.id)
    assert out.read() == b"here\r\n"


@pytest.mark.stock(skip="leaves descriptors of each of them open")
def test_creates_that_fail_leave_no_descriptors(make_bundle, start_shim, outputs, inputs, place):
    first = make_bundle("sleep")
    shim = start_shim(first)
    shim.task.create(first)
    hopeless: list[dict[str, Any]] = [
        {"fixture": "tty", "terminal": True, "stdout": str(place / "nowhere")},
        {"args": ["/nosuch"], "stdin": str(inputs()), "stdout": str(outputs())},
        {"stdout": str(place / "nowhere"), "stderr": str(place / "nowhere")},
        {"stdin": str(place / "nowhere"), "stdout": str(outputs())},
        {"stdout": "binary:///nosuch", "stderr": "binary:///nosuch"},
        {"args": ["/nosuch"], "stdout": "binary:///bin/cat", "stderr": "binary:///bin/cat"},
        {"fixture": "tty", "terminal": True, "stdout": "binary:///nosuch"},
    ]
    counts = []
    for _ in range(2):  # what is opened once, for good, is opened in the first round
        for fields in hopeless:
            given = dict(fields)
            bundle = make_bundle(given.pop("fixture", "sleep"), given.pop("args", None))
            with pytest.raises(RpcError):
                shim.task.create(bundle, **given)
        counts.append(leaks.descriptors(shim.pid))
    assert len(counts[0]) == len(counts[1]), counts
    children = Path(f"/proc/{shim.pid}/task/{shim.pid}/children")
    wait_until(lambda: len(children.read_text().split()) == 1, "only the first container is left")


def test_execs_leave_no_descriptors(running, inputs, outputs):
    shim, id = running
    counts = []
    for number in range(8):
        name = f"e{number}"
        terminal = number % 2 == 1
        streams = {"stdin": str(inputs()), "stdout": str(outputs())}
        if not terminal:
            streams["stderr"] = str(outputs())
        shim.task.exec(id, name, {"args": ["/bin/true"]}, terminal=terminal, **streams)
        shim.task.start(id, name)
        shim.task.wait(id, name)
        shim.task.call("CloseIO", id=id, exec_id=name, stdin=True)
        shim.task.delete(id, name)
        if terminal:
            counts.append(len(leaks.descriptors(shim.pid)))
    assert shim.binary.stock or len(set(counts)) == 1, leaks.descriptors(shim.pid)


@pytest.mark.stock(varies="may tell the exit before the OOM kill, and then not the kill")
def test_a_name_that_is_used_again_is_watched_for_oom_again(make_bundle, start_shim, sink):
    first = make_bundle("sleep")
    bundle = make_bundle("oom")
    shim = start_shim(first)
    shim.task.create(first)
    shim.owns(bundle)
    for life in (1, 2):
        shim.task.create(bundle)
        shim.task.start(bundle.id)
        shim.task.wait(bundle.id)
        shim.task.delete(bundle.id)
        sink.wait_until(lambda: sink.topics(bundle.id).count("/tasks/delete") == life)  # noqa: B023
        assert sink.topics(bundle.id).count("/tasks/oom") >= life


@pytest.mark.stock(skip="passes on a flag that runc does not have")
def test_the_parent_of_a_checkpoint_does_not_reach_the_engine(
    make_bundle, start_shim, fake_engine, place
):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    value = Options(binary_name=str(fake_engine.path)).SerializeToString()
    fake_engine.on("restore", "echo no such image; exit 1")
    shim.task.create(
        bundle,
        checkpoint=str(place / "image"),
        parent_checkpoint=str(place / "parent"),
        options=AnyMessage(type_url="containerd.runc.v1.Options", value=value),
    )
    with refused(2, "OCI runtime restore failed: "):
        shim.task.start(bundle.id)
    assert fake_engine.verbs() == ["restore"]
    assert "parent" not in fake_engine.calls()[0]


@pytest.mark.stock(fails="waits for the reader until its caller has gone", since=(2,))
def test_a_reader_that_does_not_read_leaves_the_engine_its_time(
    make_bundle, start_shim, place, fake_engine
):
    bundle = make_bundle("sleep", ["/bin/sh", "-c", "head -c 200000 /dev/zero & sleep 1000"])
    shim = start_shim(bundle)
    os.mkfifo(place / "unread")
    reader = os.open(place / "unread", os.O_RDONLY | os.O_NONBLOCK)
    try:
        value = Options(binary_name=str(fake_engine.path)).SerializeToString()
        options = AnyMessage(type_url="containerd.runc.v1.Options", value=value)
        unread = str(place / "unread")
        shim.task.create(bundle, stdout=unread, stderr=unread, options=options)
        shim.task.start(bundle.id)
        shim.task.kill(bundle.id, 9)
        shim.task.wait(bundle.id)
        shim.task.call("Delete", id=bundle.id, timeout=5)
    finally:
        os.close(reader)
    assert fake_engine.verbs()[-1] == "delete"


def test_the_daemon_logs_what_debug_asks_for(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle, debug=True)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    wait_until(lambda: "level=debug" in shim.log(), "something is logged at level debug")


def test_temporary_files_lie_where_the_environment_says(
    make_bundle, start_shim, fake_engine, place
):
    (place / "x").mkdir(mode=0o700)
    bundle = make_bundle("sleep")
    shim = start_shim(bundle, environ={"XDG_RUNTIME_DIR": str(place / "x")})
    value = Options(binary_name=str(fake_engine.path)).SerializeToString()
    options = AnyMessage(type_url="containerd.runc.v1.Options", value=value)
    shim.task.create(bundle, options=options)
    shim.task.start(bundle.id)
    shim.task.exec(bundle.id, "e1", {"args": ["/bin/true"]})
    shim.task.start(bundle.id, "e1")
    shim.task.wait(bundle.id, "e1")
    call = next(call for call in fake_engine.calls() if " exec " in call)
    assert f"--process {place}/x/" in call
    assert list((place / "x").iterdir()) == []
