"""A private containerd for the tests in this folder."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from shim_runc_py.testing import plugin
from shim_runc_py.testing.daemon import Daemon
from shim_runc_py.testing.shims import Binary


@pytest.fixture(scope="session")
def session_daemon(tmp_path_factory) -> Iterator[Daemon]:
    """One containerd for all tests that do not stop it."""
    yield from run_daemon("d")


def run_daemon(name: str) -> Iterator[Daemon]:
    import shutil
    from pathlib import Path

    directory = Path(plugin._session) / name
    directory.mkdir()
    bin_directory = Path(plugin.binaries()[0].path).parent
    daemon = Daemon(directory, shim_directories=[str(bin_directory)], debug=True)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.clean_up()
        daemon.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def daemon(session_daemon, nothing_is_left) -> Iterator[Daemon]:
    """The shared containerd, without a container when the test begins and ends."""
    yield session_daemon
    session_daemon.clean_up()


@pytest.fixture
def own_daemon(nothing_is_left) -> Iterator[Daemon]:
    """A containerd that the test may stop and start."""
    yield from run_daemon(f"o{next(_numbers)}")


_numbers = itertools.count()


@pytest.fixture
def runtime(binary: Binary) -> list[str]:
    """The words for ctr that choose the shim under test."""
    return ["--runtime", "io.containerd.runc.v2" if binary.stock else "io.containerd.pyrunc.v2"]
