"""What a list of mounts becomes (SEMANTICS 3.4)."""

from __future__ import annotations

import contextlib
import os
import time

import pytest

from shim_runc_py.linux import libc, mounts, procfs, unmounts
from tests.mounts.conftest import bind, entry, points, what

ENVIRON = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def mount_all(directory, *entries, environ=ENVIRON):
    mounts.mount_all(entries, str(directory / "rootfs"), environ)


def flags_of(path):
    """The options of the topmost mount at `path`, without those of the file system."""
    lines = procfs.read("/proc/self/mountinfo").splitlines()
    return next(line.split()[5] for line in reversed(lines) if line.split()[4] == str(path))


def overlay(lowers, *others):
    return entry("overlay", "overlay", *others, f"lowerdir={':'.join(map(str, lowers))}")


def test_an_overlay(directory, apart):
    def action():
        up, work = directory / "upper", directory / "work"
        lowers = [directory / "a", directory / "b"]
        mount_all(directory, overlay(lowers, f"upperdir={up}", f"workdir={work}"))
        rootfs = directory / "rootfs"
        assert what(rootfs) == ["a", "b"]
        (rootfs / "new").write_text("x")
        assert (up / "new").read_text() == "x"

    apart(action)


def test_a_read_only_overlay(directory, apart):
    def action():
        mount_all(directory, overlay([directory / "a", directory / "b"], "ro"))
        with pytest.raises(OSError, match="Read-only file system"):
            (directory / "rootfs" / "new").write_text("x")

    apart(action)


@pytest.mark.parametrize("count", [100, 128, 300])
def test_an_overlay_with_more_layers_than_a_page_has_room_for(directory, apart, count):
    snapshots = directory / "io.containerd.snapshotter.v1.overlayfs" / "snapshots"
    lowers = [snapshots / str(number) / "fs" for number in range(count)]
    for number, lower in enumerate(lowers):
        lower.mkdir(parents=True)
        (lower / f"file{number}").touch()
    assert sum(len(str(lower)) for lower in lowers) > 4096

    def action():
        here = os.getcwd()
        up, work = f"upperdir={directory}/upper", f"workdir={directory}/work"
        mount_all(directory, overlay(lowers, "index=off", up, work))
        assert len(what(directory / "rootfs")) == count
        assert os.getcwd() == here

    apart(action)


def test_layers_that_cannot_be_shortened_are_refused_and_not_cut_off(directory, apart):
    def action():
        lowers = [f"/{'x' * 200}/{number}" for number in range(30)]
        with pytest.raises(ValueError, match="mount options is too long"):
            mount_all(directory, overlay([*lowers, f"/y{'z' * 200}"]))

    apart(action)


def test_a_bind_and_a_read_only_bind(directory, apart):
    rootfs = directory / "rootfs"

    def action():
        mount_all(directory, bind(directory / "a", "rw"))
        (rootfs / "new").write_text("x")
        assert (directory / "a" / "new").exists()
        mount_all(directory, bind(directory / "b", "ro"))
        assert what(rootfs) == ["b"]
        with pytest.raises(OSError, match="Read-only file system"):
            (rootfs / "new").write_text("x")
        (directory / "b" / "new").write_text("only the bind is read-only")
        assert len(points(rootfs)) == 2

    apart(action)


def test_a_tmpfs_with_data_and_flags(directory, apart):
    def action():
        mount_all(directory, entry("tmpfs", "tmpfs", "size=64k", "mode=751", "nosuid", "noexec"))
        rootfs = directory / "rootfs"
        assert os.stat(rootfs).st_mode & 0o7777 == 0o751
        assert os.statvfs(rootfs).f_blocks * os.statvfs(rootfs).f_frsize == 65536
        assert {"nosuid", "noexec"} <= set(flags_of(rootfs).split(","))

    apart(action)


def test_mounts_below_one_another(directory, apart):
    (directory / "a" / "inner").mkdir()
    (directory / "a" / "file").touch()
    rootfs = directory / "rootfs"

    def action():
        mount_all(
            directory,
            bind(directory / "a"),
            bind(directory / "b", "ro", target="/inner"),
            bind(directory / "c" / "c", target="file"),
        )
        assert what(rootfs / "inner") == ["b"]
        assert (rootfs / "file").read_text() == "c"

    apart(action)


def test_a_remount_changes_what_is_there(directory, apart):
    def action():
        mount_all(
            directory,
            entry("tmpfs", "tmpfs", "size=64k"),
            entry("tmpfs", "tmpfs", "remount", "size=128k"),
        )
        rootfs = directory / "rootfs"
        assert os.statvfs(rootfs).f_blocks * os.statvfs(rootfs).f_frsize == 131072
        assert len(points(rootfs)) == 1

    apart(action)


@pytest.mark.parametrize("inside", ["link", "link/x", "dir/link", "filelink"])
def test_a_symlink_on_the_way_is_refused(directory, apart, inside):
    (directory / "a" / "dir").mkdir()
    (directory / "a" / "link").symlink_to("/tmp")
    (directory / "a" / "dir" / "link").symlink_to("..")
    (directory / "a" / "filelink").symlink_to("a")

    def action():
        with pytest.raises(OSError, match=r'^\[Errno \d+\] failed to join path ".+" with root "'):
            mount_all(directory, bind(directory / "a"), bind(directory / "b", target=inside))
        assert points(directory) == []
        assert points("/tmp/b") == []

    apart(action)


@pytest.mark.parametrize("inside", ["..", "a/../..", "../../etc"])
def test_a_target_cannot_leave_the_rootfs(directory, apart, inside):
    def action():
        with pytest.raises(OSError, match="it leaves the rootfs"):
            mount_all(directory, bind(directory / "b", target=inside))
        assert points(directory) == []

    apart(action)


def test_a_rootfs_that_is_a_symlink_is_refused(directory, apart):
    (directory / "rootfs").rmdir()
    (directory / "rootfs").symlink_to(directory / "c")

    def action():
        with pytest.raises(OSError, match=r"[Nn]ot a directory|symbolic links"):
            mount_all(directory, bind(directory / "b"))
        assert points(directory) == []

    apart(action)


@pytest.mark.parametrize("failing", [0, 1, 2, 3])
def test_when_one_fails_nothing_stays_mounted(directory, apart, failing):
    entries = [
        entry("tmpfs", "tmpfs"),
        bind(directory / "a"),
        entry("overlay", "overlay", f"lowerdir={directory}/a:{directory}/b"),
    ]
    entries.insert(failing, bind(directory / "missing", "ro"))

    def action():
        with pytest.raises(OSError, match=r"missing.*no such file or directory$"):
            mount_all(directory, *entries)
        assert points(directory) == []

    apart(action)


def test_a_read_only_bind_whose_second_step_fails_is_undone(directory, apart, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(mounts, "_remount_read_only", fail)

    def action():
        with pytest.raises(OSError, match="input/output error"):
            mount_all(directory, bind(directory / "a", "ro"))
        assert points(directory) == []

    apart(action)


def test_the_words_of_a_failure_are_those_of_containerd(directory, apart):
    def action():
        with pytest.raises(OSError) as caught:
            mount_all(directory, entry("nosuchfs", "src", "ro", "a=b"))
        assert caught.value.strerror == (
            f'mount source: "src", target: "{directory}/rootfs", fstype: nosuchfs, '
            'flags: 1, data: "a=b", err: no such device'
        )

    apart(action)


def test_an_internal_option_reaches_neither_kernel_nor_helper(directory, apart):
    def action():
        for kind in ("tmpfs", "fuse3.x"):
            with pytest.raises(ValueError, match=r'^internal mount option "X-containerd.a=b" was'):
                mount_all(directory, entry(kind, "x", "X-containerd.a=b"))
        assert points(directory) == []

    apart(action)


def test_a_read_only_bind_in_a_user_namespace_keeps_the_locked_flags(directory, apart):
    def action():
        libc.mount("tmpfs", str(directory / "a"), "tmpfs", 2 | 4 | 8, "")  # nosuid, nodev, noexec
        libc.new_user_namespace()
        libc.new_mount_namespace()
        mount_all(directory, bind(directory / "a", "ro"))
        found = set(flags_of(directory / "rootfs").split(","))
        assert {"ro", "nosuid", "nodev", "noexec"} <= found

    apart(action)


# Programs that mount: what they would do with /dev/fuse, these do with a tmpfs.


def helper(directory, name, script):
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{directory}:{ENVIRON['PATH']}", "PLANTED": "seen"}


def test_a_helper_mounts_what_has_a_type_of_its_own(directory, apart):
    script = f'echo "$0 $* $PLANTED" >{directory}/said; mount -t tmpfs -o mode=711 tmpfs "$2"'
    environ = helper(directory, "mount.fuse3", script)

    def action():
        mount_all(directory, entry("fuse3.thing", "src", "ro", "a=b"), environ=environ)
        assert len(points(directory)) == 1
        assert (directory / "said").read_text() == (
            f"{directory}/mount.fuse3 src {directory}/rootfs -o ro -o a=b -t thing seen\n"
        )

    apart(action)


def test_a_helper_that_fails_is_told_with_what_it_said(directory, apart):
    environ = helper(directory, "mount.fuse", 'mount -t tmpfs x "$2"; echo it is broken; exit 3')

    def action():
        with pytest.raises(OSError) as caught:
            mount_all(directory, entry("fuse.thing", "src"), environ=environ)
        assert caught.value.strerror == (
            f"mount helper [mount.fuse [src {directory}/rootfs -t thing]] failed: "
            '"it is broken\n": exit status 3'
        )
        assert points(directory) == []

    apart(action)


def test_a_helper_that_is_missing_is_named(directory, apart):
    def action():
        missing = r'"mount.fuse3": executable file not found in \$PATH$'
        with pytest.raises(OSError, match=missing):
            mount_all(directory, entry("fuse3.thing", "src"))

    apart(action)


def test_a_helper_that_hangs_is_killed(directory, apart, monkeypatch):
    monkeypatch.setattr(mounts, "HELPER_BOUND", 0.2)
    environ = helper(directory, "mount.fuse3", f"echo $$ >{directory}/pid; exec sleep 100")

    def action():
        began = time.monotonic()
        with pytest.raises(OSError, match=r"no end within 0\.2 s$"):
            mount_all(directory, entry("fuse3.thing", "src"), environ=environ)
        assert time.monotonic() - began < 5

    apart(action)


def test_a_storm_of_symlinks_never_gets_a_mount_out_of_the_rootfs(directory, apart):
    """Somebody puts a directory and a link to elsewhere at the target by turns (SECURITY 13)."""
    outside = directory / "outside"
    (outside / "inner").mkdir(parents=True)

    def swap():
        place = directory / "a" / "dir"
        while True:
            (place / "inner").mkdir(parents=True)
            place.rename(directory / "a" / "old")
            place.symlink_to(outside)
            place.unlink()
            (directory / "a" / "old" / "inner").rmdir()
            (directory / "a" / "old").rmdir()

    def action():
        pid = os.fork()
        if not pid:
            try:
                while True:
                    with contextlib.suppress(OSError):  # a directory that is mounted on
                        swap()
            finally:
                os._exit(1)
        mounted = refused = 0
        try:
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                try:
                    mount_all(
                        directory,
                        bind(directory / "a"),
                        entry("tmpfs", "tmpfs", target="dir/inner"),
                    )
                except OSError:
                    refused += 1
                else:
                    mounted += 1
                assert points(outside) == []
                unmounts.unmount_below(str(directory / "rootfs"), 0.2, detach=True)
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        assert mounted + refused > 10
        assert points(outside) == []

    apart(action)
