"""Pause, Resume, Update, Checkpoint (SEMANTICS 1.5 - 1.7, 1.12, 9)."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from shim_runc_py.api.runc_options_pb2 import CheckpointOptions, Options
from shim_runc_py.testing import conditions
from shim_runc_py.testing.daemon import wait_until
from shim_runc_py.testing.shims import refused
from tests.conformance.reading import metrics, unified

pytestmark = pytest.mark.cgroup
CREATED, RUNNING, STOPPED, PAUSED = 1, 2, 3, 4
RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"


@pytest.fixture
def running(make_bundle, start_shim):
    """(shim, container id) of a container that sleeps."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    return shim, bundle.id


def test_pause_and_resume(running, sink):
    shim, id = running
    shim.task.call("Pause", id=id)
    assert shim.task.state(id).status == PAUSED
    shim.task.call("Resume", id=id)
    assert shim.task.state(id).status == RUNNING
    sink.wait_for("/tasks/resumed", container_id=id)
    assert sink.topics()[2:] == ["/tasks/paused", "/tasks/resumed"]


def test_refusals_of_a_paused_container(running):
    shim, id = running
    shim.task.exec(id, "e1", {"args": ["/bin/sleep", "1000"]})
    shim.task.start(id, "e1")
    shim.task.call("Pause", id=id)
    for method, text in [
        ("Start", "cannot start a paused process"),
        ("Delete", "cannot delete a paused process"),
        ("Pause", "cannot pause a paused container"),
    ]:
        with refused(2, text):
            shim.task.call(method, id=id)
    with refused(2, "cannot exec in a paused state"):
        shim.task.exec(id, "e2", {"args": ["/bin/true"]})
    # An exec of a paused container is paused.
    assert shim.task.state(id, "e1").status == PAUSED
    shim.task.call("Update", id=id, resources=resources(pids={"limit": 50}))
    shim.task.call("Stats", id=id)
    shim.task.call("Pids", id=id)


def test_refusals_of_created_and_stopped_containers(make_bundle, start_shim):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    with refused(2, "cannot pause task in created state"):
        shim.task.call("Pause", id=bundle.id)
    with refused(2, "cannot resume task in created state"):
        shim.task.call("Resume", id=bundle.id)
    with refused(2, "cannot checkpoint a task in created state"):
        shim.task.call("Checkpoint", id=bundle.id, path="/nowhere")
    shim.task.call("Update", id=bundle.id, resources=resources(pids={"limit": 60}))
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    with refused(2, "cannot pause a stopped container"):
        shim.task.call("Pause", id=bundle.id)
    with refused(2, "cannot resume a stopped container"):
        shim.task.call("Resume", id=bundle.id)
    with refused(2, "cannot checkpoint a stopped container"):
        shim.task.call("Checkpoint", id=bundle.id, path="/nowhere")
    with refused(2, "cannot update a stopped container"):
        shim.task.call("Update", id=bundle.id, resources=resources(pids={"limit": 60}))


def test_resume_of_a_running_container_is_refused(running):
    shim, id = running
    with refused(2, "cannot resume a running process"):
        shim.task.call("Resume", id=id)


def test_sigkill_ends_a_paused_container_and_sigterm_waits(running, sink):
    shim, id = running
    shim.task.exec(id, "e1", {"args": ["/bin/sh", "-c", "sleep 1000"]})
    shim.task.start(id, "e1")
    shim.task.call("Pause", id=id)
    shim.task.kill(id, signal.SIGTERM)
    assert shim.task.state(id).status == PAUSED
    shim.task.kill(id, signal.SIGKILL)
    assert shim.task.wait(id).exit_status == 137
    shim.task.delete(id)
    sink.wait_for("/tasks/delete")
    assert "/tasks/resumed" not in sink.topics()


@pytest.mark.parametrize("method", ["Pause", "Resume", "Update", "Stats", "Checkpoint"])
def test_an_unknown_container_is_not_found(make_bundle, start_shim, method):
    shim = start_shim(make_bundle("sleep"))
    with refused(5, "container not created: not found"):
        shim.task.call(method, id="nobody")


def resources(**fields):
    return Any(type_url=RESOURCES, value=json.dumps(fields).encode())


def limits(shim, id):
    """(pids limit, memory limit) from the metrics."""
    found = metrics(shim, id)
    memory = found.memory
    return found.pids.limit, memory.usage_limit if unified else memory.usage.limit


def test_update_changes_limits_that_stats_show(running):
    shim, id = running
    given = resources(pids={"limit": 77}, memory={"limit": 64 << 20})
    shim.task.call("Update", id=id, resources=given)
    assert limits(shim, id) == (77, 64 << 20)
    # The type is not looked at.
    shim.task.call("Update", id=id, resources=Any(type_url="x", value=b'{"pids":{"limit":78}}'))
    assert limits(shim, id)[0] == 78


def test_an_update_that_the_engine_refuses_is_told_in_its_words(running):
    shim, id = running
    with refused(2, f"{conditions.ENGINE} did not terminate successfully: exit status 1: "):
        shim.task.call("Update", id=id, resources=resources(cpu={"quota": 1000, "period": 1}))


@pytest.mark.stock(skip="dies of a nil pointer")
def test_an_update_without_resources_is_refused(running):
    shim, id = running
    with refused(3, "has no resources"):
        shim.task.call("Update", id=id)
    with refused(3, "are no JSON object"):
        shim.task.call("Update", id=id, resources=Any(type_url="x", value=b"{nothing"))
    assert shim.task.state(id).status == RUNNING


def test_a_checkpoint_that_fails_says_where_the_log_is(running):
    shim, id = running
    bundle = shim._bundles[0].path
    with refused(2, f" path= {bundle}/criu-dump.log"):
        shim.task.call("Checkpoint", id=id, path=str(bundle / "image"))
    assert shim.task.state(id).status == RUNNING
    assert not (bundle / "work" / "criu-work").exists()


@pytest.mark.stock(skip="dies of some, takes others")
def test_checkpoint_options_of_a_wrong_type_are_refused(running):
    shim, id = running
    wrong = Any(type_url="containerd.runc.v1.Options", value=Options(root="/x").SerializeToString())
    with refused(3, 'checkpoint options of type "containerd.runc.v1.Options"'):
        shim.task.call("Checkpoint", id=id, path="/nowhere", options=wrong)


def engine_options(fake_engine):
    return conditions.options(str(fake_engine.path))


def restore(fake_engine, bundle):
    """The fake engine restores by creating and starting, which is all that can be seen of it."""
    root = f"--root /run/containerd/runc/test --log {bundle}/log.json --log-format json"
    engine = f"{conditions.ENGINE} {root}{' --systemd-cgroup' if conditions.SYSTEMD else ''}"
    fake_engine.on(
        "restore",
        f"{engine} create --bundle {bundle} --pid-file {bundle}/init.pid {bundle.id} && "
        f"exec {engine} start {bundle.id}",
    )


def test_the_command_line_of_a_checkpoint(make_bundle, start_shim, fake_engine, place):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=engine_options(fake_engine))
    shim.task.start(bundle.id)
    fake_engine.on("checkpoint", "exit 0")
    given = CheckpointOptions(
        exit=False,
        open_tcp=True,
        external_unix_sockets=True,
        terminal=True,
        file_locks=True,
        empty_namespaces=["network"],
        cgroups_mode="soft",
        work_path=str(place),
    )
    options = Any(type_url="containerd.runc.v1.CheckpointOptions", value=given.SerializeToString())
    shim.task.call("Checkpoint", id=bundle.id, path="/image", options=options)
    words = fake_engine.calls()[-1].partition(" checkpoint ")[2]
    assert words == (
        f"--image-path /image --work-path {place} --tcp-established --ext-unix-sk --shell-job "
        f"--file-locks --empty-ns network --leave-running {bundle.id}"
    )
    shim.task.call("Checkpoint", id=bundle.id, path="/image")
    words = fake_engine.calls()[-1].partition(" checkpoint ")[2]
    assert words == (
        f"--image-path /image --work-path {bundle}/work/criu-work --leave-running {bundle.id}"
    )


@pytest.mark.stock(varies="loses an exit that comes inside the restore")
def test_create_from_a_checkpoint_restores_at_start(
    make_bundle, start_shim, fake_engine, place, sink
):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    options = engine_options(fake_engine)
    created = shim.task.create(bundle, checkpoint=str(place / "image"), options=options)
    assert created.pid == 0
    assert shim.task.state(bundle.id).status == CREATED
    assert fake_engine.calls() == []
    assert sink.wait_for("/tasks/create").message.checkpoint == str(place / "image")
    with refused(2, "cannot exec in a created state"):
        shim.task.exec(bundle.id, "e1", {"args": ["/bin/true"]})
    with refused(5, "no such container: not found"):
        shim.task.kill(bundle.id, 9)
    restore(fake_engine, bundle)
    pid = shim.task.start(bundle.id).pid
    assert pid > 0
    call = next(call for call in fake_engine.calls() if " restore " in call)
    assert call.partition(" restore ")[2] == (
        f"--image-path {place}/image --work-path {bundle}/work --detach "
        f"--pid-file {bundle}/init.pid -no-subreaper --bundle {bundle} {bundle.id}"
    )
    assert shim.task.wait(bundle.id).exit_status == 7
    assert sink.wait_for("/tasks/start").message.pid == pid
    shim.task.delete(bundle.id)


@pytest.mark.stock(fails="looks for a cgroup in Create only", since=(2, 2))
def test_a_restored_container_has_stats_and_an_oom_watch(
    make_bundle, start_shim, fake_engine, place, sink
):
    bundle = make_bundle("oom", ["/bin/sh", "-c", "sleep 1000 & wait"])
    shim = start_shim(bundle)
    options = engine_options(fake_engine)
    shim.task.create(bundle, checkpoint=str(place), options=options)
    restore(fake_engine, bundle)
    shim.task.start(bundle.id)
    assert metrics(shim, bundle.id).pids.current >= 1
    shim.task.exec(bundle.id, "hog", {"args": ["/bin/tail", "/dev/zero"]})
    shim.task.start(bundle.id, "hog")
    sink.wait_for("/tasks/oom", container_id=bundle.id)


@pytest.mark.stock(skip="lets nobody go who waits for it")
def test_a_restore_that_fails_can_be_deleted(make_bundle, start_shim, fake_engine, place):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    shim.task.create(bundle, checkpoint=str(place), options=engine_options(fake_engine))
    fake_engine.on("restore", "echo broken; exit 2")
    with refused(2, "OCI runtime restore failed: "):
        shim.task.start(bundle.id)
    assert shim.task.state(bundle.id).status == CREATED
    waiting = shim.task.begin("Wait", id=bundle.id)
    shim.task.delete(bundle.id)
    shim.task.finish("Wait", waiting)


@pytest.mark.stock(skip="State waits for the engine")
def test_a_container_that_is_being_paused_says_so(make_bundle, start_shim, fake_engine):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=engine_options(fake_engine))
    shim.task.start(bundle.id)
    go = Path(f"{bundle}/go")
    fake_engine.on("pause", f"while [ ! -e {go} ]; do sleep 0.01; done")
    pausing = shim.task.begin("Pause", id=bundle.id)
    wait_until(lambda: "pause" in fake_engine.verbs(), "the engine is at pause")
    assert shim.task.state(bundle.id).status == 5
    go.touch()
    shim.task.finish("Pause", pausing)
    assert shim.task.state(bundle.id).status == PAUSED


def test_a_pause_whose_time_is_over_leaves_the_container_running(
    make_bundle, start_shim, fake_engine
):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=engine_options(fake_engine))
    shim.task.start(bundle.id)
    fake_engine.on("pause", "exec sleep 1000")
    began = time.monotonic()
    with refused(2, "OCI runtime pause failed: "):
        shim.task.call("Pause", id=bundle.id, timeout=1)
    assert time.monotonic() - began < 5
    assert shim.task.state(bundle.id).status == RUNNING
