"""A client of containerd's own gRPC API: what Docker and nerdctl do and ctr cannot.

It chooses the runtime options and the task options by itself, and hears every event.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from shim_runc_py.api import events_pb2
from shim_runc_py.testing.daemon import Daemon, wait_until
from tests.containerd.pairings import NAMESPACE

pb: Any = grpc.protos("tests/containerd/services.proto")

SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
_CONTAINERS = "containerd.services.containers.v1.Containers"
_TASKS = "containerd.services.tasks.v1.Tasks"
_EVENTS = "containerd.services.events.v1.Events"
_METADATA = (("containerd-namespace", NAMESPACE),)
BOUND = 60.0

_CALLS: dict[str, tuple[str, str, Any]] = {
    "Create": (_TASKS, "CreateTaskRequest", pb.CreateTaskResponse),
    "Start": (_TASKS, "StartRequest", pb.StartResponse),
    "Wait": (_TASKS, "WaitRequest", pb.WaitResponse),
    "Kill": (_TASKS, "KillRequest", Empty),
    "Delete": (_TASKS, "DeleteTaskRequest", pb.DeleteResponse),
    "DeleteProcess": (_TASKS, "DeleteProcessRequest", pb.DeleteResponse),
    "Exec": (_TASKS, "ExecProcessRequest", Empty),
    "CloseIO": (_TASKS, "CloseIORequest", Empty),
    "ResizePty": (_TASKS, "ResizePtyRequest", Empty),
    "ListPids": (_TASKS, "ListPidsRequest", pb.ListPidsResponse),
    "Update": (_TASKS, "UpdateTaskRequest", Empty),
    "Checkpoint": (_TASKS, "CheckpointTaskRequest", Empty),
}


def packed(message: Message) -> AnyMessage:
    """As Go clients write it: the bare name of the type."""
    return AnyMessage(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def in_json(type_url: str, value: Mapping[str, Any]) -> AnyMessage:
    return AnyMessage(type_url=type_url, value=json.dumps(value).encode())


class Client:
    """One channel. Failures are grpc.RpcError."""

    def __init__(self, daemon: Daemon) -> None:
        # A path is no authority for Go's server.
        options = [("grpc.default_authority", "localhost")]
        self._channel = grpc.insecure_channel(f"unix:{daemon.address}", options=options)

    def close(self) -> None:
        self._channel.close()

    def _call(self, path: str, request: Message, response: Any) -> Any:
        call = self._channel.unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return call(request, metadata=_METADATA, timeout=BOUND)

    def task(self, method: str, id: str, **fields: Any) -> Any:
        """A method of the tasks service."""
        service, name, response = _CALLS[method]
        request = getattr(pb, name)(container_id=id, **fields)
        return self._call(f"/{service}/{method}", request, response)

    def create_container(
        self, id: str, runtime: str, spec: Mapping[str, Any], options: AnyMessage | None = None
    ) -> None:
        container = pb.Container(
            id=id, runtime=pb.Runtime(name=runtime, options=options), spec=in_json(SPEC, spec)
        )
        request = pb.CreateContainerRequest(container=container)
        self._call(f"/{_CONTAINERS}/Create", request, pb.CreateContainerResponse)

    def delete_container(self, id: str) -> None:
        self._call(f"/{_CONTAINERS}/Delete", pb.DeleteContainerRequest(id=id), Empty)

    def publish(self, topic: str) -> None:
        request = pb.PublishRequest(topic=topic, event=packed(Empty()))
        self._call(f"/{_EVENTS}/Publish", request, Empty)

    def subscribe(self, *filters: str) -> Any:
        """The stream of events; iterating it blocks."""
        call = self._channel.unary_stream(
            f"/{_EVENTS}/Subscribe",
            request_serializer=pb.SubscribeRequest.SerializeToString,
            response_deserializer=pb.Envelope.FromString,
        )
        return call(pb.SubscribeRequest(filters=filters), metadata=_METADATA)


class TaskEvent:
    """A task event: topic, and the message of it."""

    def __init__(self, envelope: Any) -> None:
        self.topic: str = envelope.topic
        kind = envelope.event.type_url.rpartition(".")[2]
        self.message = getattr(events_pb2, kind).FromString(envelope.event.value)

    def __repr__(self) -> str:
        return f"{self.topic} {str(self.message).strip()!r}"


class Listener:
    """Hears every task event from a moment that is certain. To be closed."""

    def __init__(self, client: Client) -> None:
        self._stream = client.subscribe('topic~="^/tasks/"', 'topic=="/probe"')
        self._heard: list[TaskEvent] = []
        self._probes = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

        def subscribed() -> bool:
            client.publish("/probe")
            return self._probes > 0

        wait_until(subscribed, "the subscription is there")

    def _read(self) -> None:
        try:
            for envelope in self._stream:
                with self._changed:
                    if envelope.topic == "/probe":
                        self._probes += 1
                    elif envelope.namespace == NAMESPACE:
                        self._heard.append(TaskEvent(envelope))
                    self._changed.notify_all()
        except grpc.RpcError:
            pass  # cancelled

    def until(self, topic: str, count: int = 1, seconds: float = BOUND) -> list[TaskEvent]:
        """All events so far, as soon as there are `count` of `topic`; raises TimeoutError."""

        def enough() -> bool:
            return sum(event.topic == topic for event in self._heard) >= count

        with self._changed:
            if not self._changed.wait_for(enough, seconds):
                raise TimeoutError(f"{count} x {topic} are not among {len(self._heard)} events")
            return list(self._heard)

    def close(self) -> None:
        self._stream.cancel()
        self._thread.join(10)
