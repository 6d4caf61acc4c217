"""Every RPC in every state: our answers are those in the table, and the stock shim's (matrix/)."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from shim_runc_py.linux import cgroup
from tests.conformance.matrix import calls
from tests.conformance.matrix.stage import Stage, Tools

ANSWERS = tomllib.loads((Path(calls.__file__).with_name("answers.toml")).read_text())


@pytest.fixture
def stage(make_bundle, start_shim, sink, outputs, inputs, fake_engine, place):
    made = Stage(
        Tools(
            make_bundle=make_bundle,
            start_shim=start_shim,
            sink=sink,
            outputs=outputs,
            inputs=inputs,
            fake_engine=fake_engine,
            place=place,
        )
    )
    yield made
    made.close()


@pytest.mark.parametrize("state", calls.STATES)
def test_every_call_is_answered_as_the_table_says(stage, binary, state, record_property):
    answers = ANSWERS.get(state, {})
    wrong = []
    for call in calls.rows(state):
        expected = answers.get(call.name)
        if cgroup.is_unified():
            expected = answers.get(f"{call.name} [unified]", expected)
        why = call.why(state, binary.version) if binary.stock else None
        if why is not None and why.skip:
            answer = "not asked"
        else:
            answer = stage.ask(state, call, expected if why is None else None)
        record_property("row", (state, call.name, answer, why.why if why else ""))
        if why is None and answer != expected:
            wrong.append(f"{call.name}\n    expected {expected}\n    answered {answer}")
        if why is not None and answer == expected and not (why.sometimes or why.skip):
            wrong.append(f"{call.name}\n    does not differ, though it should: {why.why}")
    assert not wrong, f"in state {state!r}:\n" + "\n".join(wrong)
