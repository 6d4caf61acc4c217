"""The checker of event order must be able to find fault."""

from __future__ import annotations

import pytest

from shim_runc_py.api import events_pb2 as m
from shim_runc_py.testing.sequence import complaints

KINDS = {
    "create": m.TaskCreate,
    "start": m.TaskStart,
    "exit": m.TaskExit,
    "delete": m.TaskDelete,
    "exec-added": m.TaskExecAdded,
    "exec-started": m.TaskExecStarted,
}


class Told:
    def __init__(self, topic, **fields):
        self.topic = f"/tasks/{topic}"
        self.message = KINDS[topic](container_id="c", **fields)


CREATE, START = Told("create", pid=7), Told("start", pid=7)
EXIT, DELETE = Told("exit", id="c", pid=7), Told("delete")
ADDED, RAN = Told("exec-added", exec_id="e"), Told("exec-started", exec_id="e", pid=8)
DIED = Told("exit", id="e", pid=8)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [CREATE, START, EXIT, DELETE],
        [CREATE, EXIT, DELETE],
        [CREATE, START, EXIT, DELETE] * 2,
        [CREATE, ADDED, RAN, DIED, START, EXIT],
        [CREATE, START, ADDED, RAN, DIED, ADDED, RAN, DIED, EXIT],
        [CREATE, START, ADDED, EXIT, DELETE],
    ],
)
def test_a_good_order_is_none_to_complain_of(events):
    assert complaints(events) == []


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([START], "c: /tasks/start outside its life"),
        ([CREATE, CREATE], "c: created twice"),
        ([CREATE, START, START], "c: init started twice"),
        ([CREATE, EXIT, START], "c: init started after the exit"),
        ([CREATE, START, EXIT, EXIT], "c: init exited twice"),
        ([CREATE, START, EXIT, DELETE, EXIT], "c: /tasks/exit outside its life"),
        ([CREATE, Told("start", pid=9)], "c: init started as 9, created as 7"),
        ([CREATE, START, Told("exit", id="c", pid=9)], "c: init exited as 9, started as 7"),
        ([CREATE, START, ADDED, RAN, EXIT], "c: init exited before exec e"),
        ([CREATE, START, ADDED, DIED, RAN], "c: exec e exited before its start"),
        ([CREATE, START, ADDED, RAN, DIED, DIED], "c: exec e exited twice"),
        ([CREATE, START, ADDED, RAN, ADDED], "c: exec e added while it runs"),
        ([CREATE, START, ADDED, EXIT, RAN], "c: exec e started after the exit"),
    ],
)
def test_a_bad_order_is_named(events, text):
    assert complaints(events)[0] == text
