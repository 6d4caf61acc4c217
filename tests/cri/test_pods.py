"""Pods of containerd's CRI plugin through the shim, as the kubelet runs them."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.cri.connection import Connection
from shim_runc_py.cri.failures import CRIError, NotFound, NotServed
from shim_runc_py.cri.pods import ALWAYS, PodRuntime
from shim_runc_py.cri.services import ImageService, RuntimeService
from shim_runc_py.testing.daemon import wait_until
from tests.cri.node import container, script

EXITED = pb.ContainerState.CONTAINER_EXITED


def test_three_containers_and_their_sandbox_share_one_shim(node, handler):
    pod = node.spec(handler, *(script(name, "exec sleep 1000") for name in ("a", "b", "c")))
    with node.running(pod) as running:
        assert len(node.shims()) == 1
        assert f"containerd-shim-{handler}-v2" in node.shims()[0]
        assert running.sandbox in node.shims()[0]
        for name in ("a", "b", "c"):
            status = running.status.container(name)
            assert status.state == pb.ContainerState.CONTAINER_RUNNING
            assert running.output("hostname", name=name) == f"{pod.name}\n"
        assert running.status.sandbox.runtime_handler == handler
        assert running.status.sandbox.network.ip.startswith("10.88.")
    node.await_no_shims()


def test_each_container_has_its_log(node, handler):
    pod = node.spec(
        handler,
        script("one", "echo first; echo second >&2; exec sleep 1000"),
        script("two", "echo other; exit 3"),
    )
    with node.running(pod) as running:
        read = node.pods.container_logs
        wait_until(
            lambda: (
                len(list(read(running.id("one")))) == 2
                and running.status.container("two").state == pb.ContainerState.CONTAINER_EXITED
            ),
            "the output is in the log",
        )
        lines = {(entry.stream, entry.text) for entry in read(running.id("one"))}
        assert lines == {("stdout", b"first\n"), ("stderr", b"second\n")}
        assert [entry.text for entry in read(running.id("two"), follow=True)] == [b"other\n"]
        assert running.status.container("two").exit_code == 3
        assert running.status.container("two").reason == "Error"


def test_a_stop_waits_for_its_grace_and_then_kills(node, handler):
    pod = node.spec(
        handler,
        script("polite", "trap 'exit 5' TERM; while :; do sleep 1000 & wait $!; done"),
        script("stubborn", "trap '' TERM; while :; do sleep 1000 & wait $!; done"),
    )
    with node.running(pod) as running:
        wait_for_trap(running, "polite", "stubborn")
        began = time.monotonic()
        node.runtime.stop_container(running.id("polite"), 30)
        assert time.monotonic() - began < 10
        began = time.monotonic()
        node.runtime.stop_container(running.id("stubborn"), 1)
        assert 1 <= time.monotonic() - began < 10
        assert running.state("polite") == running.state("stubborn") == EXITED
        assert running.status.container("polite").exit_code == 5
        assert running.status.container("stubborn").exit_code == 137
        for name in ("polite", "stubborn"):
            node.runtime.stop_container(running.id(name), 1)  # again, as kubelets do


def wait_for_trap(running, *names):
    """Until the shells have set their handlers of SIGTERM: caught or ignored."""

    def handled(name):
        text = Path(f"/proc/{running.pid(name)}/status").read_text()
        masks = re.findall(r"^Sig(?:Cgt|Ign):\s+([0-9a-f]+)", text, re.MULTILINE)
        return any(int(mask, 16) & 1 << 14 for mask in masks)

    for name in names:
        wait_until(lambda name=name: handled(name), f"{name} handles SIGTERM")


def test_a_container_that_cannot_start_says_why(node, handler):
    pod = node.spec(handler, script("fine", "exec sleep 1000"), container("wrong", ["/nonesuch"]))
    with node.running(node.spec(handler)):
        with pytest.raises(CRIError, match=r'exec: \\?"/nonesuch\\?": .*no such file'):
            node.pods.sync(pod)
        status = node.pods.pod_status(pod.uid)
        assert status.container("fine").state == pb.ContainerState.CONTAINER_RUNNING
        wrong = status.container("wrong")
        assert (wrong.state, wrong.reason, wrong.exit_code) == (EXITED, "StartError", 128)
        node.pods.remove(pod)


def test_a_log_goes_on_after_its_rotation(node, handler):
    text = "echo one; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo two; exec sleep 1000"
    with node.running(node.spec(handler, script("main", text))) as running:
        wait_until(lambda: running.log() == [b"one\n"], "the first line is logged")
        path = Path(running.status.container("main").log_path)
        path.rename(path.with_suffix(".old"))
        node.runtime.reopen_container_log(running.id())
        running.output("touch", "/tmp/go")
        wait_until(lambda: running.log() == [b"two\n"], "the second line is in the new log")


def test_a_dead_sandbox_is_replaced(node, handler):
    pod = node.spec(handler)
    with node.running(pod) as running:
        first = running.status.sandbox
        node.runtime.stop_pod_sandbox(first.id)
        assert not running.status.ready
        assert running.state() == EXITED
        pod.restart = ALWAYS
        status = node.pods.sync(pod)
        assert status.ready
        assert [one.metadata.attempt for one in status.sandboxes] == [1, 0]
        assert status.container("main").state == pb.ContainerState.CONTAINER_RUNNING
        assert len(node.shims()) == 1
        removed = node.pods.garbage_collect(keep_per_container=0, log_root=pod.log_root)
        assert first.id in removed
        assert len(node.pods.pod_status(pod.uid).sandboxes) == 1


def test_removing_a_sandbox_ends_what_runs_in_it(node, handler):
    pod = node.spec(handler, *(script(name, "exec sleep 1000") for name in ("a", "b")))
    with node.running(pod) as running:
        pids = [running.pid(name) for name in ("a", "b")]
        sandbox = running.sandbox
        node.runtime.stop_pod_sandbox(sandbox)
        node.runtime.stop_pod_sandbox(sandbox)  # again, as kubelets do
        node.runtime.remove_pod_sandbox(sandbox)
        node.runtime.remove_pod_sandbox(sandbox)
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        with pytest.raises(NotFound):
            node.runtime.pod_sandbox_status(sandbox)


def test_many_pods_at_the_same_time(node, handler):
    pods = [node.spec(handler, script("main", "echo up; exec sleep 1000")) for _ in range(5)]
    try:
        with ThreadPoolExecutor(len(pods)) as pool:
            for status in pool.map(node.pods.sync, pods):
                assert status.ready
        assert len(node.shims()) == len(pods)
        addresses = {node.pods.pod_status(pod.uid).sandbox.network.ip for pod in pods}
        assert len(addresses) == len(pods)
    finally:
        with ThreadPoolExecutor(len(pods)) as pool:
            list(pool.map(node.pods.remove, pods))
    node.await_no_shims()


def test_the_events_of_a_pod_are_streamed(node, handler):
    if node.major < (1, 7):
        with pytest.raises(NotServed):
            next(node.runtime.container_events())
        return
    stream = node.runtime.container_events()
    seen: list[tuple[str, int]] = []

    def read():
        seen.extend((event.container_id, event.container_event_type) for event in stream)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        # All streams of containerd 1.7 read from one queue, and one that was cancelled takes an
        # event out of it before it notices: let it be one that nobody waits for.
        with node.running(node.spec(handler)):
            pass
        pod = node.spec(handler)
        with node.running(pod) as running:
            sandbox, id = running.sandbox, running.id()
        kinds = [pb.ContainerEventType.Value(f"CONTAINER_{name}_EVENT") for name in EVENTS]
        expected = [(of, kind) for of in (sandbox, id) for kind in kinds]
        wait_until(lambda: set(expected) <= set(seen), "the events came", 10)
        for of in (sandbox, id):
            assert [kind for seen_of, kind in seen if seen_of == of] == kinds
    finally:
        stream.cancel()
        thread.join()


def test_an_old_kubelets_api_runs_pods_too(node, handler):
    if node.major >= (2, 0):
        with (
            Connection(node.daemon.endpoint, version="v1alpha2") as connection,
            pytest.raises(NotServed, match=r"runtime\.v1alpha2"),
        ):
            RuntimeService(connection).version()
        return
    with Connection(node.daemon.endpoint, version="v1alpha2") as connection:
        pods = PodRuntime(RuntimeService(connection), ImageService(connection))
        pod = node.spec(handler)
        try:
            status = pods.sync(pod)
            assert status.container("main").state == pb.ContainerState.CONTAINER_RUNNING
            reply = pods.runtime.exec_sync(status.container("main").id, ["sh", "-c", "exit 3"])
            assert reply.exit_code == 3
        finally:
            pods.remove(pod)


EVENTS = ("CREATED", "STARTED", "STOPPED", "DELETED")
