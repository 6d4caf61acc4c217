"""Files of an image with the ids of a user namespace (SEMANTICS 3.4)."""

from __future__ import annotations

import errno
import os

import pytest

from shim_runc_py.linux import idmap, mounts, procfs, unmounts
from tests.mounts.conftest import bind, entry, points, what

MAPS = ("uidmap=0:100000:65536", "gidmap=0:200000:65536")


@pytest.fixture(autouse=True)
def possible(directory):
    """Skips where the kernel, or the file system of the test's directory, cannot do it."""
    namespace = tree = -1
    try:
        namespace = idmap.user_namespace("0 1000 1\n", "0 1000 1\n")
        tree = idmap.copy(str(directory), namespace)
    except OSError as error:
        pytest.skip(f"no idmapped mounts here: {error}")
    finally:
        for fd in (namespace, tree):
            if fd >= 0:
                os.close(fd)


def owner(path):
    found = os.stat(path)
    return found.st_uid, found.st_gid


def test_a_bind_shows_other_owners(directory, apart):
    rootfs = directory / "rootfs"
    os.chown(directory / "a" / "a", 5, 7)

    def action():
        mounts.mount_all([bind(directory / "a", *MAPS)], str(rootfs), {})
        assert owner(rootfs / "a") == (100005, 200007)
        assert owner(directory / "a" / "a") == (5, 7)
        assert len(points(rootfs)) == 1
        os.mknod(directory / "a" / "later")
        assert owner(rootfs / "later") == (100000, 200000)

    apart(action)


def test_a_read_only_bind_is_mapped_and_stays_read_only(directory, apart):
    rootfs = directory / "rootfs"

    def action():
        mounts.mount_all([bind(directory / "a", "ro", *MAPS)], str(rootfs), {})
        assert owner(rootfs / "a") == (100000, 200000)
        with pytest.raises(OSError, match="Read-only"):
            (rootfs / "x").touch()

    apart(action)


def test_an_overlay_has_mapped_layers_and_an_upper_one_that_is_not(directory, apart):
    rootfs, up = directory / "rootfs", directory / "upper"

    def action():
        before = procfs.read("/proc/self/mountinfo").splitlines()
        here = os.getcwd()
        words = (f"upperdir={up}", f"workdir={directory}/work", "index=off")
        lowers = f"lowerdir={directory}/a:{directory}/b"
        mounts.mount_all([entry("overlay", "overlay", *words, lowers, *MAPS)], str(rootfs), {})
        assert what(rootfs) == ["a", "b"]
        assert owner(rootfs / "a") == owner(rootfs / "b") == (100000, 200000)
        (rootfs / "new").touch()
        assert owner(up / "new") == owner(rootfs / "new") == (0, 0)
        (rootfs / "a").chmod(0o600)
        assert owner(up / "a") == (100000, 200000)  # copied up as it was seen
        # One mount more than before, nothing temporary, and the process is where it was.
        after = procfs.read("/proc/self/mountinfo").splitlines()
        assert len(after) == len(before) + 1
        assert f"upperdir={up}" in after[-1]
        assert os.getcwd() == here
        unmounts.unmount_below(str(rootfs))
        assert points(directory) == []

    apart(action)


@pytest.mark.parametrize("count", [1, 120])
def test_one_layer_and_many(directory, apart, count):
    lowers = [directory / "snapshots" / f"{number:040}" / "fs" for number in range(count)]
    for number, lower in enumerate(lowers):
        lower.mkdir(parents=True)
        (lower / f"file{number}").touch()

    def action():
        words = (f"upperdir={directory}/upper", f"workdir={directory}/work")
        given = f"lowerdir={':'.join(map(str, lowers))}"
        if count * 44 > 4096:
            with pytest.raises(ValueError, match="mount options is too long"):
                mounts.mount_all(
                    [entry("overlay", "o", *words, given, *MAPS)], str(directory / "rootfs"), {}
                )
            given = given.replace("0" * 30, "")
            os.rename(directory / "snapshots", directory / "old")
            for number in range(count):
                new = directory / "snapshots" / f"{number:040}".replace("0" * 30, "")
                new.mkdir(parents=True, exist_ok=True)
                os.rename(directory / "old" / f"{number:040}" / "fs", new / "fs")
        mounts.mount_all(
            [entry("overlay", "o", *words, given, *MAPS)], str(directory / "rootfs"), {}
        )
        assert len(what(directory / "rootfs")) == count

    apart(action)


def test_a_file_system_that_cannot_is_told_and_nothing_stays(directory, apart):
    def action():
        with pytest.raises(OSError, match="neither this kernel nor every file system") as caught:
            mounts.mount_all([bind("/proc", *MAPS)], str(directory / "rootfs"), {})
        assert caught.value.errno in (errno.EINVAL, errno.EOPNOTSUPP)
        assert points(directory) == []

    apart(action)


@pytest.mark.parametrize("lowers", ["/a:/b", "/a", "x"])
def test_layers_without_a_directory_in_common_are_refused(directory, apart, lowers):
    def action():
        words = ("upperdir=/u", "workdir=/w", f"lowerdir={lowers}", *MAPS)
        with pytest.raises(ValueError, match="no common directory of"):
            mounts.mount_all([entry("overlay", "o", *words)], str(directory / "rootfs"), {})

    apart(action)


def test_a_map_that_the_kernel_refuses_is_told(directory):
    with pytest.raises(OSError, match="cannot be mapped: "):
        idmap.user_namespace("0 0 1\n0 5 1\n", "0 0 1\n")


def test_no_process_stays_behind(apart):
    def action():
        os.close(idmap.user_namespace("0 1000 1\n", "0 1000 1\n"))
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    apart(action)
