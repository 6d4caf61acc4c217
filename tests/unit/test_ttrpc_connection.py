"""ttrpc.connection and ttrpc.status: what breaks a rule, and how it is answered (CONTRACT 6.5)."""

from __future__ import annotations

import errno
import os

import pytest
from google.protobuf.any_pb2 import Any

from shim_runc_py.errors import NotFound, ShimError
from shim_runc_py.ttrpc import frame, status
from shim_runc_py.ttrpc.connection import (
    Call,
    ClientConnection,
    HalfClose,
    Message,
    ServerConnection,
)
from shim_runc_py.ttrpc.envelope_pb2 import Request, Response
from shim_runc_py.ttrpc.frame import DATA, NO_DATA, REMOTE_CLOSED, REMOTE_OPEN, REQUEST, RESPONSE


def server():
    """A server that has seen streams 1 (the client sends), 3 (it sends no more), 5 (answered)."""
    made = ServerConnection()
    for stream, flags in ((1, REMOTE_OPEN), (3, REMOTE_CLOSED), (5, 0)):
        made.receive(frame.pack(stream, REQUEST, flags, b""))
    made.respond(5, b"")
    made.outgoing().clear()
    return made


def answers(connection):
    """(stream, code, text) of the statuses that a server wants to send."""
    frames = frame.Splitter().feed(bytes(connection.outgoing()))
    assert all((one.kind, one.flags) == (RESPONSE, 0) for one in frames)
    found = [(one.stream, Response.FromString(one.payload).status) for one in frames]
    return [(stream, status.code, status.message) for stream, status in found]


EVEN = "StreamID must be odd for client initiated streams"
AGAIN = "StreamID cannot be re-used and must increment"
INACTIVE = "StreamID is no longer active"
CLOSED = "data handling error: ttrpc: stream closed"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (frame.pack(2, REQUEST, 0, b""), (2, 3, EVEN)),
        (frame.pack(0, REQUEST, 0, b""), (0, 3, EVEN)),
        (frame.pack(8, REQUEST, 0, b""), (8, 3, EVEN)),
        (frame.pack(5, REQUEST, 0, b""), (5, 3, AGAIN)),
        (frame.pack(3, REQUEST, 0, b""), (3, 3, AGAIN)),
        (frame.pack(1, REQUEST, 0, b""), (1, 3, AGAIN)),
        (frame.pack(7, DATA, 0, b"x"), (7, 3, INACTIVE)),
        (frame.pack(5, DATA, 0, b"x"), (5, 3, INACTIVE)),
        (frame.pack(2, DATA, 0, b""), (2, 3, INACTIVE)),
        (frame.pack(3, DATA, 0, b"x"), (3, 3, CLOSED)),
        (frame.pack(3, DATA, REMOTE_CLOSED | NO_DATA, b""), (3, 3, CLOSED)),
    ],
)
def test_a_violation_is_answered_on_its_stream(sent, answer):
    connection = server()
    assert connection.receive(sent) == []
    assert answers(connection) == [answer]


def test_an_end_with_data_is_an_end():
    connection = server()
    (event,) = connection.receive(frame.pack(1, DATA, REMOTE_CLOSED, b"x"))
    assert isinstance(event, HalfClose)
    assert answers(connection) == [(1, 3, "data close message cannot include data")]


@pytest.mark.parametrize("payload", [b"\x0a\xff", b"\x0a\x01\xff", b"\xff"])
def test_a_request_that_does_not_parse(payload):
    connection = server()
    assert connection.receive(frame.pack(7, REQUEST, 0, payload)) == []
    ((stream, code, text),) = answers(connection)
    assert (stream, code) == (7, 3)
    assert text.startswith("unmarshal request error: ")
    assert not connection.is_open(7)


@pytest.mark.parametrize("kind", [0, RESPONSE, 4, 0x7F, 0xFF])
def test_an_unknown_type_is_ignored(kind):
    connection = server()
    assert connection.receive(frame.pack(1, kind, 0xFF, b"x")) == []
    assert answers(connection) == []


@pytest.mark.parametrize(
    ("flags", "more"),
    [
        (0, False),
        (REMOTE_OPEN, True),
        (REMOTE_CLOSED, False),
        (REMOTE_OPEN | REMOTE_CLOSED, False),
        (REMOTE_OPEN | NO_DATA | 0xF8, True),
    ],
)
def test_the_flags_of_a_request_say_whether_more_follows(flags, more):
    connection = server()
    payload = Request(method="m").SerializeToString()
    (call,) = connection.receive(frame.pack(7, REQUEST, flags, payload))
    assert isinstance(call, Call)
    assert call.more == more
    connection.receive(frame.pack(7, DATA, 0, b"x"))
    assert answers(connection) == ([] if more else [(7, 3, CLOSED)])


@pytest.mark.parametrize(
    ("flags", "payload", "expected"),
    [
        (0, b"x", ["x"]),
        (0, b"", [""]),
        (0xF8, b"x", ["x"]),
        (NO_DATA, b"", []),
        (NO_DATA, b"x", []),
        (REMOTE_CLOSED, b"", [None]),
        (REMOTE_CLOSED | NO_DATA, b"", [None]),
    ],
)
def test_what_data_of_a_client_means(flags, payload, expected):
    connection = server()
    events = connection.receive(frame.pack(1, DATA, flags, payload))
    found = [event.payload.decode() if isinstance(event, Message) else None for event in events]
    assert found == expected
    assert answers(connection) == []


@pytest.mark.parametrize("stream", [3, 2**31 + 1, 2**32 - 1])
def test_ids_may_leave_gaps(stream):
    connection = ServerConnection()
    assert len(connection.receive(frame.pack(stream, REQUEST, 0, b""))) == 1
    assert connection.receive(frame.pack(1, REQUEST, 0, b"")) == []
    assert answers(connection) == [(1, 3, AGAIN)]


def test_a_client_sends_nothing_on_a_unary_stream():
    client = ClientConnection()
    for streaming in (None, False):
        stream = client.call("s", "m", b"", streaming=streaming)
        client.outgoing().clear()
        with pytest.raises(status.RpcError) as caught:
            client.send(stream, b"x")
        assert (caught.value.code, str(caught.value)) == (1, "ttrpc: stream closed")
        client.close_send(stream)
        assert not client.outgoing()


def test_a_client_closes_once():
    client = ClientConnection()
    stream = client.call("s", "m", b"", streaming=True)
    client.outgoing().clear()
    client.close_send(stream)
    client.close_send(stream)
    assert client.outgoing() == frame.pack(stream, DATA, REMOTE_CLOSED | NO_DATA, b"")


def test_metadata_keys_are_lower_case_on_the_wire():
    client = ClientConnection()
    client.call("s", "m", b"", metadata={"Containerd-Namespace-TTRPC": "K8s"})
    (got,) = frame.Splitter().feed(bytes(client.outgoing()))
    (pair,) = Request.FromString(got.payload).metadata
    assert (pair.key, pair.value) == ("containerd-namespace-ttrpc", "K8s")


def test_a_request_too_large_takes_no_id():
    client = ClientConnection()
    with pytest.raises(status.RpcError) as caught:
        client.call("s", "m", bytes(frame.MAX_PAYLOAD))
    assert caught.value.code == status.RESOURCE_EXHAUSTED
    assert client.call("s", "m", b"") == 1


@pytest.mark.parametrize("payload", [b"\x0a\xff", b"\xff"])
def test_a_response_that_does_not_parse_fails_its_call(payload):
    client = ClientConnection()
    stream = client.call("s", "m", b"")
    (reply,) = client.receive(frame.pack(stream, RESPONSE, 0, payload))
    assert reply.error.code == status.INTERNAL
    assert str(reply.error).startswith("unmarshal response error: ")


def test_a_status_of_zero_is_success():
    client = ClientConnection()
    stream = client.call("s", "m", b"")
    body = Response(payload=b"x")
    body.status.SetInParent()
    (reply,) = client.receive(frame.pack(stream, RESPONSE, 0, body.SerializeToString()))
    assert (reply.error, reply.payload) == (None, b"x")


@pytest.mark.parametrize("kind", [REQUEST, 0, 4, 0xFF])
def test_a_client_ignores_other_types(kind):
    client = ClientConnection()
    stream = client.call("s", "m", b"")
    assert client.receive(frame.pack(stream, kind, 0, b"x")) == []
    assert len(client.receive(frame.pack(stream, RESPONSE, 0, b""))) == 1


class Coded(Exception):
    code = 14


class Worded(Exception):
    code = "not a number"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ShimError("why"), (2, "why")),
        (NotFound("c1"), (5, "c1: not found")),
        (ShimError("why", 9), (9, "why")),
        (status.RpcError(8, "full", (Any(),)), (8, "full")),
        (status.Closed(), (2, "ttrpc: closed")),
        (Coded("x"), (14, "x")),
        (Worded("x"), (2, "x")),
        (ValueError("bad"), (2, "bad")),
        (ValueError(), (2, "ValueError")),
        (TimeoutError(), (4, "context deadline exceeded")),
        (TimeoutError(errno.ETIMEDOUT, "x", "/f"), (4, "context deadline exceeded")),
        (FileNotFoundError(2, os.strerror(2)), (5, "no such file or directory")),
        (FileNotFoundError(2, os.strerror(2), "/A/b"), (5, "/A/b: no such file or directory")),
        (FileExistsError(17, os.strerror(17)), (6, "file exists")),
        (PermissionError(1, os.strerror(1)), (7, "operation not permitted")),
        (PermissionError(13, os.strerror(13)), (7, "permission denied")),
        (OSError(errno.EINVAL, os.strerror(errno.EINVAL)), (2, "invalid argument")),
        (OSError("bare"), (2, "bare")),
    ],
)
def test_an_exception_becomes_a_status(error, expected):
    assert status.of(error) == expected
