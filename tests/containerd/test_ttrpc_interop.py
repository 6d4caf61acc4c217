"""Our ttrpc against the Go library in the real daemon, in both directions."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from shim_runc_py.api.events_pb2 import TaskOOM
from shim_runc_py.api.forward_pb2 import Envelope, ForwardRequest
from shim_runc_py.events.publisher import SERVICE
from shim_runc_py.testing.daemon import wait_until
from shim_runc_py.testing.shims import refused
from shim_runc_py.ttrpc.client import BlockingClient
from shim_runc_py.ttrpc.status import RpcError


@pytest.fixture
def client(daemon):
    """Our client at containerd's own ttrpc service; a shim has no part in it."""
    with BlockingClient(f"{daemon.address}.ttrpc") as connected:
        yield connected


def forward(topic="/tasks/oom", namespace="interop", now=None):
    message = TaskOOM(container_id="from-python")
    now = time.time_ns() if now is None else now
    return ForwardRequest(
        envelope=Envelope(
            timestamp=Timestamp(seconds=now // 10**9, nanos=now % 10**9),
            namespace=namespace,
            topic=topic,
            event=Any(type_url="containerd.events.TaskOOM", value=message.SerializeToString()),
        )
    )


def test_containerd_takes_an_event_of_ours_and_tells_its_subscribers(daemon, client):
    process = subprocess.Popen(
        daemon.ctr_argv("events"),
        env=daemon.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    seen = b""
    try:
        os.set_blocking(process.stdout.fileno(), False)

        def told():
            nonlocal seen
            client.call(SERVICE, "Forward", forward(), Empty)
            seen += process.stdout.read() or b""
            return b"from-python" in seen

        wait_until(told, "the event comes back")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
    line = next(line for line in seen.decode().splitlines() if "from-python" in line)
    assert "interop /tasks/oom" in line


def test_containerd_refuses_what_it_must_and_the_connection_lives(client):
    for bad in (forward(topic="no-slash"), forward(namespace="-")):
        with pytest.raises(RpcError):
            client.call(SERVICE, "Forward", bad, Empty)
    client.call(SERVICE, "Forward", forward(), Empty)


def test_unknown_services_and_methods_have_the_same_texts_on_both_sides(client):
    with refused(12, "service example.Nobody"):
        client.call("example.Nobody", "Say", Empty(), Empty)
    with refused(12, "method Dance"):
        client.call(SERVICE, "Dance", Empty(), Empty)


def test_many_calls_at_once_are_all_answered(client):
    streams = [client.begin(SERVICE, "Forward", forward()) for _ in range(200)]
    for stream in reversed(streams):
        client.finish(stream, Empty)
