"""OOM kills are told, before the exits that they cause (SEMANTICS 7, FAILURES 23)."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from shim_runc_py.linux import cgroup
from shim_runc_py.testing import conditions, leaks
from shim_runc_py.testing.daemon import wait_until
from tests.conformance.reading import own_cgroups, removed

pytestmark = pytest.mark.cgroup
RUNNING = 2
unified = cgroup.is_unified()
LIMIT = {"limit": 16 << 20, "swap": 16 << 20}


@pytest.mark.stock(varies="the exit may come first")
def test_an_oom_kill_is_told_before_the_exit(make_bundle, start_shim, sink):
    bundle = make_bundle("oom")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    sink.wait_for("/tasks/exit")
    # A quick one is dead before the engine has said that it is started.
    topics = sink.topics()
    assert set(topics) == {"/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit"}
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
    told = "".join("o" if topic == "/tasks/oom" else "x" for topic in topics)
    # The kernel of cgroup v1 may tell of one kill twice, before the killed one is gone.
    assert re.fullmatch(f"(o+x){{{rounds}}}", told), told


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


def test_an_oom_kill_of_a_child_is_told_while_init_lives(make_bundle, start_shim, sink):
    bundle = make_bundle("oom", ["/bin/sh", "-c", "tail /dev/zero; exec sleep 1000"])
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    sink.wait_for("/tasks/oom", container_id=bundle.id)
    assert shim.task.state(bundle.id).status == RUNNING


@pytest.mark.stock(skip="watches from Start on, and may be too late", before=(2, 2))
def test_of_many_hogs_at_once_each_is_told_of(make_bundle, start_shim, sink):
    bundles = [make_bundle("oom", ["/bin/tail", "/dev/zero"]) for _ in range(12)]
    shim = start_shim(bundles[0])
    for bundle in bundles:
        shim.task.create(bundle)
    waiting = [shim.task.begin("Wait", id=bundle.id) for bundle in bundles]
    starting = [shim.task.begin("Start", id=bundle.id) for bundle in bundles]
    for stream in starting:
        shim.task.finish("Start", stream)
    for stream in waiting:
        assert shim.task.finish("Wait", stream).exit_status == 137
    for bundle in bundles:
        shim.task.delete(bundle.id)
        sink.wait_for("/tasks/delete", container_id=bundle.id)
        topics = [e.topic for e in sink.events() if e.message.container_id == bundle.id]
        assert topics.index("/tasks/oom") < topics.index("/tasks/exit")


@pytest.mark.skipif(not unified, reason="cgroup v1 kills one at a time")
@pytest.mark.stock(varies="the exit may come first")
def test_a_cgroup_that_is_killed_as_a_whole_is_told_of(make_bundle, start_shim, sink):
    bundle = make_bundle("oom", ["/bin/sh", "-c", "sleep 1000 & tail /dev/zero & wait"])
    bundle.config["linux"]["resources"]["unified"] = {"memory.oom.group": "1"}
    bundle.save()
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    assert shim.task.wait(bundle.id).exit_status == 137
    sink.wait_for("/tasks/exit")
    topics = [topic for topic in sink.topics() if topic not in ("/tasks/create", "/tasks/start")]
    assert topics[0] == "/tasks/oom"
    assert topics[-1] == "/tasks/exit"


@pytest.fixture
def pod():
    """The path of a cgroup of which 16 MiB are the limit; containers may lie below."""
    if conditions.SYSTEMD:
        pytest.skip("the limits of a slice are systemd's")
    name = f"{conditions.CGROUP_PREFIX}/pod"
    memory = Path("/sys/fs/cgroup" if unified else "/sys/fs/cgroup/memory")
    (memory / name[1:]).mkdir(parents=True)
    if unified:
        (memory / name[1:]).parent.joinpath("cgroup.subtree_control").write_text("+memory")
        (memory / name[1:] / "memory.max").write_text(str(16 << 20))
        (memory / name[1:] / "memory.swap.max").write_text("0")
    else:
        (memory / name[1:] / "memory.limit_in_bytes").write_text(str(16 << 20))
    yield name
    for hierarchy in (memory, *Path("/sys/fs/cgroup").iterdir()):
        if (hierarchy / name[1:]).is_dir():
            (hierarchy / name[1:]).rmdir()


@pytest.mark.stock(varies="the exit may come first")
def test_an_oom_kill_because_of_the_limit_of_the_pod_is_told(pod, make_bundle, start_shim, sink):
    """R90: the container's own cgroup has no limit that was hit."""
    bundle = make_bundle("sleep", ["/bin/tail", "/dev/zero"])
    bundle.config["linux"]["cgroupsPath"] = f"{pod}/{bundle.id}"
    bundle.save()
    shim = start_shim(bundle)
    hog(shim, bundle)
    sink.wait_for("/tasks/delete")
    assert sorted(sink.topics()[1:-2]) == ["/tasks/oom", "/tasks/start"]
    assert sink.topics()[-2:] == ["/tasks/exit", "/tasks/delete"]


TRAP = "trap 'exec tail /dev/zero' USR1; echo ready; while :; do sleep 1000 & wait; done"


@pytest.mark.stock(varies="drops it, unless it comes to read before")
def test_an_oom_kill_is_told_of_when_its_cgroup_has_gone(make_bundle, start_shim, sink, outputs):
    """The shim sleeps while it happens, as it may on a busy node; systemd removes empty scopes."""
    bundle = make_bundle("oom", ["/bin/sh", "-c", TRAP])
    output = outputs()
    shim = start_shim(bundle)
    pid = shim.task.create(bundle, stdout=str(output)).pid
    directories = own_cgroups(pid, bundle.id)
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
    directories = own_cgroups(pid, bundle.id)
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
