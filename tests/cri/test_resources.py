"""Limits of pods' containers, and what is told of their use."""

from __future__ import annotations

import time

import pytest

from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.cri.failures import CRIError, NotServed
from shim_runc_py.linux import procfs
from shim_runc_py.testing.daemon import wait_until
from tests.cri.node import SLEEP, container, script

MIB = 1 << 20


def limits(**resources):
    return pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(**resources))


def test_a_container_that_takes_too_much_memory_is_told_as_oom_killed(node, handler):
    pod = node.spec(
        handler,
        script(
            "greedy",
            "x=$(head -c 100000000 /dev/zero | tr '\\0' x)",
            linux=limits(memory_limit_in_bytes=16 * MIB, memory_swap_limit_in_bytes=16 * MIB),
        ),
        script("modest", "exec sleep 1000"),
    )
    with node.running(pod) as running:
        wait_until(
            lambda: running.state("greedy") == pb.ContainerState.CONTAINER_EXITED, "it ended"
        )
        # The daemon hears of the exit and of the reason in two events.
        wait_until(
            lambda: running.status.container("greedy").reason == "OOMKilled", "the reason came", 10
        )
        assert running.status.container("greedy").exit_code == 137
        assert running.state("modest") == pb.ContainerState.CONTAINER_RUNNING
        assert running.status.ready


def cgroup_value(running, controller, name):
    """A value of the main container's cgroup, whichever version it is of."""
    lines = procfs.read(f"/proc/{running.pid()}/cgroup").splitlines()
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number != "0" and controller in controllers.split(","):
            return procfs.read(f"/sys/fs/cgroup/{controller}{path}/{name[0]}").strip()
    unified = lines[-1].split(":", 2)[2]
    return procfs.read(f"/sys/fs/cgroup{unified}/{name[1]}").strip()


def test_limits_are_set_and_can_be_changed(node, handler):
    pod = node.spec(
        handler,
        container(
            "main",
            SLEEP,
            linux=limits(memory_limit_in_bytes=64 * MIB, cpu_quota=50000, cpu_period=100000),
        ),
    )
    memory = ("memory.limit_in_bytes", "memory.max")
    with node.running(pod) as running:
        assert cgroup_value(running, "memory", memory) == str(64 * MIB)
        node.runtime.update_container_resources(
            running.id(),
            pb.LinuxContainerResources(
                memory_limit_in_bytes=96 * MIB, cpu_quota=30000, cpu_period=100000
            ),
        )
        assert cgroup_value(running, "memory", memory) == str(96 * MIB)
        quota = cgroup_value(running, "cpu", ("cpu.cfs_quota_us", "cpu.max"))
        assert quota.split()[0] == "30000"
        if node.major >= (1, 7):
            told = running.status.container("main").resources.linux
            assert told.memory_limit_in_bytes == 96 * MIB
            assert told.cpu_quota == 30000
        stats = node.runtime.container_stats(running.id()).memory
        assert stats.available_bytes.value + stats.working_set_bytes.value == 96 * MIB


def test_the_use_of_a_container_is_told(node, handler):
    pod = node.spec(
        handler,
        script("busy", "while :; do :; done"),
        script("idle", "echo x > /file; exec sleep 1000"),
    )
    with node.running(pod) as running:
        busy, idle = running.id("busy"), running.id("idle")
        first = node.runtime.container_stats(busy)
        assert (first.attributes.id, first.attributes.metadata.name) == (busy, "busy")
        assert first.memory.working_set_bytes.value > 0
        wait_until(
            lambda: (
                node.runtime.container_stats(busy).cpu.usage_core_nano_seconds.value
                > first.cpu.usage_core_nano_seconds.value + 100_000_000
            ),
            "it uses the CPU",
        )
        assert abs(node.runtime.container_stats(busy).cpu.timestamp / 1e9 - time.time()) < 60
        listed = node.runtime.list_container_stats(
            pb.ContainerStatsFilter(pod_sandbox_id=running.sandbox)
        )
        assert sorted(one.attributes.id for one in listed) == sorted([busy, idle])
        wait_until(
            lambda: node.runtime.container_stats(idle).writable_layer.inodes_used.value > 0,
            "what it wrote is counted",
        )


def test_the_use_of_a_sandbox_is_told(node, handler):
    pod = node.spec(handler, script("a", "exec sleep 1000"), script("b", "exec sleep 1000"))
    with node.running(pod) as running:
        stats = node.runtime.pod_sandbox_stats(running.sandbox)
        assert stats.attributes.id == running.sandbox
        assert stats.linux.memory.working_set_bytes.value > 0
        assert stats.linux.process.process_count.value >= 2  # some count pause, too
        assert stats.linux.network.default_interface.name == "eth0"
        assert sorted(one.attributes.metadata.name for one in stats.linux.containers) == ["a", "b"]
        listed = node.runtime.list_pod_sandbox_stats(pb.PodSandboxStatsFilter(id=running.sandbox))
        assert [one.attributes.id for one in listed] == [running.sandbox]


def test_metrics_are_described_where_the_daemon_serves_them(node, handler):
    with node.running(node.spec(handler)) as running:
        try:
            described = {one.name for one in node.runtime.list_metric_descriptors()}
            metrics = node.runtime.list_pod_sandbox_metrics()
        except NotServed:
            assert node.major < (2, 2)
            return
        ours = [one for one in metrics if one.pod_sandbox_id == running.sandbox]
        for pod in ours:
            assert {metric.name for metric in pod.metrics} <= described


def test_images_and_their_file_system_are_told(node):
    from shim_runc_py.testing.cri_daemon import PAUSE, TOOLS

    assert {tag for image in node.images.list() for tag in image.repo_tags} == {PAUSE, TOOLS}
    assert TOOLS in {tag for image in node.images.list(TOOLS) for tag in image.repo_tags}
    status = node.images.status(TOOLS, verbose=True)
    assert status.image.size > 100000
    assert status.info
    assert not node.images.present("pyrunc.test/none:1")
    usage = node.images.file_systems().image_filesystems[0]
    assert str(node.daemon.directory) in usage.fs_id.mountpoint
    node.images.remove("pyrunc.test/none:1")  # what is not there is removed
    with pytest.raises(CRIError, match=r"pyrunc\.test/none:1"):
        node.images.pull("pyrunc.test/none:1")
