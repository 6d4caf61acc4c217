"""A place to mount in that goes with the process that mounts there."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from shim_runc_py.linux import libc, procfs
from shim_runc_py.linux.mount_options import BIND, Entry
from tests.unit.driving import in_fork

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
_PRIVATE, _REC = 1 << 18, 1 << 14


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(NEEDS_ROOT)


@pytest.fixture
def directory(nothing_is_left):
    """With rootfs, and a, b, c to be its layers; each has a file of its name."""
    path = Path(tempfile.mkdtemp(prefix="mounts", dir="/tmp"))
    for name in ("rootfs", "a", "b", "c", "upper", "work"):
        (path / name).mkdir()
    for name in ("a", "b", "c"):
        (path / name / name).write_text(name)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def apart(directory):
    """`apart(action)`: run `action` in a child with a mount namespace of its own."""

    def run(action):
        def inside():
            libc.new_mount_namespace()
            libc.mount("none", "/", "", _REC | _PRIVATE, "")
            action()

        in_fork(inside)

    return run


def entry(kind, source, *words, target=""):
    return Entry(kind, str(source), target, words)


def bind(source, *words, target=""):
    return entry("bind", source, "rbind", *words, target=target)


def plain_bind(source, place):
    libc.mount(str(source), str(place), "", BIND, "")


def points(directory):
    return procfs.own_mount_points(str(directory))


def what(path):
    """Names in a directory, sorted."""
    return sorted(os.listdir(path))
