"""The installer's container, as the DaemonSet has it: privileged, in the node's pid namespace.

The node is a process with a mount namespace of its own: nothing of this machine is written to. The
container's root has no Python, so it borrows the machine's, read-only.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.testing import launcher
from tests.cri.node import container
from tests.kubernetes.test_node import elsewhere, on, same_python

__all__ = ["elsewhere"]  # a fixture
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not same_python(), reason="python3 in PATH has another version than the tests")
def test_a_privileged_container_installs_on_its_node(node, handler, elsewhere):
    script = (
        "exec chroot /host env PYTHONDONTWRITEBYTECODE=1 PATH=$PATH:/usr/bin:"
        f"/usr/sbin {sys.executable} -c 'import sys; sys.path.insert(0, sys.argv.pop(1));"
        f" from shim_runc_py.tools import cli; sys.exit(cli.main())' {ROOT}"
        f" node install --pid {elsewhere}"
    )
    spec = container("node", ["sh", "-c", script])
    spec.config.mounts.append(pb.Mount(container_path="/host", host_path="/", readonly=True))
    security = spec.config.linux.security_context
    security.privileged = True
    security.namespace_options.pid = pb.NamespaceMode.NODE
    pod = node.spec(handler, spec)
    pod.config.linux.security_context.privileged = True
    pod.config.linux.security_context.namespace_options.pid = pb.NamespaceMode.NODE
    with node.running(pod) as running:
        deadline = time.monotonic() + 60
        while running.status.container("node").state != pb.ContainerState.CONTAINER_EXITED:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        log = (pod.log_directory / "node" / "0.log").read_text()
        assert running.status.container("node").exit_code == 0, log
    assert f"launcher /usr/local/bin/{launcher.NAME}" in log
    assert "Version:" in on(elsewhere, f"/usr/local/bin/{launcher.NAME}", "-v")
    assert "runtimes.pyrunc]" in on(elsewhere, "cat", "/etc/containerd/config.toml")
    there = subprocess.run(["test", "-e", f"/usr/local/bin/{launcher.NAME}"], check=False)
    assert there.returncode == 1, "the machine itself is not the node"
