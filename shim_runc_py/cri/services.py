"""The runtime and the image service of a CRI daemon, called as the kubelet calls them.

Requests in, checked replies out; what a pod is, is not known here (pods.py). As in the kubelet:

- calls have the connection's timeout; RunPodSandbox twice as much, since networks are slow to set
  up; StopContainer, ExecSync and CheckpointContainer what was asked for on top; ExecSync without a
  timeout, pulls and streams none;
- a reply without the id, name, address or time that it must have is an error;
- the same error of the same container is logged once a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.cri.connection import CLIENT_VERSION, Connection, Stream
from shim_runc_py.cri.failures import BadReply, CRIError
from shim_runc_py.cri.repetition import Repetition

_log = logging.getLogger(__name__)
Reply = TypeVar("Reply", bound=Message)


class _Service:
    name = ""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._timeout = connection.call_timeout
        self._repetition = Repetition()

    def _call(
        self,
        operation: str,
        request: Message,
        reply: type[Reply],
        *,
        timeout: float | None = 0.0,
        lacks: Callable[[Reply], str] | None = None,
        about: str = "",
    ) -> Reply:
        """One counted call. `timeout` 0 is the usual one, None none at all; `lacks` names what a
        reply does not have; `about` is the id that an error is logged for.
        """
        if timeout == 0.0:
            timeout = self._timeout
        try:
            with self._connection.meter.measure(operation):
                answer = self._connection.call(self.name, operation, request, reply, timeout)
                missing = lacks(answer) if lacks is not None else ""
                if missing:
                    raise BadReply(operation, f"the daemon's reply has no {missing}")
        except CRIError as error:
            if self._repetition.worth_saying(f"{operation} {about}", error.text):
                _log.error("%s %s: %s", operation, about, error.text)
            raise
        self._repetition.forget(f"{operation} {about}")
        return answer

    def _forget(self, id: str) -> None:
        for operation in ("ContainerStatus", "ContainerStats", "ExecSync", "StopContainer"):
            self._repetition.forget(f"{operation} {id}")


class RuntimeService(_Service):
    """Sandboxes and containers. Every method raises CRIError."""

    name = "RuntimeService"

    def version(self) -> pb.VersionResponse:
        return self._call(
            "Version",
            pb.VersionRequest(version=CLIENT_VERSION),
            pb.VersionResponse,
            lacks=lambda reply: _first_empty(
                reply, "version", "runtime_name", "runtime_version", "runtime_api_version"
            ),
        )

    def status(self, verbose: bool = False) -> pb.StatusResponse:
        return self._call(
            "Status", pb.StatusRequest(verbose=verbose), pb.StatusResponse, lacks=_status_lacks
        )

    def runtime_config(self) -> pb.RuntimeConfigResponse:
        return self._call("RuntimeConfig", pb.RuntimeConfigRequest(), pb.RuntimeConfigResponse)

    def update_runtime_config(self, pod_cidr: str) -> None:
        network = pb.NetworkConfig(pod_cidr=pod_cidr)
        request = pb.UpdateRuntimeConfigRequest(
            runtime_config=pb.RuntimeConfig(network_config=network)
        )
        self._call("UpdateRuntimeConfig", request, pb.UpdateRuntimeConfigResponse)

    # -- sandboxes

    def run_pod_sandbox(self, config: pb.PodSandboxConfig, handler: str = "") -> str:
        """Make a sandbox and wait until it is ready; returns its id."""
        reply = self._call(
            "RunPodSandbox",
            pb.RunPodSandboxRequest(config=config, runtime_handler=handler),
            pb.RunPodSandboxResponse,
            timeout=2 * self._timeout,
            lacks=lambda reply: _first_empty(reply, "pod_sandbox_id"),
            about=config.metadata.name,
        )
        return reply.pod_sandbox_id

    def stop_pod_sandbox(self, id: str) -> None:
        """Kill what runs in the sandbox and take its network away; may be called again."""
        request = pb.StopPodSandboxRequest(pod_sandbox_id=id)
        self._call("StopPodSandbox", request, pb.StopPodSandboxResponse, about=id)

    def remove_pod_sandbox(self, id: str) -> None:
        """Remove the sandbox and its containers; may be called again."""
        request = pb.RemovePodSandboxRequest(pod_sandbox_id=id)
        self._call("RemovePodSandbox", request, pb.RemovePodSandboxResponse, about=id)

    def pod_sandbox_status(self, id: str, verbose: bool = False) -> pb.PodSandboxStatusResponse:
        return self._call(
            "PodSandboxStatus",
            pb.PodSandboxStatusRequest(pod_sandbox_id=id, verbose=verbose),
            pb.PodSandboxStatusResponse,
            lacks=lambda reply: _sandbox_lacks(reply.status),
            about=id,
        )

    def list_pod_sandbox(self, filter: pb.PodSandboxFilter | None = None) -> list[pb.PodSandbox]:
        request = pb.ListPodSandboxRequest(filter=filter)
        return list(self._call("ListPodSandbox", request, pb.ListPodSandboxResponse).items)

    # -- containers

    def create_container(
        self, sandbox: str, config: pb.ContainerConfig, sandbox_config: pb.PodSandboxConfig
    ) -> str:
        """Make a container in the sandbox with that id and config; returns the container's id."""
        reply = self._call(
            "CreateContainer",
            pb.CreateContainerRequest(
                pod_sandbox_id=sandbox, config=config, sandbox_config=sandbox_config
            ),
            pb.CreateContainerResponse,
            lacks=lambda reply: _first_empty(reply, "container_id"),
            about=config.metadata.name,
        )
        return reply.container_id

    def start_container(self, id: str) -> None:
        request = pb.StartContainerRequest(container_id=id)
        self._call("StartContainer", request, pb.StartContainerResponse, about=id)

    def stop_container(self, id: str, grace: int = 0) -> None:
        """Its stop signal, and SIGKILL after `grace` seconds; may be called again."""
        self._call(
            "StopContainer",
            pb.StopContainerRequest(container_id=id, timeout=grace),
            pb.StopContainerResponse,
            timeout=self._timeout + grace,
            about=id,
        )
        self._forget(id)

    def remove_container(self, id: str) -> None:
        """Kill it if it runs, and remove it; may be called again."""
        request = pb.RemoveContainerRequest(container_id=id)
        self._call("RemoveContainer", request, pb.RemoveContainerResponse, about=id)
        self._forget(id)

    def list_containers(self, filter: pb.ContainerFilter | None = None) -> list[pb.Container]:
        request = pb.ListContainersRequest(filter=filter)
        return list(self._call("ListContainers", request, pb.ListContainersResponse).containers)

    def container_status(self, id: str, verbose: bool = False) -> pb.ContainerStatusResponse:
        return self._call(
            "ContainerStatus",
            pb.ContainerStatusRequest(container_id=id, verbose=verbose),
            pb.ContainerStatusResponse,
            lacks=lambda reply: _container_lacks(reply.status),
            about=id,
        )

    def update_container_resources(self, id: str, linux: pb.LinuxContainerResources) -> None:
        request = pb.UpdateContainerResourcesRequest(container_id=id, linux=linux)
        self._call(
            "UpdateContainerResources", request, pb.UpdateContainerResourcesResponse, about=id
        )

    def reopen_container_log(self, id: str) -> None:
        """After the log file was renamed: begin a new one."""
        request = pb.ReopenContainerLogRequest(container_id=id)
        self._call("ReopenContainerLog", request, pb.ReopenContainerLogResponse, about=id)

    def checkpoint_container(self, id: str, location: str, seconds: int = 0) -> None:
        """Write a checkpoint archive to the path `location`."""
        self._call(
            "CheckpointContainer",
            pb.CheckpointContainerRequest(container_id=id, location=location, timeout=seconds),
            pb.CheckpointContainerResponse,
            timeout=self._timeout + seconds,
            about=id,
        )

    # -- processes

    def exec_sync(self, id: str, command: Sequence[str], seconds: int = 0) -> pb.ExecSyncResponse:
        """Run a command and wait for it; raises TimedOut after `seconds`, 0 is for ever."""
        return self._call(
            "ExecSync",
            pb.ExecSyncRequest(container_id=id, cmd=command, timeout=seconds),
            pb.ExecSyncResponse,
            timeout=self._timeout + seconds if seconds else None,
            about=id,
        )

    def exec(self, request: pb.ExecRequest) -> str:
        """The URL to stream a new process from."""
        return self._url("Exec", request, pb.ExecResponse, request.container_id)

    def attach(self, request: pb.AttachRequest) -> str:
        """The URL to stream the container's process from."""
        return self._url("Attach", request, pb.AttachResponse, request.container_id)

    def port_forward(self, request: pb.PortForwardRequest) -> str:
        """The URL to stream connections to ports of the sandbox from."""
        return self._url("PortForward", request, pb.PortForwardResponse, request.pod_sandbox_id)

    def _url(
        self,
        operation: str,
        request: Message,
        reply: type[pb.ExecResponse] | type[pb.AttachResponse] | type[pb.PortForwardResponse],
        about: str,
    ) -> str:
        answer = self._call(
            operation, request, reply, lacks=lambda reply: _first_empty(reply, "url"), about=about
        )
        return answer.url

    # -- statistics and events

    def container_stats(self, id: str) -> pb.ContainerStats:
        request = pb.ContainerStatsRequest(container_id=id)
        return self._call("ContainerStats", request, pb.ContainerStatsResponse, about=id).stats

    def list_container_stats(
        self, filter: pb.ContainerStatsFilter | None = None
    ) -> list[pb.ContainerStats]:
        request = pb.ListContainerStatsRequest(filter=filter)
        return list(self._call("ListContainerStats", request, pb.ListContainerStatsResponse).stats)

    def pod_sandbox_stats(self, id: str) -> pb.PodSandboxStats:
        request = pb.PodSandboxStatsRequest(pod_sandbox_id=id)
        return self._call("PodSandboxStats", request, pb.PodSandboxStatsResponse, about=id).stats

    def list_pod_sandbox_stats(
        self, filter: pb.PodSandboxStatsFilter | None = None
    ) -> list[pb.PodSandboxStats]:
        request = pb.ListPodSandboxStatsRequest(filter=filter)
        reply = self._call("ListPodSandboxStats", request, pb.ListPodSandboxStatsResponse)
        return list(reply.stats)

    def list_metric_descriptors(self) -> list[pb.MetricDescriptor]:
        request = pb.ListMetricDescriptorsRequest()
        reply = self._call("ListMetricDescriptors", request, pb.ListMetricDescriptorsResponse)
        return list(reply.descriptors)

    def list_pod_sandbox_metrics(self) -> list[pb.PodSandboxMetrics]:
        request = pb.ListPodSandboxMetricsRequest()
        reply = self._call("ListPodSandboxMetrics", request, pb.ListPodSandboxMetricsResponse)
        return list(reply.pod_metrics)

    def container_events(self) -> Stream[pb.ContainerEventResponse]:
        """Events from now on; they come until the stream is cancelled."""
        with self._connection.meter.measure("GetContainerEvents"):
            return self._connection.stream(
                self.name, "GetContainerEvents", pb.GetEventsRequest(), pb.ContainerEventResponse
            )


class ImageService(_Service):
    """Images of the node. Every method raises CRIError."""

    name = "ImageService"

    def list(self, image: str = "") -> list[pb.Image]:
        """All images, or those that `image` names."""
        request = pb.ListImagesRequest()
        if image:
            request.filter.image.image = image
        return [*self._call("ListImages", request, pb.ListImagesResponse).images]

    def status(self, image: str, verbose: bool = False) -> pb.ImageStatusResponse:
        """`image` of the reply is absent when the node has no such image."""
        return self._call(
            "ImageStatus",
            pb.ImageStatusRequest(image=pb.ImageSpec(image=image), verbose=verbose),
            pb.ImageStatusResponse,
            lacks=_image_lacks,
            about=image,
        )

    def present(self, image: str) -> bool:
        return self.status(image).HasField("image")

    def pull(
        self,
        image: str,
        auth: pb.AuthConfig | None = None,
        sandbox_config: pb.PodSandboxConfig | None = None,
    ) -> str:
        """Fetch an image, however long it takes; returns the reference to use in a container."""
        reply = self._call(
            "PullImage",
            pb.PullImageRequest(
                image=pb.ImageSpec(image=image), auth=auth, sandbox_config=sandbox_config
            ),
            pb.PullImageResponse,
            timeout=None,
            lacks=lambda reply: _first_empty(reply, "image_ref"),
            about=image,
        )
        return reply.image_ref

    def remove(self, image: str) -> None:
        """Remove it under all its names; may be called again."""
        request = pb.RemoveImageRequest(image=pb.ImageSpec(image=image))
        self._call("RemoveImage", request, pb.RemoveImageResponse, about=image)

    def file_systems(self) -> pb.ImageFsInfoResponse:
        return self._call("ImageFsInfo", pb.ImageFsInfoRequest(), pb.ImageFsInfoResponse)


def _first_empty(message: Message, *fields: str) -> str:
    return next((name for name in fields if not getattr(message, name)), "")


def _status_lacks(reply: pb.StatusResponse) -> str:
    there = {condition.type for condition in reply.status.conditions}
    missing = [name for name in ("RuntimeReady", "NetworkReady") if name not in there]
    return f"condition {' and '.join(missing)}" if missing else ""


def _sandbox_lacks(status: pb.PodSandboxStatus) -> str:
    return (
        _first_empty(status, "id")
        or _first_empty(status.metadata, "name", "namespace", "uid")
        or _first_empty(status, "created_at")
    )


def _container_lacks(status: pb.ContainerStatus) -> str:
    return (
        _first_empty(status, "id")
        or _first_empty(status.metadata, "name")
        or _first_empty(status, "created_at")
        or _first_empty(status.image, "image")
        or _first_empty(status, "image_ref")
    )


def _image_lacks(reply: pb.ImageStatusResponse) -> str:
    return _first_empty(reply.image, "id", "size") if reply.HasField("image") else ""
