"""A client of containerd that stays connected, so that only containerd and the shim are timed.

It speaks the gRPC task and container services as a kubelet's containerd client does; the messages
are compiled from containerd.proto when this module is first used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc

BOUND = 60.0
_TASKS = "/containerd.services.tasks.v1.Tasks/"
_CONTAINERS = "/containerd.services.containers.v1.Containers/"
SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
m: Any = grpc.protos("benchmarks/containerd.proto")


class Containerd:
    """Calls in one namespace. Each raises grpc.RpcError with containerd's status."""

    def __init__(self, address: Path, namespace: str = "default") -> None:
        self._channel = grpc.insecure_channel(f"unix://{address}")
        self._metadata = (("containerd-namespace", namespace),)
        self._create = self._method(f"{_TASKS}Create", m.Nothing)
        self._start = self._method(f"{_TASKS}Start", m.Nothing)
        self._wait = self._method(f"{_TASKS}Wait", m.Exit)
        self._kill = self._method(f"{_TASKS}Kill", m.Nothing)
        self._delete = self._method(f"{_TASKS}Delete", m.Nothing)
        self._add = self._method(f"{_CONTAINERS}Create", m.Nothing)
        self._remove = self._method(f"{_CONTAINERS}Delete", m.Nothing)

    def close(self) -> None:
        self._channel.close()

    def _method(self, path: str, response: Any) -> Any:
        return self._channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        return method(request, timeout=BOUND, metadata=self._metadata)

    def add(self, id: str, runtime: str, spec: Mapping[str, Any]) -> None:
        """Make the container (containerd's record; nothing is started)."""
        container = m.Container(id=id, runtime=m.Runtime(name=runtime))
        container.spec.type_url = SPEC
        container.spec.value = json.dumps(spec).encode()
        self._call(self._add, m.CreateContainer(container=container))

    def remove(self, id: str) -> None:
        self._call(self._remove, m.DeleteContainer(id=id))

    def create(self, id: str, stdout: str = "", stderr: str = "") -> None:
        """Create the task: containerd starts the shim, the shim calls the engine."""
        self._call(self._create, m.CreateTask(container_id=id, stdout=stdout, stderr=stderr))

    def waiting(self, id: str) -> Callable[[], int]:
        """Ask for the exit now; the function returned blocks until it comes, with the status."""
        request = m.Process(container_id=id)
        future = self._wait.future(request, timeout=BOUND, metadata=self._metadata)
        return lambda: int(future.result().exit_status)

    def start(self, id: str) -> None:
        self._call(self._start, m.Process(container_id=id))

    def kill(self, id: str, signum: int) -> None:
        self._call(self._kill, m.Kill(container_id=id, signal=signum))

    def delete(self, id: str) -> None:
        """Delete the task: the shim ends, containerd calls the binary's delete."""
        self._call(self._delete, m.Process(container_id=id))
