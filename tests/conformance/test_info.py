"""`-info`, field by field beside the stock shim of containerd 2 (CONTRACT 2.4, SEMANTICS 12.6)."""

from __future__ import annotations

import json
import subprocess

import pytest
from google.protobuf.any_pb2 import Any

from shim_runc_py.api.introspection_pb2 import RuntimeInfo
from shim_runc_py.api.legacy_options_pb2 import CreateOptions
from shim_runc_py.api.runc_options_pb2 import CheckpointOptions, Options
from shim_runc_py.api.runtime_options_pb2 import Options as RuntimeOptions
from shim_runc_py.shim.info import FEATURES
from shim_runc_py.testing import plugin

pytestmark = pytest.mark.stock(skip="there is no -info", before=(2,))


def wrap(message):
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def ask(binary, given=b""):
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    words = [binary.path, "-info"]
    return subprocess.run(
        words, input=given, capture_output=True, check=False, timeout=30, cwd="/", env=environ
    )


def info(binary, given=b""):
    done = ask(binary, given)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return RuntimeInfo.FromString(done.stdout)


@pytest.fixture
def stock():
    """The newest stock shim that knows -info."""
    found = [binary for binary in plugin.binaries() if binary.version >= (2,)]
    if not found:
        pytest.skip("no stock shim of containerd 2 here")
    return found[-1]


@pytest.mark.parametrize("given", [b"", wrap(Options(binary_name="runc")).SerializeToString()])
def test_all_fields_but_name_and_version_are_those_of_the_stock_shim(binary, stock, given):
    ours, theirs = info(binary, given), info(stock, given)
    assert ours.HasField("options") == theirs.HasField("options") == bool(given)
    assert ours.options == theirs.options
    assert dict(ours.annotations) == dict(theirs.annotations) == {}
    assert ours.features.type_url == theirs.features.type_url == FEATURES
    assert json.loads(ours.features.value) == json.loads(theirs.features.value)
    assert {field.name for field, _ in ours.ListFields()} == {
        field.name for field, _ in theirs.ListFields()
    }
    assert {field.name for field, _ in ours.version.ListFields()} <= {"version", "revision"}


def test_cri_finds_what_it_looks_for(binary):
    """User namespaces and recursive read-only mounts (CONTRACT 2.4)."""
    features = json.loads(info(binary).features.value)
    assert "user" in features["linux"]["namespaces"]
    assert "rbind" in features["mountOptions"]


def engine(fake_engine, script):
    fake_engine.on("features", script)
    return wrap(Options(binary_name=str(fake_engine.path))).SerializeToString()


def test_an_engine_that_does_not_know_the_command_has_no_features(binary, fake_engine):
    """crun before 1.8.6."""
    found = info(binary, engine(fake_engine, "echo unknown command >&2; exit 1"))
    assert not found.HasField("features")
    assert fake_engine.verbs() == ["features"]


def test_an_engine_that_answers_with_no_json_has_no_features(binary, fake_engine):
    found = info(binary, engine(fake_engine, "echo garbage; exit 0"))
    assert not found.HasField("features")


@pytest.mark.stock(skip="passes on what it knows itself")
def test_features_of_a_newer_engine_are_passed_on(binary, fake_engine):
    said = '{"ociVersionMin":"1.0.0","somethingNew":{"enabled":true}}'
    found = info(binary, engine(fake_engine, f"echo '{said}'; exit 0"))
    assert json.loads(found.features.value) == json.loads(said)


def test_an_engine_that_is_missing_is_named(binary):
    for name in ("no-runc", "/no/such/runc"):
        done = ask(binary, wrap(Options(binary_name=name)).SerializeToString())
        assert (done.returncode, done.stdout) == (1, b"")
        assert f'failed to look up the path of "{name}": exec: "{name}": '.encode() in done.stderr


def test_bytes_that_are_no_options_are_refused(binary):
    done = ask(binary, b"garbage")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"failed to read" in done.stderr


@pytest.mark.stock(skip="refuses options of any other type")
@pytest.mark.parametrize(
    "given",
    [
        wrap(RuntimeOptions(config_body=b"BinaryName = 'runc'")),
        wrap(CreateOptions(no_pivot_root=True)),
    ],
)
def test_the_other_types_of_options_are_taken_and_handed_back(binary, given):
    found = info(binary, given.SerializeToString())
    assert found.options == given
    assert found.HasField("features")


@pytest.mark.stock(skip="dies of them")
def test_options_of_no_type_for_a_runtime_are_refused(binary):
    done = ask(binary, wrap(CheckpointOptions(exit=True)).SerializeToString())
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"containerd.runc.v1.CheckpointOptions" in done.stderr
