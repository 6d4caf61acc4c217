"""Engines that hang, die, stop or lie (FAILURES 4, 21, 26, 48, 75; SEMANTICS 1.0, 3.7)."""

from __future__ import annotations

import os
import select
import time

import pytest

from shim_runc_py.testing import conditions
from shim_runc_py.testing.daemon import wait_until
from shim_runc_py.testing.shims import refused
from shim_runc_py.ttrpc.status import RpcError

UNKNOWN, DEADLINE = 2, 4


@pytest.fixture
def options(fake_engine):
    """Runtime options that choose the fake engine."""
    return conditions.options(str(fake_engine.path))


def answers_at_once(task, id):
    """The RPCs that never stand behind an engine command."""
    began = time.monotonic()
    for _ in range(20):
        task.state(id)
        task.call("Connect", id=id)
    assert time.monotonic() - began < 2
    return True


@pytest.mark.stock(skip="State waits behind the engine, and Kill too")
@pytest.mark.parametrize("verb", ["start", "exec", "delete"])
def test_a_hanging_engine_holds_up_nobody_else(make_bundle, start_shim, fake_engine, options, verb):
    bundle, other = (
        make_bundle("sleep", annotations={"io.containerd.runc.v2.group": "both"}) for _ in range(2)
    )
    shim = start_shim(bundle)
    shim.join(other)
    shim.task.create(bundle, options=options)
    if verb == "exec":
        shim.task.start(bundle.id)
        shim.task.exec(bundle.id, "e1", {"args": ["/bin/true"]})
    fake_engine.on(verb, "exec sleep 1000")
    begin = {
        "start": lambda: shim.task.begin("Start", id=bundle.id),
        "exec": lambda: shim.task.begin("Start", id=bundle.id, exec_id="e1"),
        "delete": lambda: shim.task.begin("Delete", id=bundle.id),
    }[verb]
    begin()
    wait_until(lambda: verb in fake_engine.verbs(), f"the engine is at {verb}")
    answers_at_once(shim.task, bundle.id)
    # A whole life of another container, meanwhile.
    shim.task.create(other)
    shim.task.start(other.id)
    shim.task.kill(other.id)
    assert shim.task.wait(other.id, timeout=5).exit_status == 137
    shim.task.delete(other.id)
    fake_engine.behave(verb)
    os.kill(shim.pid, 9)
    shim.wait_gone()


@pytest.mark.stock(skip="Kill waits behind the engine")
def test_kill_gets_through_while_start_hangs(make_bundle, start_shim, fake_engine, options):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=options)
    fake_engine.on("start", "exec sleep 1000")
    starting = shim.task.begin("Start", id=bundle.id)
    wait_until(lambda: "start" in fake_engine.verbs(), "the engine is at start")
    shim.task.kill(bundle.id, 9)
    assert shim.task.call("Connect", id=bundle.id).task_pid > 0
    del starting
    os.kill(shim.pid, 9)
    shim.wait_gone()


def test_a_caller_whose_time_is_over_gets_the_engine_killed(
    make_bundle, start_shim, fake_engine, options
):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=options)
    fake_engine.on("start", "exec sleep 1000")
    with refused(
        UNKNOWN,
        f"OCI runtime start failed: {fake_engine.path} did not terminate successfully: "
        "exit status 137: ",
    ):
        shim.task.call("Start", id=bundle.id, timeout=1)
    fake_engine.behave("start")
    assert shim.task.state(bundle.id).status == 1
    shim.task.start(bundle.id)


@pytest.mark.stock(skip="waits for the grandchild that holds the pipe")
def test_a_hook_that_keeps_the_engines_output_open_delays_nothing(
    make_bundle, start_shim, fake_engine, options
):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=options)
    fake_engine.on("start", "sleep 5 &")
    began = time.monotonic()
    shim.task.start(bundle.id)
    assert time.monotonic() - began < 3


@pytest.mark.stock(skip="tells the message of an older call")
def test_a_failure_that_logs_nothing_is_not_told_in_an_older_message(
    make_bundle, start_shim, fake_engine, options
):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=options)
    with refused(UNKNOWN, "cannot start a running process"):
        shim.task.start(bundle.id)
        shim.task.exec(bundle.id, "e1", {"args": ["/nosuch"]})
        with pytest.raises(RpcError, match="/nosuch"):
            shim.task.start(bundle.id, "e1")
        shim.task.exec(bundle.id, "e2", {"args": ["/bin/true"]})
        fake_engine.on("exec", "exit 3")
        with pytest.raises(RpcError) as caught:
            shim.task.start(bundle.id, "e2")
        assert str(caught.value) == (
            f"OCI runtime exec failed: {fake_engine.path} did not terminate successfully: "
            "exit status 3"
        )
        shim.task.start(bundle.id)


def test_much_output_of_an_engine_does_not_stop_it(make_bundle, start_shim, fake_engine, options):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=options)
    fake_engine.on("start", "head -c 300000 /dev/zero | tr '\\0' x; exit 4")
    with refused(UNKNOWN, "exit status 4: xxxxxxxx"):
        shim.task.start(bundle.id)


@pytest.mark.stock(skip="leaves the container in the engine")
def test_a_create_that_fails_after_the_engine_leaves_nothing(
    make_bundle, start_shim, fake_engine, options, place
):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    fake_engine.on("create", f'runc "$@"; echo nonsense >{bundle}/init.pid; exit 0')
    with refused(UNKNOWN, "failed to retrieve OCI runtime container pid"):
        shim.task.create(bundle, options=options)
    assert not os.path.exists(f"/run/containerd/runc/test/{bundle.id}")
    fake_engine.behave("create")
    shim.task.create(bundle, options=options)


@pytest.mark.parametrize("says", ["0", "1", "-5", "SHIM"])
@pytest.mark.stock(skip="believes the file")
def test_a_pid_file_that_names_somebody_else_is_not_believed(
    make_bundle, start_shim, fake_engine, options, says
):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    pid = str(shim.pid) if says == "SHIM" else says
    fake_engine.on("create", f'runc "$@"; printf %s {pid} >{bundle}/init.pid; exit 0')
    with refused(UNKNOWN, "failed to retrieve OCI runtime container pid"):
        shim.task.create(bundle, options=options)
    assert shim.alive()


def test_an_engine_dies_with_its_shim(make_bundle, start_shim, fake_engine, options):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    fake_engine.on("create", f"echo $$ >{bundle}/engine.pid; exec sleep 1000")
    shim.task.begin("Create", id=bundle.id, bundle=str(bundle), options=options)
    path = bundle.path / "engine.pid"
    wait_until(lambda: path.exists() and path.read_text().strip(), "the engine runs")
    pidfd = os.pidfd_open(int(path.read_text()))
    os.kill(shim.pid, 9)
    shim.wait_gone()
    ended = select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)
    assert ended


@pytest.mark.stock(skip="its engines end with it at once")
@pytest.mark.parametrize("verb", ["start", "delete"])
def test_an_engine_that_a_dead_shim_left_behind_ends_with_delete(
    make_bundle, start_shim, fake_engine, options, verb
):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=options)
    path = bundle.path / "engine.pid"
    fake_engine.on(verb, f"echo $$ >{path}; kill -STOP $$")
    if verb == "delete":
        shim.task.start(bundle.id)
        shim.task.kill(bundle.id)
        shim.task.wait(bundle.id)
    shim.task.begin(verb.capitalize(), id=bundle.id)
    wait_until(lambda: path.exists() and path.read_text().strip(), "the engine runs")
    pidfd = os.pidfd_open(int(path.read_text()))
    try:
        os.kill(shim.pid, 9)
        shim.wait_gone()
        fake_engine.behave(verb)
        assert shim.run_delete(bundle).status == 0
        assert select.select([pidfd], [], [], 10)[0]
    finally:
        os.close(pidfd)


@pytest.mark.stock(skip="1.6 publishes no exit for it")
def test_init_that_dies_inside_create_is_told_after_the_create(
    make_bundle, start_shim, fake_engine, options, sink
):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    fake_engine.on("create", f'runc "$@"; kill -9 $(cat {bundle}/init.pid); exit 0')
    shim.task.create(bundle, options=options)
    assert shim.task.wait(bundle.id, timeout=5).exit_status == 137
    sink.wait_for("/tasks/exit")
    assert sink.topics() == ["/tasks/create", "/tasks/exit"]
    shim.task.delete(bundle.id)


@pytest.mark.stock(skip="1.6 has a race here")
def test_init_that_dies_inside_start_is_told_after_the_start(
    make_bundle, start_shim, fake_engine, options, sink
):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=options)
    fake_engine.on("start", 'runc "$@"; sleep 0.3; exit 0')
    shim.task.start(bundle.id)
    assert shim.task.wait(bundle.id, timeout=5).exit_status == 7
    sink.wait_for("/tasks/exit")
    assert sink.topics() == ["/tasks/create", "/tasks/start", "/tasks/exit"]


@pytest.mark.stock(skip="leaves the process running unsupervised")
def test_an_exec_whose_start_fails_late_is_killed(
    make_bundle, start_shim, fake_engine, options, place
):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=options)
    shim.task.start(bundle.id)
    os.mkfifo(place / "nobody")
    shim.task.exec(bundle.id, "e1", {"args": ["/bin/sleep", "1000"]}, stdout=str(place / "nobody"))
    with refused(DEADLINE, "opening w/o fifo"):
        shim.task.call("Start", id=bundle.id, exec_id="e1", timeout=1)
    assert len(shim.task.call("Pids", id=bundle.id).processes) == 1
    assert shim.task.wait(bundle.id, "e1", timeout=5).exit_status == 0


def test_delete_of_what_the_engine_has_forgotten_is_fine(
    make_bundle, start_shim, fake_engine, options
):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=options)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    fake_engine.on("delete", 'runc "$@"; exec runc "$@"')
    assert shim.task.delete(bundle.id).exit_status == 7


def test_a_delete_that_fails_can_be_tried_again(make_bundle, start_shim, fake_engine, options):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=options)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    fake_engine.on("delete", "echo no >&2; exit 1")
    with refused(UNKNOWN, "failed to delete task: "):
        shim.task.delete(bundle.id)
    assert shim.task.state(bundle.id).status == 3
    fake_engine.behave("delete")
    assert shim.task.delete(bundle.id).exit_status == 7


@pytest.mark.stock(skip="its delete command waits for the engine until it is killed")
def test_the_delete_command_is_done_in_time_when_the_engine_hangs(
    make_bundle, start_shim, fake_engine, options
):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=options)
    os.kill(shim.pid, 9)
    shim.wait_gone()
    fake_engine.on("delete", "exec sleep 1000")
    began = time.monotonic()
    result = shim.run_delete(bundle)
    assert time.monotonic() - began < 5
    assert result.status == 0
    assert b"no answer within 3 s" in result.stderr
    fake_engine.behave("delete")


def test_what_belongs_to_the_shim_alone_does_not_reach_the_engine(
    make_bundle, start_shim, fake_engine, options, place
):
    bundle = make_bundle("sleep")
    secret = {"NOTIFY_SOCKET": "/x", "PROXY_FOR_TEST": "kept"}
    shim = start_shim(bundle, environ=secret)
    fake_engine.on("create", f"env >{place}/env; ls -l /proc/$$/fd >{place}/fds")
    shim.task.create(bundle, options=options)
    environ = dict(
        line.split("=", 1) for line in (place / "env").read_text().splitlines() if "=" in line
    )
    assert "NOTIFY_SOCKET" not in environ
    assert environ["PROXY_FOR_TEST"] == "kept"
    if not shim.binary.stock:
        assert not [name for name in environ if name.startswith(("PYTHON", "LISTEN_", "LD_"))]
        numbers = {line.split()[8] for line in (place / "fds").read_text().splitlines()[1:]}
        assert {number for number in numbers if int(number) < 10} == {"0", "1", "2"}


@pytest.fixture
def running(make_bundle, start_shim, fake_engine):
    """(shim, id) of a container whose engine has the name of a known one, and counts its calls."""
    engine = fake_engine.path.with_name("runc")
    engine.symlink_to(fake_engine.path)
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=conditions.options(str(engine)))
    shim.task.start(bundle.id)
    return shim, bundle.id


@pytest.mark.stock(skip="asks its engine")
def test_a_signal_to_a_running_init_needs_no_engine(running, fake_engine):
    shim, id = running
    shim.task.kill(id, 9)
    assert shim.task.wait(id).exit_status == 137
    assert fake_engine.verbs() == ["create", "start"]


def test_an_exec_is_one_command_of_the_engine(running, fake_engine):
    """And so are create, start and delete; everything else is asked of the kernel."""
    shim, id = running
    for number in range(3):
        shim.task.exec(id, f"e{number}", {"args": ["/bin/sleep", "100"]})
        shim.task.start(id, f"e{number}")
        shim.task.state(id, f"e{number}")
        shim.task.kill(id, 9, f"e{number}")
        assert shim.task.wait(id, f"e{number}").exit_status == 137
        shim.task.delete(id, f"e{number}")
    assert fake_engine.verbs() == ["create", "start", "exec", "exec", "exec"]
    shim.task.kill(id, 9)
    shim.task.wait(id)
    shim.task.delete(id)
    ours = ["delete"] if not shim.binary.stock else ["kill", "delete"]
    assert fake_engine.verbs()[5:] == ours
