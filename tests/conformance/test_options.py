"""Every runtime option does what it is for, whatever type brought it (CONTRACT 1.3, 8.5).

What an option does is seen in the engine's command lines, or in what the container finds. The two
tables at the top name every field of every type; a test holds them to the descriptors.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from shim_runc_py.api import legacy_options_pb2 as legacy
from shim_runc_py.api.runc_options_pb2 import CheckpointOptions, Options
from shim_runc_py.api.runtime_options_pb2 import Options as RuntimeOptions
from shim_runc_py.testing.shims import refused

UNKNOWN = 2


def ours_only(reason):
    return pytest.mark.stock(skip=reason)


# field: (value, word of `create` that it becomes; None: it is no affair of create's)
CREATE: dict[str, Any] = {
    "no_pivot_root": (True, "--no-pivot"),
    "no_new_keyring": (True, "--no-new-keyring"),
    "systemd_cgroup": (True, "--systemd-cgroup"),
    "root": ("/tmp/pyrunc-root", "/tmp/pyrunc-root/test"),
    "binary_name": ("fake", None),  # whose command lines these are
    "io_uid": (1000, None),  # tests/conformance/test_stdio.py, and below
    "io_gid": (2000, None),
    "shim_cgroup": ("/pyrunc-no-such", None),  # an affair of start: test_binary.py, and below
    "criu_path": ("/usr/sbin/criu", None),  # until 1.7; engines find criu by themselves
    "criu_image_path": ("/image", None),  # containerd's own: it is the path of Checkpoint
    "criu_work_path": ("/tmp", None),  # an affair of restore, below
    "task_api_address": ("unix:///x", None),  # for shims that are given a sandbox's address
    "task_api_version": (3, None),
}
# field: (value, words of `checkpoint` that it becomes)
CHECKPOINT: dict[str, Any] = {
    "exit": (True, None),  # takes --leave-running away
    "open_tcp": (True, "--tcp-established"),
    "external_unix_sockets": (True, "--ext-unix-sk"),
    "terminal": (True, "--shell-job"),
    "file_locks": (True, "--file-locks"),
    "empty_namespaces": (["network", "ipc"], "--empty-ns network --empty-ns ipc"),
    "cgroups_mode": ("strict", None),  # containerd's shim has never passed it on
    "image_path": ("/image", None),  # containerd's own
    "work_path": ("/tmp", "--work-path /tmp"),
    "parent_path": ("/parent", "--parent-path /parent"),
}
LEGACY_FOR_RESTORE = {  # of a shim that is long gone; no later one has looked at them
    "open_tcp", "external_unix_sockets", "terminal", "file_locks", "empty_namespaces",
    "cgroups_mode",
}  # fmt: skip


def names(message):
    return {field.name for field in message.DESCRIPTOR.fields}


def test_every_field_has_its_line_in_a_table():
    assert names(Options) == set(CREATE)
    assert names(legacy.CreateOptions) == (set(CREATE) & names(legacy.CreateOptions)) | (
        LEGACY_FOR_RESTORE
    )
    assert names(CheckpointOptions) == set(CHECKPOINT)
    assert names(legacy.CheckpointOptions) == set(CHECKPOINT) - {"parent_path"}


def wrap(message):
    return AnyMessage(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def toml(fields):
    lines = []
    for name, value in fields.items():
        key = "".join(part.capitalize() for part in name.split("_"))
        lines.append(f"{key} = {str(value).lower() if value is True else repr(value)}")
    return "\n".join(lines) + "\n"


def as_runc(place, fields):
    return wrap(Options(**fields))


def as_body(place, fields):
    return wrap(RuntimeOptions(type_url="x", config_body=toml(fields).encode()))


def as_file(place, fields):
    (place / "pyrunc.toml").write_text(toml(fields))
    return wrap(RuntimeOptions(config_path=str(place / "pyrunc.toml")))


def as_legacy(place, fields):
    return wrap(legacy.CreateOptions(**fields))


CARRIERS = {"runc": as_runc, "body": as_body, "file": as_file, "legacy": as_legacy}
OTHERS = "refuses options of any other type"
OURS = ours_only(OTHERS)


@pytest.fixture(params=["runc", "body", "file"])
def carrier(request, binary):
    """The types that can carry every option."""
    if binary.stock and request.param != "runc":
        pytest.skip(f"stock shim: {OTHERS}")
    return CARRIERS[request.param]


@pytest.fixture(params=CARRIERS)
def any_carrier(request, binary):
    """All types, of which the last one cannot name an engine."""
    if binary.stock and request.param != "runc":
        pytest.skip(f"stock shim: {OTHERS}")
    return CARRIERS[request.param]


@pytest.fixture
def engine_called(make_bundle, start_shim, fake_engine, place):
    """`engine_called(carrier, **fields)`: the command line of a create that goes no further."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    fake_engine.on("create", "exit 3")

    def call(carrier, **fields):
        fields = {"binary_name": str(fake_engine.path), **fields}
        with refused(UNKNOWN, "OCI runtime create failed"):
            shim.task.create(bundle, options=carrier(place, fields))
        return [line for line in fake_engine.calls() if f" create --bundle {bundle}" in line][-1]

    return call


def test_an_option_becomes_its_word_of_create_and_no_other(engine_called, carrier):
    plain = engine_called(carrier).split()
    for name, (value, word) in CREATE.items():
        if name == "binary_name":
            continue
        words = engine_called(carrier, **{name: value}).split()
        added = [found for found in words if found not in plain]
        if name == "criu_path" and added == ["--criu", value]:
            continue  # the stock shim of 1.6
        assert added == ([word] if word else []), name


@pytest.fixture
def by_name(make_bundle, start_shim, fake_engine):
    """(shim, bundle) with an engine that is found as `runc`: not every type can name one."""
    (fake_engine.path.parent / "runc").symlink_to(fake_engine.path)
    bundle = make_bundle("sleep")
    path = f"{fake_engine.path.parent}:{os.environ['PATH']}"
    return start_shim(bundle, environ={"PATH": path}), bundle


@OURS
def test_the_older_options_become_the_same_words(by_name, fake_engine):
    shim, bundle = by_name
    fake_engine.on("create", "exit 3")
    samples = {str: "x", bool: True, int: 1}
    for field in legacy.CreateOptions.DESCRIPTOR.fields:
        kind = type(field.default_value)
        value, word = CREATE.get(field.name, (None, None))
        if value is None:
            value = samples.get(kind, ["x"])
        options = wrap(legacy.CreateOptions(**{field.name: value}))
        with refused(UNKNOWN, "OCI runtime create failed"):
            shim.task.create(bundle, options=options)
        words = fake_engine.calls()[-1].split()
        without = f"--root /run/containerd/runc/test --log {bundle}/log.json --log-format json"
        without += f" create --bundle {bundle} --pid-file {bundle}/init.pid {bundle.id}"
        assert [w for w in words if w not in without.split()] == ([word] if word else [])


def test_the_work_path_of_criu_is_that_of_restore(by_name, fake_engine, place, any_carrier):
    shim, bundle = by_name
    fake_engine.on("restore", "exit 3")
    options = any_carrier(place, {"criu_work_path": str(place / "criu"), "no_pivot_root": True})
    shim.task.create(bundle, checkpoint=str(place / "image"), options=options)
    with refused(UNKNOWN, "OCI runtime restore failed"):
        shim.task.start(bundle.id)
    words = next(line for line in fake_engine.calls() if " restore " in line)
    assert f" restore --image-path {place}/image --work-path {place}/criu " in words
    assert " --no-pivot " in words
    shim.task.delete(bundle.id)


def test_the_streams_belong_to_whom_the_options_name(
    by_name, fake_engine, outputs, place, any_carrier
):
    """As the engine gets them; runc gives the container's user what it finds to be root's."""
    shim, bundle = by_name
    fake_engine.on("create", f"stat -L -c '%u %g' /dev/fd/9 /dev/fd/2 9>&1 >{place}/owners; exit 3")
    options = any_carrier(place, {"io_uid": 1000, "io_gid": 2000})
    streams = {"stdout": str(outputs()), "stderr": str(outputs())}
    with refused(UNKNOWN, "OCI runtime create failed"):
        shim.task.create(bundle, options=options, **streams)
    assert (place / "owners").read_text() == "1000 2000\n1000 2000\n"


def test_the_engine_and_its_root_are_used_by_every_verb_and_by_delete(
    make_bundle, start_shim, fake_engine, place, carrier
):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    root = place / "engine-root"
    options = carrier(place, {"binary_name": str(fake_engine.path), "root": str(root)})
    shim.task.create(bundle, options=options)
    assert (root / "test" / bundle.id).is_dir()
    shim.task.start(bundle.id)
    shim.task.call("Pause", id=bundle.id)
    shim.task.call("Resume", id=bundle.id)
    shim.task.kill(bundle.id, 9)
    shim.task.wait(bundle.id)
    shim.task.delete(bundle.id)
    shim.run_delete(bundle)
    for line in fake_engine.calls():
        assert line.startswith(f"--root {root}/test --log {bundle}/log.json --log-format json ")
    assert (bundle.path / "runtime").read_text() == str(fake_engine.path)


def test_start_puts_the_shim_into_its_cgroup(make_bundle, start_shim, place, any_carrier):
    """A cgroup that is not there is enough to see that the option was read."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    other = make_bundle("sleep")
    given = any_carrier(place, {"shim_cgroup": "/pyrunc-not-there"}).SerializeToString()
    result = shim.run_start(other, given)
    assert result.status == 1
    assert b"/pyrunc-not-there" in result.stdout


@pytest.mark.parametrize("older", [False, True], ids=["runc", "legacy"])
def test_an_option_of_a_checkpoint_becomes_its_words_and_no_other(
    make_bundle, start_shim, fake_engine, place, older
):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    if older and shim.binary.stock:
        pytest.skip("stock shim: refuses them")
    shim.task.create(bundle, options=as_runc(place, {"binary_name": str(fake_engine.path)}))
    shim.task.start(bundle.id)
    fake_engine.on("checkpoint", "exit 0")
    kind: Any = legacy.CheckpointOptions if older else CheckpointOptions
    for name in names(kind):
        value, words = CHECKPOINT[name]
        if name == "parent_path" and shim.binary.stock:
            continue  # newer than any of them
        options = wrap(kind(**{name: value}))
        shim.task.call("Checkpoint", id=bundle.id, path="/image", options=options)
        said = fake_engine.calls()[-1].partition(" checkpoint ")[2]
        work = f"--work-path {bundle}/work/criu-work"
        expected = {
            "work_path": f"--image-path /image {words} --leave-running {bundle.id}",
            "exit": f"--image-path /image {work} {bundle.id}",
        }.get(name) or " ".join(
            ["--image-path /image", work, *([words] if words else []), "--leave-running", bundle.id]
        )
        assert said == expected, name


@OURS
def test_keys_that_mean_nothing_are_ignored_and_logged(make_bundle, start_shim):
    body = b"BinaryName = 'runc'\nsystemd_cgroup = true\nRuntimeEngine = 'x'\nTypeUrl = 'y'\n"
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=wrap(RuntimeOptions(config_body=body)))
    record = next(line for line in shim.log().splitlines() if "mean nothing here" in line)
    assert f'container="{bundle.id}" keys="systemd_cgroup RuntimeEngine"' in record
    assert (bundle.path / "options.json").read_text() == '{"binary_name":"runc"}'


@OURS
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"BinaryName = ", "the runtime's options table is no TOML: "),
        (b"IoUid = 'x'", "the runtime's options table: IoUid = 'x' has the wrong type"),
    ],
)
def test_a_table_that_is_wrong_fails_create_and_says_where(make_bundle, start_shim, body, text):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    with refused(3, text):
        shim.task.create(bundle, options=wrap(RuntimeOptions(config_body=body)))
    missing = RuntimeOptions(config_path="/no/such.toml")
    with refused(3, "runtime options /no/such.toml: No such file or directory"):
        shim.task.create(bundle, options=wrap(missing))
