"""Every golden vector in both directions: bytes to meaning, and meaning to bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim_runc_py.ttrpc import frame
from shim_runc_py.ttrpc.connection import (
    Call,
    ClientConnection,
    HalfClose,
    Message,
    Reply,
    ServerConnection,
)
from shim_runc_py.ttrpc.envelope_pb2 import KeyValue, Request, Response, Status
from tests.wire import vectors

ALL = vectors.load()
FRAMES = [vector for vector in ALL if vector.sender]
REQUESTS = [vector for vector in FRAMES if vector.kind == "request"]
RESPONSES = [vector for vector in FRAMES if vector.kind == "response"]
WRITTEN = [vector for vector in FRAMES if vector.expected.get("written", True)]
PAYLOADS = [vector for vector in ALL if "payload" in vector.expected]
SENT_BY_CLIENT = [vector for vector in FRAMES if vector.sender == "client"]
SENT_BY_SERVER = [vector for vector in FRAMES if vector.sender == "server"]

# The header of a frame of an unknown type, which every receiver passes over.
UNKNOWN = frame.pack(2, 0x7F, 0xFF, b"from the future")

FEEDINGS = {
    "whole": lambda data: [data],
    "byte by byte": lambda data: [bytes([byte]) for byte in data],
    "header apart": lambda data: [data[: frame.HEADER_LENGTH], data[frame.HEADER_LENGTH :]],
    "with the beginning of another": lambda data: [data + UNKNOWN[:7]],
    "with another": lambda data: [data + UNKNOWN],
    "after another": lambda data: [UNKNOWN[:3], UNKNOWN[3:] + data],
}
feedings = pytest.mark.parametrize("feeding", FEEDINGS.values(), ids=FEEDINGS.keys())


def each(chosen):
    return pytest.mark.parametrize("vector", chosen, ids=repr)


def fed(receive, portions):
    """Everything that `receive` gave for the portions."""
    return [found for portion in portions for found in receive(portion)]


def test_the_vectors_are_there_in_pairs():
    directory = Path(vectors.__file__).parent / "golden"
    texts = {path.stem for path in directory.glob("*.hex")}
    meanings = {path.stem for path in directory.glob("*.json")}
    assert texts == meanings
    assert len(texts) == 22
    assert {vector.kind for vector in ALL} == {"", "request", "response", "data"}


@feedings
@each(FRAMES)
def test_bytes_split_into_the_frame(vector, feeding):
    splitter = frame.Splitter()
    found = fed(splitter.feed, feeding(vector.data))
    assert [one for one in found if one.kind != 0x7F] == [vector.frame()]


@each(FRAMES)
def test_what_follows_a_frame_is_kept_for_the_next(vector):
    splitter = frame.Splitter()
    assert splitter.feed(vector.data + UNKNOWN[:12]) == [vector.frame()]
    assert splitter.buffered() == 12
    assert splitter.feed(UNKNOWN[12:]) == [frame.Frame(2, 0x7F, 0xFF, b"from the future")]
    assert splitter.buffered() == 0


@each(FRAMES)
def test_the_frame_packs_into_its_bytes(vector):
    kind = vectors.KINDS[vector.kind]
    assert frame.pack(vector.stream, kind, vector.flags, vector.body) == vector.data


@each(REQUESTS)
def test_a_request_envelope(vector):
    expected = vector.expected["request"]
    request = Request(
        service=expected["service"],
        method=expected["method"],
        payload=vector.payload(),
        timeout_nano=expected["timeout_nano"],
        metadata=[KeyValue(key=key, value=value) for key, value in expected["metadata"].items()],
    )
    assert request.SerializeToString() == vector.body
    assert Request.FromString(vector.body) == request


@each(RESPONSES)
def test_a_response_envelope(vector):
    expected = vector.expected["response"]
    response = Response(payload=vector.payload())
    if expected["code"]:
        response.status.CopyFrom(Status(**expected))
    assert response.SerializeToString() == vector.body
    assert Response.FromString(vector.body) == response


@each(PAYLOADS)
def test_a_message_encodes_to_its_bytes(vector):
    payload = vector.payload()
    if vector.kind in ("", "data"):
        assert payload == (vector.body if vector.sender else vector.data)
    else:
        envelope = Request if vector.kind == "request" else Response
        assert payload == envelope.FromString(vector.body).payload


@each(PAYLOADS)
def test_a_message_decodes_to_its_fields(vector):
    expected = vector.expected["payload"]
    message = vectors.message_type(expected["type"]).FromString(vector.payload())
    assert vectors.as_json(message) == expected["fields"]


def server_for(vector):
    """A server to whom the stream of a data or response frame is open."""
    server = ServerConnection()
    if vector.kind != "request":
        opening = frame.pack(vector.stream, frame.REQUEST, frame.REMOTE_OPEN, b"")
        assert len(server.receive(opening)) == 1
    return server


def client_for(vector, *, before=False):
    """A client that has opened the stream of the frame, or (`before`) is about to."""
    client = ClientConnection()
    for _ in range(1, vector.stream, 2):
        client.forget(client.call("s", "m", b""))
    if not before:
        assert client.call("s", "m", b"", streaming=True) == vector.stream
    client.outgoing().clear()
    return client


@feedings
@each(SENT_BY_CLIENT)
def test_a_server_understands_it(vector, feeding):
    server = server_for(vector)
    (event,) = fed(server.receive, feeding(vector.data))
    assert event.stream == vector.stream
    if vector.kind == "request":
        expected = vector.expected["request"]
        assert isinstance(event, Call)
        assert (event.service, event.method) == (expected["service"], expected["method"])
        assert event.payload == vector.payload()
        assert event.timeout_nano == expected["timeout_nano"]
        assert {pair.key: pair.value for pair in event.metadata} == expected["metadata"]
        assert event.more == (vector.flags == frame.REMOTE_OPEN)
    elif vector.flags & frame.REMOTE_CLOSED:
        assert isinstance(event, HalfClose)
    else:
        assert isinstance(event, Message)
        assert event.payload == vector.payload()
    assert not server.outgoing()


@feedings
@each(SENT_BY_SERVER)
def test_a_client_understands_it(vector, feeding):
    client = client_for(vector)
    events = fed(client.receive, feeding(vector.data))
    assert {event.stream for event in events} == {vector.stream}
    if vector.kind == "response":
        expected = vector.expected["response"]
        (reply,) = events
        assert isinstance(reply, Reply)
        assert reply.payload == vector.payload()
        if expected["code"]:
            assert (reply.error.code, str(reply.error)) == (expected["code"], expected["message"])
            assert reply.error.details == ()
        else:
            assert reply.error is None
        return
    messages = [event.payload for event in events if isinstance(event, Message)]
    assert messages == ([] if vector.flags & frame.NO_DATA else [vector.payload()])
    closes = bool(vector.flags & frame.REMOTE_CLOSED)
    assert isinstance(events[-1], HalfClose) == closes


@each([vector for vector in WRITTEN if vector.sender == "client"])
def test_a_client_writes_it(vector):
    client = client_for(vector, before=vector.kind == "request")
    if vector.kind == "request":
        expected = vector.expected["request"]
        streaming = {0: None, frame.REMOTE_OPEN: True, frame.REMOTE_CLOSED: False}[vector.flags]
        stream = client.call(
            expected["service"],
            expected["method"],
            vector.payload(),
            timeout_nano=expected["timeout_nano"],
            metadata=expected["metadata"],
            streaming=streaming,
        )
        assert stream == vector.stream
    elif vector.flags & frame.REMOTE_CLOSED:
        client.close_send(vector.stream)
    else:
        client.send(vector.stream, vector.payload())
    assert client.outgoing() == vector.data


@each([vector for vector in WRITTEN if vector.sender == "server"])
def test_a_server_writes_it(vector):
    server = server_for(vector)
    if vector.kind == "response":
        expected = vector.expected["response"]
        if expected["code"]:
            server.fail(vector.stream, expected["code"], expected["message"])
        else:
            server.respond(vector.stream, vector.payload())
    elif vector.flags & frame.REMOTE_CLOSED:
        server.finish(vector.stream)
    else:
        server.send(vector.stream, vector.payload())
    assert server.outgoing() == vector.data
