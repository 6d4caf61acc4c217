"""A client's and a server's half of the protocol against each other, and each against garbage.

Invariants
----------
* Whatever the two sides do, and in whatever portions their bytes travel, each sees exactly what the
  other said, in order, on the stream it was said on, and nothing after a stream has ended.
* A violation that can be laid to one stream is answered on it; the connection goes on.
* Bytes give the same events and the same answers whole and one at a time, raise nothing, and never
  make a connection hold more than one frame of the largest size.

The model knows the protocol as a reader of CONTRACT 6 does: two queues of frames, and who thinks
which stream is open. It learns where a frame ends from the length in its header, and nothing else
from the bytes.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from shim_runc_py.ttrpc import frame, status
from shim_runc_py.ttrpc.connection import (
    Call,
    ClientConnection,
    HalfClose,
    Message,
    Reply,
    ServerConnection,
)
from shim_runc_py.ttrpc.envelope_pb2 import KeyValue, Request, Response
from tests.property.profiles import examples

MAX = frame.MAX_PAYLOAD
MOST_HELD = frame.HEADER_LENGTH + MAX
LARGEST = bytes(MAX)
TOO_LARGE = bytes(MAX + 1)

payloads = st.one_of(st.just(b""), st.binary(max_size=40), st.binary(min_size=200, max_size=300))
words = st.text(st.characters(codec="utf-8"), max_size=12)
codes = st.integers(1, 16)
metadata = st.dictionaries(words, words, max_size=3)
timeouts = st.one_of(st.just(0), st.integers(-(2**63), 2**63 - 1))
details = st.lists(
    st.builds(AnyMessage, type_url=words, value=st.binary(max_size=8)), max_size=2
).map(tuple)


def seen(event: Any) -> tuple[Any, ...]:
    """An event as a value that compares."""
    match event:
        case Call():
            pairs = tuple((pair.key, pair.value) for pair in event.metadata)
            said = (event.service, event.method, event.payload, event.timeout_nano, pairs)
            return ("call", event.stream, *said, event.more)
        case Message():
            return ("message", event.stream, event.payload)
        case HalfClose():
            return ("half-close", event.stream)
        case Reply(error=None):
            return ("reply", event.stream, event.payload)
        case Reply():
            error = event.error
            return ("error", event.stream, error.code, str(error), error.details)
    raise AssertionError(event)


def refusal(stream: int, text: str, code: int = status.INVALID_ARGUMENT) -> tuple[Any, ...]:
    return ("error", stream, code, text, ())


class Wire:
    """One direction: bytes under way, and what each frame among them says."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.frames: deque[tuple[int, tuple[Any, ...]]] = deque()  # (bytes left, meaning)
        self.meanings: deque[tuple[Any, ...]] = deque()  # said, and not yet put on the wire

    def say(self, *meaning: Any) -> None:
        self.meanings.append(meaning)

    def put(self, outgoing: bytearray) -> None:
        """Everything that a connection wants to send, which must be what was said."""
        self.bytes += outgoing
        at = 0
        while at < len(outgoing):
            length = frame.HEADER_LENGTH + int.from_bytes(outgoing[at : at + 4], "big")
            assert length <= MOST_HELD or self.meanings[0][0] == "raw"
            self.frames.append((length, self.meanings.popleft()))
            at += length
        assert at == len(outgoing)
        assert not self.meanings
        outgoing.clear()

    def take(self, count: int) -> tuple[bytes, list[tuple[Any, ...]]]:
        """`count` bytes, and the meaning of the frames whose last byte is among them."""
        data = bytes(self.bytes[:count])
        del self.bytes[:count]
        left = len(data)
        complete = []
        while self.frames and self.frames[0][0] <= left:
            length, meaning = self.frames.popleft()
            left -= length
            complete.append(meaning)
        if left:
            length, meaning = self.frames.popleft()
            self.frames.appendleft((length - left, meaning))
        return data, complete


class Pair(RuleBasedStateMachine):
    streams = Bundle("streams")

    def __init__(self) -> None:
        super().__init__()
        self.client, self.server = ClientConnection(), ServerConnection()
        self.to_server, self.to_client = Wire(), Wire()
        self.next = 1
        self.client_open: dict[int, bool] = {}  # stream: may the client send
        self.server_open: dict[int, bool] = {}  # stream: does the client still send
        self.last = 0  # the largest id that the server has seen
        self.large = 0

    # the client's verbs

    @initialize(target=streams, payload=payloads)
    def begin(self, payload):
        return self.open("s", "m", payload, 0, {}, True)

    @rule(
        target=streams,
        service=words,
        method=words,
        payload=payloads,
        timeout=timeouts,
        metadata=metadata,
        streaming=st.sampled_from([None, True, False]),
    )
    def open(self, service, method, payload, timeout, metadata, streaming):
        stream = self.client.call(
            service,
            method,
            payload,
            timeout_nano=timeout,
            metadata=metadata,
            streaming=streaming,
        )
        assert stream == self.next
        self.next += 2
        self.client_open[stream] = bool(streaming)
        pairs = tuple((key.lower(), value) for key, value in metadata.items())
        more = streaming is True
        self.to_server.say("call", stream, service, method, payload, timeout, pairs, more)
        self.to_server.put(self.client.outgoing())
        return stream

    @rule(stream=streams, payload=payloads)
    def client_sends(self, stream, payload):
        if self.client_open.get(stream):
            self.client.send(stream, payload)
            self.to_server.say("message", stream, payload)
        else:
            with pytest.raises(status.RpcError, match="ttrpc: stream closed") as caught:
                self.client.send(stream, payload)
            assert caught.value.code == status.CANCELLED
        self.to_server.put(self.client.outgoing())

    @rule(stream=streams)
    def client_closes(self, stream):
        self.client.close_send(stream)
        if self.client_open.get(stream):
            self.client_open[stream] = False
            self.to_server.say("half-close", stream)
        self.to_server.put(self.client.outgoing())

    @rule(stream=consumes(streams))
    def client_forgets(self, stream):
        self.client.forget(stream)
        self.client_open.pop(stream, None)
        self.to_server.put(self.client.outgoing())

    @rule()
    def a_request_too_large_is_not_sent(self):
        with pytest.raises(status.RpcError, match=r"exceed maximum message size of 4194304$") as it:
            self.client.call("s", "m", LARGEST)
        assert it.value.code == status.RESOURCE_EXHAUSTED
        assert not self.client.outgoing()

    # a client that breaks the rules

    @rule(stream=st.integers(0, 40), payload=st.binary(max_size=8))
    def a_request_on_a_stream_that_cannot_be(self, stream, payload):
        if stream % 2 == 0 or stream < self.next:
            self.raw(stream, frame.REQUEST, 0, payload)

    @rule(stream=streams)
    def a_stream_is_begun_twice(self, stream):
        self.raw(stream, frame.REQUEST, 0, b"")

    @rule(ahead=st.integers(0, 3))
    def data_on_a_stream_that_never_was(self, ahead):
        self.raw(self.next + 2 * ahead + 1, frame.DATA, 0, b"?")

    @rule(stream=streams, payload=st.binary(min_size=1, max_size=8))
    def an_end_with_data(self, stream, payload):
        self.raw(stream, frame.DATA, frame.REMOTE_CLOSED, payload)

    @rule(kind=st.integers(4, 255), flags=st.integers(0, 255), payload=st.binary(max_size=8))
    def a_frame_of_an_unknown_type(self, kind, flags, payload):
        self.raw(1, kind, flags, payload)

    @precondition(lambda self: self.large < 1)
    @rule(stream=streams)
    def data_too_large(self, stream):
        self.large += 1
        self.raw(stream, frame.DATA, 0, TOO_LARGE)

    def raw(self, stream, kind, flags, payload):
        self.to_server.say("raw", stream, kind, flags, payload)
        self.to_server.put(bytearray(frame.pack(stream, kind, flags, payload)))

    # the server's verbs

    @rule(stream=streams, payload=payloads)
    def server_responds(self, stream, payload):
        assert self.server.is_open(stream) == (stream in self.server_open)
        self.server.respond(stream, payload)
        if self.server_open.pop(stream, None) is not None:
            self.to_client.say("reply", stream, payload)
        self.to_client.put(self.server.outgoing())

    @rule(stream=streams, code=codes, text=words, details=details)
    def server_fails(self, stream, code, text, details):
        self.server.fail(stream, code, text, details)
        if self.server_open.pop(stream, None) is not None:
            self.to_client.say("error", stream, code, text, details)
        self.to_client.put(self.server.outgoing())

    @rule(stream=streams, payload=payloads)
    def server_sends(self, stream, payload):
        if stream in self.server_open:
            self.server.send(stream, payload)
            self.to_client.say("message", stream, payload)
        else:
            with pytest.raises(status.RpcError, match="ttrpc: stream closed"):
                self.server.send(stream, payload)
        self.to_client.put(self.server.outgoing())

    @rule(stream=streams)
    def server_finishes(self, stream):
        self.server.finish(stream)
        if self.server_open.pop(stream, None) is not None:
            self.to_client.say("half-close", stream)
        self.to_client.put(self.server.outgoing())

    @precondition(lambda self: self.large < 1 and self.server_open)
    @rule(too_large=st.booleans())
    def server_sends_much(self, too_large):
        self.large += 1
        stream = min(self.server_open)
        if too_large:
            with pytest.raises(status.RpcError, match=r"^message length 4194305 exceed") as caught:
                self.server.send(stream, TOO_LARGE)
            assert caught.value.code == status.RESOURCE_EXHAUSTED
            assert self.server.is_open(stream)
        else:
            self.server.send(stream, LARGEST)
            self.to_client.say("message", stream, LARGEST)
        self.to_client.put(self.server.outgoing())

    @precondition(lambda self: self.large < 1 and self.server_open)
    @rule()
    def a_response_too_large_becomes_a_status(self):
        self.large += 1
        stream = min(self.server_open)
        del self.server_open[stream]
        self.server.respond(stream, LARGEST)
        length = Response(payload=LARGEST).ByteSize()
        text = f"message length {length} exceed maximum message size of 4194304"
        self.to_client.say(*refusal(stream, text, status.RESOURCE_EXHAUSTED))
        self.to_client.put(self.server.outgoing())

    # the wire

    @rule(sizes=st.lists(st.one_of(st.integers(1, 12), st.integers(1, 2000)), max_size=12))
    def some_reaches_the_server(self, sizes):
        for size in sizes:
            self.deliver_to_server(size)

    @rule(sizes=st.lists(st.one_of(st.integers(1, 12), st.integers(1, 2000)), max_size=12))
    def some_reaches_the_client(self, sizes):
        for size in sizes:
            self.deliver_to_client(size)

    @rule()
    def all_reaches_the_server(self):
        self.deliver_to_server(len(self.to_server.bytes))

    @rule()
    def all_reaches_the_client(self):
        self.deliver_to_client(len(self.to_client.bytes))

    def deliver_to_server(self, count):
        data, complete = self.to_server.take(count)
        expected = [event for meaning in complete for event in self.server_hears(meaning)]
        assert [seen(event) for event in self.server.receive(data)] == expected
        self.to_client.put(self.server.outgoing())

    def deliver_to_client(self, count):
        data, complete = self.to_client.take(count)
        expected = [event for meaning in complete for event in self.client_hears(meaning)]
        assert [seen(event) for event in self.client.receive(data)] == expected
        assert not self.client.outgoing()

    def server_hears(self, meaning):
        """The events of a frame; what the server has to answer is said to the client."""
        if meaning[0] == "raw":
            return self.server_hears_raw(*meaning[1:])
        kind, stream = meaning[:2]
        if kind == "call":
            self.last = stream
            self.server_open[stream] = meaning[-1]
        elif stream not in self.server_open:
            self.to_client.say(*refusal(stream, "StreamID is no longer active"))
            return []
        elif not self.server_open[stream]:
            # An end with data came first: the stream is closed, and the client goes on.
            text = "data handling error: ttrpc: stream closed"
            self.to_client.say(*refusal(stream, text))
            return []
        elif kind == "half-close":
            self.server_open[stream] = False
        return [meaning]

    def server_hears_raw(self, stream, kind, flags, payload):
        if kind == frame.REQUEST:
            text = "StreamID cannot be re-used and must increment"
            if stream % 2 == 0:
                text = "StreamID must be odd for client initiated streams"
            else:
                assert stream <= self.last
            self.to_client.say(*refusal(stream, text))
        elif kind == frame.DATA and stream not in self.server_open:
            self.to_client.say(*refusal(stream, "StreamID is no longer active"))
        elif kind == frame.DATA and len(payload) > MAX:
            del self.server_open[stream]
            text = "message length 4194305 exceed maximum message size of 4194304"
            self.to_client.say(*refusal(stream, text, status.RESOURCE_EXHAUSTED))
            return [("half-close", stream)]
        elif kind == frame.DATA and not self.server_open[stream]:
            text = "data handling error: ttrpc: stream closed"
            self.to_client.say(*refusal(stream, text))
        elif kind == frame.DATA:
            self.server_open[stream] = False
            self.to_client.say(*refusal(stream, "data close message cannot include data"))
            return [("half-close", stream)]
        return []

    def client_hears(self, meaning):
        kind, stream = meaning[:2]
        if stream not in self.client_open:
            return []
        if kind != "message":
            del self.client_open[stream]
        return [meaning]

    @invariant()
    def both_agree_about_what_is_open(self):
        for stream in range(1, self.next, 2):
            assert self.server.is_open(stream) == (stream in self.server_open)

    def teardown(self):
        """Nothing is under way for ever."""
        self.all_reaches_the_server()
        self.all_reaches_the_client()
        for wire in (self.to_server, self.to_client):
            assert not wire.bytes
            assert not wire.frames
        for held in (self.client, self.server):
            assert held._splitter.buffered() == 0


TestPair = Pair.TestCase
TestPair.settings = examples(60, stateful_step_count=40)


# garbage

# Mostly well-formed frames with hostile contents; now and then plain noise.
envelopes = st.one_of(
    st.binary(max_size=24),
    st.builds(Request, service=words, method=words, payload=st.binary(max_size=8)).map(
        Request.SerializeToString
    ),
    st.builds(
        Request, timeout_nano=timeouts, metadata=st.lists(st.builds(KeyValue, key=words))
    ).map(Request.SerializeToString),
    st.builds(Response, payload=st.binary(max_size=8)).map(Response.SerializeToString),
    st.just(b"\x0a\xff"),  # cut off
    st.just(b"\x0a\x02\xff\xfe"),  # a string that is no UTF-8
)
some_frames = st.builds(
    frame.pack,
    st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    st.one_of(st.integers(1, 3), st.integers(0, 255)),
    st.one_of(st.integers(0, 7), st.integers(0, 255)),
    envelopes,
)
garbage = st.lists(st.one_of(some_frames, some_frames, st.binary(max_size=30))).map(b"".join)


def busy_server():
    """A server with streams 1 (the client sends), 3 (it has ended) and 5 (already answered)."""
    server = ServerConnection()
    for stream, flags in ((1, frame.REMOTE_OPEN), (3, frame.REMOTE_CLOSED), (5, 0)):
        server.receive(frame.pack(stream, frame.REQUEST, flags, b""))
    server.respond(5, b"")
    server.outgoing().clear()
    return server


def busy_client():
    """A client with streams 1 (unary), 3 and 5 (streaming, one of them ended), 7 forgotten."""
    client = ClientConnection()
    for streaming in (None, True, True, False):
        client.call("s", "m", b"", streaming=streaming)
    client.close_send(5)
    client.forget(7)
    client.outgoing().clear()
    return client


@pytest.mark.parametrize("make", [busy_server, busy_client])
@given(data=garbage)
@example(data=b"")
@example(data=bytes(10))
@example(data=b"\xff" * 10 + bytes(30))
@example(data=frame.pack(7, 1, 0, b"") + frame.pack(7, 1, 0, b""))
@examples(150)
def test_garbage_means_the_same_whole_and_byte_by_byte(make, data):
    whole, bytewise = make(), make()
    at_once = [seen(event) for event in whole.receive(data)]
    one_by_one = []
    for byte in data:
        one_by_one += [seen(event) for event in bytewise.receive(bytes([byte]))]
        assert bytewise._splitter.buffered() <= len(data)
    assert at_once == one_by_one
    assert whole.outgoing() == bytewise.outgoing()
    assert whole._splitter.buffered() == bytewise._splitter.buffered()


@given(
    data=st.lists(
        st.tuples(
            st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), payloads
        ).map(lambda parts: frame.Frame(*parts)),
        max_size=8,
    ),
    cuts=st.lists(st.integers(1, 50), max_size=30),
)
@examples(100)
def test_frames_come_out_as_they_went_in(data, cuts):
    stream = b"".join(frame.pack(f.stream, f.kind, f.flags, f.payload) for f in data)
    splitter = frame.Splitter()
    found = []
    at = 0
    for cut in cuts:
        found += splitter.feed(stream[at : at + cut])
        at += cut
    found += splitter.feed(stream[at:])
    assert found == data
    assert splitter.buffered() == 0


@pytest.mark.parametrize("make", [busy_server, busy_client])
@pytest.mark.parametrize("kind", [frame.REQUEST, frame.RESPONSE, frame.DATA, 0x7F])
@pytest.mark.parametrize("length", [MAX + 1, 2**32 - 1])
def test_nothing_of_an_oversize_frame_is_held(make, kind, length):
    connection = make()
    header = length.to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([kind, 0])
    assert connection.receive(header) == []
    for _ in range(4):  # 4 MiB, so that at least one byte of it is still to come
        assert connection.receive(bytes(1 << 20)) == []
        assert connection._splitter.buffered() == 0


def test_a_frame_of_the_largest_size_is_all_that_is_held():
    server = ServerConnection()
    request = Request(service="s")
    request.payload = bytes(MAX - request.ByteSize() - 5)
    data = frame.pack(1, frame.REQUEST, 0, request.SerializeToString())
    assert len(data) == MOST_HELD
    assert server.receive(data[:-1]) == []
    assert server._splitter.buffered() == MOST_HELD - 1
    (call,) = server.receive(data[-1:])
    assert isinstance(call, Call)
    assert call.payload == request.payload
    assert server._splitter.buffered() == 0


@pytest.mark.parametrize(
    ("stream", "kind", "flags", "expected"),
    [
        (7, frame.REQUEST, 0, [(7, 8)]),
        (8, frame.REQUEST, 0, [(8, 3)]),
        (3, frame.REQUEST, 0, [(3, 3)]),
        (1, frame.DATA, 0, [(1, 8)]),
        (5, frame.DATA, 0, [(5, 3)]),
        (7, 0x7F, 0, []),
    ],
)
def test_an_oversize_frame_is_answered_and_the_connection_lives(stream, kind, flags, expected):
    server = busy_server()
    data = frame.pack(stream, kind, flags, TOO_LARGE)
    server.receive(data + frame.pack(9, frame.REQUEST, 0, b""))
    answers = frame.Splitter().feed(bytes(server.outgoing()))
    assert [(a.stream, Response.FromString(a.payload).status.code) for a in answers] == expected
    assert server.is_open(9)


@pytest.mark.parametrize("kind", [frame.RESPONSE, frame.DATA])
def test_an_oversize_answer_fails_its_call_alone(kind):
    client = busy_client()
    data = frame.pack(1, kind, 0, TOO_LARGE) + frame.pack(3, frame.RESPONSE, 0, b"")
    text = "message length 4194305 exceed maximum message size of 4194304"
    assert [seen(event) for event in client.receive(data)] == [
        ("error", 1, status.RESOURCE_EXHAUSTED, text, ()),
        ("reply", 3, b""),
    ]


def test_an_oversize_frame_of_another_type_is_none_of_a_clients_business():
    client = busy_client()
    data = frame.pack(1, 0x7F, 0, TOO_LARGE) + frame.pack(1, frame.RESPONSE, 0, b"")
    assert [seen(event) for event in client.receive(data)] == [("reply", 1, b"")]


@pytest.mark.parametrize("char", ["a", "é", "\N{PEOPLE HUGGING}"])
def test_an_error_text_of_any_length_is_answered(char):
    server = ServerConnection()
    server.receive(frame.pack(1, frame.REQUEST, 0, b""))
    server.fail(1, status.UNKNOWN, char * MAX)
    (answer,) = frame.Splitter().feed(bytes(server.outgoing()))
    found = Response.FromString(answer.payload).status
    assert (answer.stream, found.code) == (1, status.UNKNOWN)
    assert set(found.message) == {char}


def test_details_too_large_are_left_out():
    server = ServerConnection()
    server.receive(frame.pack(1, frame.REQUEST, 0, b""))
    server.fail(1, status.UNKNOWN, "why", [AnyMessage(value=LARGEST)])
    (answer,) = frame.Splitter().feed(bytes(server.outgoing()))
    found = Response.FromString(answer.payload).status
    assert (found.message, len(found.details)) == ("why", 0)
