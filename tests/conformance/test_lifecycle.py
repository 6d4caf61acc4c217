"""Create to Shutdown, as containerd drives it: the same for both shims (SEMANTICS 1, 2, 5)."""

from __future__ import annotations

import pytest

from shim_runc_py.testing import conditions
from shim_runc_py.testing.shims import refused

ZERO_TIME = -62135596800
CREATED, RUNNING, STOPPED = 1, 2, 3


def test_a_container_runs_from_create_to_delete(make_bundle, start_shim, outputs, sink):
    bundle = make_bundle("hello")
    shim = start_shim(bundle)
    out, err = outputs(), outputs()
    created = shim.task.create(bundle, stdout=str(out), stderr=str(err))
    assert created.pid > 0
    state = shim.task.state(bundle.id)
    assert (state.status, state.pid, state.id) == (CREATED, created.pid, bundle.id)
    assert (state.stdout, state.bundle) == (str(out), str(bundle))
    assert shim.task.start(bundle.id).pid == created.pid
    waited = shim.task.wait(bundle.id)
    assert waited.exit_status == 0
    assert waited.exited_at.seconds > 1_600_000_000
    assert out.read() == b"hello\n"
    stopped = shim.task.state(bundle.id)
    assert (stopped.status, stopped.pid) == (STOPPED, created.pid)
    deleted = shim.task.delete(bundle.id)
    assert (deleted.pid, deleted.exit_status) == (created.pid, 0)
    assert deleted.exited_at == waited.exited_at == stopped.exited_at
    with refused(5, "container not created: not found"):
        shim.task.state(bundle.id)
    shim.task.shutdown(bundle.id)
    shim.wait_gone()
    sink.wait_for("/tasks/delete")
    assert sink.topics() == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]


def test_events_carry_what_containerd_reads_of_them(make_bundle, start_shim, sink, outputs):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    out = outputs()
    pid = shim.task.create(bundle, stdout=str(out), stderr=str(outputs())).pid
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    deleted = shim.task.delete(bundle.id)
    create = sink.wait_for("/tasks/create")
    assert create.type_url == "containerd.events.TaskCreate"
    assert create.namespace == "test"
    assert create.timestamp.seconds > 1_600_000_000
    message = create.message
    assert (message.container_id, message.bundle, message.pid) == (bundle.id, str(bundle), pid)
    assert (message.io.stdout, message.io.terminal) == (str(out), False)
    assert sink.wait_for("/tasks/start").message.pid == pid
    exited = sink.wait_for("/tasks/exit").message
    assert (exited.id, exited.pid, exited.exit_status) == (bundle.id, pid, 7)
    gone = sink.wait_for("/tasks/delete").message
    assert (gone.container_id, gone.pid, gone.exit_status, gone.id) == (bundle.id, pid, 7, "")
    assert gone.exited_at == exited.exited_at == deleted.exited_at


def test_a_running_process_has_the_zero_time_of_go_as_its_exit(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    state = shim.task.state(bundle.id)
    assert (state.status, state.exit_status) == (RUNNING, 0)
    assert (state.exited_at.seconds, state.exited_at.nanos) == (ZERO_TIME, 0)


@pytest.mark.parametrize(
    ("signum", "status"), [pytest.param(9, 137, marks=pytest.mark.cgroup), (10, 138)]
)
def test_death_by_a_signal_is_128_and_its_number(make_bundle, start_shim, signum, status):
    # The default action of SIGUSR1 is not taken by pid 1 of a namespace, so the shell does it.
    bundle = make_bundle("sleep", ["/bin/sh", "-c", f"kill -{signum} $$; sleep 1000"])
    if signum != 9:
        bundle.config["linux"]["namespaces"] = [
            n for n in bundle.config["linux"]["namespaces"] if n["type"] != "pid"
        ]
        bundle.save()
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    if signum == 9:
        shim.task.kill(bundle.id, 9)
    assert shim.task.wait(bundle.id).exit_status == status


@pytest.mark.cgroup
def test_kill_of_a_created_container_ends_it_without_a_start(make_bundle, start_shim, sink):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.kill(bundle.id, 9)
    assert shim.task.wait(bundle.id).exit_status == 137
    with refused(2, "cannot start a stopped process"):
        shim.task.start(bundle.id)
    assert shim.task.delete(bundle.id).exit_status == 137
    sink.wait_for("/tasks/delete")
    assert sink.topics() == ["/tasks/create", "/tasks/exit", "/tasks/delete"]


def test_start_is_published_before_the_exit_of_the_shortest_process(make_bundle, start_shim, sink):
    bundle = make_bundle("hello", ["/bin/true"])
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    sink.wait_for("/tasks/exit")
    assert sink.topics() == ["/tasks/create", "/tasks/start", "/tasks/exit"]


def test_refusals_of_a_created_container(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.kill(bundle.id, 0)
    shim.task.call("CloseIO", id=bundle.id, stdin=True)
    shim.task.call("ResizePty", id=bundle.id, width=80, height=25)
    assert [p.pid for p in shim.task.call("Pids", id=bundle.id).processes]


def test_refusals_of_a_running_container(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    with refused(2, "cannot start a running process"):
        shim.task.start(bundle.id)
    with refused(2, "cannot delete a running process"):
        shim.task.delete(bundle.id)


def test_refusals_of_a_stopped_container(make_bundle, start_shim):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    with refused(2, "cannot start a stopped process"):
        shim.task.start(bundle.id)
    with refused(2, "cannot exec in a stopped state"):
        shim.task.exec(bundle.id, "late", {"args": ["/bin/true"]})
    with refused(5, "process already finished: not found"):
        shim.task.kill(bundle.id, 9)
    pids = shim.task.call("Pids", id=bundle.id)
    assert list(pids.processes) == []
    assert shim.task.wait(bundle.id).exit_status == 7
    shim.task.delete(bundle.id)
    with refused(5, "container not created: not found"):
        shim.task.delete(bundle.id)


@pytest.mark.parametrize("method", ["State", "Start", "Delete", "Pids", "Kill", "Wait", "CloseIO"])
def test_an_unknown_container_is_not_found(make_bundle, start_shim, method):
    shim = start_shim(make_bundle("sleep"))
    with refused(5, "container not created: not found"):
        shim.task.call(method, id="nobody")


def test_connect_answers_for_an_unknown_container(make_bundle, start_shim):
    shim = start_shim(make_bundle("sleep"))
    answer = shim.task.call("Connect", id="nobody")
    assert (answer.shim_pid, answer.task_pid, answer.version) == (shim.pid, 0, "")


def test_connect_gives_the_pid_of_init(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    pid = shim.task.create(bundle).pid
    assert shim.task.call("Connect", id=bundle.id).task_pid == pid


def test_shutdown_is_no_end_while_a_container_is_there(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.shutdown(bundle.id)
    assert shim.task.state(bundle.id).status == CREATED
    assert shim.alive()


def test_the_same_id_can_be_created_again_after_delete(make_bundle, start_shim):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    for _ in range(2):
        shim.task.create(bundle)
        shim.task.start(bundle.id)
        assert shim.task.wait(bundle.id).exit_status == 7
        shim.task.delete(bundle.id)


def test_wait_before_start_is_answered_at_the_exit_for_every_caller(make_bundle, start_shim):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    streams = [shim.task.begin("Wait", id=bundle.id) for _ in range(3)]
    other = shim.connect()
    theirs = other.begin("Wait", id=bundle.id)
    shim.task.start(bundle.id)
    for stream in streams:
        assert shim.task.finish("Wait", stream).exit_status == 7
    assert other.finish("Wait", theirs).exit_status == 7


@pytest.mark.stock(skip="leaves the Wait unanswered for ever, and publishes status 0")
@pytest.mark.cgroup
def test_delete_of_a_created_container_tells_waiters_of_137(make_bundle, start_shim, sink):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    waiting = shim.task.begin("Wait", id=bundle.id)
    deleted = shim.task.delete(bundle.id)
    assert deleted.exit_status == 137
    assert shim.task.finish("Wait", waiting).exit_status == 137
    assert sink.wait_for("/tasks/delete").message.exit_status == 137
    assert sink.topics() == ["/tasks/create", "/tasks/exit", "/tasks/delete"]


def test_a_missing_executable_is_told_in_the_words_of_runc(make_bundle, start_shim, sink):
    bundle = make_bundle("hello", ["/nosuch"])
    shim = start_shim(bundle)
    with refused(
        2,
        "OCI runtime create failed: runc create failed: unable to start container process: "
        'exec: "/nosuch": stat /nosuch: no such file or directory',
    ):
        shim.task.create(bundle)
    with refused(5, "container not created: not found"):
        shim.task.delete(bundle.id)
    shim.task.shutdown(bundle.id)
    shim.wait_gone()
    assert sink.topics() == []


def test_a_missing_engine_is_named(make_bundle, start_shim):
    from google.protobuf.any_pb2 import Any

    from shim_runc_py.api.runc_options_pb2 import Options

    bundle = make_bundle("hello")
    shim = start_shim(bundle)
    options = Any(
        type_url="containerd.runc.v1.Options",
        value=Options(binary_name="no-runc").SerializeToString(),
    )
    with refused(
        2,
        f"OCI runtime create failed: unable to retrieve OCI runtime error (open {bundle}/log.json: "
        'no such file or directory): exec: "no-runc": executable file not found in $PATH',
    ):
        shim.task.create(bundle, options=options)


def test_the_bundle_gets_the_files_that_delete_reads(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    pid = shim.task.create(bundle).pid
    for name, content in [("options.json", "{}"), ("runtime", ""), ("init.pid", str(pid))]:
        assert (bundle.path / name).read_text() == content
    for name in ("options.json", "runtime"):
        assert (bundle.path / name).stat().st_mode & 0o7777 == 0o600


@pytest.mark.stock(skip="an exit is not told while a Kill is under way")
def test_a_kill_is_answered_before_the_delete_that_follows_the_exit(
    make_bundle, start_shim, fake_engine, place, sink
):
    # containerd closes its connection once Delete is answered. A Kill that is still on its way then
    # fails with "ttrpc: closed", and with it StopPodSandbox or StopContainer.
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=conditions.options(str(fake_engine.path)))
    shim.task.start(bundle.id)
    go, order = place / "go", place / "order"
    wait = f"while [ ! -e {go} ]; do sleep 0.01; done"
    fake_engine.on("kill", f'runc "$@"; {wait}; echo killed >>{order}; exit 0')
    fake_engine.on("delete", f"echo deleted >>{order}")
    killing = shim.task.begin("Kill", id=bundle.id, signal=9)
    sink.wait_for("/tasks/exit")
    deleting = shim.task.begin("Delete", id=bundle.id)
    shim.task.call("Connect", id="nobody")  # answered after Delete has begun
    go.touch()
    shim.task.finish("Kill", killing)
    shim.task.finish("Delete", deleting)
    assert order.read_text().split() == ["killed", "deleted"]
