"""Docker-like clients.

They use containerd's API directly: runc's own options for a runtime of our name, tasks with options
of their own, updates, and every event.
"""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest

from shim_runc_py.api.legacy_options_pb2 import CheckpointOptions as LegacyCheckpointOptions
from shim_runc_py.api.legacy_options_pb2 import CreateOptions
from shim_runc_py.api.runc_options_pb2 import CheckpointOptions, Options
from shim_runc_py.api.runtime_options_pb2 import Options as RuntimeOptions
from shim_runc_py.testing import sequence
from shim_runc_py.testing.daemon import wait_until
from shim_runc_py.testing.engines import FakeEngine
from tests.containerd import pairings
from tests.containerd.client import PROCESS, RESOURCES, in_json, packed
from tests.containerd.pairings import LOST_EVENTS


@pytest.fixture
def engine(tmp_path: Path) -> FakeEngine:
    return FakeEngine(tmp_path / "engine")


@pytest.mark.control(varies=LOST_EVENTS)
def test_a_container_is_created_started_waited_for_and_deleted(docker, listener):
    pid = docker.run("c1", "exit 42")
    waited = docker.client.task("Wait", "c1")
    deleted = docker.end("c1")
    assert (waited.exit_status, deleted.exit_status, deleted.pid) == (42, 42, pid)
    assert waited.exited_at == deleted.exited_at
    events = listener.until("/tasks/delete")
    assert sequence.complaints(events) == []
    assert [event.topic for event in events] == [
        "/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"
    ]  # fmt: skip
    create, start, exit, delete = (event.message for event in events)
    assert create.bundle.endswith(f"/{pairings.NAMESPACE}/c1")
    assert (create.pid, start.pid, exit.pid, delete.pid) == (pid, pid, pid, pid)
    assert (exit.exit_status, delete.exit_status) == (42, 42)
    assert exit.exited_at == delete.exited_at == waited.exited_at


@pytest.mark.control
def test_runc_options_in_the_container_record_are_used(docker, engine, tmp_path):
    """What `containerd.WithRuntime(name, &options.Options{...})` records, as Docker does."""
    options = Options(binary_name=str(engine.path), root=str(tmp_path / "root"))
    docker.run("c1", "sleep 1000", options=packed(options))
    assert (tmp_path / "root" / pairings.NAMESPACE / "c1").is_dir()
    docker.end("c1")
    assert {"create", "start", "delete"} <= set(engine.verbs())


@pytest.mark.control
def test_task_options_replace_those_of_the_record(docker, engine, user):
    """Docker's IoUid and IoGid; never merged with the record's."""
    record = packed(Options(binary_name=str(engine.path)))
    task = packed(Options(io_uid=1000, io_gid=1000, no_new_keyring=True))
    pid = docker.run("c1", "echo x >&2; sleep 1000", options=record, task_options=task, user=1000)
    try:
        assert engine.calls() == []
        assert os.stat(f"/proc/{pid}").st_uid == 1000
    finally:
        docker.end("c1")


@pytest.mark.generations(since=(1, 7))
def test_an_options_table_in_the_record_is_used(docker, engine):
    """runtimeoptions.v1 with config_body: the options table of CRI, and of Docker's daemon.json."""
    body = f'BinaryName = "{engine.path}"\nSomethingElse = 1\n'.encode()
    docker.run("c1", "sleep 1000", options=packed(RuntimeOptions(config_body=body)))
    docker.end("c1")
    assert "create" in engine.verbs()


def test_legacy_options_are_used(docker, engine):
    """What the client library of 1.6 and 1.7 makes for a runtime of another name."""
    legacy = CreateOptions(no_new_keyring=True, io_uid=1000, io_gid=1000)
    docker.run("c1", "sleep 1000", options=packed(legacy), user=1000)
    docker.end("c1")


def test_options_of_an_unknown_type_are_refused_by_name_and_nothing_is_left(docker):
    options = in_json("example.test/Options", {})
    with pytest.raises(grpc.RpcError) as refused:
        docker.create("c1", "exit 0", options=options)
    assert "example.test/Options" in str(refused.value.details())
    docker.client.delete_container("c1")


@pytest.mark.control(varies=LOST_EVENTS)
def test_execs_are_waited_for_and_deleted_one_by_one(docker, listener):
    docker.run("c1", "sleep 1000")
    for status in (0, 3):
        exec_id = f"e{status}"
        process = {
            "args": ["/bin/sh", "-c", f"exit {status}"],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        }
        docker.client.task("Exec", "c1", exec_id=exec_id, spec=in_json(PROCESS, process))
        docker.client.task("Start", "c1", exec_id=exec_id)
        assert docker.client.task("Wait", "c1", exec_id=exec_id).exit_status == status
        assert docker.client.task("DeleteProcess", "c1", exec_id=exec_id).exit_status == status
    docker.end("c1")
    events = listener.until("/tasks/delete")
    assert sequence.complaints(events) == []
    topics = [event.topic.removeprefix("/tasks/") for event in events]
    one = ["exec-added", "exec-started", "exit"]
    assert topics == ["create", "start", *one, *one, "exit", "delete"]


@pytest.mark.control
def test_stdin_is_closed_on_request(docker, tmp_path):
    """As Docker does it: close the FIFO, then say so. The shim holds it open until then."""
    given, told, errors = tmp_path / "in", tmp_path / "out", tmp_path / "err"
    for path in (given, told, errors):
        os.mkfifo(path)
    reader = os.open(told, os.O_RDONLY | os.O_NONBLOCK)
    other = os.open(errors, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(given, os.O_RDWR)
    try:
        streams = {"stdin": str(given), "stdout": str(told), "stderr": str(errors)}
        docker.run("c1", "cat; echo end", **streams)
        os.write(writer, b"hello\n")
        seen = b""

        def read(text):
            nonlocal seen
            try:
                seen += os.read(reader, 4096)
            except BlockingIOError:
                pass
            return text in seen

        wait_until(lambda: read(b"hello\n"), "the echo", 20)
        os.close(writer)
        writer = -1
        docker.client.task("CloseIO", "c1", stdin=True)
        wait_until(lambda: read(b"end\n"), "the end of stdin", 20)
        assert docker.client.task("Wait", "c1").exit_status == 0
        docker.end("c1")
    finally:
        for fd in (reader, other, writer):
            if fd >= 0:
                os.close(fd)


@pytest.mark.control
def test_resources_are_updated(docker):
    pid = docker.run("c1", "sleep 1000")
    resources = {"memory": {"limit": 48 << 20}, "pids": {"limit": 77}}
    docker.client.task("Update", "c1", resources=in_json(RESOURCES, resources))
    limits = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller, file in (("memory", "memory.limit_in_bytes"), ("pids", "pids.max"),
                                 ("", "memory.max"), ("", "pids.max")):  # fmt: skip
            if controller in controllers.split(","):
                limit = Path(f"/sys/fs/cgroup/{controller}{path}/{file}")
                if limit.exists():
                    limits.append(int(limit.read_text()))
    assert sorted(limits) == [77, 48 << 20]
    docker.end("c1")


@pytest.mark.control
def test_a_checkpoint_asks_the_engine(docker, engine, pairing, tmp_path):
    """With an engine that says it did: criu cannot dump on every kernel."""
    engine.on("checkpoint", "exit 0")
    docker.run("c1", "sleep 1000", options=packed(Options(binary_name=str(engine.path))))
    image = tmp_path / "image"
    options = CheckpointOptions(image_path=str(image), open_tcp=True)
    docker.client.task("Checkpoint", "c1", options=packed(options))
    call = next(call for call in engine.calls() if " checkpoint " in call)
    if pairing.stock or pairing.generation.major >= (2, 0):
        assert f"--image-path {image} " in call
    else:  # containerd 1.x looks for the path only if the runtime is called io.containerd.runc.*
        assert "--image-path " in call
    assert "--leave-running" in call
    assert "--tcp-established" in call
    docker.end("c1")


@pytest.mark.generations(before=(2, 0))
def test_a_checkpoint_with_legacy_options_asks_the_engine(docker, engine, tmp_path):
    """The client library of 1.6 and 1.7 for a runtime of another name; 2.0 has lost the type."""
    engine.on("checkpoint", "exit 0")
    docker.run("c1", "sleep 1000", options=packed(Options(binary_name=str(engine.path))))
    options = LegacyCheckpointOptions(work_path=str(tmp_path / "work"), file_locks=True)
    docker.client.task("Checkpoint", "c1", options=packed(options))
    call = next(call for call in engine.calls() if " checkpoint " in call)
    assert f"--work-path {tmp_path}/work " in call
    assert "--file-locks" in call
    docker.end("c1")


@pytest.mark.control(varies=LOST_EVENTS)
def test_create_without_start_can_be_deleted(docker, listener):
    docker.create("c1", "exit 0")
    docker.client.task("Delete", "c1")
    docker.client.delete_container("c1")
    topics = [event.topic for event in listener.until("/tasks/delete")]
    assert topics[0] == "/tasks/create"
    assert "/tasks/start" not in topics
