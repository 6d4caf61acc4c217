"""linux.mounts, the pure half: words of fstab, and overlays too long for the kernel (3.4)."""

from __future__ import annotations

import os
import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim_runc_py.linux import mounts
from tests.property.profiles import examples

# linux/mount.h
MS = {
    "RDONLY": 1, "NOSUID": 2, "NODEV": 4, "NOEXEC": 8, "SYNCHRONOUS": 16, "REMOUNT": 32,
    "MANDLOCK": 64, "DIRSYNC": 128, "NOATIME": 1024, "NODIRATIME": 2048, "BIND": 4096, "REC": 16384,
    "RELATIME": 1 << 21, "STRICTATIME": 1 << 24,
}  # fmt: skip

SETS = {
    "bind": "BIND", "dirsync": "DIRSYNC", "mand": "MANDLOCK", "noatime": "NOATIME",
    "nodev": "NODEV", "nodiratime": "NODIRATIME", "noexec": "NOEXEC", "nosuid": "NOSUID",
    "relatime": "RELATIME", "remount": "REMOUNT", "ro": "RDONLY", "strictatime": "STRICTATIME",
    "sync": "SYNCHRONOUS",
}  # fmt: skip
CLEARS = {
    "async": "SYNCHRONOUS", "atime": "NOATIME", "dev": "NODEV", "diratime": "NODIRATIME",
    "exec": "NOEXEC", "nomand": "MANDLOCK", "norelatime": "RELATIME",
    "nostrictatime": "STRICTATIME", "rw": "RDONLY", "suid": "NOSUID",
}  # fmt: skip


@pytest.mark.parametrize(("word", "flag"), SETS.items())
def test_a_word_sets_its_flag(word, flag):
    assert mounts.parse_options([word]) == (MS[flag], "")


@pytest.mark.parametrize(("word", "flag"), CLEARS.items())
def test_a_word_clears_its_flag(word, flag):
    setting = next(name for name, found in SETS.items() if found == flag)
    assert mounts.parse_options([word]) == (0, "")
    assert mounts.parse_options([setting, word]) == (0, "")
    assert mounts.parse_options([word, setting]) == (MS[flag], "")
    others = [name for name in SETS if name != setting]
    everything = sum(MS[SETS[name]] for name in others)
    assert mounts.parse_options([*others, setting, word]) == (everything, "")


def test_a_recursive_bind_is_two_flags():
    assert mounts.parse_options(["rbind"]) == (MS["BIND"] | MS["REC"], "")
    assert mounts.parse_options(["rbind", "ro"]) == (MS["BIND"] | MS["REC"] | MS["RDONLY"], "")


@pytest.mark.parametrize(
    "word",
    [
        "defaults", "shared", "rshared", "private", "rprivate", "slave", "rslave", "unbindable",
        "lowerdir=/a:/b", "size=64k", "mode=755", "RO", "", "ro ", "user_xattr", "index=off",
    ],
)  # fmt: skip
def test_another_word_is_the_file_systems_own(word):
    assert mounts.parse_options([word]) == (0, word)


def test_own_words_keep_their_order():
    words = ["lowerdir=/l", "ro", "upperdir=/u", "nosuid", "workdir=/w", "rw"]
    assert mounts.parse_options(words) == (MS["NOSUID"], "lowerdir=/l,upperdir=/u,workdir=/w")


def test_no_words_are_no_options():
    assert mounts.parse_options([]) == (0, "")


@pytest.mark.parametrize("word", ["X-containerd.mkfs", "X-containerd.", "X-containerd.a=b"])
def test_words_for_the_mount_manager_are_refused(word):
    with pytest.raises(ValueError) as caught:
        mounts.parse_options(["ro", word])
    assert str(caught.value) == (
        f'internal mount option "{word}" was not consumed by the mount manager'
    )


SNAPSHOTS = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"


def overlay(*lowers):
    return ["workdir=/w", f"lowerdir={':'.join(lowers)}", "upperdir=/u"]


@pytest.mark.parametrize(
    ("lowers", "directory", "names"),
    [
        ([f"{SNAPSHOTS}/1/fs", f"{SNAPSHOTS}/2/fs"], SNAPSHOTS, ["1/fs", "2/fs"]),
        ([f"{SNAPSHOTS}/1/fs", f"{SNAPSHOTS}/10/fs"], SNAPSHOTS, ["1/fs", "10/fs"]),
        ([f"{SNAPSHOTS}/1", f"{SNAPSHOTS}/1/fs"], SNAPSHOTS, ["1", "1/fs"]),
        (["/a/1", "/a/2", "/a/b/3"], "/a", ["1", "2", "b/3"]),
        (["/a/b/c", "/a/b/c"], "/a/b", ["c", "c"]),
        (["a/1", "a/2"], "a", ["1", "2"]),
    ],
)
def test_a_long_overlay_is_mounted_from_the_common_parent(lowers, directory, names):
    found = mounts.shorten_overlay(overlay(*lowers), 1)
    assert found == (directory, ["workdir=/w", "upperdir=/u", f"lowerdir={':'.join(names)}"])


@pytest.mark.parametrize(
    "lowers",
    [
        ["/a/1"],
        ["/a/1", "/b/1"],
        ["/a", "/b"],
        ["/a", "/a/b"],
        ["a", "b"],
        ["/a/1", "a/2"],
        ["/a/b/", "/a/b/c"],
        [],
    ],
)
def test_an_overlay_without_a_common_parent_stays_as_it_is(lowers):
    options = overlay(*lowers) if lowers else ["upperdir=/u"]
    assert mounts.shorten_overlay(options, 1) == ("", options)


def test_an_overlay_that_fits_stays_as_it_is():
    options = overlay("/a/1", "/a/2")
    length = sum(map(len, options))
    assert mounts.shorten_overlay(options, length + 1) == ("", options)
    assert mounts.shorten_overlay(options, length)[0] == "/a"


def test_the_options_given_are_left_alone():
    options = overlay("/a/1", "/a/2")
    mounts.shorten_overlay(options, 1)
    assert options == overlay("/a/1", "/a/2")


names = st.text(alphabet="ab1", min_size=1, max_size=2)
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(paths, min_size=1, max_size=5))
@examples(300)
def test_shortened_names_mean_the_same_directories(lowers):
    directory, options = mounts.shorten_overlay([f"lowerdir={':'.join(lowers)}"], 1)
    (option,) = options
    found = option.removeprefix("lowerdir=").split(":")
    if directory:
        assert all(name and not name.startswith("/") for name in found)
        found = [posixpath.join(directory, name) for name in found]
    assert found == lowers


def test_an_entry_keeps_its_own_options():
    words = ["ro"]
    entry = mounts.Entry("overlay", "overlay", "", words)
    words.append("rw")
    assert entry.options == ("ro",)


@pytest.mark.parametrize("inside", ["../x", "a/../../x", ".."])
def test_a_target_cannot_leave_the_rootfs(directory, inside):
    (directory / "a").mkdir()
    leaves = pytest.raises(ValueError, match=r"leaves the rootfs$")
    with leaves, mounts._Target(str(directory), inside):
        pass


def test_a_target_is_found_below_the_rootfs(directory):
    (directory / "a" / "b").mkdir(parents=True)
    for inside in ("", ".", "/"):
        with mounts._Target(str(directory), inside) as place:
            assert os.readlink(place) == str(directory)
    for inside in ("a/b", "/a/b", "a//b/", "./a/./b"):
        with mounts._Target(str(directory), inside) as place:
            assert os.readlink(place) == str(directory / "a" / "b")


def test_a_target_follows_no_symlink(directory):
    (directory / "rootfs").mkdir()
    (directory / "rootfs" / "link").symlink_to("/tmp")
    (directory / "other").symlink_to("rootfs")
    for rootfs, inside in (("rootfs", "link"), ("rootfs", "link/x"), ("other", "")):
        with pytest.raises(OSError), mounts._Target(str(directory / rootfs), inside):
            pass


def test_a_target_that_is_not_there_is_an_os_error(directory):
    with pytest.raises(FileNotFoundError), mounts._Target(str(directory), "no"):
        pass
