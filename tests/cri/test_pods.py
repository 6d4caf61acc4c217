"""Pods of containerd's CRI plugin through the shim, as the kubelet runs them."""

from __future__ import annotations

from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.testing.daemon import wait_until
from tests.cri.node import container


def script(name, text, **config):
    return container(name, ("sh", "-c", text), **config)


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
    assert node.shims() == []


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


def test_exec_sync_tells_output_and_exit_code(node, handler):
    with node.running(node.spec(handler)) as running:
        reply = node.runtime.exec_sync(running.id(), ["sh", "-c", "echo o; echo e >&2; exit 7"], 10)
        assert (reply.stdout, reply.stderr, reply.exit_code) == (b"o\n", b"e\n", 7)
