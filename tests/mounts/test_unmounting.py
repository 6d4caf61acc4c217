"""Undoing what is mounted, in whatever state it is (SEMANTICS 3.4, SECURITY 14)."""

from __future__ import annotations

import errno
import os
import signal
import time

import pytest

from shim_runc_py.linux import libc, unmounts
from tests.mounts.conftest import plain_bind, points

SOON = 0.2


def tmpfs(place):
    libc.mount("tmpfs", str(place), "tmpfs", 0, "")


def unmount(directory, seconds=SOON, **options):
    return unmounts.unmount_below(str(directory / "rootfs"), seconds, **options)


def test_nothing_mounted_and_nothing_there_is_success(directory, apart):
    def action():
        assert unmount(directory) == []
        assert unmounts.unmount_below(str(directory / "no" / "rootfs")) == []
        assert unmounts.unmount_below("/no/such/bundle/rootfs") == []

    apart(action)


def test_mounts_below_and_above_one_another(directory, apart):
    rootfs = directory / "rootfs"

    def action():
        for _ in range(3):
            tmpfs(rootfs)
        (rootfs / "x" / "y").mkdir(parents=True)
        tmpfs(rootfs / "x")
        (rootfs / "x" / "z").mkdir()
        tmpfs(rootfs / "x" / "z")
        unmount(directory)
        assert points(directory) == []

    apart(action)


def test_mounts_that_others_hide_are_found_once_those_are_gone(directory, apart):
    rootfs = directory / "rootfs"

    def action():
        tmpfs(rootfs)
        (rootfs / "inner").mkdir()
        tmpfs(rootfs / "inner")
        tmpfs(rootfs)  # inner cannot be reached any more
        unmount(directory)
        assert points(directory) == []

    apart(action)


NAMES = [
    "with space",
    "new\nline",
    "tab\there",
    "back\\slash",
    "\\040",
    "ümläut",
    "#hash",
    "\udcff",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_every_name_that_a_directory_can_have(directory, apart, name):
    rootfs = directory / "rootfs"

    def action():
        tmpfs(rootfs)
        (rootfs / name).mkdir()
        tmpfs(rootfs / name)
        unmount(directory)
        assert points(directory) == []

    apart(action)


def test_what_lies_beside_is_left_alone(directory, apart):
    def action():
        for name in ("rootfs2", "rootfs-", "root"):
            (directory / name).mkdir()
            tmpfs(directory / name)
        tmpfs(directory / "rootfs")
        unmount(directory)
        assert len(points(directory)) == 3

    apart(action)


def test_a_rootfs_that_became_a_symlink_leads_nowhere(directory, apart):
    def action():
        tmpfs(directory / "c")
        (directory / "rootfs").rmdir()
        (directory / "rootfs").symlink_to(directory / "c")
        unmount(directory)
        assert points(directory) == [str(directory / "c")]

    apart(action)


def test_a_symlink_on_the_way_to_a_mount_point_leads_nowhere(directory, apart):
    """Between reading mountinfo and umount(2), somebody puts a link into the path."""
    rootfs = directory / "rootfs"

    def action():
        (directory / "a" / "victim").mkdir()
        tmpfs(directory / "a" / "victim")
        (rootfs / "dir").symlink_to(directory / "a")
        for flags in (8, 8 | 2):
            with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
                unmounts._call(str(directory), f"{rootfs}/dir/victim", flags)
        assert points(directory) == [str(directory / "a" / "victim")]

    apart(action)


def test_a_bundle_below_a_symlink_is_found(directory, apart):
    """R57: mountinfo has the real path."""

    def action():
        tmpfs(directory / "rootfs")
        (directory / "link").symlink_to(directory)
        unmounts.unmount_below(f"{directory}/link/rootfs")
        assert points(directory) == []

    apart(action)


def hold(place, until):
    """A process with its working directory in `place`, which goes when `until` has an end."""
    ready, say_ready = os.pipe()
    pid = os.fork()
    if not pid:
        os.chdir(place)
        os.close(ready)
        os.write(say_ready, b"x")
        os.read(until, 1)
        os._exit(0)
    os.close(say_ready)
    os.read(ready, 1)
    os.close(ready)
    return pid


def test_a_busy_mount_is_waited_for(directory, apart):
    rootfs = directory / "rootfs"

    def action():
        tmpfs(rootfs)
        pid = hold(rootfs, os.pipe()[0])
        tried = 0
        plain = libc.umount2

        def umount2(path, flags):
            nonlocal tried
            tried += 1
            if tried == 3:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            plain(path, flags)

        libc.umount2 = umount2
        unmount(directory, 5.0)
        assert tried >= 3
        assert points(directory) == []

    apart(action)


def test_a_mount_that_stays_busy_is_told_in_time_and_can_be_tried_again(directory, apart):
    rootfs = directory / "rootfs"

    def action():
        tmpfs(rootfs)
        (rootfs / "inner").mkdir()
        tmpfs(rootfs / "inner")
        pid = hold(rootfs / "inner", os.pipe()[0])
        began = time.monotonic()
        with pytest.raises(OSError, match=r"failed to unmount target .*/rootfs: device or") as e:
            unmount(directory)
        assert e.value.errno == errno.EBUSY
        assert time.monotonic() - began < SOON + 1
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        unmount(directory)
        assert points(directory) == []

    apart(action)


def test_a_busy_mount_is_detached_when_that_is_wanted(directory, apart):
    rootfs = directory / "rootfs"

    def action():
        tmpfs(rootfs)
        (rootfs / "inner").mkdir()
        tmpfs(rootfs / "inner")
        pid = hold(rootfs / "inner", os.pipe()[0])
        assert unmount(directory, detach=True) == [str(rootfs / "inner")]
        assert points(directory) == []
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    apart(action)


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="this kernel has no FUSE")
def test_a_fuse_mount_whose_server_hangs_is_unmounted_without_asking_it(directory, apart):
    def action():
        fd = os.open("/dev/fuse", os.O_RDWR)  # nobody ever reads from it
        data = f"fd={fd},rootmode=40000,user_id=0,group_id=0"
        libc.mount("hung", str(directory / "rootfs"), "fuse.hung", 0, data)
        began = time.monotonic()
        unmount(directory)
        assert time.monotonic() - began < 1
        assert points(directory) == []
        os.close(fd)

    apart(action)


def test_a_mount_whose_directory_was_removed_elsewhere_is_no_endless_task(directory, apart):
    rootfs = directory / "rootfs"

    def action():
        plain_bind(directory / "a", rootfs)
        (directory / "a" / "gone").mkdir()
        tmpfs(rootfs / "gone")
        unmount(directory)
        assert points(directory) == []

    apart(action)
