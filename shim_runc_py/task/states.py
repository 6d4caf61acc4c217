"""What may be done to a process in which state: the tables, and nothing else (SEMANTICS 2).

Every verb that is legal or refused, for the init process and for an exec, stands in one of the two
tables below, with the exact text of a refusal. docs/states.md is generated from them. Pure.

A refused verb is UNKNOWN, as in the stock shim, unless the table says otherwise: clients match on
these codes.
"""

from __future__ import annotations

from shim_runc_py.errors import FAILED_PRECONDITION, NOT_FOUND, UNKNOWN, ShimError

CREATED = "created"
RESTORING = "createdCheckpoint"  # created from a checkpoint; the engine has not run yet
RUNNING = "running"
PAUSED = "paused"
STOPPED = "stopped"
DELETED = "deleted"

# Next state by (verb, state).
INIT_MOVES = {
    ("start", CREATED): RUNNING,
    ("start", RESTORING): RUNNING,
    ("delete", CREATED): DELETED,
    ("delete", RESTORING): DELETED,
    ("delete", STOPPED): DELETED,
    ("pause", RUNNING): PAUSED,
    ("resume", PAUSED): RUNNING,
    ("update", CREATED): CREATED,
    ("update", RESTORING): RESTORING,
    ("update", RUNNING): RUNNING,
    ("update", PAUSED): PAUSED,
    ("checkpoint", RUNNING): RUNNING,
    ("checkpoint", PAUSED): PAUSED,
    ("exec", CREATED): CREATED,
    ("exec", RUNNING): RUNNING,
    ("kill", CREATED): CREATED,
    ("kill", RESTORING): RESTORING,
    ("kill", RUNNING): RUNNING,
    ("kill", PAUSED): PAUSED,
    ("kill", STOPPED): STOPPED,
    ("exit", CREATED): STOPPED,
    ("exit", RESTORING): STOPPED,
    ("exit", RUNNING): STOPPED,
    ("exit", PAUSED): STOPPED,
}

EXEC_MOVES = {
    ("start", CREATED): RUNNING,
    ("delete", CREATED): DELETED,
    ("delete", STOPPED): DELETED,
    ("kill", RUNNING): RUNNING,
    ("resize", CREATED): CREATED,
    ("resize", RUNNING): RUNNING,
    ("exit", CREATED): STOPPED,
    ("exit", RUNNING): STOPPED,
}

# (code, text) of a refusal by (verb, state).
INIT_REFUSALS = {
    ("start", RUNNING): (UNKNOWN, "cannot start a running process"),
    ("start", PAUSED): (UNKNOWN, "cannot start a paused process"),
    ("start", STOPPED): (UNKNOWN, "cannot start a stopped process"),
    ("start", DELETED): (UNKNOWN, "cannot start a deleted process"),
    ("delete", RUNNING): (UNKNOWN, "cannot delete a running process"),
    ("delete", PAUSED): (UNKNOWN, "cannot delete a paused process"),
    ("delete", DELETED): (NOT_FOUND, "cannot delete a deleted process: not found"),
    ("pause", CREATED): (UNKNOWN, "cannot pause task in created state"),
    ("pause", RESTORING): (UNKNOWN, "cannot pause task in created state"),
    ("pause", PAUSED): (UNKNOWN, "cannot pause a paused container"),
    ("pause", STOPPED): (UNKNOWN, "cannot pause a stopped container"),
    ("pause", DELETED): (UNKNOWN, "cannot pause a deleted process"),
    ("resume", CREATED): (UNKNOWN, "cannot resume task in created state"),
    ("resume", RESTORING): (UNKNOWN, "cannot resume task in created state"),
    ("resume", RUNNING): (UNKNOWN, "cannot resume a running process"),
    ("resume", STOPPED): (UNKNOWN, "cannot resume a stopped container"),
    ("resume", DELETED): (UNKNOWN, "cannot resume a deleted process"),
    ("update", STOPPED): (UNKNOWN, "cannot update a stopped container"),
    ("update", DELETED): (UNKNOWN, "cannot update a deleted process"),
    ("checkpoint", CREATED): (UNKNOWN, "cannot checkpoint a task in created state"),
    ("checkpoint", RESTORING): (UNKNOWN, "cannot checkpoint a task in created state"),
    ("checkpoint", STOPPED): (UNKNOWN, "cannot checkpoint a stopped container"),
    ("checkpoint", DELETED): (UNKNOWN, "cannot checkpoint a deleted process"),
    ("exec", RESTORING): (UNKNOWN, "cannot exec in a created state"),
    ("exec", PAUSED): (UNKNOWN, "cannot exec in a paused state"),
    ("exec", STOPPED): (UNKNOWN, "cannot exec in a stopped state"),
    ("exec", DELETED): (UNKNOWN, "cannot exec in a deleted state"),
    ("kill", DELETED): (NOT_FOUND, "cannot kill a deleted process: not found"),
}

EXEC_REFUSALS = {
    ("start", RUNNING): (UNKNOWN, "cannot start a running process"),
    ("start", STOPPED): (UNKNOWN, "cannot start a stopped process"),
    ("start", DELETED): (UNKNOWN, "cannot start a deleted process"),
    ("delete", RUNNING): (UNKNOWN, "cannot delete a running process"),
    ("delete", DELETED): (NOT_FOUND, "cannot delete a deleted process: not found"),
    ("kill", CREATED): (FAILED_PRECONDITION, "process not created: failed precondition"),
    ("kill", STOPPED): (NOT_FOUND, "process already finished: not found"),
    ("kill", DELETED): (NOT_FOUND, "cannot kill a deleted process: not found"),
    ("resize", STOPPED): (UNKNOWN, "cannot resize a stopped container"),
    ("resize", DELETED): (UNKNOWN, "cannot resize a deleted process"),
}

# Numbers of containerd.v1.types.Status.
STATUS = {CREATED: 1, RESTORING: 1, RUNNING: 2, PAUSED: 4, STOPPED: 3, DELETED: 3}
PAUSED_STATUS = 4
PAUSING_STATUS = 5


def next_state(verb: str, state: str, *, init: bool) -> str:
    """The state after `verb`; raises ShimError where the table refuses it."""
    moves, refusals = (INIT_MOVES, INIT_REFUSALS) if init else (EXEC_MOVES, EXEC_REFUSALS)
    found = moves.get((verb, state))
    if found is not None:
        return found
    code, text = refusals[verb, state]
    raise ShimError(text, code)
