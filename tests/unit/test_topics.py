"""events.topics: name and message of every event (CONTRACT 9.1, SEMANTICS 5.5)."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from shim_runc_py.api import events_pb2 as messages
from shim_runc_py.api.task_pb2 import CreateTaskRequest
from shim_runc_py.api.types_pb2 import Mount
from shim_runc_py.events import topics

AT = Timestamp(seconds=1700000000, nanos=5)
MOUNT = Mount(type="overlay", source="overlay", options=["lowerdir=/l"])


@pytest.mark.parametrize(
    ("event", "topic", "message"),
    [
        (
            topics.start("c1", 43),
            "/tasks/start",
            messages.TaskStart(container_id="c1", pid=43),
        ),
        (
            topics.exec_added("c1", "e1"),
            "/tasks/exec-added",
            messages.TaskExecAdded(container_id="c1", exec_id="e1"),
        ),
        (
            topics.exec_started("c1", "e1", 44),
            "/tasks/exec-started",
            messages.TaskExecStarted(container_id="c1", exec_id="e1", pid=44),
        ),
        (
            topics.exited("c1", "c1", 43, 137, AT),
            "/tasks/exit",
            messages.TaskExit(
                container_id="c1", id="c1", pid=43, exit_status=137, exited_at=AT
            ),
        ),
        (
            topics.exited("c1", "e1", 44, 0, AT),
            "/tasks/exit",
            messages.TaskExit(container_id="c1", id="e1", pid=44, exited_at=AT),
        ),
        (
            topics.delete("c1", 43, 137, AT),
            "/tasks/delete",
            messages.TaskDelete(container_id="c1", pid=43, exit_status=137, exited_at=AT),
        ),
        (topics.paused("c1"), "/tasks/paused", messages.TaskPaused(container_id="c1")),
        (topics.resumed("c1"), "/tasks/resumed", messages.TaskResumed(container_id="c1")),
        (topics.oom("c1"), "/tasks/oom", messages.TaskOOM(container_id="c1")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_an_event(event, topic, message):
    assert event == (topic, message)


def test_the_create_event_repeats_the_request():
    request = CreateTaskRequest(
        id="c1",
        bundle="/run/b",
        rootfs=[MOUNT],
        terminal=True,
        stdin="/in",
        stdout="/out",
        stderr="/err",
        checkpoint="/image",
    )
    assert topics.create(request, 43) == (
        "/tasks/create",
        messages.TaskCreate(
            container_id="c1",
            bundle="/run/b",
            rootfs=[MOUNT],
            io=messages.TaskIO(stdin="/in", stdout="/out", stderr="/err", terminal=True),
            checkpoint="/image",
            pid=43,
        ),
    )


def test_the_exit_topic_is_the_one_that_is_never_dropped():
    assert topics.exited("c", "c", 1, 0, AT)[0] == topics.EXIT


def test_a_delete_event_names_no_process():
    assert not topics.delete("c1", 43, 0, AT)[1].id  # type: ignore[attr-defined]
