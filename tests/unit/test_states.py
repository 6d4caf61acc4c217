"""task.states: every verb in every state, with the exact text of a refusal (SEMANTICS 2)."""

from __future__ import annotations

import pytest

from shim_runc_py.errors import ShimError
from shim_runc_py.task import states

CREATED, RESTORING, RUNNING = states.CREATED, states.RESTORING, states.RUNNING
PAUSED, STOPPED, DELETED = states.PAUSED, states.STOPPED, states.DELETED

UNKNOWN, NOT_FOUND, PRECONDITION = 2, 5, 9

# SEMANTICS 2.1, a row for each verb: the next state, or the text of a refusal. A code stands with
# the text where it is not UNKNOWN. "" is a pair that nobody asks for: an exit that is not news.
INIT = {
    "start": [
        RUNNING, RUNNING, "cannot start a running process", "cannot start a paused process",
        "cannot start a stopped process", "cannot start a deleted process",
    ],
    "delete": [
        DELETED, DELETED, "cannot delete a running process", "cannot delete a paused process",
        DELETED, (NOT_FOUND, "cannot delete a deleted process: not found"),
    ],
    "pause": [
        "cannot pause task in created state", "cannot pause task in created state", PAUSED,
        "cannot pause a paused container", "cannot pause a stopped container",
        "cannot pause a deleted process",
    ],
    "resume": [
        "cannot resume task in created state", "cannot resume task in created state",
        "cannot resume a running process", RUNNING, "cannot resume a stopped container",
        "cannot resume a deleted process",
    ],
    "update": [
        CREATED, RESTORING, RUNNING, PAUSED, "cannot update a stopped container",
        "cannot update a deleted process",
    ],
    "checkpoint": [
        "cannot checkpoint a task in created state", "cannot checkpoint a task in created state",
        RUNNING, PAUSED, "cannot checkpoint a stopped container",
        "cannot checkpoint a deleted process",
    ],
    "exec": [
        CREATED, "cannot exec in a created state", RUNNING, "cannot exec in a paused state",
        "cannot exec in a stopped state", "cannot exec in a deleted state",
    ],
    "kill": [
        CREATED, RESTORING, RUNNING, PAUSED, STOPPED,
        (NOT_FOUND, "cannot kill a deleted process: not found"),
    ],
    "exit": [STOPPED, STOPPED, STOPPED, STOPPED, "", ""],
}  # fmt: skip
INIT_STATES = [CREATED, RESTORING, RUNNING, PAUSED, STOPPED, DELETED]

# SEMANTICS 2.2.
EXEC = {
    "start": [
        RUNNING, "cannot start a running process", "cannot start a stopped process",
        "cannot start a deleted process",
    ],
    "delete": [
        DELETED, "cannot delete a running process", DELETED,
        (NOT_FOUND, "cannot delete a deleted process: not found"),
    ],
    "kill": [
        (PRECONDITION, "process not created: failed precondition"), RUNNING,
        (NOT_FOUND, "process already finished: not found"),
        (NOT_FOUND, "cannot kill a deleted process: not found"),
    ],
    "resize": [
        CREATED, RUNNING, "cannot resize a stopped container", "cannot resize a deleted process",
    ],
    "exit": [STOPPED, STOPPED, "", ""],
}  # fmt: skip
EXEC_STATES = [CREATED, RUNNING, STOPPED, DELETED]


def rows(table, order):
    return [
        (verb, state, found)
        for verb, row in table.items()
        for state, found in zip(order, row, strict=True)
    ]


ALL = [(*row, True) for row in rows(INIT, INIT_STATES)]
ALL += [(*row, False) for row in rows(EXEC, EXEC_STATES)]
MOVES = [row for row in ALL if row[2] in INIT_STATES]
REFUSALS = [row for row in ALL if row[2] and row[2] not in INIT_STATES]


@pytest.mark.parametrize(("verb", "state", "after", "init"), MOVES)
def test_a_legal_verb_leads_to(verb, state, after, init):
    assert states.next_state(verb, state, init=init) == after


@pytest.mark.parametrize(("verb", "state", "why", "init"), REFUSALS)
def test_a_refused_verb_says(verb, state, why, init):
    code, text = why if isinstance(why, tuple) else (UNKNOWN, why)
    with pytest.raises(ShimError) as caught:
        states.next_state(verb, state, init=init)
    assert (caught.value.code, str(caught.value)) == (code, text)


@pytest.mark.parametrize(
    ("moves", "refusals", "table", "order"),
    [
        (states.INIT_MOVES, states.INIT_REFUSALS, INIT, INIT_STATES),
        (states.EXEC_MOVES, states.EXEC_REFUSALS, EXEC, EXEC_STATES),
    ],
    ids=["init", "exec"],
)
def test_every_pair_is_either_a_move_or_a_refusal(moves, refusals, table, order):
    assert not moves.keys() & refusals.keys()
    asked = {(verb, state) for verb, state, found in rows(table, order) if found}
    assert moves.keys() | refusals.keys() == asked


def test_an_exit_is_no_news_for_what_has_ended():
    for tables in (states.INIT_MOVES, states.INIT_REFUSALS):
        assert ("exit", STOPPED) not in tables
        assert ("exit", DELETED) not in tables


def test_a_text_with_a_class_ends_in_its_words():
    words = {NOT_FOUND: ": not found", PRECONDITION: ": failed precondition"}
    for code, text in [*states.INIT_REFUSALS.values(), *states.EXEC_REFUSALS.values()]:
        assert text.endswith(words[code]) if code in words else ": " not in text


def test_every_state_has_a_number_on_the_wire():
    from shim_runc_py.api.task_types_pb2 import Status

    shown = {state: Status.Name(number) for state, number in states.STATUS.items()}
    assert shown == {
        CREATED: "CREATED",
        RESTORING: "CREATED",
        RUNNING: "RUNNING",
        PAUSED: "PAUSED",
        STOPPED: "STOPPED",
        DELETED: "STOPPED",
    }
    assert Status.Name(states.PAUSED_STATUS) == "PAUSED"
    assert Status.Name(states.PAUSING_STATUS) == "PAUSING"
