"""A node as its kubelet sees it, for tests."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.cri.command import CommandRunner
from shim_runc_py.cri.connection import Connection
from shim_runc_py.cri.pods import NEVER, Container, Pod, PodRuntime
from shim_runc_py.cri.services import ImageService, RuntimeService
from shim_runc_py.testing import leaks
from shim_runc_py.testing.conditions import CGROUP_PREFIX
from shim_runc_py.testing.cri_daemon import TOOLS, CRIDaemon

_numbers = itertools.count()
SLEEP = ("sh", "-c", "exec sleep 1000")


class Node:
    """Connections to a daemon and what is built on them."""

    def __init__(self, daemon: CRIDaemon) -> None:
        self.daemon = daemon
        self.connection = Connection(daemon.endpoint)
        self.meter = self.connection.meter
        self.runtime = RuntimeService(self.connection)
        self.images = ImageService(self.connection)
        self.pods = PodRuntime(self.runtime, self.images)
        self.commands = CommandRunner(self.runtime)

    @property
    def major(self):
        return self.daemon.generation.major

    def close(self) -> None:
        self.connection.close()

    def spec(self, handler: str, *containers: Container, **changes) -> Pod:
        """A pod with a name and a cgroup of its own; a single sleeping container by default."""
        name = f"pod{next(_numbers)}"
        pod = Pod(
            name,
            containers or (container("main", SLEEP),),
            uid=f"{name}-{self.daemon.directory.name}",
            handler=handler,
            restart=NEVER,
            log_root=self.daemon.directory / "pods",
            **changes,
        )
        pod.config.linux.cgroup_parent = f"{CGROUP_PREFIX}/pod-{pod.uid}"
        return pod

    @contextlib.contextmanager
    def running(self, pod: Pod) -> Iterator[Running]:
        """The pod, synced, and removed at the end."""
        try:
            self.pods.sync(pod)
            yield Running(self, pod)
        finally:
            self.pods.remove(pod)

    def sandboxes(self) -> list[str]:
        return [sandbox.id for sandbox in self.runtime.list_pod_sandbox()]

    def remove_all(self) -> None:
        for id in self.sandboxes():
            self.runtime.stop_pod_sandbox(id)
            self.runtime.remove_pod_sandbox(id)

    def shims(self) -> list[str]:
        return leaks.shims(str(self.daemon.directory))


class Running:
    """A pod that runs."""

    def __init__(self, node: Node, pod: Pod) -> None:
        self.node = node
        self.pod = pod

    @property
    def status(self):
        return self.node.pods.pod_status(self.pod.uid)

    @property
    def sandbox(self):
        return self.status.sandbox.id

    def id(self, name="main"):
        return self.status.container(name).id

    def exec(self, *command: str, name: str = "main", timeout: float = 0):
        return self.node.commands.run_in_container(self.id(name), command, timeout)

    def output(self, *command, name="main"):
        outcome = self.exec(*command, name=name)
        assert outcome.exit_code == 0, outcome
        return outcome.output.decode()


def container(name: str, command, **config) -> Container:
    """A container of the multi-tool image; the keywords are fields of its config."""
    return Container(name, TOOLS, command, config=pb.ContainerConfig(**config))
