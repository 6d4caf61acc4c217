"""OOM kills are told, before the exits that they cause (SEMANTICS 7, FAILURES 23)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from shim_runc_py.linux import cgroup
from shim_runc_py.testing import leaks
from shim_runc_py.testing.daemon import wait_until

pytestmark = pytest.mark.cgroup
RUNNING = 2
LIMIT = {"limit": 16 << 20, "swap": 16 << 20}


@pytest.mark.stock(varies="the exit may come first")
def test_an_oom_kill_is_told_before_the_exit(make_bundle, start_shim, sink):
    bundle = make_bundle("oom")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    sink.wait_for("/tasks/exit")
    topics = sink.topics()
    assert topics[:3] == ["/tasks/create", "/tasks/start", "/tasks/oom"]
    assert topics[-1] == "/tasks/exit"
    assert sink.wait_for("/tasks/oom").message.container_id == bundle.id


@pytest.mark.stock(varies="the exit may come first")
def test_an_oom_kill_in_an_exec_is_told_before_its_exit(make_bundle, start_shim, sink):
    bundle = make_bundle("sleep")
    bundle.config["linux"]["resources"]["memory"] = LIMIT
    bundle.save()
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    rounds = 10
    for number in range(rounds):
        shim.task.exec(bundle.id, f"hog{number}", {"args": ["/bin/tail", "/dev/zero"]})
        shim.task.start(bundle.id, f"hog{number}")
        assert shim.task.wait(bundle.id, f"hog{number}").exit_status == 137
        sink.wait_for("/tasks/exit", id=f"hog{number}")
    assert shim.task.state(bundle.id).status == RUNNING
    topics = [topic for topic in sink.topics() if topic in ("/tasks/oom", "/tasks/exit")]
    assert "".join("o" if topic == "/tasks/oom" else "x" for topic in topics) == "ox" * rounds


def hog(shim, bundle):
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    assert shim.task.wait(bundle.id).exit_status == 137
    shim.task.delete(bundle.id)


@pytest.mark.stock(skip="watches from Start on, and may be too late", before=(2, 2))
@pytest.mark.parametrize("private", [True, False], ids=["own pids", "the host's pids"])
def test_the_quickest_hog_is_told_of(make_bundle, start_shim, sink, private):
    bundle = make_bundle("oom", ["/bin/tail", "/dev/zero"])
    if not private:
        spaces = bundle.config["linux"]["namespaces"]
        bundle.config["linux"]["namespaces"] = [s for s in spaces if s["type"] != "pid"]
        bundle.save()
    shim = start_shim(bundle)
    number = 50 if private else 10
    hog(shim, bundle)
    before = leaks.descriptors(shim.pid)
    for _ in range(number - 1):
        hog(shim, bundle)
    assert len(leaks.descriptors(shim.pid)) <= len(before)
    wait_until(lambda: sink.topics().count("/tasks/delete") == number, "all are deleted")
    rounds = " ".join(sink.topics()).split(" /tasks/delete")
    for topics in rounds[:-1]:
        assert "/tasks/oom" in topics.split()
        assert topics.split()[-1] == "/tasks/exit"


TRAP = "trap 'exec tail /dev/zero' USR1; echo ready; while :; do sleep 1000 & wait; done"


@pytest.mark.stock(varies="drops it, unless it comes to read before")
def test_an_oom_kill_is_told_of_when_its_cgroup_has_gone(make_bundle, start_shim, sink, outputs):
    """The shim sleeps while it happens, as it may on a busy node; systemd removes empty scopes."""
    bundle = make_bundle("oom", ["/bin/sh", "-c", TRAP])
    output = outputs()
    shim = start_shim(bundle)
    pid = shim.task.create(bundle, stdout=str(output)).pid
    directories = {
        path for path in cgroup.of(pid).directories.values() if bundle.id in os.path.basename(path)
    }
    assert directories
    shim.task.start(bundle.id)
    output.wait_for(b"ready\n")
    os.kill(shim.pid, signal.SIGSTOP)
    try:
        os.kill(pid, signal.SIGUSR1)
        wait_until(lambda: ") Z " in Path(f"/proc/{pid}/stat").read_text(), "the hog is dead")
        for path in directories:
            wait_until(lambda path=path: removed(path), f"{path} is removed")
    finally:
        os.kill(shim.pid, signal.SIGCONT)
    assert shim.task.wait(bundle.id).exit_status == 137
    sink.wait_for("/tasks/exit")
    assert sink.topics()[2:] == ["/tasks/oom", "/tasks/exit"]


@pytest.mark.stock(varies="takes it for an OOM kill, or not")
def test_a_cgroup_that_is_removed_is_no_oom_kill(make_bundle, start_shim, sink):
    bundle = make_bundle("oom", ["/bin/sleep", "1000"])
    shim = start_shim(bundle)
    pid = shim.task.create(bundle).pid
    directories = {
        path for path in cgroup.of(pid).directories.values() if bundle.id in os.path.basename(path)
    }
    shim.task.start(bundle.id)
    os.kill(shim.pid, signal.SIGSTOP)
    try:
        os.kill(pid, signal.SIGKILL)
        for path in directories:
            wait_until(lambda path=path: removed(path), f"{path} is removed")
    finally:
        os.kill(shim.pid, signal.SIGCONT)
    assert shim.task.wait(bundle.id).exit_status == 137
    sink.wait_for("/tasks/exit")
    assert sink.topics()[2:] == ["/tasks/exit"]


def removed(path):
    """Remove the cgroup, if nobody else has; False while something is in it."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True
