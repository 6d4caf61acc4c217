"""A node as its kubelet sees it, for tests."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator

from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.cri.command import CommandRunner
from shim_runc_py.cri.connection import Connection
from shim_runc_py.cri.pods import NEVER, Container, Pod, PodRuntime
from shim_runc_py.cri.services import ImageService, RuntimeService
from shim_runc_py.cri.streaming import Streaming
from shim_runc_py.testing import leaks
from shim_runc_py.testing.conditions import CGROUP_PREFIX
from shim_runc_py.testing.cri_daemon import TOOLS, CRIDaemon
from shim_runc_py.testing.daemon import wait_until

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
        self.streaming = Streaming(self.runtime, daemon.network.connect)

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
        """The daemon's shims; what it executes for a moment (`start`, `delete`) is none."""
        found = leaks.shims(str(self.daemon.directory))
        return [line for line in found if line.split()[-1] not in ("start", "delete", "-info")]

    def await_no_shims(self) -> None:
        """The last thing a shim does is to end, after its daemon has told of the end of its pod."""
        wait_until(lambda: not self.shims(), "the shims have ended", 10)


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

    def state(self, name="main"):
        return self.status.container(name).state

    def pid(self, name="main") -> int:
        """Of the container's init process, on the host."""
        info = self.node.runtime.container_status(self.id(name), verbose=True).info["info"]
        return int(json.loads(info)["pid"])

    def log(self, name="main"):
        return [entry.text for entry in self.node.pods.container_logs(self.id(name))]

    def output(self, *command, name="main"):
        outcome = self.exec(*command, name=name)
        assert outcome.exit_code == 0, outcome
        return outcome.output.decode()


def script(name: str, text: str, **config) -> Container:
    """A container that runs a shell script."""
    return container(name, ("sh", "-c", text), **config)


def container(name: str, command, **config) -> Container:
    """A container of the multi-tool image; the keywords are fields of its config."""
    return Container(name, TOOLS, command, config=pb.ContainerConfig(**config))
