"""Images and snapshots.

Images are made here, with several layers or very many, and run from overlay snapshots.
"""

from __future__ import annotations

import os
import re

import pytest

from shim_runc_py.testing import images, leaks
from shim_runc_py.testing.daemon import wait_until
from tests.containerd.user import LINGER

NAME = "pyrunc.test/layers:1"
MANY = 120  # overlay's options are then longer than a page, and need a change of directory


@pytest.fixture
def image(user, tmp_path):
    """`image(count)`: an image of that many layers, imported; the upper ones each bring a file and
    replace /top. It is removed after the test.
    """
    if not overlay_works(user.daemon):
        pytest.skip("containerd's overlayfs snapshotter does not work on this file system")

    def make(count):
        above = []
        for number in range(1, count):
            layer = tmp_path / f"layer{number}"
            layer.mkdir()
            (layer / f"file{number}").write_text(f"{number}\n")
            (layer / "top").write_text(f"{number}\n")
            above.append(layer)
        archive = tmp_path / "image.tar"
        rootfs = images.tools_rootfs(tmp_path / "rootfs")
        images.archive(
            archive, NAME, rootfs, command=["/bin/sh", "-c", LINGER + "cat /top"], above=above
        )
        user.daemon.ctr("images", "import", str(archive))
        return NAME

    yield make
    user.daemon.ctr("images", "rm", "--sync", NAME, check=False)

    def collected() -> bool:
        return len(user.daemon.ctr("snapshots", "ls").stdout.splitlines()) == 1

    wait_until(collected, "the snapshots of the image are gone", 10)


def overlay_works(daemon):
    plugins = daemon.ctr("plugins", "ls").stdout
    found = re.search(r"^\S+ +overlayfs .* (\w+) *$", plugins, re.MULTILINE)
    return found is not None and found[1] == "ok"


def run_image(user, name, id, *command, options=("--rm",), **how):
    if command[:2] == ("/bin/sh", "-c"):
        command = (*command[:2], LINGER + command[2])
    words = ["run", "--runtime", user.pairing.runtime, *options, name, id, *command]
    return user.daemon.ctr(*words, **how)


def snapshots(user):
    """Keys of active snapshots, as containers have them."""
    lines = user.daemon.ctr("snapshots", "ls").stdout.splitlines()[1:]
    return [line.split()[0] for line in lines if line.split()[-1] == "Active"]


@pytest.mark.control
def test_an_image_of_three_layers_runs_its_command_from_an_overlay(user, image):
    name = image(3)
    assert run_image(user, name, "c1").stdout == "2\n"
    script = "cat /file1 /file2; echo written >/top; cat /top; grep ' / ' /proc/mounts"
    done = run_image(user, name, "c2", "/bin/sh", "-c", script)
    assert done.stdout.startswith("1\n2\nwritten\noverlay / overlay "), done.stdout
    assert run_image(user, name, "c3").stdout == "2\n"
    assert snapshots(user) == []
    assert leaks.mounts(str(user.daemon.directory / "state")) == []


@pytest.mark.control
def test_an_image_of_more_than_a_hundred_layers(user, image):
    name = image(MANY)
    script = f"cat /top /file1 /file{MANY - 1}; ls / | grep -c file"
    done = run_image(user, name, "c1", "/bin/sh", "-c", script)
    assert done.stdout.split() == [str(MANY - 1), "1", str(MANY - 1), str(MANY - 1)]
    assert snapshots(user) == []


def test_a_read_only_rootfs(user, image):
    options = ["--rm", "--read-only"]
    script = "echo x >/top || echo refused"
    done = run_image(user, image(2), "c1", "/bin/sh", "-c", script, options=options)
    assert done.stdout == "refused\n"
    assert "Read-only file system" in done.stderr


def test_a_missing_executable_leaves_no_snapshot_and_no_mount(user, image):
    done = run_image(user, image(2), "c1", "/nosuch", check=False)
    assert 'exec: "/nosuch": stat /nosuch: no such file or directory' in done.stderr
    assert snapshots(user) == []
    assert leaks.mounts(str(user.daemon.directory / "state")) == []
    assert not user.bundle("c1").exists()


def test_a_killed_shim_leaves_no_mount(user, image):
    run_image(user, image(2), "c1", "/bin/sleep", "1000", options=["-d"])
    assert leaks.mounts(str(user.bundle("c1"))) != []
    os.kill(user.shim_of("c1"), 9)
    wait_until(lambda: not user.bundle("c1").exists(), "its bundle is gone", 10)
    assert leaks.mounts(str(user.daemon.directory / "state")) == []
    user.daemon.ctr("containers", "rm", "c1")
    wait_until(lambda: not snapshots(user), "its snapshot is gone", 10)
    assert run_image(user, NAME, "c1").stdout == "1\n"  # takes over the socket


def test_a_user_namespace_with_its_stdio(user, image):
    maps = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"]
    script = "id -u; cat /proc/self/uid_map; echo mine >/proc/self/fd/2"
    done = run_image(user, image(2), "c1", "/bin/sh", "-c", script, options=["--rm", *maps])
    assert done.stdout.split() == ["0", "0", "100000", "65536"]
    assert done.stderr == "mine\n"


def test_the_native_snapshotter(user, image):
    name = image(3)
    user.daemon.ctr("images", "mount", "--snapshotter", "native", name, "/mnt", check=False)
    user.daemon.ctr("images", "unmount", "--snapshotter", "native", "--rm", "/mnt", check=False)
    options = ["--rm", "--snapshotter", "native"]
    done = run_image(user, name, "c1", "/bin/sh", "-c", "cat /top; echo x >/top", options=options)
    assert done.stdout == "2\n"
    assert run_image(user, name, "c1", options=options).stdout == "2\n"
