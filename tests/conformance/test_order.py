"""What becomes known in which order, when everything happens at once (SEMANTICS 5.3; FAILURES 9,
11, 25, 46, 47, 50)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shim_runc_py.testing import daemon
from shim_runc_py.testing.sequence import complaints
from shim_runc_py.ttrpc.status import RpcError

UNKNOWN, NOT_FOUND, FAILED_PRECONDITION = 2, 5, 9
STOPPED = 3


def sh(script):
    return {"args": ["/bin/sh", "-c", script]}


def no_pid_namespace(bundle, path=""):
    """The host's pid namespace for the bundle, or the one at `path`."""
    kept = [n for n in bundle.config["linux"]["namespaces"] if n["type"] != "pid"]
    if path:
        kept.append({"type": "pid", "path": path})
    bundle.config["linux"]["namespaces"] = kept
    bundle.save()


def wait_until(condition, what):
    """Shorter than for a daemon: here everything is to happen at once."""
    daemon.wait_until(condition, what, 4)


def alive(pid):
    """Does `pid` run? A zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def children(pid):
    """The children of `pid`, dead ones included."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.fixture
def running(make_bundle, start_shim):
    """(shim, container id) of a container that sleeps."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    return shim, bundle.id


def live(task, bundle):
    """Everything that one container can go through; returns its exit status."""
    task.create(bundle)
    task.start(bundle.id)
    status = task.wait(bundle.id).exit_status
    assert task.delete(bundle.id).exit_status == status
    return status


def test_init_may_be_gone_within_a_millisecond(make_bundle, start_shim, sink):
    group = {"io.containerd.runc.v2.group": "quick"}
    bundles = [
        make_bundle("hello", ["/bin/sh", "-c", f"exit {number}"], annotations=group)
        for number in range(8)
    ]
    shim = start_shim(bundles[0])
    for number, bundle in enumerate(bundles):
        assert live(shim.task, bundle) == number
        sink.wait_for("/tasks/delete", container_id=bundle.id)
    assert complaints(sink.events()) == []
    exits = [e.message.exit_status for e in sink.events() if e.topic == "/tasks/exit"]
    assert exits == [*range(8)]


@pytest.mark.stock(skip="loses exits in an exec storm", before=(1, 7, 22))
def test_a_storm_of_execs_while_init_dies_loses_nothing(running, sink):
    shim, id = running
    names = [f"e{number}" for number in range(24)]
    for number, name in enumerate(names):
        # Some are over before init is killed, some are killed with it, some come too late.
        shim.task.exec(id, name, sh("true" if number % 2 else "sleep 1000"))
    other = shim.connect()
    waits = {name: other.begin("Wait", id=id, exec_id=name) for name in names}
    starts = {name: shim.task.begin("Start", id=id, exec_id=name) for name in names}
    sink.wait_for("/tasks/exec-started")
    killer = shim.connect()
    killer.kill(id, 9)
    assert killer.wait(id).exit_status == 137
    started = {}
    for name, stream in starts.items():
        try:
            started[name] = shim.task.finish("Start", stream).pid
        except RpcError as error:
            if error.code not in (UNKNOWN, FAILED_PRECONDITION):
                raise
    for name in started:
        assert other.finish("Wait", waits[name]).exit_status in (0, 137)
    sink.wait_for("/tasks/exit", id=id)
    assert complaints(sink.events()) == []
    exits = [e.message.id for e in sink.events() if e.topic == "/tasks/exit"]
    assert sorted(exits) == sorted([*started, id])
    assert exits[-1] == id
    killer.delete(id)


def test_everybody_may_kill_and_wait_at_once_and_one_exit_is_told(running, sink):
    shim, id = running
    others = [shim.connect() for _ in range(8)]
    waits = [task.begin("Wait", id=id) for task in others]
    kills = [task.begin("Kill", id=id, signal=9) for task in others]
    for task, stream in zip(others, kills, strict=True):
        try:
            task.finish("Kill", stream)
        except RpcError as error:
            if error.code != NOT_FOUND:
                raise
    answers = {str(t.finish("Wait", s)) for t, s in zip(others, waits, strict=True)}
    assert len(answers) == 1
    deletes = [task.begin("Delete", id=id) for task in others]
    statuses = []
    for task, stream in zip(others, deletes, strict=True):
        try:
            statuses.append(task.finish("Delete", stream).exit_status)
        except RpcError as error:
            if error.code != NOT_FOUND:
                raise
    assert statuses == [137]
    sink.wait_for("/tasks/delete")
    assert sink.topics() == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]


@pytest.mark.stock(varies="init may come first", before=(1, 7, 22))
def test_what_shares_the_pid_namespace_of_the_host_dies_with_init(
    make_bundle, start_shim, sink, inputs, outputs
):
    stdin, out = inputs(), outputs()
    bundle = make_bundle("host-pid")
    shim = start_shim(bundle)
    shim.task.create(bundle, stdin=str(stdin), stdout=str(out), stderr=str(outputs()))
    shim.task.start(bundle.id)
    out.wait_for(b"started")
    shim.task.exec(bundle.id, "e1", sh("sleep 1000"))
    shim.task.start(bundle.id, "e1")
    pids = [process.pid for process in shim.task.call("Pids", id=bundle.id).processes]
    assert len(pids) >= 3
    stdin.write(b"go\n")
    assert shim.task.wait(bundle.id, timeout=10).exit_status == 0
    assert shim.task.wait(bundle.id, "e1", timeout=10).exit_status == 137
    sink.wait_for("/tasks/exit", id=bundle.id)
    wait_until(lambda: not any(alive(pid) for pid in pids), "nothing of it runs")
    assert complaints(sink.events()) == []


def test_a_container_in_the_pid_namespace_of_another_takes_its_own_with_it(
    make_bundle, start_shim, sink
):
    group = {"io.containerd.runc.v2.group": "pod"}
    first, second = make_bundle("sleep", annotations=group), make_bundle("sleep", annotations=group)
    second.config["process"]["args"] = ["/bin/sh", "-c", "sleep 1000 & sleep 1000"]
    shim = start_shim(first)
    pid = shim.task.create(first).pid
    shim.task.start(first.id)
    no_pid_namespace(second, f"/proc/{pid}/ns/pid")
    shim.join(second)
    shim.task.create(second)
    shim.task.start(second.id)
    wait_until(
        lambda: len(shim.task.call("Pids", id=second.id).processes) == 2, "the child is there"
    )
    pids = [process.pid for process in shim.task.call("Pids", id=second.id).processes]
    init = shim.task.state(second.id).pid
    os.kill(init, 9)
    assert shim.task.wait(second.id, timeout=10).exit_status == 137
    wait_until(lambda: not any(alive(pid) for pid in pids), "nothing of it runs")
    shim.task.delete(second.id)
    assert shim.task.state(first.id).status == 2
    assert complaints(sink.events()) == []


@pytest.mark.stock(varies="an exit inside Start ends nothing else", since=(1, 7))
def test_leftovers_of_an_init_that_ends_at_once_are_killed(make_bundle, start_shim, sink):
    bundle = make_bundle("sleep", ["/bin/sh", "-c", "sleep 1000 & exit 6"])
    no_pid_namespace(bundle)
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    assert shim.task.wait(bundle.id, timeout=10).exit_status == 6
    wait_until(lambda: shim.task.call("Pids", id=bundle.id).processes == [], "nothing of it runs")
    shim.task.delete(bundle.id)
    assert complaints(sink.events()) == []


def test_orphans_come_to_the_shim_and_are_reaped(make_bundle, start_shim):
    bundle = make_bundle("orphans")
    no_pid_namespace(bundle)
    shim = start_shim(bundle)
    pid = shim.task.create(bundle).pid
    shim.task.start(bundle.id)
    wait_until(lambda: children(shim.pid) == [str(pid)], "only init is left of the shim's children")
    assert shim.task.state(bundle.id).status == 2
    shim.task.exec(bundle.id, "e1", sh("(sleep 0.1; exit 3) & exit 4"))
    shim.task.start(bundle.id, "e1")
    assert shim.task.wait(bundle.id, "e1").exit_status == 4
    wait_until(lambda: children(shim.pid) == [str(pid)], "the exec's orphan was reaped")


def take(pid):
    """A child of ours with exactly this pid, which a process has just given back."""
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        child = subprocess.Popen(["/bin/sleep", "1000"])
        if child.pid == pid:
            return child
        child.kill()
        child.wait()
    raise TimeoutError(f"pid {pid} does not become free")


def test_a_pid_that_somebody_else_has_now_is_not_signalled(running):
    shim, id = running
    shim.task.exec(id, "e1", sh("exit 4"))
    pid = shim.task.start(id, "e1").pid
    assert shim.task.wait(id, "e1").exit_status == 4
    stranger = take(pid)
    try:
        with pytest.raises(RpcError) as caught:
            shim.task.kill(id, 9, "e1")
        assert (caught.value.code, str(caught.value)) == (
            NOT_FOUND,
            "process already finished: not found",
        )
        state = shim.task.state(id, "e1")
        assert (state.status, state.pid, state.exit_status) == (STOPPED, pid, 4)
        assert pid not in [process.pid for process in shim.task.call("Pids", id=id).processes]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert shim.task.state(id).status == 2


def test_the_exit_of_a_stopped_container_is_not_that_of_a_stranger(running, sink):
    shim, id = running
    pid = shim.task.state(id).pid
    shim.task.kill(id, 9)
    at = shim.task.wait(id).exited_at
    stranger = take(pid)
    try:
        with pytest.raises(RpcError, match=r"process already finished|no such container"):
            shim.task.kill(id, 9)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    state = shim.task.state(id)
    assert (state.status, state.exit_status, state.exited_at) == (STOPPED, 137, at)
    assert len([e for e in sink.events() if e.topic == "/tasks/exit"]) == 1


@pytest.mark.skipif(
    tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 14),
    reason="pid_max belongs to a pid namespace since Linux 6.14",
)
def test_statuses_are_right_while_pids_go_round(binary, tmp_path):
    """The other tests of this file once more, in a pid namespace with few pids."""
    words = [
        "unshare", "--pid", "--fork", "--mount-proc", "--kill-child",
        "/bin/sh", "-c", 'echo 420 >/proc/sys/kernel/pid_max && exec "$@"', "sh",
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x",
        f"--basetemp={tmp_path}/inner",
        f"{Path(__file__).with_name('test_execs.py')}::test_many_execs_in_a_row_all_get_their_own_status[{binary.name}]",
    ]  # fmt: skip
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "1 passed" in done.stdout


def test_an_exec_that_is_deleted_gives_its_name_back(running, sink):
    shim, id = running
    for number in range(5):
        shim.task.exec(id, "again", sh(f"exit {number}"))
        shim.task.start(id, "again")
        assert shim.task.wait(id, "again").exit_status == number
        shim.task.delete(id, "again")
    sink.wait_for("/tasks/exit", exit_status=4)
    assert complaints(sink.events()) == []


def test_exits_of_others_do_not_wait_for_a_container_whose_end_takes_long(
    make_bundle, start_shim, sink
):
    """One container's execs hold its init's exit back; nobody else's."""
    group = {"io.containerd.runc.v2.group": "both"}
    bundles = [make_bundle("sleep", annotations=group) for _ in range(6)]
    shim = start_shim(bundles[0])
    for bundle in bundles[1:]:
        shim.join(bundle)
    for bundle in bundles:
        shim.task.create(bundle)
        shim.task.start(bundle.id)
    began = time.monotonic()
    for bundle in bundles:
        shim.task.kill(bundle.id, 9)
    for bundle in bundles:
        sink.wait_for("/tasks/exit", id=bundle.id)
    assert time.monotonic() - began < 5
    assert complaints(sink.events()) == []
