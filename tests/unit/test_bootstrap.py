"""shim.bootstrap: what `start` is given and answers (CONTRACT 2.5 - 2.8)."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf.any_pb2 import Any

from shim_runc_py.api.bootstrap_pb2 import BootstrapParams, BootstrapResult, Extension
from shim_runc_py.api.legacy_options_pb2 import CreateOptions
from shim_runc_py.api.runc_options_pb2 import CheckpointOptions, Options
from shim_runc_py.api.runtime_options_pb2 import Options as RuntimeOptions
from shim_runc_py.shim import bootstrap, wire
from tests.unit.driving import BOUND
from tests.wire.vectors import named

RUNC = "containerd.runc.v1.Options"
TOML = "runtimeoptions.v1.Options"
LEGACY = "containerd.linux.runc.CreateOptions"
DEBUG = -4


def any_of(message, prefix=""):
    return Any(type_url=prefix + message.DESCRIPTOR.full_name, value=message.SerializeToString())


def params(**changes):
    return BootstrapParams(**{"instance_id": "c1", "namespace": "k8s.io", **changes})


def parse(message):
    return bootstrap.parse(message.SerializeToString(), "c1", "k8s.io")


def test_nothing_on_standard_input_is_legacy_without_options():
    found = bootstrap.parse(b"", "c1", "k8s.io")
    assert not found.modern
    assert found.options == ("", b"")
    assert found.socket_dir == "/run/containerd/s"
    assert not found.debug


def test_an_any_is_the_options():
    found = bootstrap.parse(named("legacy-options").data, "c1", "k8s.io")
    assert not found.modern
    url, value = found.options
    assert url == RUNC
    assert Options.FromString(value) == Options(binary_name="/usr/bin/crun", systemd_cgroup=True)


def test_parameters_are_read_whole():
    found = bootstrap.parse(named("bootstrap-params").data, "c1", "k8s.io")
    assert found.modern
    assert found.debug
    assert found.ttrpc_address == "/run/containerd/containerd.sock.ttrpc"
    assert found.socket_dir == "/run/containerd/s"
    assert found.options[0] == RUNC
    assert Options.FromString(found.options[1]).binary_name == "/usr/bin/crun"


@pytest.mark.parametrize(
    ("task", "namespace"), [("c2", "k8s.io"), ("c1", "default"), ("k8s.io", "c1"), ("", "")]
)
def test_parameters_for_another_task_are_taken_for_an_any(task, namespace):
    found = bootstrap.parse(named("bootstrap-params").data, task, namespace)
    assert not found.modern
    assert found.options == ("c1", b"k8s.io")


def test_an_any_whose_value_is_no_text_is_still_an_any():
    found = bootstrap.parse(Any(type_url=RUNC, value=b"\xff\xfe").SerializeToString(), "c", "n")
    assert (found.modern, found.options) == (False, (RUNC, b"\xff\xfe"))


def test_an_any_whose_type_is_named_like_the_task_is_still_an_any():
    found = bootstrap.parse(Any(type_url="c1", value=b"\xff").SerializeToString(), "c1", "n")
    assert (found.modern, found.options) == (False, ("c1", b"\xff"))


@pytest.mark.parametrize(
    ("level", "debug"),
    [(0, False), (-4, True), (-8, True), (4, False), (8, False), (10, False), (12, False)],
)
def test_the_log_level_decides_about_debug(level, debug):
    assert parse(params(log_level=level)).debug == debug


def test_an_empty_socket_directory_is_the_usual_one():
    assert parse(params(socket_dir="")).socket_dir == "/run/containerd/s"
    assert parse(params(socket_dir="/run/user/7/s")).socket_dir == "/run/user/7/s"


@pytest.mark.parametrize(
    ("extensions", "url"),
    [
        ([], ""),
        ([Options(io_uid=1)], RUNC),
        ([RuntimeOptions(config_path="/x")], TOML),
        ([CreateOptions(io_uid=1)], LEGACY),
        ([CheckpointOptions(exit=True)], ""),
        ([CheckpointOptions(exit=True), Options(io_uid=1), CheckpointOptions()], RUNC),
    ],
)
def test_options_are_found_among_the_extensions(extensions, url):
    message = params(extensions=[Extension(value=any_of(value)) for value in extensions])
    assert parse(message).options[0] == url


def test_options_may_have_a_host_in_their_type():
    wrapped = any_of(Options(io_uid=1), "type.googleapis.com/")
    found = parse(params(extensions=[Extension(value=wrapped)]))
    assert found.options == (f"type.googleapis.com/{RUNC}", Options(io_uid=1).SerializeToString())


def test_an_extension_without_a_value_is_passed_over():
    assert parse(params(extensions=[Extension()])).options == ("", b"")


@pytest.mark.parametrize("data", [b"\xff", b"unix:///x", b'{"a":1}', b"\x0a\x05ab", b"\x08\x01"])
def test_what_is_neither_is_refused(data):
    with pytest.raises(wire.WireError):
        bootstrap.parse(data, "c1", "k8s.io")


@pytest.mark.parametrize("cut", range(1, 60))
def test_cut_off_parameters_are_refused_or_read_as_far_as_they_go(cut):
    data = params(containerd_version="v2.3.4", socket_dir="/run/s").SerializeToString()
    try:
        found = bootstrap.parse(data[:cut], "c1", "k8s.io")
    except wire.WireError:
        return
    assert found.socket_dir in ("/run/containerd/s", "/run/s")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Options(shim_cgroup="/shims"), "/shims"),
        (Options(), ""),
        (Options(binary_name="crun", root="/r", systemd_cgroup=True), ""),
        (CreateOptions(shim_cgroup="/old"), "/old"),
        (CreateOptions(cgroups_mode="soft"), ""),
        (RuntimeOptions(config_body=b"ShimCgroup = '/toml'\n"), "/toml"),
        (RuntimeOptions(config_body=b'BinaryName = "crun"\n'), ""),
        (RuntimeOptions(config_body=b"shimcgroup = '/toml'\n"), "/toml"),
        (RuntimeOptions(config_path="/no/such/file"), ""),
        (RuntimeOptions(config_body=b"ShimCgroup = 5\n"), ""),
        (RuntimeOptions(config_body=b"ShimCgroup = \n"), ""),
        (RuntimeOptions(config_body=b"ShimCgroup = '\xff'\n"), ""),
        (CheckpointOptions(work_path="/x"), ""),
    ],
)
def test_the_cgroup_of_the_shim(message, expected):
    for prefix in ("", "type.googleapis.com/"):
        wrapped = any_of(message, prefix)
        assert bootstrap.shim_cgroup((wrapped.type_url, wrapped.value)) == expected


def test_the_cgroup_of_the_shim_may_be_in_a_file(directory):
    (directory / "x.toml").write_text("ShimCgroup = '/file'\n")
    wrapped = any_of(RuntimeOptions(config_path=str(directory / "x.toml")), "")
    assert bootstrap.shim_cgroup((wrapped.type_url, wrapped.value)) == "/file"


def test_a_fork_of_the_zygote_can_read_the_file_too(directory):
    # Its well-known types are its own; those of the protobuf package cannot come on top.
    (directory / "x.toml").write_text("ShimCgroup = '/file'\n")
    wrapped = any_of(RuntimeOptions(config_path=str(directory / "x.toml")), "")
    code = (
        "from shim_runc_py.ttrpc import messages\n"
        "messages.lean()\n"
        "from shim_runc_py.ttrpc import wellknown_pb2\n"
        "from shim_runc_py.shim import bootstrap\n"
        f"print(bootstrap.shim_cgroup({(wrapped.type_url, wrapped.value)!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=BOUND
    )
    assert (done.stdout, done.stderr) == ("/file\n", "")


def test_options_that_are_no_options_are_refused():
    with pytest.raises(wire.WireError):
        bootstrap.shim_cgroup((RUNC, b"\x1a\x09x"))


@pytest.mark.parametrize(
    ("modern", "environ", "form"),
    [
        (False, {}, bootstrap.PLAIN),
        (True, {}, bootstrap.PLAIN),
        (False, {"PYRUNC_TASK_API": "2"}, bootstrap.PLAIN),
        (True, {"PYRUNC_TASK_API": "2"}, bootstrap.PLAIN),
        (False, {"PYRUNC_TASK_API": "3"}, bootstrap.JSON),
        (True, {"PYRUNC_TASK_API": "3"}, bootstrap.PROTOBUF),
    ],
)
def test_the_answer_is_plain_unless_an_operator_asks(modern, environ, form):
    assert bootstrap.answer_form(modern, environ) == form


def test_the_three_answers():
    address = "unix:///run/containerd/s/abc"
    assert bootstrap.answer(bootstrap.PLAIN, address) == address.encode()
    assert bootstrap.answer(bootstrap.JSON, address) == (
        b'{"version":3,"address":"unix:///run/containerd/s/abc","protocol":"ttrpc"}'
    )
    assert bootstrap.answer(bootstrap.PROTOBUF, address) == named("bootstrap-result").data


def test_the_protobuf_answer_survives_the_trimming_of_white_space():
    data = bootstrap.answer(bootstrap.PROTOBUF, "unix:///run/s")
    assert data.strip() == data
    result = BootstrapResult(version=3, address="unix:///run/s", protocol="ttrpc")
    assert BootstrapResult.FromString(data) == result
