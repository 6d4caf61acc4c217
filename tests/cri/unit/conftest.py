"""A fake daemon for each test; what gRPC keeps for the process is opened before."""

from __future__ import annotations

import pytest

pytest.importorskip("grpc", reason="the extra `cri` is not installed")

from shim_runc_py.cri.connection import Connection
from tests.cri.unit.fake import FakeDaemon


@pytest.fixture(scope="session", autouse=True)
def grpc_is_warm(tmp_path_factory):
    """gRPC's poller and its wake-up descriptors belong to the process and stay."""
    daemon = FakeDaemon(tmp_path_factory.mktemp("warm") / "s")
    connection = Connection(daemon.endpoint)
    yield
    connection.close()
    daemon.stop()


@pytest.fixture
def daemon(tmp_path, grpc_is_warm):
    """Takes the place of a real one, so the check for leaks looks for all of them."""
    made = FakeDaemon(tmp_path / "cri.sock")
    yield made
    made.stop()


@pytest.fixture
def connection(daemon):
    with Connection(daemon.endpoint, call_timeout=10) as made:
        yield made
