"""An engine that not even SIGKILL ends: in a frozen cgroup, as on a disk that hangs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from shim_runc_py.api.runc_options_pb2 import Options
from shim_runc_py.testing.shims import refused

FREEZER = Path("/sys/fs/cgroup/freezer")


@pytest.fixture
def freezer(place):
    """A cgroup of v1 whose processes, once frozen, die only when they are thawed."""
    if not (FREEZER / "cgroup.procs").exists():
        pytest.skip("no freezer of cgroup v1; a frozen cgroup of v2 lets its processes die")
    path = FREEZER / f"pyrunc-{place.name}"
    path.mkdir()
    yield path
    (path / "freezer.state").write_text("THAWED")
    deadline = time.monotonic() + 10
    while (path / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    path.rmdir()


@pytest.mark.stock(skip="waits for it for ever")
@pytest.mark.parametrize("verb", ["create", "start"])
def test_an_engine_that_cannot_be_killed_is_given_up(
    make_bundle, start_shim, fake_engine, freezer, verb
):
    bundle, other = make_bundle("sleep"), make_bundle("sleep")
    shim = start_shim(bundle)
    shim._bundles.append(other)
    value = Options(binary_name=str(fake_engine.path)).SerializeToString()
    options = Any(type_url="containerd.runc.v1.Options", value=value)
    if verb == "start":
        shim.task.create(bundle, options=options)
    script = f"echo $$ >{freezer}/cgroup.procs; echo FROZEN >{freezer}/freezer.state"
    fake_engine.on(verb, script)
    fields = {"bundle": str(bundle), "options": options} if verb == "create" else {}
    began = time.monotonic()
    with refused(2, "does not end, although it was killed"):
        shim.task.call(verb.capitalize(), id=bundle.id, timeout=1.0, **fields)
    assert time.monotonic() - began < 15
    fake_engine.behave(verb)
    shim.task.create(other)
    shim.task.start(other.id)
    assert shim.task.state(other.id).status == 2
