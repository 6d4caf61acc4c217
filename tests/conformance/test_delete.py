"""The `delete` command in every situation (SEMANTICS 10.1, 10.2; FAILURES 12, 17, 26, 52)."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from shim_runc_py.api.runc_options_pb2 import Options
from shim_runc_py.api.task_pb2 import DeleteResponse
from shim_runc_py.api.types_pb2 import Mount
from shim_runc_py.testing import leaks
from shim_runc_py.testing.daemon import wait_until
from shim_runc_py.ttrpc.status import RpcError

STATE = Path("/run/containerd/runc/test")
BUDGET = 5.0  # seconds; containerd's own for the command


@pytest.fixture
def options(fake_engine):
    """Runtime options that choose the fake engine."""
    value = Options(binary_name=str(fake_engine.path)).SerializeToString()
    return Any(type_url="containerd.runc.v1.Options", value=value)


def sh(script):
    return {"args": ["/bin/sh", "-c", script]}


def kill(shim):
    os.kill(shim.pid, 9)
    shim.wait_gone()


def delete(shim, bundle):
    """The answer of the command, which must be there in time."""
    began = time.monotonic()
    result = shim.run_delete(bundle)
    assert time.monotonic() - began < BUDGET
    assert result.status == 0, result.stderr
    return DeleteResponse.FromString(result.stdout)


def nothing_of(bundle):
    """Neither a process nor the engine's state nor a mount is there."""
    wait_until(lambda: not leaks.contained(), "no process is left", 5)
    assert not (STATE / bundle.id).exists()
    assert leaks.mounts(str(bundle)) == []


def to_created(shim, bundle, options):
    shim.task.create(bundle, options=options)


def to_running(shim, bundle, options):
    to_created(shim, bundle, options)
    shim.task.start(bundle.id)


def to_paused(shim, bundle, options):
    to_running(shim, bundle, options)
    shim.task.call("Pause", id=bundle.id)


def to_exec(shim, bundle, options):
    to_running(shim, bundle, options)
    shim.task.exec(bundle.id, "e1", sh("sleep 1000 & sleep 1000 & sleep 1000"))
    shim.task.start(bundle.id, "e1")


def to_stopped(shim, bundle, options):
    to_running(shim, bundle, options)
    shim.task.kill(bundle.id)
    shim.task.wait(bundle.id)


def to_nothing(shim, bundle, options):
    pass


def to_deleted(shim, bundle, options):
    to_stopped(shim, bundle, options)
    shim.task.delete(bundle.id)


@pytest.mark.parametrize(
    "state",
    [to_nothing, to_created, to_running, to_paused, to_exec, to_stopped, to_deleted],
    ids=lambda state: state.__name__,
)
def test_a_shim_that_was_killed_is_cleaned_up_after_twice(make_bundle, start_shim, state):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    state(shim, bundle, None)
    pid = shim.task.call("Connect", id=bundle.id).task_pid
    kill(shim)
    if shim.binary.version < (2, 1) and shim.binary.stock and state is to_nothing:
        pytest.skip("stock shim: wants the file `runtime`")
    first = delete(shim, bundle)
    assert first.exit_status == 137
    if pid:
        assert first.pid == pid
    nothing_of(bundle)
    second = delete(shim, bundle)
    assert (second.pid, second.exit_status) == (first.pid, 137)


@pytest.mark.parametrize("verb", ["create", "start", "exec", "delete", "pause"])
def test_a_shim_that_was_killed_inside_an_engine_command_is_cleaned_up_after(
    make_bundle, start_shim, fake_engine, options, verb
):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    fake_engine.on(verb, "exec sleep 1000")
    try:
        if verb == "create":
            shim.task.begin("Create", id=bundle.id, bundle=str(bundle), options=options)
        elif verb == "start":
            to_created(shim, bundle, options)
            shim.task.begin("Start", id=bundle.id)
        elif verb == "exec":
            to_running(shim, bundle, options)
            shim.task.exec(bundle.id, "e1", sh("sleep 1000"))
            shim.task.begin("Start", id=bundle.id, exec_id="e1")
        elif verb == "delete":
            to_stopped(shim, bundle, options)
            shim.task.begin("Delete", id=bundle.id)
        else:
            to_running(shim, bundle, options)
            shim.task.begin("Pause", id=bundle.id)
        wait_until(lambda: verb in fake_engine.verbs(), f"the engine is at {verb}")
    finally:
        kill(shim)
    fake_engine.behave(verb)
    assert delete(shim, bundle).exit_status == 137
    nothing_of(bundle)


@pytest.mark.parametrize("after", ["0", "0.005", "0.01", "0.015", "0.02"])
@pytest.mark.stock(skip="leaves the cgroups of an engine that was killed half-way")
def test_an_engine_that_was_killed_while_it_creates_leaves_nothing(
    make_bundle, start_shim, fake_engine, options, after
):
    """The shim and runc die together at some moment of runc's create."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    fake_engine.on("create", f"(sleep {after}; kill -9 {shim.pid}) & ")
    shim.task.begin("Create", id=bundle.id, bundle=str(bundle), options=options)
    shim.wait_gone()
    fake_engine.behave("create")
    delete(shim, bundle)
    nothing_of(bundle)


@pytest.mark.stock(skip="leaves runc's half-made container")
@pytest.mark.parametrize("after", ["0.005", "0.01", "0.015", "0.02"])
def test_a_create_whose_engine_is_killed_leaves_nothing(
    make_bundle, start_shim, fake_engine, options, after
):
    """The same without the death of the shim: it cleans up itself, and the create can be redone."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    fake_engine.on("create", f"(sleep {after}; kill -9 $$) & ")
    try:
        shim.task.create(bundle, options=options)
    except RpcError:
        nothing_of(bundle)
        fake_engine.behave("create")
        shim.task.create(bundle, options=options)
    assert shim.task.state(bundle.id).status == 1


def test_what_shares_the_pid_namespace_of_the_host_is_ended(make_bundle, start_shim):
    bundle = make_bundle("sleep", ["/bin/sh", "-c", "sleep 1000 & sleep 1000 & sleep 1000"])
    kept = [n for n in bundle.config["linux"]["namespaces"] if n["type"] != "pid"]
    bundle.config["linux"]["namespaces"] = kept
    bundle.save()
    shim = start_shim(bundle)
    to_running(shim, bundle, None)
    wait_until(lambda: len(shim.task.call("Pids", id=bundle.id).processes) == 3, "all are there", 8)
    kill(shim)
    delete(shim, bundle)
    nothing_of(bundle)


@pytest.mark.stock(skip="always says 137")
def test_an_exit_that_nobody_heard_of_is_told(make_bundle, start_shim, sink):
    """containerd was away and the shim died: the status is in the bundle."""
    bundle = make_bundle("sleep", ["/bin/sh", "-c", "exit 42"])
    shim = start_shim(bundle)
    sink.stop()
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    at = shim.task.wait(bundle.id).exited_at
    kill(shim)
    for _ in range(2):
        answer = delete(shim, bundle)
        assert (answer.exit_status, answer.exited_at) == (42, at)


@pytest.mark.stock(skip="always says 137")
def test_the_exit_of_an_earlier_life_is_not_told_again(make_bundle, start_shim):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    assert shim.task.wait(bundle.id).exit_status == 7
    shim.task.delete(bundle.id)
    bundle.config["process"]["args"] = ["/bin/sleep", "1000"]
    bundle.save()
    pid = shim.task.create(bundle).pid
    shim.task.start(bundle.id)
    kill(shim)
    answer = delete(shim, bundle)
    assert (answer.pid, answer.exit_status) == (pid, 137)


def test_a_bundle_that_is_gone_is_cleaned_up_already(make_bundle, start_shim):
    bundle, other = make_bundle("sleep"), make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.shutdown()
    shim.wait_gone()
    os.rename(bundle, other.path / "elsewhere")
    try:
        done = subprocess.run(
            shim.argv(bundle, "delete"),
            cwd=other,
            env=shim.environ,
            capture_output=True,
            check=False,
            timeout=30,
        )
    finally:
        os.rename(other.path / "elsewhere", bundle)
    if shim.binary.stock and shim.binary.version < (2, 1):
        assert done.returncode == 1  # it wants the file `runtime`
    else:
        assert done.returncode == 0, done.stderr
        assert DeleteResponse.FromString(done.stdout).exit_status == 137


@pytest.mark.stock(skip="needs its working directory")
def test_a_working_directory_that_is_gone_is_no_obstacle(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    pid = shim.task.create(bundle).pid
    kill(shim)
    doomed = bundle.path.parent / "doomed"
    doomed.mkdir()
    words = " ".join(shim.argv(bundle, "delete"))
    done = subprocess.run(
        ["/bin/sh", "-c", f"rmdir {doomed}; exec {words}"],
        cwd=doomed,
        env=shim.environ,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert DeleteResponse.FromString(done.stdout).pid == pid
    nothing_of(bundle)


@pytest.mark.stock(skip="fails, and the bundle is never removed")
def test_files_that_are_no_good_are_no_obstacle(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    kill(shim)
    (bundle.path / "options.json").write_text('{"root": ')
    (bundle.path / "init.exit").write_text("seven")
    (bundle.path / "init.pid").write_bytes(b"\xff")
    result = shim.run_delete(bundle)
    assert result.status == 0
    assert b"options.json cannot be read" in result.stderr
    assert DeleteResponse.FromString(result.stdout).exit_status == 137
    nothing_of(bundle)


def test_an_engine_that_is_gone_is_told_and_no_obstacle(make_bundle, start_shim, place):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    engine = place / "my-runc"
    engine.symlink_to(str(shutil.which("runc")))
    value = Options(binary_name=str(engine)).SerializeToString()
    shim.task.create(bundle, options=Any(type_url="containerd.runc.v1.Options", value=value))
    kill(shim)
    engine.unlink()
    result = shim.run_delete(bundle)
    assert result.status == 0
    assert b"failed to remove runc container" in result.stderr
    if not shim.binary.stock:
        wait_until(lambda: not leaks.contained(), "its processes are ended without it", 5)
    engine.symlink_to(str(shutil.which("runc")))
    delete(shim, bundle)
    nothing_of(bundle)


def test_a_rootfs_that_is_still_mounted_is_unmounted(make_bundle, start_shim, rootfs):
    bundle = make_bundle("sleep")
    bundle.config["root"]["path"] = str(bundle.path / "rootfs")
    bundle.save()
    shim = start_shim(bundle)
    shim.task.create(
        bundle, rootfs=[Mount(type="bind", source=str(rootfs), options=["rbind", "ro"])]
    )
    assert leaks.mounts(str(bundle))
    kill(shim)
    delete(shim, bundle)
    nothing_of(bundle)
    assert (rootfs / "bin" / "busybox").exists()


@pytest.mark.stock(skip="follows the symlink")
def test_a_rootfs_that_is_a_symlink_is_not_followed(make_bundle, start_shim, place):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    victim = place / "victim"
    victim.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "victim", victim], check=True)
    try:
        (bundle.path / "rootfs").rmdir()
        (bundle.path / "rootfs").symlink_to(victim)
        delete(shim, bundle)
        assert victim.is_mount()
    finally:
        subprocess.run(["umount", victim], check=True)


@pytest.mark.stock(skip="always says 137")
def test_it_takes_less_than_a_second_when_there_is_nothing_to_do(make_bundle, start_shim):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    shim.task.delete(bundle.id)
    shim.task.shutdown()
    shim.wait_gone()
    began = time.monotonic()
    assert delete(shim, bundle).exit_status == 7
    assert time.monotonic() - began < 1


def test_a_serving_shim_hears_of_what_was_deleted_under_it(make_bundle, start_shim, sink):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    to_running(shim, bundle, None)
    delete(shim, bundle)
    assert shim.task.wait(bundle.id, timeout=10).exit_status == 137
    sink.wait_for("/tasks/exit", exit_status=137)
    shim.task.delete(bundle.id)
    nothing_of(bundle)


def test_two_at_once_do_no_harm(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    to_running(shim, bundle, None)
    kill(shim)
    both = [
        subprocess.Popen(
            shim.argv(bundle, "delete"),
            cwd=bundle,
            env=shim.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    for process in both:
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert DeleteResponse.FromString(output).exit_status == 137
    nothing_of(bundle)


def test_it_needs_no_room_on_the_disk(make_bundle, start_shim, place, rootfs):
    """The bundle's file system is full to the last byte."""
    from shim_runc_py.testing import bundles

    small = place / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "small", small], check=True)
    try:
        bundle = bundles.Bundle(small / f"{place.name}-full", bundles.spec("sleep"), rootfs)
        shim = start_shim(bundle)
        pid = shim.task.create(bundle).pid
        shim.task.start(bundle.id)
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={small}/fill"], stderr=subprocess.DEVNULL, check=False
        )
        assert os.statvfs(small).f_bavail == 0
        # Neither the exit nor its event needs room; then nor does the command.
        shim.task.kill(bundle.id)
        assert shim.task.wait(bundle.id).exit_status == 137
        kill(shim)
        answer = delete(shim, bundle)
        assert (answer.pid, answer.exit_status) == (pid, 137)
        assert not (STATE / bundle.id).exists()
        shim.close()
    finally:
        subprocess.run(["umount", "-l", small], check=True)
