"""linux.mount_options: words of fstab, and overlays too long for the kernel (SEMANTICS 3.4)."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim_runc_py.linux import mount_options
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


def parse(words):
    found = mount_options.Options(words)
    return found.flags, found.data


@pytest.mark.parametrize(("word", "flag"), SETS.items())
def test_a_word_sets_its_flag(word, flag):
    assert parse([word]) == (MS[flag], "")


@pytest.mark.parametrize(("word", "flag"), CLEARS.items())
def test_a_word_clears_its_flag(word, flag):
    setting = next(name for name, found in SETS.items() if found == flag)
    assert parse([word]) == (0, "")
    assert parse([setting, word]) == (0, "")
    assert parse([word, setting]) == (MS[flag], "")
    others = [name for name in SETS if name != setting]
    everything = sum(MS[SETS[name]] for name in others)
    assert parse([*others, setting, word]) == (everything, "")


def test_a_recursive_bind_is_two_flags():
    assert parse(["rbind"]) == (MS["BIND"] | MS["REC"], "")
    assert parse(["rbind", "ro"]) == (MS["BIND"] | MS["REC"] | MS["RDONLY"], "")


@pytest.mark.parametrize(
    "word",
    [
        "defaults", "shared", "rshared", "private", "rprivate", "slave", "rslave", "unbindable",
        "lowerdir=/a:/b", "size=64k", "mode=755", "RO", "", "ro ", "user_xattr", "index=off",
    ],
)  # fmt: skip
def test_another_word_is_the_file_systems_own(word):
    assert parse([word]) == (0, word)


def test_own_words_keep_their_order():
    words = ["lowerdir=/l", "ro", "upperdir=/u", "nosuid", "workdir=/w", "rw"]
    assert parse(words) == (MS["NOSUID"], "lowerdir=/l,upperdir=/u,workdir=/w")


def test_no_words_are_no_options():
    assert parse([]) == (0, "")


@pytest.mark.parametrize("word", ["X-containerd.mkfs", "X-containerd.", "X-containerd.a=b"])
def test_words_for_the_mount_manager_are_refused(word):
    with pytest.raises(ValueError) as caught:
        parse(["ro", word])
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
    found = mount_options.shorten_overlay(overlay(*lowers), 1)
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
    assert mount_options.shorten_overlay(options, 1) == ("", options)


def test_an_overlay_that_fits_stays_as_it_is():
    options = overlay("/a/1", "/a/2")
    length = sum(map(len, options))
    assert mount_options.shorten_overlay(options, length + 1) == ("", options)
    assert mount_options.shorten_overlay(options, length)[0] == "/a"


def test_the_options_given_are_left_alone():
    options = overlay("/a/1", "/a/2")
    mount_options.shorten_overlay(options, 1)
    assert options == overlay("/a/1", "/a/2")


names = st.text(alphabet="ab1", min_size=1, max_size=2)
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(paths, min_size=1, max_size=5))
@examples(300)
def test_shortened_names_mean_the_same_directories(lowers):
    directory, options = mount_options.shorten_overlay([f"lowerdir={':'.join(lowers)}"], 1)
    (option,) = options
    found = option.removeprefix("lowerdir=").split(":")
    if directory:
        assert all(name and not name.startswith("/") for name in found)
        found = [posixpath.join(directory, name) for name in found]
    assert found == lowers


def test_an_entry_keeps_its_own_options():
    words = ["ro"]
    entry = mount_options.Entry("overlay", "overlay", "", words)
    words.append("rw")
    assert entry.options == ("ro",)


def test_words_for_a_loop_device_are_consumed():
    found = mount_options.Options(["loop", "ro", "noload"])
    assert (found.loop, found.direct_io, found.flags, found.data) == (True, False, 1, "noload")
    found = mount_options.Options(["direct-io", "loop"])
    assert (found.loop, found.direct_io, found.data) == (True, True, "")


def test_direct_io_without_a_loop_device_is_the_file_systems_own():
    found = mount_options.Options(["direct-io"])
    assert (found.loop, found.direct_io, found.data) == (False, False, "direct-io")


def test_id_maps_need_both_and_never_reach_the_kernel():
    words = ["uidmap=0:1000:1", "lowerdir=/a", "gidmap=0:2000:10,10:5000:20"]
    found = mount_options.Options(words)
    assert found.id_maps == ("0 1000 1\n", "0 2000 10\n10 5000 20\n")
    assert found.data == "lowerdir=/a"
    for word in ("uidmap=0:1:1", "gidmap=0:1:1"):
        found = mount_options.Options([word])
        assert (found.id_maps, found.data) == (None, "")


@pytest.mark.parametrize(
    "text",
    ["0", "0:1", "0:1:2:3", "a:b:c", "-1:0:1", "0:1:", " 0:1:2", "0:1:2,", "0:1:2;3:4:5", "٠:1:2"],
)
def test_an_id_map_that_is_none_is_refused_in_the_words_of_containerd(text):
    with pytest.raises(ValueError, match="require the format `container-id:host-id:size`"):
        mount_options.Options([f"uidmap={text}", "gidmap=0:0:1"])


@pytest.mark.parametrize("text", ["4294967296:0:1", "0:4294967296:1", "0:0:99999999999999999999"])
def test_an_id_beyond_32_bits_is_refused(text):
    with pytest.raises(ValueError, match="beyond 32 bits"):
        mount_options.id_map(text)


def fuse(kind, *words):
    return mount_options.Entry(kind, "source", "", words)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("fuse.sshfs", ("mount.fuse", "sshfs")),
        ("fuse3.fuse-overlayfs", ("mount.fuse3", "fuse-overlayfs")),
        ("fuse3.a.b", ("mount.fuse3", "a.b")),
        ("fuse", None),
        ("fuse3", None),
        ("fuseblk", None),
        ("overlay", None),
        ("mount.fuse3", None),
    ],
)
def test_types_that_a_program_mounts(kind, found):
    assert mount_options.helper(fuse(kind)) == found


def test_the_command_line_of_a_helper():
    entry = fuse("fuse3.fuse-overlayfs", "lowerdir=/a:/b", "ro", "uidmap=1:2:3")
    assert mount_options.helper_argv(entry, "mount.fuse3", "fuse-overlayfs", "/m") == [
        "mount.fuse3", "source", "/m",
        "-o", "lowerdir=/a:/b", "-o", "ro", "-o", "uidmap=1:2:3",
        "-t", "fuse-overlayfs",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"^internal mount option"):
        mount_options.helper_argv(fuse("fuse.x", "X-containerd.a"), "mount.fuse", "x", "/m")


@pytest.mark.parametrize(
    ("lowers", "found"),
    [
        (["/s/1/fs"], ("/s/1", ["fs"])),
        (["/s/1/fs", "/s/10/fs"], ("/s", ["1/fs", "10/fs"])),
        (["/s"], None),
        (["s"], None),
        ([], None),
    ],
)
def test_layers_named_from_a_common_directory(lowers, found):
    assert mount_options.relative_lowers(lowers) == found


def test_the_last_list_of_layers_counts():
    words = ["lowerdir=/a:/b", "x", "lowerdir=/c"]
    assert mount_options.split_lowers(words) == (["/c"], ["x"])
