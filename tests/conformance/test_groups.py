"""Many containers in one shim, as for the pods of Kubernetes (SEMANTICS 0, 2.3, 10.3; FAILURES 47,
55, 59)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from shim_runc_py.testing import leaks
from shim_runc_py.testing.sequence import complaints
from shim_runc_py.ttrpc.status import Closed, RpcError

RUNNING = 2


@pytest.fixture
def pod(make_bundle, start_shim):
    """`pod(count, fixture)`: (shim, bundles) of a pod: the first is its sandbox."""

    def make(count, fixture="sleep", args=None):
        sandbox = make_bundle("sleep")
        annotations = {"io.kubernetes.cri.sandbox-id": sandbox.id}
        sandbox.config["annotations"] = annotations
        sandbox.save()
        members = [make_bundle(fixture, args, annotations=annotations) for _ in range(count - 1)]
        shim = start_shim(sandbox)
        for bundle in members:
            assert shim.join(bundle) == shim.address
        return shim, [sandbox, *members]

    return make


def end(task, bundle):
    """What containerd does at the end of a task: Delete, and Shutdown whatever is left."""
    task.kill(bundle.id)
    task.wait(bundle.id)
    task.delete(bundle.id)
    task.shutdown(bundle.id)


def test_the_first_one_may_go_first_and_take_its_bundle_along(pod, sink, outputs):
    shim, bundles = pod(8)
    for bundle in bundles:
        shim.task.create(bundle)
        shim.task.start(bundle.id)
    first, *rest = bundles
    end(shim.task, first)
    assert shim.run_delete(first).status == 0
    shutil.rmtree(first.path)
    # The shim's first bundle, its log and the working directory of its start are gone.
    for bundle in rest:
        out = outputs()
        shim.task.exec(
            bundle.id,
            "e1",
            {"args": ["/bin/echo", bundle.id]},
            stdout=str(out),
            stderr=str(outputs()),
        )
        shim.task.start(bundle.id, "e1")
        assert shim.task.wait(bundle.id, "e1").exit_status == 0
        assert out.read() == f"{bundle.id}\n".encode()
    for bundle in rest:
        assert shim.task.state(bundle.id).status == RUNNING
        end(shim.task, bundle)
    shim.wait_gone()
    assert not Path(shim.path).exists()
    assert complaints(sink.events()) == []
    assert len([e for e in sink.events() if e.topic == "/tasks/delete"]) == len(bundles)


def test_shutdown_is_no_end_until_the_last_container_has_gone(pod):
    shim, bundles = pod(3)
    for bundle in bundles:
        shim.task.create(bundle)
    for _ in range(2):
        for bundle in bundles:
            shim.task.call("Shutdown", id=bundle.id)
            shim.task.call("Shutdown", id=bundle.id, now=True)
    for number, bundle in enumerate(reversed(bundles)):
        assert shim.alive()
        shim.task.delete(bundle.id)
        if number < 2:
            shim.task.call("Shutdown", id=bundle.id)
    shim.task.shutdown()
    shim.wait_gone(10)


def test_shutdown_before_the_first_create_is_an_end(pod):
    """containerd calls it when the create that should have come has failed on its side."""
    shim, _ = pod(1)
    shim.task.shutdown()
    shim.wait_gone(10)
    assert not Path(shim.path).exists()


def test_a_second_shutdown_is_answered_or_finds_nobody(pod):
    shim, _ = pod(1)
    others = [shim.connect() for _ in range(5)]
    streams = {}
    for task in others:
        try:
            streams[task] = task.begin("Shutdown", id="x")
        except Closed:  # the first one has been quicker
            pass
    for task, stream in streams.items():
        try:
            task.finish("Shutdown", stream, 10)
        except Closed:
            pass
    shim.wait_gone(10)


def test_a_shim_whose_last_container_went_takes_another_until_its_shutdown(pod, make_bundle):
    shim, [sandbox] = pod(1)
    shim.task.create(sandbox)
    shim.task.delete(sandbox.id)
    late = make_bundle("exit-7", annotations={"io.kubernetes.cri.sandbox-id": sandbox.id})
    assert shim.join(late) == shim.address
    shim.task.create(late)
    shim.task.shutdown(sandbox.id)  # too late: there is a container again
    shim.task.start(late.id)
    assert shim.task.wait(late.id).exit_status == 7
    shim.task.delete(late.id)
    shim.task.shutdown(late.id)
    shim.wait_gone(10)


@pytest.mark.stock(skip="ends while a create is under way, and leaves its container")
def test_a_shutdown_that_meets_a_create_leaves_both_or_neither(pod):
    shim, [sandbox] = pod(1)
    other = shim.connect()
    for _ in range(5):
        creating = shim.task.begin("Create", id=sandbox.id, bundle=str(sandbox))
        other.shutdown("x")
        try:
            shim.task.finish("Create", creating)
        except (Closed, RpcError):
            shim.wait_gone(10)
            break
        assert shim.task.delete(sandbox.id).exit_status == 137
    else:
        shim.task.shutdown()
    shim.wait_gone(10)
    assert leaks.contained() == []


@pytest.mark.stock(varies="may die, or lose its last events")
def test_shutdown_may_race_every_delete(pod, sink):
    shim, bundles = pod(10, "exit-7")
    for bundle in bundles:
        shim.task.create(bundle)
    for bundle in bundles:
        shim.task.start(bundle.id)
        if bundle is bundles[0]:
            shim.task.kill(bundle.id)
        assert shim.task.wait(bundle.id).exit_status in (7, 137)
    other = shim.connect()
    deletes = [shim.task.begin("Delete", id=bundle.id) for bundle in bundles]
    for bundle in bundles:
        other.shutdown(bundle.id)
    answered = 0
    for stream in deletes:
        assert shim.task.finish("Delete", stream).exit_status in (7, 137)
        answered += 1
    assert answered == len(bundles)
    shim.task.shutdown()
    shim.wait_gone(10)
    assert complaints(sink.events()) == []
    assert len([e for e in sink.events() if e.topic == "/tasks/delete"]) == len(bundles)


def test_members_keep_their_streams_apart(pod, outputs):
    shim, bundles = pod(
        9, "hello", ["/bin/sh", "-c", "cat /proc/self/cgroup; cat /proc/self/cgroup >&2"]
    )
    streams = []
    for bundle in bundles[1:]:
        out, err = outputs(), outputs()
        shim.task.create(bundle, stdout=str(out), stderr=str(err))
        streams.append((bundle, out, err))
    for bundle, _, _ in streams:
        shim.task.start(bundle.id)
    for bundle, out, err in streams:
        assert shim.task.wait(bundle.id).exit_status == 0
        assert out.read() == err.read()
        assert bundle.id.encode() in out.read()
        others = [other.id.encode() for other, _, _ in streams if other is not bundle]
        assert not [id for id in others if id + b"\n" in out.read()]


def test_descriptors_come_back_to_where_they_were(pod, outputs, inputs):
    shim, bundles = pod(2, "tty", ["/bin/sh", "-c", "echo x; cat"])
    shim.task.create(bundles[0])
    before = None
    for _ in range(4):
        out, stdin = outputs(), inputs()
        shim.task.create(bundles[1], terminal=True, stdin=str(stdin), stdout=str(out))
        shim.task.start(bundles[1].id)
        out.wait_for(b"x")
        shim.task.exec(
            bundles[1].id,
            "e1",
            {"args": ["/bin/true"]},
            terminal=True,
            stdin=str(inputs()),
            stdout=str(outputs()),
        )
        shim.task.start(bundles[1].id, "e1")
        shim.task.wait(bundles[1].id, "e1")
        shim.task.delete(bundles[1].id, "e1")
        shim.task.kill(bundles[1].id)
        shim.task.wait(bundles[1].id)
        shim.task.delete(bundles[1].id)
        now = len(leaks.descriptors(shim.pid))
        assert shim.binary.stock or before in (None, now), leaks.descriptors(shim.pid)
        before = now


def test_the_delete_command_of_one_member_leaves_the_others_alone(pod):
    shim, bundles = pod(3)
    pids = {}
    for bundle in bundles:
        pids[bundle.id] = shim.task.create(bundle).pid
        shim.task.start(bundle.id)
    assert shim.run_delete(bundles[1]).status == 0
    assert shim.task.wait(bundles[1].id, timeout=10).exit_status == 137
    for bundle in (bundles[0], bundles[2]):
        assert shim.task.state(bundle.id).status == RUNNING
        assert os.path.exists(f"/proc/{pids[bundle.id]}")
    with pytest.raises(RpcError):
        shim.task.kill(bundles[1].id)
    shim.task.delete(bundles[1].id)
