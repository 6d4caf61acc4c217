"""Dialling a daemon and finding its version."""

from __future__ import annotations

import socket
import threading
import time

import grpc
import pytest

from shim_runc_py.cri.connection import Connection
from shim_runc_py.cri.failures import CRIError, NotServed, Unreachable
from shim_runc_py.cri.services import RuntimeService
from tests.cri.unit.fake import FakeDaemon, Refusal


def test_v1_is_asked_first_and_used(daemon):
    with Connection(daemon.endpoint) as connection:
        assert connection.version == "v1"
        RuntimeService(connection).list_pod_sandbox()
    assert [call[:2] for call in daemon.calls] == [("v1", "Version"), ("v1", "ListPodSandbox")]


def test_v1alpha2_is_used_when_v1_is_not_served(daemon):
    daemon.versions = ("v1alpha2",)
    with Connection(daemon.endpoint) as connection:
        assert connection.version == "v1alpha2"
        RuntimeService(connection).list_pod_sandbox()
    assert [call[:2] for call in daemon.calls] == [
        ("v1alpha2", "Version"),
        ("v1alpha2", "ListPodSandbox"),
    ]


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND]
)
def test_any_other_failure_of_v1_is_final(daemon, code):
    daemon.versions = ("v1", "v1alpha2")
    daemon.on("Version", Refusal(code, "the disk is full"))
    with pytest.raises(CRIError, match="Version: the disk is full") as error:
        Connection(daemon.endpoint)
    assert error.value.code == code
    assert [version for version, *_ in daemon.calls] == ["v1"]


def test_a_daemon_without_cri_is_told_apart(daemon):
    daemon.versions = ()
    with pytest.raises(NotServed, match="neither CRI v1 nor v1alpha2"):
        Connection(daemon.endpoint)


def test_nobody_there_ends_after_the_connect_timeout(tmp_path):
    began = time.monotonic()
    with pytest.raises(Unreachable, match="nobody speaks gRPC"):
        Connection(f"unix://{tmp_path}/none.sock", connect_timeout=0.3)
    assert 0.2 < time.monotonic() - began < 3


def test_a_socket_of_something_else_ends_after_the_connect_timeout(tmp_path):
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(8)
        with pytest.raises(Unreachable, match=str(path)):
            Connection(f"unix://{path}", connect_timeout=0.3)


def test_a_daemon_that_comes_late_is_waited_for(tmp_path):
    made = []
    timer = threading.Timer(0.3, lambda: made.append(FakeDaemon(tmp_path / "late.sock")))
    timer.start()
    try:
        with Connection(f"unix://{tmp_path}/late.sock", connect_timeout=10) as connection:
            assert connection.version == "v1"
    finally:
        timer.join()
        made[0].stop()


def test_a_call_outlives_a_restart_of_the_daemon(tmp_path):
    path = tmp_path / "again.sock"
    first = FakeDaemon(path)
    with Connection(f"unix://{path}") as connection:
        service = RuntimeService(connection)
        first.stop()
        with pytest.raises(Unreachable):
            service.list_pod_sandbox()
        second = FakeDaemon(path)
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    assert service.list_pod_sandbox() == []
                    break
                except Unreachable:
                    assert time.monotonic() < deadline
        finally:
            second.stop()
