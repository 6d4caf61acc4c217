"""linux.procfs: what /proc says, as values."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim_runc_py.linux import procfs, wait
from tests.property.profiles import examples
from tests.unit.driving import BOUND, await_zombie, fork


def escape(path):
    """As the kernel writes a path in mountinfo (seq_path)."""
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in path)


def mountinfo(*points):
    lines = [f"{n} 1 0:{n} / {escape(point)} rw - tmpfs x rw" for n, point in enumerate(points)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/plain", "/plain"),
        ("/a\\040b", "/a b"),
        ("\\011\\012\\134\\043", "\t\n\\#"),
        ("/a\\134040b", "/a\\040b"),
        ("/ends\\", "/ends\\"),
        ("/short\\04", "/short\\04"),
        ("/no\\x41", "/no\\x41"),
        ("", ""),
    ],
)
def test_escapes_are_undone(text, path):
    assert procfs.unescape(text) == path


@given(st.text(alphabet="/a \t\n\\#0149ä", max_size=12))
@examples(200)
def test_what_the_kernel_escapes_comes_back(path):
    assert procfs.unescape(escape(path)) == path


def test_mount_points_at_and_below_are_found_in_order():
    text = mountinfo("/", "/r", "/run", "/r/proc", "/rx", "/r/a b", "/r/proc/sys", "/other")
    assert procfs.mount_points(text, "/r") == ["/r", "/r/proc", "/r/a b", "/r/proc/sys"]
    assert procfs.mount_points(text, "/r/proc") == ["/r/proc", "/r/proc/sys"]
    assert procfs.mount_points(text, "/nowhere") == []
    assert len(procfs.mount_points(text, "/")) == 8


def test_a_place_mounted_twice_is_named_twice():
    assert procfs.mount_points(mountinfo("/r", "/r"), "/r") == ["/r", "/r"]


@pytest.mark.parametrize("char", ["\x0b", "\x85", "\u2028"])
def test_only_a_newline_ends_a_mount(char):
    # The kernel escapes blanks, backslashes and newlines, and nothing else.
    assert procfs.mount_points(mountinfo(f"/r/a{char}b", "/r/c"), "/r") == [f"/r/a{char}b", "/r/c"]


@pytest.mark.parametrize("text", ["", "\n", "short line\n", "1 2 3 4\n"])
def test_lines_that_are_no_mounts_are_passed_over(text):
    assert procfs.mount_points(text, "/") == []


def test_our_own_mounts_are_there():
    assert "/proc" in procfs.own_mount_points("/proc")


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("0::/a/b\n", {"": "/a/b"}),
        ("3:cpu,cpuacct:/x\n2:memory:/y\n", {"cpu": "/x", "cpuacct": "/x", "memory": "/y"}),
        ("1:name=systemd:/z\n0::/\n", {"name=systemd": "/z", "": "/"}),
        ("4:pids:/with:colons:in\n", {"pids": "/with:colons:in"}),
        ("5:cpu:/a (deleted)\n", {"cpu": "/a (deleted)"}),
        ("", {}),
        ("nonsense\n", {}),
    ],
)
def test_cgroup_paths_by_controller(text, paths):
    assert procfs.parse_cgroup_paths(text) == paths


@pytest.mark.parametrize("char", ["\x0b", "\x85", "\u2028"])
def test_only_a_newline_ends_a_cgroup(char):
    text = f"2:cpu:/a{char}b\n1:pids:/c\n"
    assert procfs.parse_cgroup_paths(text) == {"cpu": f"/a{char}b", "pids": "/c"}


def test_our_own_cgroup_is_there():
    assert procfs.cgroup_paths(os.getpid())


def test_a_process_that_is_not_there():
    pid = fork(lambda: None)
    assert wait.within(pid, BOUND) == 0
    assert procfs.start_time(pid) is None
    with pytest.raises(FileNotFoundError):
        procfs.cgroup_paths(pid)


def test_the_start_of_a_process_comes_after_that_of_its_parent():
    pid = fork(lambda: None)
    await_zombie(pid)
    mine, its = procfs.start_time(os.getpid()), procfs.start_time(pid)
    assert wait.within(pid, BOUND) == 0
    assert mine is not None
    assert its is not None
    assert 0 < mine <= its


def test_a_command_name_cannot_disguise_the_start(fds):
    def disguise():
        os.read(told, 1)
        with open("/proc/self/comm", "w") as file:
            file.write(") S 1 2 3 (x) ")
        os.write(say, b"x")
        os.read(told, 1)

    told, tell = fds.pipe(0)
    hear, say = fds.pipe(0)
    pid = fork(disguise)
    plain = procfs.start_time(pid)
    os.write(tell, b"x")
    os.read(hear, 1)
    stat, disguised = procfs.read(f"/proc/{pid}/stat"), procfs.start_time(pid)
    os.write(tell, b"x")
    assert wait.within(pid, BOUND) == 0
    assert ") S 1" in stat
    assert disguised == plain


def test_pids_are_read_once_each_in_order(directory):
    first, second = directory / "a", directory / "b"
    first.write_text("3\n1\n")
    second.write_text("1\n2\n")
    paths = [str(first), str(directory / "no"), str(second)]
    assert procfs.read_pids(paths) == [3, 1, 2]
    assert procfs.read_pids([]) == []


def test_a_name_that_is_no_utf_8_is_read(directory):
    path = directory / "x"
    path.write_bytes(b"a\xffb")
    assert os.fsencode(procfs.read(str(path))) == b"a\xffb"


def test_a_canonical_path_has_no_symlinks(directory):
    (directory / "real").mkdir()
    (directory / "link").symlink_to("real")
    real = os.path.realpath(directory / "real")
    assert procfs.canonical(str(directory / "link" / ".." / "link")) == real
    assert procfs.canonical(str(directory / "no")) is None
    (directory / "loop").symlink_to("loop")
    assert procfs.canonical(str(directory / "loop")) is None
