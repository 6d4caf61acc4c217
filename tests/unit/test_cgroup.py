"""linux.cgroup: where the cgroup of a process lies (SEMANTICS 3.10)."""

from __future__ import annotations

import os

import pytest

from shim_runc_py.linux import cgroup
from shim_runc_py.linux.cgroup import Cgroup, localize, v1_mounts

HYBRID = """\
24 30 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw
30 24 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:12 - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
35 30 0:30 / /mnt/memory\\040again rw - cgroup cgroup rw,memory
36 30 0:31 /docker/abc /sys/fs/cgroup/pids ro master:1 propagate_from:2 - cgroup cgroup rw,pids
37 30 0:32 /with\\040blank /a\\040b rw - cgroup cgroup rw,devices
"""


def test_each_controller_has_its_first_mount():
    assert v1_mounts(HYBRID) == {
        "name=systemd": ("/sys/fs/cgroup/systemd", "/"),
        "cpu": ("/sys/fs/cgroup/cpu,cpuacct", "/"),
        "cpuacct": ("/sys/fs/cgroup/cpu,cpuacct", "/"),
        "memory": ("/sys/fs/cgroup/memory", "/"),
        "pids": ("/sys/fs/cgroup/pids", "/docker/abc"),
        "devices": ("/a b", "/with blank"),
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,memory\n",
        "30 24 0:26 / /x rw - tmpfs cgroup rw,memory\n",
        "30 24 0:26 / /x rw cgroup cgroup rw,memory\n",
        "30 24 0:26 / /x rw - cgroup\n",
        "30 24 - cgroup cgroup rw,memory\n",
    ],
)
def test_what_is_no_v1_hierarchy_is_passed_over(text):
    assert v1_mounts(text) == {}


@pytest.mark.parametrize("char", ["\x0b", "\x85", "\u2028"])
def test_only_a_newline_ends_a_mount(char):
    text = f"34 30 0:30 / /a{char}b rw - cgroup cgroup rw,memory\n"
    assert v1_mounts(text) == {"memory": (f"/a{char}b", "/")}


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/", "/", ""),
        ("/a/b", "/", "/a/b"),
        ("/docker/abc", "/docker/abc", ""),
        ("/docker/abc/x", "/docker/abc", "/x"),
        ("/docker/abcd", "/docker/abc", "/docker/abcd"),
        ("/other", "/docker/abc", "/other"),
        ("/", "/docker/abc", ""),
        ("/docker", "/docker/abc", "/docker"),
    ],
)
def test_a_path_as_seen_below_the_mount(path, root, expected):
    assert localize(path, root) == expected


def test_the_host_is_unified_when_the_root_has_controllers(directory):
    assert not cgroup.is_unified(str(directory))
    (directory / "cgroup.controllers").write_text("cpu\n")
    assert cgroup.is_unified(str(directory))


def test_pids_are_those_of_the_whole_tree(directory):
    for name, pids in (("", "1\n"), ("b", "4\n3\n"), ("a", "2\n1\n"), ("b/c", ""), ("b/d", "5\n")):
        (directory / name).mkdir(exist_ok=True)
        (directory / name / "cgroup.procs").write_text(pids)
    (directory / "elsewhere").symlink_to("/sys")
    (directory / "empty").mkdir()
    assert Cgroup(True, {"": str(directory)}).pids() == [1, 2, 4, 3, 5]


def test_pids_come_from_one_hierarchy(directory):
    for name, pids in (("memory", "1\n"), ("devices", "2\n"), ("cpu", "3\n")):
        (directory / name).mkdir()
        (directory / name / "cgroup.procs").write_text(pids)
    places = {name: str(directory / name) for name in ("memory", "cpu", "devices")}
    assert Cgroup(False, places).pids() == [2]
    places["devices"] = str(directory / "gone")
    assert Cgroup(False, places).pids() == [1]


def test_a_cgroup_that_is_gone_has_no_pids(directory):
    assert Cgroup(True, {"": str(directory / "gone")}).pids() == []
    assert Cgroup(False, {}).pids() == []


def test_our_own_cgroup_has_our_pid():
    found = cgroup.of(os.getpid())
    assert found.unified == cgroup.is_unified()
    assert os.getpid() in found.pids()


def test_a_cgroup_that_is_not_there_cannot_be_joined():
    with pytest.raises(FileNotFoundError):
        cgroup.join(os.getpid(), "/no/such/cgroup/of/a/unit/test")
