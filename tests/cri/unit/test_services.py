"""Calls as the kubelet makes them: deadlines, replies that lack something, logging, counting."""

from __future__ import annotations

import logging

import grpc
import pytest

from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.cri.command import CommandRunner
from shim_runc_py.cri.failures import BadReply, CRIError, NotFound, TimedOut
from shim_runc_py.cri.services import ImageService, RuntimeService
from tests.cri.unit.fake import Refusal

SANDBOX = pb.PodSandboxStatus(
    id="s", metadata=pb.PodSandboxMetadata(name="p", namespace="n", uid="u"), created_at=1
)
CONTAINER = pb.ContainerStatus(
    id="c",
    metadata=pb.ContainerMetadata(name="m"),
    created_at=1,
    image=pb.ImageSpec(image="i"),
    image_ref="r",
)


@pytest.fixture
def runtime(connection):
    return RuntimeService(connection)


@pytest.fixture
def images(connection):
    return ImageService(connection)


def about(seconds):
    return pytest.approx(seconds, abs=1.5)


def test_a_call_has_the_timeout_of_the_connection(daemon, runtime):
    runtime.list_containers()
    assert daemon.given("ListContainers") == [about(10)]


def test_a_sandbox_may_take_twice_as_long(daemon, runtime):
    daemon.on("RunPodSandbox", pb.RunPodSandboxResponse(pod_sandbox_id="s"))
    assert runtime.run_pod_sandbox(pb.PodSandboxConfig(), "h") == "s"
    assert daemon.given("RunPodSandbox") == [about(20)]
    assert daemon.requests("RunPodSandbox")[0].runtime_handler == "h"


def test_a_stop_has_its_grace_on_top(daemon, runtime):
    runtime.stop_container("c", 30)
    assert daemon.given("StopContainer") == [about(40)]
    assert daemon.requests("StopContainer")[0].timeout == 30


def test_exec_sync_has_its_timeout_on_top_and_none_without(daemon, runtime):
    runtime.exec_sync("c", ["x"], 5)
    runtime.exec_sync("c", ["x"])
    assert daemon.given("ExecSync") == [about(15), None]


def test_a_checkpoint_has_its_timeout_on_top(daemon, runtime):
    runtime.checkpoint_container("c", "/tmp/x", 7)
    assert daemon.given("CheckpointContainer") == [about(17)]


def test_a_pull_has_no_timeout(daemon, images):
    daemon.on("PullImage", pb.PullImageResponse(image_ref="r"))
    assert images.pull("i") == "r"
    assert daemon.given("PullImage") == [None]


def test_a_stream_has_no_timeout_and_ends_when_it_is_cancelled(daemon, runtime):
    events = [pb.ContainerEventResponse(container_id=id) for id in ("a", "b")]
    daemon.on("GetContainerEvents", lambda request: iter(events))
    assert [event.container_id for event in runtime.container_events()] == ["a", "b"]
    assert daemon.given("GetContainerEvents") == [None]
    stream = runtime.container_events()
    stream.cancel()
    assert list(stream) in ([], events[:1], events)


def without(message, field):
    made = type(message)()
    made.CopyFrom(message)
    target = made
    *path, last = field.split(".")
    for name in path:
        target = getattr(target, name)
    target.ClearField(last)
    return made


SANDBOX_FIELDS = ["id", "metadata.name", "metadata.namespace", "metadata.uid", "created_at"]
CONTAINER_FIELDS = ["id", "metadata.name", "created_at", "image.image", "image_ref"]


@pytest.mark.parametrize(
    ("operation", "reply", "call"),
    [
        ("RunPodSandbox", None, lambda r, i: r.run_pod_sandbox(pb.PodSandboxConfig())),
        (
            "CreateContainer",
            None,
            lambda r, i: r.create_container("s", pb.ContainerConfig(), pb.PodSandboxConfig()),
        ),
        ("Exec", None, lambda r, i: r.exec(pb.ExecRequest())),
        ("Attach", None, lambda r, i: r.attach(pb.AttachRequest())),
        ("PortForward", None, lambda r, i: r.port_forward(pb.PortForwardRequest())),
        ("PullImage", None, lambda r, i: i.pull("x")),
        (
            "ImageStatus",
            pb.ImageStatusResponse(image=pb.Image(id="x")),
            lambda r, i: i.status("x"),
        ),
        ("Version", pb.VersionResponse(version="0.1.0"), lambda r, i: r.version()),
        (
            "Status",
            pb.StatusResponse(
                status=pb.RuntimeStatus(conditions=[pb.RuntimeCondition(type="RuntimeReady")])
            ),
            lambda r, i: r.status(),
        ),
        *(
            (
                "PodSandboxStatus",
                pb.PodSandboxStatusResponse(status=without(SANDBOX, field)),
                lambda r, i: r.pod_sandbox_status("s"),
            )
            for field in SANDBOX_FIELDS
        ),
        *(
            (
                "ContainerStatus",
                pb.ContainerStatusResponse(status=without(CONTAINER, field)),
                lambda r, i: r.container_status("c"),
            )
            for field in CONTAINER_FIELDS
        ),
    ],
)
def test_a_reply_that_lacks_what_it_must_have_is_an_error(
    daemon, connection, runtime, images, operation, reply, call
):
    if reply is not None:
        daemon.on(operation, reply)
    with pytest.raises(BadReply, match=f"{operation}: the daemon's reply has no"):
        call(runtime, images)
    assert connection.meter.count(operation, "internal") == 1


def test_complete_replies_are_taken(daemon, runtime, images):
    daemon.on("PodSandboxStatus", pb.PodSandboxStatusResponse(status=SANDBOX))
    daemon.on("ContainerStatus", pb.ContainerStatusResponse(status=CONTAINER))
    assert runtime.pod_sandbox_status("s").status == SANDBOX
    assert runtime.container_status("c").status == CONTAINER
    assert runtime.version().runtime_name == "fake"
    assert not images.present("x")
    daemon.on("ImageStatus", pb.ImageStatusResponse(image=pb.Image(id="x", size=1)))
    assert images.present("x")


def test_the_daemons_words_and_code_are_kept(daemon, runtime):
    daemon.on("StopContainer", Refusal(grpc.StatusCode.NOT_FOUND, "no container c"))
    with pytest.raises(NotFound, match=r"^StopContainer: no container c$"):
        runtime.stop_container("c")
    daemon.on("StopContainer", Refusal(grpc.StatusCode.PERMISSION_DENIED, "no"))
    with pytest.raises(CRIError) as error:
        runtime.stop_container("c")
    assert error.value.code == grpc.StatusCode.PERMISSION_DENIED


def test_a_command_that_takes_too_long_is_timed_out(daemon, runtime):
    daemon.on("ExecSync", Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "timeout 1s exceeded"))
    with pytest.raises(TimedOut, match="timeout 1s"):
        CommandRunner(runtime).run_in_container("c", ["x"], 0.5)
    assert daemon.requests("ExecSync")[0].timeout == 1


def test_a_command_tells_both_streams_and_its_code(daemon, runtime):
    daemon.on("ExecSync", pb.ExecSyncResponse(stdout=b"o", stderr=b"e", exit_code=3))
    outcome = CommandRunner(runtime).run_in_container("c", ["x"])
    assert (outcome.output, outcome.exit_code) == (b"oe", 3)
    assert daemon.requests("ExecSync")[0].timeout == 0


def test_an_error_that_repeats_is_logged_once_a_minute(daemon, runtime, caplog):
    now = [0.0]
    runtime._repetition._clock = lambda: now[0]
    daemon.on("ContainerStatus", Refusal(grpc.StatusCode.UNKNOWN, "first"))

    def ask(id="c"):
        caplog.clear()
        with caplog.at_level(logging.ERROR), pytest.raises(CRIError):
            runtime.container_status(id)
        return len(caplog.records)

    assert [ask(), ask()] == [1, 0]
    assert ask("d") == 1
    now[0] = 59.0
    assert ask() == 0
    now[0] = 61.0
    assert [ask(), ask()] == [1, 0]
    daemon.on("ContainerStatus", Refusal(grpc.StatusCode.UNKNOWN, "second"))
    assert [ask(), ask()] == [1, 0]
    runtime.remove_container("c")
    assert ask() == 1


def test_every_call_is_counted_and_timed_by_its_result(daemon, connection, runtime):
    runtime.list_containers()
    runtime.list_containers()
    daemon.on("ListContainers", Refusal(grpc.StatusCode.NOT_FOUND))
    with pytest.raises(NotFound):
        runtime.list_containers()
    tallies = connection.meter.tallies()
    assert tallies["ListContainers", "ok"].count == 2
    assert tallies["ListContainers", "not_found"].count == 1
    taken = tallies["ListContainers", "ok"]
    assert 0 < taken.longest <= taken.seconds < 10


def test_filters_arrive(daemon, runtime, images):
    runtime.list_pod_sandbox(pb.PodSandboxFilter(id="s"))
    runtime.list_containers(pb.ContainerFilter(pod_sandbox_id="s"))
    images.list("i")
    assert daemon.requests("ListPodSandbox")[0].filter.id == "s"
    assert daemon.requests("ListContainers")[0].filter.pod_sandbox_id == "s"
    assert daemon.requests("ListImages")[0].filter.image.image == "i"
