"""A file in the place of a device (SEMANTICS 3.4)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from shim_runc_py.linux import loopdev, mounts, unmounts
from tests.mounts.conftest import entry, what

pytestmark = [
    pytest.mark.skipif(not os.path.exists(loopdev.CONTROL), reason="this kernel has no loop"),
    pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="mkfs.ext4: install e2fsprogs"),
]


@pytest.fixture
def image(directory):
    path = directory / "image"
    command = ["mkfs.ext4", "-q", "-d", str(directory / "a"), str(path), "2m"]
    subprocess.run(command, check=True, capture_output=True)
    return path


def devices(image):
    """Loop devices on this file, by what the kernel says."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            text = path.read_text()
        except OSError:
            continue
        if text.strip() == str(image):
            found.append(path.parents[1].name)
    return found


def test_a_file_is_mounted_and_its_device_goes_with_the_mount(directory, apart, image):
    rootfs = directory / "rootfs"

    def action():
        mounts.mount_all([entry("ext4", image, "loop")], str(rootfs), {})
        assert "a" in what(rootfs)
        (rootfs / "new").write_text("x")
        assert len(devices(image)) == 1
        unmounts.unmount_below(str(rootfs))
        assert devices(image) == []

    apart(action)


def test_a_read_only_file_gets_a_read_only_device(directory, apart, image):
    image.chmod(0o400)

    def action():
        words = ("loop", "ro", "noload")
        mounts.mount_all([entry("ext4", image, *words)], str(directory / "rootfs"), {})
        (device,) = devices(image)
        assert Path(f"/sys/block/{device}/ro").read_text() == "1\n"
        assert Path(f"/sys/block/{device}/loop/autoclear").read_text() == "1\n"

    apart(action)


def test_direct_io_is_asked_of_the_device_and_not_of_the_file_system(directory, apart, image):
    def action():
        words = ("loop", "direct-io")
        mounts.mount_all([entry("ext4", image, *words)], str(directory / "rootfs"), {})
        (device,) = devices(image)
        # The disk below the file may not be able to; then the kernel goes without.
        assert Path(f"/sys/block/{device}/loop/dio").read_text() in ("0\n", "1\n")

    apart(action)


def test_a_file_that_is_missing_is_named(directory, apart):
    def action():
        with pytest.raises(OSError, match=r"could not open backing file: open .*/no: no such file"):
            mounts.mount_all(
                [entry("ext4", directory / "no", "loop")], str(directory / "rootfs"), {}
            )

    apart(action)


def test_a_file_that_is_no_file_system_leaves_no_device(directory, apart):
    (directory / "zeros").write_bytes(bytes(1 << 20))

    def action():
        with pytest.raises(OSError, match="invalid argument"):
            mounts.mount_all(
                [entry("ext4", directory / "zeros", "loop")], str(directory / "rootfs"), {}
            )
        assert devices(directory / "zeros") == []

    apart(action)


def test_many_at_once_all_get_a_device(directory, image):
    """Each finds a free one, and all but one are too late to have it: they ask again."""
    images = []
    for number in range(6):
        images.append(directory / f"image{number}")
        shutil.copy(image, images[-1])
    go, say_go = os.pipe()
    children = []
    for path in images:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.close(say_go)
                os.read(go, 1)
                fd, _ = loopdev.attach(str(path))
                found = devices(path)
                os.close(fd)
                status = 0 if len(found) == 1 else 2
            finally:
                os._exit(status)
        children.append(pid)
    os.close(go)
    os.close(say_go)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 6
    assert [devices(path) for path in images] == [[]] * 6


def test_an_older_kernel_gets_it_in_two_steps(directory, image, monkeypatch):
    monkeypatch.setattr(loopdev, "_CONFIGURE", 0x4CFF)  # no such call: ENOTTY or EINVAL
    fd, name = loopdev.attach(str(image), read_only=True)
    try:
        block = Path("/sys/block") / Path(name).name
        assert (block / "loop" / "backing_file").read_text().strip() == str(image)
        assert (block / "loop" / "autoclear").read_text() == "1\n"
        assert (block / "ro").read_text() == "1\n"
    finally:
        os.close(fd)
    assert devices(image) == []
