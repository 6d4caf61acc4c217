"""task.metrics over recorded cgroups: every field of both messages (SEMANTICS 8, CONTRACT 8.10).

What is expected of a recording stands beside it, as the text form of the message.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format

from shim_runc_py.api import metrics_v1_pb2, metrics_v2_pb2
from shim_runc_py.linux import files
from shim_runc_py.linux.cgroup import Cgroup
from shim_runc_py.task import metrics
from tests.unit.fixtures import trees

pytestmark = pytest.mark.cgroup
RECORDED = sorted(path.stem for path in trees.PLACE.glob("*.txt"))
NO_LIMIT = (1 << 64) - 1


@pytest.fixture(autouse=True)
def same_everywhere(monkeypatch):
    """Devices and page sizes of the machine that the recordings are from."""
    devices = {(254, 0): "/dev/vda", (8, 0): "/dev/sda"}
    monkeypatch.setattr(files, "block_devices", lambda: devices)
    monkeypatch.setattr(files, "huge_page_sizes", lambda: ["1GB", "2MB"])


@pytest.fixture
def recorded(directory):
    """`recorded(name)`: that cgroup, made of plain files."""

    def make(name):
        place = trees.write(name, directory / name)
        if name.startswith("v2"):
            (place / "cgroup.controllers").touch()
            return Cgroup(True, {"": str(place)})
        return Cgroup(False, {path.name: str(path) for path in place.iterdir()})

    return make


def read(cgroup):
    any_ = metrics.stats(cgroup)
    module = metrics_v2_pb2 if cgroup.unified else metrics_v1_pb2
    assert any_.type_url == f"io.containerd.cgroups.v{2 if cgroup.unified else 1}.Metrics"
    return module.Metrics.FromString(any_.value)


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_cgroup_gives_the_expected_message(recorded, name):
    found = read(recorded(name))
    expected = (trees.PLACE / f"{name}.expected").read_text()
    assert found == text_format.Parse(expected, type(found)())


def test_every_recording_has_its_expectation():
    assert sorted(path.stem for path in trees.PLACE.glob("*.expected")) == RECORDED
    assert len(RECORDED) >= 9


# Of the v1 message, what no kernel file is for.
NEVER_FILLED = {"network", "cgroup_stats"}


@pytest.mark.parametrize("name", ["v2-devices-by-hand", "hybrid-devices-by-hand"])
def test_every_field_is_filled_from_somewhere(recorded, name):
    """The trees written by hand have something in every file there is."""
    missing = list(unset(read(recorded(name))))
    if name.startswith("hybrid"):
        # No swap accounting: the entries from there on are there, and empty.
        expected = [f"memory.{entry}." for entry in ("swap", "kernel", "kernel_tcp")]
        missing = [field for field in missing if not field.startswith(tuple(expected))]
    assert missing == []


def unset(message, path=""):
    """Names of fields that are not there or 0, at any depth."""
    for field in message.DESCRIPTOR.fields:
        name = f"{path}{field.name}"
        if field.name in NEVER_FILLED:
            continue
        value = getattr(message, field.name)
        if field.is_repeated:
            if not value:
                yield name
        elif field.message_type is not None:
            if message.HasField(field.name):
                yield from unset(value, f"{name}.")
            else:
                yield name
        elif not value and not name.endswith(("avg10", "avg60", "avg300")):
            yield name


@pytest.mark.parametrize("number", range(1, 43))
def test_each_number_of_memory_v2_is_in_its_own_field(recorded, number):
    """The tree has each number in the file, or under the key, of the field with that number."""
    memory = read(recorded("v2-devices-by-hand")).memory
    field = memory.DESCRIPTOR.fields_by_number[number]
    if field.message_type is None:
        assert getattr(memory, field.name) == number


@pytest.mark.parametrize("number", range(1, 33))
def test_each_number_of_memory_v1_is_in_its_own_field(recorded, number):
    memory = read(recorded("hybrid-devices-by-hand")).memory
    assert getattr(memory, memory.DESCRIPTOR.fields_by_number[number].name) == number


GONE = """pids {} cpu { usage {} throttling {} } blkio {} memory_oom_control {}
memory { usage {} swap {} kernel {} kernel_tcp {} }"""


def test_v1_a_cgroup_that_has_gone_gives_zeros_in_the_parts_that_consumers_count_on():
    kinds = ("pids", "cpu", "cpuacct", "memory", "blkio", "hugetlb", "rdma")
    found = read(Cgroup(False, dict.fromkeys(kinds, "/nowhere")))
    assert found == text_format.Parse(GONE, type(found)())


def test_v2_a_cgroup_that_has_gone_is_an_error_as_in_the_stock_shim(recorded):
    with pytest.raises(FileNotFoundError) as caught:
        read(Cgroup(True, {"": "/nowhere"}))
    assert caught.value.filename == "/nowhere/cgroup.controllers"
    # Also when it goes after the first file was read: half of the numbers would be 0.
    found = recorded("v2-busy")
    Path(found.directories[""], "cgroup.controllers").unlink()
    with pytest.raises(FileNotFoundError):
        read(found)


def test_v1_without_controllers_there_is_a_message(recorded):
    found = read(Cgroup(False, {"name=systemd": "/nowhere"}))
    assert found.HasField("cpu")
    assert found.HasField("blkio")
    assert not found.HasField("memory")
    assert not found.HasField("pids")


def test_v2_memory_events_are_absent_without_their_file(recorded):
    assert not read(recorded("v2-bare")).HasField("memory_events")


def test_v2_pressure_is_absent_without_psi(recorded):
    cgroup = recorded("v2-fresh")
    for path in Path(cgroup.directories[""]).glob("*.pressure"):
        path.unlink()
    found = read(cgroup)
    assert not any(part.HasField("psi") for part in (found.cpu, found.memory, found.io))


@pytest.mark.parametrize("unified", [True, False])
def test_rdma_is_left_out_when_a_device_went_between_two_readings(recorded, unified):
    cgroup = recorded("v2-devices-by-hand" if unified else "hybrid-devices-by-hand")
    directory = Path(cgroup.directories["" if unified else "rdma"])
    (directory / "rdma.max").write_text("")
    assert read(cgroup).rdma == type(read(cgroup).rdma)()


def test_a_file_that_may_not_be_read_is_an_error_that_names_it(recorded, monkeypatch):
    def refuses(path):
        if path.endswith("pids.current"):
            raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("shim_runc_py.linux.cgroup2.read_bytes", refuses)
    monkeypatch.setattr("shim_runc_py.linux.files.read_bytes", refuses)
    with pytest.raises(PermissionError, match=r"pids\.current"):
        metrics.stats(recorded("v2-fresh"))


@pytest.mark.parametrize("name", RECORDED)
def test_no_file_is_read_twice(recorded, name, monkeypatch):
    """Two readings of a file that moves would disagree, and cost twice."""
    opened = []
    real = files.read_bytes

    def counting(path):
        opened.append(path)
        return real(path)

    for module in ("cgroup1", "cgroup2", "files"):
        monkeypatch.setattr(f"shim_runc_py.linux.{module}.read_bytes", counting)
    metrics.stats(recorded(name))
    assert sorted(opened) == sorted(set(opened))
