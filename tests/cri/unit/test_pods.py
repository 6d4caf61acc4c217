"""What a pod's spec makes of what there is, against a daemon that keeps books and runs nothing."""

from __future__ import annotations

import itertools
import threading

import grpc
import pytest

from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.cri.failures import CRIError
from shim_runc_py.cri.pods import ALWAYS, NEVER, ON_FAILURE, Container, Pod, PodRuntime
from shim_runc_py.cri.services import ImageService, RuntimeService
from tests.cri.unit.fake import Refusal

RUNNING, EXITED = pb.ContainerState.CONTAINER_RUNNING, pb.ContainerState.CONTAINER_EXITED
READY, NOT_READY = pb.PodSandboxState.SANDBOX_READY, pb.PodSandboxState.SANDBOX_NOTREADY


class Books:
    """The state behind a FakeDaemon."""

    def __init__(self, daemon, tmp_path):
        self.sandboxes, self.containers, self.images = {}, {}, {"i"}
        self.log_root = tmp_path / "pods"
        self._time = itertools.count(1)
        self.daemon = daemon
        for name in dir(self):
            if name[0].isupper():
                daemon.on(name, getattr(self, name))

    def RunPodSandbox(self, request):
        at = next(self._time)
        self.sandboxes[f"s{at}"] = pb.PodSandboxStatus(
            id=f"s{at}",
            metadata=request.config.metadata,
            labels=request.config.labels,
            created_at=at,
            state=READY,
            runtime_handler=request.runtime_handler,
        )
        return pb.RunPodSandboxResponse(pod_sandbox_id=f"s{at}")

    def StopPodSandbox(self, request):
        self.sandboxes[request.pod_sandbox_id].state = NOT_READY
        return pb.StopPodSandboxResponse()

    def RemovePodSandbox(self, request):
        self.sandboxes.pop(request.pod_sandbox_id, None)
        return pb.RemovePodSandboxResponse()

    def PodSandboxStatus(self, request):
        return pb.PodSandboxStatusResponse(status=self.sandboxes[request.pod_sandbox_id])

    def ListPodSandbox(self, request):
        wanted = dict(request.filter.label_selector)
        return pb.ListPodSandboxResponse(
            items=[
                pb.PodSandbox(
                    id=s.id,
                    metadata=s.metadata,
                    state=s.state,
                    created_at=s.created_at,
                    labels=s.labels,
                )
                for s in self.sandboxes.values()
                if wanted.items() <= dict(s.labels).items()
            ]
        )

    def CreateContainer(self, request):
        at = next(self._time)
        self.containers[f"c{at}"] = (
            request.pod_sandbox_id,
            pb.ContainerStatus(
                id=f"c{at}",
                metadata=request.config.metadata,
                labels=request.config.labels,
                created_at=at,
                image=request.config.image,
                image_ref="r",
                log_path=str(self.log_root / "x" / request.config.log_path),
            ),
        )
        return pb.CreateContainerResponse(container_id=f"c{at}")

    def StartContainer(self, request):
        self.containers[request.container_id][1].state = RUNNING
        return pb.StartContainerResponse()

    def StopContainer(self, request):
        self.end(request.container_id, 137)
        return pb.StopContainerResponse()

    def RemoveContainer(self, request):
        del self.containers[request.container_id]
        return pb.RemoveContainerResponse()

    def ContainerStatus(self, request):
        if request.container_id not in self.containers:
            return Refusal(grpc.StatusCode.NOT_FOUND, "gone")
        return pb.ContainerStatusResponse(status=self.containers[request.container_id][1])

    def ListContainers(self, request):
        wanted = dict(request.filter.label_selector)
        return pb.ListContainersResponse(
            containers=[
                pb.Container(
                    id=c.id,
                    pod_sandbox_id=sandbox,
                    metadata=c.metadata,
                    state=c.state,
                    created_at=c.created_at,
                    labels=c.labels,
                )
                for sandbox, c in self.containers.values()
                if wanted.items() <= dict(c.labels).items()
            ]
        )

    def ImageStatus(self, request):
        there = request.image.image in self.images
        return pb.ImageStatusResponse(image=pb.Image(id="x", size=1) if there else None)

    def PullImage(self, request):
        self.images.add(request.image.image)
        return pb.PullImageResponse(image_ref=request.image.image)

    def end(self, id, code):
        status = self.containers[id][1]
        status.state, status.exit_code = EXITED, code

    def did(self):
        """The calls that changed something."""
        names = [name for _, name, *_ in self.daemon.calls]
        self.daemon.calls.clear()
        return [n for n in names if not n.startswith(("List", "Version")) and "Status" not in n]


@pytest.fixture
def books(daemon, tmp_path):
    return Books(daemon, tmp_path)


@pytest.fixture
def pods(books, connection):
    return PodRuntime(RuntimeService(connection), ImageService(connection))


@pytest.fixture
def spec(books):
    def make(*names, **changes):
        containers = [Container(name, "i", ["x"]) for name in names]
        return Pod("p", containers, uid="u", handler="h", log_root=books.log_root, **changes)

    return make


NEW = ["RunPodSandbox", "CreateContainer", "StartContainer"]


def test_a_new_pod_gets_a_sandbox_and_its_containers(books, pods, spec):
    status = pods.sync(spec("a", "b"))
    assert books.did() == [*NEW, "CreateContainer", "StartContainer"]
    assert status.ready
    assert {c.metadata.name: c.state for c in status.containers} == {"a": RUNNING, "b": RUNNING}
    assert status.sandbox.runtime_handler == "h"


def test_a_pod_as_it_should_be_is_left_alone(books, pods, spec):
    pods.sync(spec("a"))
    books.did()
    pods.sync(spec("a"))
    assert books.did() == []


@pytest.mark.parametrize(
    ("restart", "code", "again"),
    [
        (ALWAYS, 0, True),
        (ALWAYS, 1, True),
        (ON_FAILURE, 0, False),
        (ON_FAILURE, 1, True),
        (NEVER, 0, False),
        (NEVER, 1, False),
    ],
)
def test_an_ended_container_is_started_again_as_its_policy_says(
    books, pods, spec, restart, code, again
):
    pod = spec("a", restart=restart)
    first = pods.sync(pod).container("a")
    books.end(first.id, code)
    books.did()
    last = pods.sync(pod).container("a")
    assert books.did() == (["CreateContainer", "StartContainer"] if again else [])
    assert last.metadata.attempt == (1 if again else 0)


def test_a_sandbox_that_died_is_replaced_with_its_containers(books, pods, spec):
    pod = spec("a")
    old = pods.sync(pod)
    books.sandboxes[old.sandbox.id].state = NOT_READY
    books.did()
    status = pods.sync(pod)
    assert books.did() == ["StopContainer", "StopPodSandbox", *NEW]
    assert status.ready
    assert status.sandbox.metadata.attempt == 1
    assert status.container("a").metadata.attempt == 1


def test_an_image_that_is_missing_is_pulled(books, pods, spec):
    books.images.clear()
    pods.sync(spec("a", "b"))
    assert books.did().count("PullImage") == 1


def test_a_failing_step_is_raised_and_the_next_sync_goes_on(daemon, books, pods, spec):
    daemon.on("StartContainer", Refusal(grpc.StatusCode.UNKNOWN, "no such file"))
    with pytest.raises(CRIError, match="no such file"):
        pods.sync(spec("a"))
    daemon.on("StartContainer", books.StartContainer)
    assert pods.sync(spec("a")).container("a").state == RUNNING


def test_containers_are_stopped_at_the_same_time_and_then_the_sandbox(daemon, books, pods, spec):
    status = pods.sync(spec("a", "b", "c"))
    together = threading.Barrier(3)

    def stop(request):
        together.wait(5)
        assert request.timeout == 7
        return books.StopContainer(request)

    daemon.on("StopContainer", stop)
    books.did()
    pods.kill(status, 7)
    assert books.did() == ["StopContainer"] * 3 + ["StopPodSandbox"]


def test_a_kill_tries_every_step_and_tells_the_first_failure(daemon, books, pods, spec):
    status = pods.sync(spec("a", "b"))
    daemon.on("StopContainer", Refusal(grpc.StatusCode.UNKNOWN, "stuck"))
    with pytest.raises(CRIError, match="stuck"):
        pods.kill(status)
    assert not pods.pod_status("u").ready


def test_what_is_gone_already_does_not_disturb_a_kill(daemon, books, pods, spec):
    status = pods.sync(spec("a"))
    daemon.on("StopContainer", Refusal(grpc.StatusCode.NOT_FOUND, "gone"))
    pods.kill(status)


def test_the_request_says_who_it_is(daemon, pods, spec):
    pods.sync(spec("a"))
    sandbox = daemon.requests("RunPodSandbox")[0].config
    config = daemon.requests("CreateContainer")[0].config
    assert (sandbox.hostname, sandbox.metadata.uid) == ("p", "u")
    assert config.log_path == "a/0.log"
    assert sandbox.labels["io.kubernetes.pod.uid"] == config.labels["io.kubernetes.pod.uid"] == "u"
    assert config.labels["io.kubernetes.container.name"] == "a"


def test_a_pod_on_the_hosts_network_has_no_hostname(spec):
    pod = spec("a", host_network=True)
    config = pod.sandbox_config()
    assert config.hostname == ""
    assert namespaces(config).network == pb.NamespaceMode.NODE
    assert namespaces(pod.container_config(pod.containers[0])).network == pb.NamespaceMode.NODE


@pytest.mark.parametrize("share", [False, True])
def test_processes_are_shared_only_where_it_was_asked_for(spec, share):
    pod = spec("a", share_processes=share)
    wanted = pb.NamespaceMode.POD if share else pb.NamespaceMode.CONTAINER
    assert namespaces(pod.sandbox_config()).pid == wanted
    assert namespaces(pod.container_config(pod.containers[0])).pid == wanted


def test_a_pid_namespace_that_was_chosen_stays(spec):
    pod = spec("a")
    namespaces(pod.config).pid = pb.NamespaceMode.NODE
    assert namespaces(pod.sandbox_config()).pid == pb.NamespaceMode.NODE


def namespaces(config):
    return config.linux.security_context.namespace_options


def test_ended_attempts_beyond_the_youngest_are_collected(books, pods, spec):
    pod = spec("a")
    ids = []
    for _ in range(3):
        ids.append(pods.sync(pod).container("a").id)
        books.end(ids[-1], 1)
    running = pods.sync(pod).container("a").id
    assert sorted(pods.garbage_collect(log_root=books.log_root)) == sorted(ids[:2])
    assert sorted(books.containers) == sorted([ids[2], running])


def test_the_young_are_not_collected(books, connection, spec):
    pods = PodRuntime(RuntimeService(connection), ImageService(connection), clock=lambda: 10.0)
    pod = spec("a")
    for _ in range(3):
        books.end(pods.sync(pod).container("a").id, 1)
    assert pods.garbage_collect(min_age=60, log_root=books.log_root) == []


def test_a_dead_sandbox_is_collected_once_nothing_needs_it(books, pods, spec):
    pod = spec("a")
    old = pods.sync(pod)
    pods.kill(old)
    assert pods.garbage_collect(log_root=books.log_root) == []  # its container is still told of
    new = pods.sync(pod)
    assert sorted(pods.garbage_collect(keep_per_container=0, log_root=books.log_root)) == sorted(
        [old.sandbox.id, old.container("a").id]
    )
    assert list(books.sandboxes) == [new.sandbox.id]


def test_the_logs_of_pods_that_are_gone_are_collected(books, pods, spec):
    pod = spec("a")
    pods.sync(pod)
    gone = books.log_root / "default_old_gone"
    gone.mkdir()
    pods.garbage_collect(log_root=books.log_root)
    assert [path.name for path in books.log_root.iterdir()] == ["default_p_u"]


def test_removing_a_pod_leaves_nothing(books, pods, spec):
    pod = spec("a", "b")
    pods.sync(pod)
    pods.remove(pod)
    assert (books.sandboxes, books.containers) == ({}, {})
    assert list(books.log_root.iterdir()) == []


def test_removing_a_container_removes_its_log_and_rotated_ones(books, pods, spec):
    pod = spec("a")
    id = pods.sync(pod).container("a").id
    log = books.log_root / "x" / "a"
    log.mkdir(parents=True)
    for name in ("0.log", "0.log.20260101", "1.log"):
        (log / name).touch()
    pods.delete_container(id)
    assert [path.name for path in log.iterdir()] == ["1.log"]
