"""Pods on top of CRI: the kubelet's runtime interface.

CRI knows sandboxes and containers; that some of them are one pod, and which attempt each is, stands
in labels and in metadata (the label names are the kubelet's, so its tools find our pods and we find
its). `sync` makes what a spec asks for out of what is there, `kill` ends it, `garbage_collect`
removes what has ended.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from shim_runc_py.cri import logs
from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.cri.failures import CRIError, NotFound
from shim_runc_py.cri.services import ImageService, RuntimeService

POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"

ALWAYS, ON_FAILURE, NEVER = "Always", "OnFailure", "Never"
Item = TypeVar("Item", pb.PodSandbox, pb.Container)
DEFAULT_GRACE = 30
LOG_ROOT = Path("/var/log/pods")


@dataclass
class Container:
    """What to run; `config` takes what the other fields do not cover (linux, mounts, tty, ...)."""

    name: str
    image: str
    command: Sequence[str] = ()
    args: Sequence[str] = ()
    config: pb.ContainerConfig = field(default_factory=pb.ContainerConfig)


@dataclass
class Pod:
    """A pod's spec; `config` takes what the other fields do not cover (linux, annotations, ...)."""

    name: str
    containers: Sequence[Container] = ()
    namespace: str = "default"
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    handler: str = ""
    restart: str = ALWAYS
    grace: int = DEFAULT_GRACE
    host_network: bool = False
    share_processes: bool = False  # one pid namespace for all containers
    log_root: Path = LOG_ROOT
    config: pb.PodSandboxConfig = field(default_factory=pb.PodSandboxConfig)

    @property
    def log_directory(self) -> Path:
        return self.log_root / f"{self.namespace}_{self.name}_{self.uid}"

    def labels(self) -> dict[str, str]:
        return {POD_NAME: self.name, POD_NAMESPACE: self.namespace, POD_UID: self.uid}

    def sandbox_config(self, attempt: int = 0) -> pb.PodSandboxConfig:
        """The request of the given attempt."""
        made = pb.PodSandboxConfig()
        made.CopyFrom(self.config)
        made.metadata.CopyFrom(
            pb.PodSandboxMetadata(
                name=self.name, uid=self.uid, namespace=self.namespace, attempt=attempt
            )
        )
        if not made.hostname and not self.host_network:
            made.hostname = self.name
        self._choose_namespaces(made.linux.security_context.namespace_options)
        made.log_directory = str(self.log_directory)
        made.labels.update(self.labels())
        return made

    def container_config(self, container: Container, attempt: int = 0) -> pb.ContainerConfig:
        """The request for one of its containers; the log goes to <name>/<attempt>.log."""
        made = pb.ContainerConfig()
        made.CopyFrom(container.config)
        made.metadata.CopyFrom(pb.ContainerMetadata(name=container.name, attempt=attempt))
        made.image.image = container.image
        if container.command:
            made.command[:] = container.command
        if container.args:
            made.args[:] = container.args
        made.log_path = f"{container.name}/{attempt}.log"
        made.labels.update({**self.labels(), CONTAINER_NAME: container.name})
        self._choose_namespaces(made.linux.security_context.namespace_options)
        return made

    def _choose_namespaces(self, chosen: pb.NamespaceOption) -> None:
        """CRI's default is a shared pid namespace, Kubernetes' is not; NODE and TARGET stay."""
        if self.host_network:
            chosen.network = pb.NamespaceMode.NODE
        if chosen.pid == pb.NamespaceMode.POD and not self.share_processes:
            chosen.pid = pb.NamespaceMode.CONTAINER


@dataclass
class PodStatus:
    """What there is of a pod: sandboxes and containers, youngest first."""

    uid: str
    sandboxes: list[pb.PodSandboxStatus]
    containers: list[pb.ContainerStatus]

    @property
    def sandbox(self) -> pb.PodSandboxStatus | None:
        return self.sandboxes[0] if self.sandboxes else None

    @property
    def ready(self) -> bool:
        sandbox = self.sandbox
        return sandbox is not None and sandbox.state == pb.PodSandboxState.SANDBOX_READY

    def container(self, name: str) -> pb.ContainerStatus | None:
        """The youngest attempt of the container with that name."""
        return next((found for found in self.containers if found.metadata.name == name), None)


class PodRuntime:
    """Pods through one daemon. Every method raises CRIError unless it says otherwise."""

    def __init__(
        self,
        runtime: RuntimeService,
        images: ImageService,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.runtime = runtime
        self.images = images
        self._clock = clock

    # -- what there is

    def pod_status(self, uid: str) -> PodStatus:
        """Of the pod with that uid; without sandboxes when there is none."""
        by_uid = {POD_UID: uid}
        sandboxes = self.runtime.list_pod_sandbox(pb.PodSandboxFilter(label_selector=by_uid))
        found = self.runtime.list_containers(pb.ContainerFilter(label_selector=by_uid))
        return PodStatus(
            uid,
            [self.runtime.pod_sandbox_status(one.id).status for one in _youngest_first(sandboxes)],
            [self.runtime.container_status(one.id).status for one in _youngest_first(found)],
        )

    def pods(self) -> list[str]:
        """The uids of all pods that have a sandbox or a container."""
        labels = [sandbox.labels for sandbox in self.runtime.list_pod_sandbox()]
        labels += [container.labels for container in self.runtime.list_containers()]
        return sorted({found[POD_UID] for found in labels if POD_UID in found})

    # -- making it so

    def sync(self, pod: Pod) -> PodStatus:
        """Make what `pod` asks for: a ready sandbox, and in it every container that its restart
        policy wants to run. Raises CRIError on the first step that fails; syncing again goes on.
        """
        status = self.pod_status(pod.uid)
        sandbox = status.sandbox
        containers = status
        if sandbox is None or not status.ready:
            if sandbox is not None:
                # Its containers lost their network with it.
                self.kill(status, pod.grace)
                containers = self.pod_status(pod.uid)
            attempt = sandbox.metadata.attempt + 1 if sandbox is not None else 0
            pod.log_directory.mkdir(parents=True, exist_ok=True)
            sandbox_id = self.runtime.run_pod_sandbox(pod.sandbox_config(attempt), pod.handler)
        else:
            attempt, sandbox_id = sandbox.metadata.attempt, sandbox.id
        sandbox_config = pod.sandbox_config(attempt)
        for container in pod.containers:
            last = containers.container(container.name)
            if _runs(last) or not _wanted(last, pod.restart):
                continue
            self.start(
                pod, container, sandbox_id, sandbox_config, last.metadata.attempt + 1 if last else 0
            )
        return self.pod_status(pod.uid)

    def start(
        self,
        pod: Pod,
        container: Container,
        sandbox: str,
        sandbox_config: pb.PodSandboxConfig,
        attempt: int = 0,
    ) -> str:
        """Create and start one container, its image pulled if it is not there; returns the id."""
        if not self.images.present(container.image):
            self.images.pull(container.image, sandbox_config=sandbox_config)
        config = pod.container_config(container, attempt)
        (pod.log_directory / container.name).mkdir(parents=True, exist_ok=True)
        made = self.runtime.create_container(sandbox, config, sandbox_config)
        self.runtime.start_container(made)
        return made

    def kill(self, status: PodStatus, grace: int = DEFAULT_GRACE) -> None:
        """Stop all containers at the same time, each with `grace` seconds, then the sandboxes.

        Every step is tried; the first failure is raised at the end.
        """
        errors: list[CRIError] = []

        def attempt(action: Callable[[], None]) -> None:
            try:
                action()
            except NotFound:
                pass
            except CRIError as error:
                errors.append(error)

        running = [found.id for found in status.containers if _runs(found)]
        if running:
            with ThreadPoolExecutor(len(running)) as pool:
                list(
                    pool.map(
                        lambda id: attempt(lambda: self.runtime.stop_container(id, grace)), running
                    )
                )
        for sandbox in status.sandboxes:
            attempt(lambda id=sandbox.id: self.runtime.stop_pod_sandbox(id))  # type: ignore[misc]
        if errors:
            raise errors[0]

    def remove(self, pod: Pod, grace: int = 0) -> None:
        """Kill the pod and remove everything of it, logs included."""
        status = self.pod_status(pod.uid)
        self.kill(status, grace)
        for container in status.containers:
            self.delete_container(container.id)
        for sandbox in status.sandboxes:
            self.runtime.remove_pod_sandbox(sandbox.id)
        shutil.rmtree(pod.log_directory, ignore_errors=True)

    def delete_container(self, id: str) -> None:
        """Remove a container and its log."""
        try:
            path = self.runtime.container_status(id).status.log_path
        except NotFound:
            return
        self.runtime.remove_container(id)
        if path:
            for log in Path(path).parent.glob(f"{Path(path).name}*"):  # with rotated ones
                log.unlink(missing_ok=True)

    # -- logs

    def container_logs(
        self,
        id: str,
        *,
        tail: int | None = None,
        since: int = 0,
        follow: bool = False,
    ) -> Iterator[logs.Entry]:
        """Its output, see logs.read; with `follow` until it has ended. Raises OSError, too."""
        path = Path(self.runtime.container_status(id).status.log_path)

        def running() -> bool:
            try:
                return _runs(self.runtime.container_status(id).status)
            except NotFound:
                return False

        return logs.read(path, tail=tail, since=since, follow=running if follow else None)

    # -- what has ended

    def garbage_collect(
        self, *, min_age: float = 0.0, keep_per_container: int = 1, log_root: Path = LOG_ROOT
    ) -> list[str]:
        """Remove what has ended `min_age` seconds ago and nobody needs; returns the removed ids.

        Of each container of each pod the youngest `keep_per_container` ended attempts stay. A
        sandbox goes when it is not ready, has no container, and a younger one of the pod exists or
        the pod is gone. Log directories of pods that are gone go, too.
        """
        removed = []
        limit = (self._clock() - min_age) * 1e9
        ended: dict[tuple[str, str], list[pb.Container]] = {}
        listed = self.runtime.list_containers()
        for container in _youngest_first(listed):
            dead = container.state not in (
                pb.ContainerState.CONTAINER_RUNNING,
                pb.ContainerState.CONTAINER_CREATED,
            )
            if dead and container.created_at <= limit:
                key = (container.labels.get(POD_UID, ""), container.metadata.name)
                ended.setdefault(key, []).append(container)
        for attempts in ended.values():
            for container in attempts[keep_per_container:]:
                self.delete_container(container.id)
                removed.append(container.id)
        used = {one.pod_sandbox_id for one in listed if one.id not in removed}
        seen: set[str] = set()
        for sandbox in _youngest_first(self.runtime.list_pod_sandbox()):
            uid = sandbox.metadata.uid
            youngest = uid not in seen
            seen.add(uid)
            ready = sandbox.state == pb.PodSandboxState.SANDBOX_READY
            if ready or sandbox.id in used or sandbox.created_at > limit:
                continue
            if youngest and any(one.labels.get(POD_UID) == uid for one in listed):
                continue
            self.runtime.stop_pod_sandbox(sandbox.id)
            self.runtime.remove_pod_sandbox(sandbox.id)
            removed.append(sandbox.id)
        self._remove_logs(log_root)
        return removed

    def _remove_logs(self, log_root: Path) -> None:
        living = set(self.pods())
        if log_root.is_dir():
            for directory in log_root.iterdir():
                parts = directory.name.split("_")
                if len(parts) == 3 and parts[2] not in living:
                    shutil.rmtree(directory, ignore_errors=True)


def _youngest_first(items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda item: (-item.created_at, -item.metadata.attempt))


def _runs(status: pb.ContainerStatus | None) -> bool:
    return status is not None and status.state in (
        pb.ContainerState.CONTAINER_RUNNING,
        pb.ContainerState.CONTAINER_UNKNOWN,
    )


def _wanted(last: pb.ContainerStatus | None, restart: str) -> bool:
    if last is None or restart == ALWAYS:
        return True
    return restart == ON_FAILURE and last.exit_code != 0
