"""Namespaces, privileges, users and filters of pods."""

from __future__ import annotations

import json
import os

import pytest

from shim_runc_py.cri import runtime_v1_pb2 as pb
from tests.cri.node import SLEEP, container, script

Profile = pb.SecurityProfile


def security(**context):
    return pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(**context))


def namespace(pid, name):
    return os.readlink(f"/proc/{pid}/ns/{name}")


def test_a_pod_has_namespaces_of_its_own(node, handler):
    pod = node.spec(handler, container("a", SLEEP), container("b", SLEEP))
    with node.running(pod) as running:
        a, b = running.pid("a"), running.pid("b")
        for name in ("net", "ipc", "uts"):
            assert namespace(a, name) == namespace(b, name) != namespace(node.daemon.pid, name)
        for name in ("pid", "mnt"):
            assert len({namespace(pid, name) for pid in (a, b, node.daemon.pid)}) == 3
        assert running.output("cat", "/proc/1/comm", name="a") == "sleep\n"


def test_a_pod_on_the_hosts_network(node, handler):
    with node.running(node.spec(handler, host_network=True)) as running:
        assert namespace(running.pid(), "net") == namespace(node.daemon.pid, "net")
        assert running.status.sandbox.network.ip == ""


def test_a_pod_that_shares_its_processes(node, handler):
    pod = node.spec(handler, container("a", SLEEP), container("b", SLEEP), share_processes=True)
    with node.running(pod) as running:
        assert namespace(running.pid("a"), "pid") == namespace(running.pid("b"), "pid")
        assert running.output("cat", "/proc/1/comm", name="a") == "pause\n"
        seen = running.output("ps", name="a")
        assert seen.count("sleep 1000") == 2
        # One container's end is not the end of the other's processes.
        node.runtime.stop_container(running.id("a"), 0)
        assert running.state("b") == pb.ContainerState.CONTAINER_RUNNING
        assert running.output("ps", name="b").count("sleep 1000") == 1


def test_a_container_that_joins_anothers_processes(node, handler):
    pod = node.spec(handler, container("main", SLEEP))
    with node.running(pod) as running:
        debug = container("debug", ("sleep", "2000"))
        chosen = debug.config.linux.security_context.namespace_options
        chosen.pid = pb.NamespaceMode.TARGET
        chosen.target_id = running.id()
        config = pod.sandbox_config()
        node.pods.start(pod, debug, running.sandbox, config)
        assert "sleep 1000" in running.output("ps", name="debug")
        node.runtime.stop_container(running.id("debug"), 0)
        assert running.state() == pb.ContainerState.CONTAINER_RUNNING


def test_a_privileged_container(node, handler):
    pod = node.spec(
        handler,
        container("main", SLEEP, linux=security(privileged=True)),
        container("plain", SLEEP),
    )
    pod.config.linux.security_context.privileged = True
    with node.running(pod) as running:
        assert running.exec("mount", "-t", "tmpfs", "none", "/tmp").exit_code == 0
        assert running.exec("mount", "-t", "tmpfs", "none", "/tmp", name="plain").exit_code != 0
        devices = running.output("ls", "/dev").split()
        assert "kmsg" in devices or "vda" in devices
        assert "vda" not in running.output("ls", "/dev", name="plain").split()


def test_a_read_only_root(node, handler):
    pod = node.spec(handler, container("main", SLEEP, linux=security(readonly_rootfs=True)))
    with node.running(pod) as running:
        outcome = running.exec("touch", "/x")
        assert outcome.exit_code != 0
        assert b"Read-only file system" in outcome.output
        assert running.exec("touch", "/dev/shm/x").exit_code == 0


def test_users_and_groups(node, handler):
    context = {
        "run_as_user": pb.Int64Value(value=1000),
        "run_as_group": pb.Int64Value(value=1001),
        "supplemental_groups": [3000, 4000],
    }
    pod = node.spec(
        handler,
        script("main", "id -u; id -g; id -G; echo y >/dev/stdout; exec sleep 1000",
               linux=security(**context)),
        container("named", SLEEP, linux=security(run_as_username="user")),
    )  # fmt: skip
    with node.running(pod) as running:
        assert running.output("id", "-u") == "1000\n"
        assert running.output("id", "-g") == "1001\n"
        assert {"1001", "3000", "4000"} <= set(running.output("id", "-G").split())
        assert running.log()[:2] == [b"1000\n", b"1001\n"]
        assert running.log()[-1] == b"y\n"
        assert running.output("id", "-un", name="named") == "user\n"


@pytest.mark.parametrize(
    ("kind", "mode"), [("RuntimeDefault", "2"), ("Unconfined", "0"), ("Localhost", "2")]
)
def test_a_seccomp_profile(node, handler, tmp_path, kind, mode):
    profile = Profile(profile_type=kind)
    if kind == "Localhost":
        path = tmp_path / "no-mkdir.json"
        path.write_text(
            json.dumps(
                {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
                }
            )
        )
        profile.localhost_ref = str(path)
    pod = node.spec(handler, container("main", SLEEP, linux=security(seccomp=profile)))
    with node.running(pod) as running:
        assert f"Seccomp:\t{mode}\n" in running.output("cat", "/proc/self/status")
        assert (running.exec("mkdir", "/tmp/x").exit_code == 0) == (kind != "Localhost")


def test_capabilities_and_no_new_privileges(node, handler):
    context = {
        "capabilities": pb.Capability(add_capabilities=["NET_ADMIN"], drop_capabilities=["CHOWN"]),
        "no_new_privs": True,
    }
    pod = node.spec(handler, container("main", SLEEP, linux=security(**context)))
    with node.running(pod) as running:
        told = running.output("cat", "/proc/self/status")
        effective = int(told.partition("CapEff:")[2].split()[0], 16)
        assert effective & 1 << 12
        assert not effective & 1 << 0
        assert "NoNewPrivs:\t1\n" in told


def test_volumes_and_environment(node, handler, tmp_path):
    (tmp_path / "file").write_text("from the host\n")
    pod = node.spec(
        handler,
        container(
            "main",
            SLEEP,
            working_dir="/tmp",
            envs=[pb.KeyValue(key="WORD", value="two words")],
            mounts=[
                pb.Mount(container_path="/data", host_path=str(tmp_path)),
                pb.Mount(container_path="/fixed", host_path=str(tmp_path), readonly=True),
            ],
        ),
    )
    with node.running(pod) as running:
        assert running.output("cat", "/data/file") == "from the host\n"
        assert running.output("sh", "-c", "echo $WORD; pwd") == "two words\n/tmp\n"
        assert running.exec("touch", "/data/new").exit_code == 0
        assert running.exec("touch", "/fixed/new").exit_code != 0
        assert (tmp_path / "new").exists()


def test_annotations_of_the_pod_that_the_handler_lets_through_reach_the_spec(node, handler):
    pod = node.spec(handler)
    pod.config.annotations["pyrunc.test/x"] = "y"
    pod.config.annotations["other/x"] = "y"
    with node.running(pod) as running:
        info = node.runtime.pod_sandbox_status(running.sandbox, verbose=True).info["info"]
        annotations = json.loads(info)["runtimeSpec"]["annotations"]
        assert annotations["pyrunc.test/x"] == "y"
        assert "other/x" not in annotations
