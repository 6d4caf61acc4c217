"""linux.cgroup: where the cgroup of a process lies (SEMANTICS 3.10)."""

from __future__ import annotations

import os

import pytest

from shim_runc_py.linux import cgroup, procfs
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


@pytest.fixture
def host(directory, monkeypatch):
    """`host(cgroup file, mountinfo)`: another host, whose hierarchies are plain directories."""
    monkeypatch.setattr(cgroup, "ROOT", str(directory))
    monkeypatch.setattr(cgroup.is_unified, "__defaults__", (str(directory),))

    def make(paths, mountinfo=""):
        texts = {"/proc/self/mountinfo": mountinfo.replace("ROOT", str(directory))}
        monkeypatch.setattr(procfs, "read", lambda path: texts.get(path, paths))
        return directory

    return make


V1 = """\
1 0 0:1 / ROOT/pids rw - cgroup cgroup rw,pids
2 0 0:2 / ROOT/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
3 0 0:3 /outer ROOT/memory rw - cgroup cgroup rw,memory
4 0 0:4 / ROOT/unified rw - cgroup2 cgroup2 rw
"""


def test_v2_the_cgroup_is_where_the_process_says(host):
    root = host("0::/pod/c1\n")
    (root / "cgroup.controllers").touch()
    found = cgroup.of(7)
    assert (found.unified, found.directories) == (True, {"": f"{root}/pod/c1"})


@pytest.mark.parametrize("text", ["", "1:name=systemd:/x\n", "4:memory:/x\n"])
def test_v2_a_process_without_a_unified_cgroup_has_none(host, text):
    (host(text) / "cgroup.controllers").touch()
    with pytest.raises(FileNotFoundError):
        cgroup.of(7)


def test_v1_each_controller_has_its_directory_below_its_mount(host):
    text = "3:memory:/outer/c1\n2:cpu,cpuacct:/c1\n1:pids:/c1\n0::/c1\n"
    root = host(text, V1)
    for name in ("cpu,cpuacct/c1", "memory/c1"):
        (root / name).mkdir(parents=True)
    found = cgroup.of(7)
    assert not found.unified
    # That of pids is not there: R148, it is left out and no error.
    assert found.directories == {
        "cpu": f"{root}/cpu,cpuacct/c1",
        "cpuacct": f"{root}/cpu,cpuacct/c1",
        "memory": f"{root}/memory/c1",
    }


def test_v1_a_cgroup_of_which_nothing_is_there_is_deleted(host):
    host("3:memory:/outer/c1\n1:pids:/c1\n", V1)
    with pytest.raises(FileNotFoundError, match="cgroup deleted"):
        cgroup.of(7)


def test_v2_every_controller_is_enabled_in_all_ancestors(host):
    root = host("")
    (root / "cgroup.controllers").write_text("cpu io memory pids\n")
    for name, enabled in (("", "cpu pids"), ("pod", ""), ("pod/inner", "cpu io memory pids")):
        (root / name / "x").mkdir(parents=True, exist_ok=True)
        (root / name / "cgroup.subtree_control").write_text(enabled)
    leaf = root / "pod/inner/c1"
    leaf.mkdir()
    (leaf / "cgroup.subtree_control").write_text("")
    cgroup.enable_controllers(Cgroup(True, {"": str(leaf)}))
    written = {
        str(path.parent.relative_to(root)): path.read_text()
        for path in root.rglob("cgroup.subtree_control")
    }
    # Plain files keep what was behind: only the beginning is what was written.
    assert written["."].startswith("+io +memory")
    assert written["pod"] == "+cpu +io +memory +pids"
    assert written["pod/inner"] == "cpu io memory pids"
    assert written["pod/inner/c1"] == ""


def test_v2_what_cannot_be_enabled_is_nobodys_mistake(host):
    root = host("")
    (root / "cgroup.controllers").write_text("cpu\n")
    (root / "pod/c1").mkdir(parents=True)
    cgroup.enable_controllers(Cgroup(True, {"": f"{root}/pod/c1"}))  # no subtree_control at all
    cgroup.enable_controllers(Cgroup(False, {}))


def test_v2_joining_is_writing_the_pid(host):
    root = host("")
    (root / "cgroup.controllers").touch()
    (root / "shims").mkdir()
    (root / "shims/cgroup.procs").touch()
    cgroup.join(77, "/shims")
    assert (root / "shims/cgroup.procs").read_text() == "77"


def test_v1_joining_is_writing_the_pid_wherever_the_cgroup_is(host):
    root = host("", V1)
    for name in ("pids/shims", "cpu,cpuacct/shims", "memory"):
        (root / name).mkdir(parents=True)
        (root / name / "cgroup.procs").touch()
    cgroup.join(77, "/shims")
    assert (root / "pids/shims/cgroup.procs").read_text() == "77"
    assert (root / "cpu,cpuacct/shims/cgroup.procs").read_text() == "77"
    with pytest.raises(FileNotFoundError):
        cgroup.join(77, "/elsewhere")


@pytest.mark.parametrize(("refusals", "joined"), [(0, True), (4, True), (5, False)])
def test_joining_is_tried_again_while_the_process_is_being_made(
    host, monkeypatch, refusals, joined
):
    root = host("")
    (root / "cgroup.controllers").touch()
    (root / "shims").mkdir()
    (root / "shims/cgroup.procs").touch()
    answers = iter([OSError(22, "Invalid argument")] * refusals)
    real = os.write

    def write(fd, data):
        for answer in answers:
            raise answer
        return real(fd, data)

    slept: list[float] = []
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr("time.sleep", slept.append)
    if joined:
        cgroup.join(77, "/shims")
        assert (root / "shims/cgroup.procs").read_text() == "77"
    else:
        with pytest.raises(OSError, match="Invalid"):
            cgroup.join(77, "/shims")
    assert slept == [0.03] * min(refusals, 4)


def test_joining_that_is_refused_is_not_tried_again(host, monkeypatch):
    root = host("")
    (root / "cgroup.controllers").touch()
    (root / "shims").mkdir()
    (root / "shims/cgroup.procs").touch()
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits"))

    def write(*_):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="busy"):
        cgroup.join(77, "/shims")
