"""task.options: from whatever a client sends to the one type that is used (CONTRACT 1.3)."""

from __future__ import annotations

import json
import os

import pytest
from google.protobuf.any_pb2 import Any

from shim_runc_py.api.legacy_options_pb2 import CreateOptions
from shim_runc_py.api.runc_options_pb2 import CheckpointOptions, Options
from shim_runc_py.api.runtime_options_pb2 import Options as RuntimeOptions
from shim_runc_py.errors import InvalidArgument
from shim_runc_py.task import options

FULL = Options(
    no_pivot_root=True,
    no_new_keyring=True,
    shim_cgroup="/shims",
    io_uid=1000,
    io_gid=2000,
    binary_name="/usr/bin/crun",
    root="/run/x",
    criu_path="/usr/sbin/criu",
    systemd_cgroup=True,
    criu_image_path="/image",
    criu_work_path="/work",
    task_api_address="unix:///t",
    task_api_version=3,
)
TOML = """
NoPivotRoot = true
NoNewKeyring = true
ShimCgroup = '/shims'
IoUid = 1000
IoGid = 2000
BinaryName = "/usr/bin/crun"
Root = '/run/x'
CriuPath = '/usr/sbin/criu'
SystemdCgroup = true
CriuImagePath = '/image'
CriuWorkPath = '/work'
TaskApiAddress = 'unix:///t'
TaskApiVersion = 3
"""


def wrap(message, prefix=""):
    return Any(type_url=prefix + message.DESCRIPTOR.full_name, value=message.SerializeToString())


@pytest.mark.parametrize("prefix", ["", "type.googleapis.com/", "any.host/with/path/"])
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (FULL, FULL),
        (RuntimeOptions(config_body=TOML.encode()), FULL),
        (RuntimeOptions(type_url="x"), Options()),
        (
            CreateOptions(
                no_pivot_root=True,
                no_new_keyring=True,
                shim_cgroup="/shims",
                io_uid=1000,
                io_gid=2000,
                criu_work_path="/work",
                criu_image_path="/image",
                terminal=True,
                cgroups_mode="soft",
            ),
            Options(
                no_pivot_root=True,
                no_new_keyring=True,
                shim_cgroup="/shims",
                io_uid=1000,
                io_gid=2000,
                criu_work_path="/work",
                criu_image_path="/image",
            ),
        ),
    ],
    ids=["runc", "toml", "empty", "legacy"],
)
def test_a_known_type_is_decoded(message, expected, prefix):
    assert options.decode(wrap(message, prefix)) == expected


@pytest.mark.parametrize(
    "given",
    [None, Any(), Any(type_url="containerd.runc.v1.Options"), Any(type_url="no.such.Type")],
)
def test_nothing_gives_the_defaults(given):
    assert options.decode(given) == Options()


@pytest.mark.parametrize(
    "given",
    [
        wrap(CheckpointOptions(exit=True)),
        Any(type_url="foo.bar", value=b"x"),
        Any(type_url="", value=b"x"),
        Any(type_url="containerd.runc.v1.Options.", value=b"x"),
        Any(type_url="containerd.runc.v1.Options/", value=b"x"),
    ],
)
def test_another_type_is_refused_by_name(given):
    with pytest.raises(InvalidArgument) as caught:
        options.decode(given)
    assert str(caught.value).startswith(f'options of type "{given.type_url}": ')
    assert str(caught.value).endswith(": invalid argument")


@pytest.mark.parametrize(
    "name",
    [
        "containerd.runc.v1.Options",
        "runtimeoptions.v1.Options",
        "containerd.linux.runc.CreateOptions",
    ],
)
def test_bytes_of_no_type_are_refused(name):
    with pytest.raises(InvalidArgument, match=f"^options are no {name}: "):
        options.decode(Any(type_url=name, value=b"\x0a\xff"))


def test_unknown_fields_do_no_harm():
    value = FULL.SerializeToString() + b"\xa2\x06\x01x"  # field 100
    assert options.decode(Any(type_url="containerd.runc.v1.Options", value=value)).root == "/run/x"


def test_the_table_may_be_in_a_file(directory):
    path = directory / "pyrunc.toml"
    path.write_text(TOML)
    assert options.decode(wrap(RuntimeOptions(config_path=str(path)))) == FULL


def test_a_table_in_the_request_comes_before_one_in_a_file():
    given = RuntimeOptions(config_path="/no/such/file", config_body=b"Root = '/r'")
    assert options.decode(wrap(given)) == Options(root="/r")


def test_every_key_of_the_table_is_a_field():
    fields = {field.name for field in Options.DESCRIPTOR.fields}
    assert set(options._TOML_KEYS.values()) == fields
    for key, name in options._TOML_KEYS.items():
        assert "".join(part.capitalize() for part in name.split("_")) == key


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", Options()),
        ("\n\n", Options()),
        ('TypeUrl = "x"\nConfigPath = ""\nUnknown = [1]\n[Table]\nx = 1\n', Options()),
        ("SystemdCgroup = false\nBinaryName = ''\nIoUid = 0", Options()),
        ("systemdcgroup = true\nROOT = '/r'", Options(systemd_cgroup=True, root="/r")),
        ("systemd_cgroup = true", Options()),
        ("IoUid = 4294967295", Options(io_uid=4294967295)),
        ("# comment\nBinaryName = 'crun' # more", Options(binary_name="crun")),
    ],
)
def test_a_table(body, expected):
    assert options.from_toml(body.encode(), "here") == expected


def test_keys_that_mean_nothing_are_told_and_those_of_containerd_are_not():
    body = b"""TypeUrl = 'x'\nConfigPath = ''\nConfigBody = ''\nRoot = '/r'
systemd_cgroup = true\nRuntimeEngine = 'x'\n[Table]\nx = 1\n"""
    ignored: list[str] = []
    given = wrap(RuntimeOptions(config_body=body))
    assert options.decode(given, ignored) == Options(root="/r")
    assert ignored == ["systemd_cgroup", "RuntimeEngine", "Table"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"BinaryName = ", "here is no TOML: "),
        (b"BinaryName = crun", "here is no TOML: "),
        (b"Root = 'a'\nRoot = 'b'", "here is no TOML: "),
        (b"Root = '\xff'", "here is no TOML: "),
        (b"BinaryName = 5", "here: BinaryName = 5 has the wrong type"),
        (b"SystemdCgroup = 'yes'", "here: SystemdCgroup = 'yes' has the wrong type"),
        (b"IoUid = '0'", "here: IoUid = '0' has the wrong type"),
        (b"IoUid = -1", "here: IoUid = -1 has the wrong type"),
        (b"IoUid = 4294967296", "here: IoUid = 4294967296 has the wrong type"),
        (b"IoUid = 1.5", "here: IoUid = 1.5 has the wrong type"),
        (b"Root = ['/r']", "here: Root = ['/r'] has the wrong type"),
        (b"[Root]\nx = 1", "here: Root = {'x': 1} has the wrong type"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_its_place(body, text):
    with pytest.raises(InvalidArgument) as caught:
        options.from_toml(body, "here")
    assert str(caught.value).startswith(text)
    assert str(caught.value).endswith(": invalid argument")


def test_a_file_that_cannot_be_read_is_named(directory):
    for path, why in ((directory / "no", "No such file or directory"), (directory, "Is a direct")):
        with pytest.raises(InvalidArgument, match=f"^runtime options {path}: {why}"):
            options.decode(wrap(RuntimeOptions(config_path=str(path))))


def test_a_file_that_cannot_be_named_is_refused():
    with pytest.raises(InvalidArgument):
        options.decode(wrap(RuntimeOptions(config_path="a\0b")))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Options(), "{}"),
        (
            Options(root="/run/x", binary_name="/opt/runc-wrap"),
            '{"binary_name":"/opt/runc-wrap","root":"/run/x"}',
        ),
        (Options(io_uid=1000, systemd_cgroup=True), '{"io_uid":1000,"systemd_cgroup":true}'),
        (Options(systemd_cgroup=False, io_uid=0, root=""), "{}"),
    ],
)
def test_the_file_in_the_bundle_is_that_of_the_stock_shim(given, expected):
    assert options.as_json(given) == expected


def test_the_file_in_the_bundle_can_be_read_back():
    assert Options(**json.loads(options.as_json(FULL))) == FULL
    assert os.linesep not in options.as_json(FULL)
