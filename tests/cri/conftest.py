"""Nodes to run pods on: a containerd of each generation with the handlers pyrunc and runc."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim_runc_py.testing import cri_daemon, generations, leaks, plugin
from shim_runc_py.testing.cri_daemon import CRIDaemon

pytest.importorskip("grpc", reason="the extra `cri` is not installed")

from tests.cri.node import Node


@pytest.fixture(autouse=True)
def grpc_has_settled(nothing_is_left):
    """gRPC closes the sockets of a closed channel in a thread of its own, a moment later."""
    before = leaks.descriptors()
    yield
    deadline = time.monotonic() + 2
    while set(leaks.descriptors()) - set(before) and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """The report of a failure has what the daemon said last."""
    report = (yield).get_result()
    daemon = getattr(item, "funcargs", {}).get("daemon")
    if report.failed and isinstance(daemon, CRIDaemon):
        lines = [line for line in daemon.log().splitlines() if "level=debug" not in line]
        report.sections.append(("containerd's log", "\n".join(lines[-60:])))


def make_daemon(name: str, suite: str, **settings) -> CRIDaemon:
    """A containerd of a suite's generation in the session's directory, not yet started."""
    try:
        generation = generations.get(suite)
        launcher = Path(plugin.binaries()[0].path)
        return CRIDaemon(Path(plugin._session) / name, generation, launcher, **settings)
    except generations.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=generations.SUITES)
def session_daemon(request) -> Iterator[CRIDaemon]:
    """One containerd for all tests of a generation that do not stop it."""
    ghost = {"ghost": "io.containerd.ghost.v2"}  # a handler without a binary
    daemon = make_daemon(f"n{request.param[0]}", request.param, more_handlers=ghost)
    try:
        daemon.start()
        daemon.import_images()
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(daemon.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def session_node(session_daemon) -> Iterator[Node]:
    node = Node(session_daemon)
    yield node
    node.close()


@pytest.fixture(params=list(cri_daemon.HANDLERS))
def handler(request):
    """The handler of a RuntimeClass: ours, and the stock one to compare with."""
    return request.param


@pytest.fixture
def daemon(session_daemon, session_node, nothing_is_left) -> Iterator[CRIDaemon]:
    """The shared containerd, without pods when the test begins and ends."""
    yield session_daemon
    left = session_node.sandboxes()
    session_node.remove_all()
    cri_daemon.remove_pod_cgroups()
    assert not left, f"sandboxes left: {left}"


@pytest.fixture
def node(daemon, session_node):
    """The shared node."""
    return session_node
