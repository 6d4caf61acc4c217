"""ttrpc.server with both clients: on one loop with a clock of our own, and from a thread.

Where timing counts, the test itself is the client: `Raw` writes and reads the bytes of a connection
when the test says so.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from functools import partial
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import BytesValue, Int64Value, StringValue

from shim_runc_py.errors import NotFound, ShimError
from shim_runc_py.linux import sock
from shim_runc_py.loop import READ, Cancelled, Future, Loop
from shim_runc_py.ttrpc import frame, status
from shim_runc_py.ttrpc import server as server_module
from shim_runc_py.ttrpc.client import BlockingClient, Client
from shim_runc_py.ttrpc.connection import ClientConnection, HalfClose, Message, Reply
from shim_runc_py.ttrpc.server import Method, Server, StreamMethod
from shim_runc_py.ttrpc.status import Closed, RpcError
from tests.unit.driving import BOUND, asleep, run, turn, until

SERVICE = "test.v1.Test"
MAX = frame.MAX_PAYLOAD
ERRORS: dict[str, Exception] = {
    "plain": ValueError("it broke"),
    "shim": NotFound("container not created"),
    "os": FileNotFoundError(2, os.strerror(2), "/x"),
    "timeout": TimeoutError(),
    "details": RpcError(9, "look inside", (AnyMessage(type_url="t", value=b"v"),)),
    "surrogate": ShimError("open /x/\udcff: no such file or directory", 5),
    "long": ShimError("ä" * MAX),
}


class Service:
    """Methods of every kind. `gates` hold handlers up; `log` says what became of them."""

    def __init__(self) -> None:
        self.gates: dict[str, Future[str]] = {}
        self.log: list[str] = []
        self.contexts: list[Any] = []
        self.sent = 0
        kinds = {"Collect": (True, False), "Count": (False, True), "Flood": (False, True)}
        self.table: dict[str, Method | StreamMethod] = {
            "Echo": Method(StringValue, self.echo),
            "Fail": Method(StringValue, self.fail),
            "Bytes": Method(Int64Value, self.bytes),
            "Work": Method(StringValue, self.hold),
            "Wait": Method(StringValue, self.hold, waits=True),
            "Nothing": Method(Empty, self.nothing),
            "Broken": Method(Empty, self.broken),
        }
        for name, request, handler in (
            ("Collect", StringValue, self.collect),
            ("Count", Int64Value, self.count),
            ("Chat", StringValue, self.chat),
            ("Flood", Int64Value, self.flood),
            ("Quit", StringValue, self.quit),
        ):
            client, server = kinds.get(name, (True, True))
            self.table[name] = StreamMethod(
                request, handler, client_streams=client, server_streams=server
            )

    def gate(self, name: str) -> Future[str]:
        return self.gates.setdefault(name, Future())

    async def echo(self, request, context):
        self.contexts.append(context)
        return StringValue(value=request.value)

    async def fail(self, request, _):
        raise ERRORS[request.value]

    async def bytes(self, request, _):
        return BytesValue(value=bytes(request.value))

    async def hold(self, request, context):
        self.contexts.append(context)
        self.log.append(f"began {request.value}")
        try:
            answer = await self.gate(request.value)
        except Cancelled:
            self.log.append(f"cancelled {request.value}")
            raise
        self.log.append(f"ended {request.value}")
        return StringValue(value=answer)

    async def nothing(self, _, context):
        return None

    async def broken(self, _, context):
        class Broken:
            @staticmethod
            def SerializeToString():
                return b"\x0a\xff"

        return Broken

    async def collect(self, stream, _):
        parts = []
        while (message := await stream.receive()) is not None:
            parts.append(message.value)
        assert await stream.receive() is None
        return StringValue(value=" ".join(parts))

    async def count(self, stream, _):
        request = await stream.receive()
        assert await stream.receive() is None
        for number in range(request.value):
            await stream.send(Int64Value(value=number))

    async def chat(self, stream, _):
        while (message := await stream.receive()) is not None:
            await stream.send(StringValue(value=message.value.upper()))

    async def flood(self, stream, _):
        request = await stream.receive()
        try:
            while True:
                await stream.send(BytesValue(value=bytes(request.value)))
                self.sent += 1
        finally:
            self.log.append("flood ended")

    async def quit(self, stream, _):
        await stream.receive()
        raise ShimError("enough", 8)


class Raw:
    """A connection whose bytes go and come when the test says so."""

    def __init__(self, path: object) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)
        self.sock.connect(str(path))
        self.wire = ClientConnection()
        self.events: list[Any] = []

    def call(self, method, request, **options):
        stream = self.wire.call(SERVICE, method, request.SerializeToString(), **options)
        self.flush()
        return stream

    def flush(self):
        outgoing = self.wire.outgoing()
        del outgoing[: self.sock.send(outgoing)]
        assert not outgoing

    def read(self, most=1 << 20):
        """Take what is there; False at the end of the connection."""
        try:
            data = self.sock.recv(most)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        self.events += self.wire.receive(data)
        return bool(data)

    def statuses(self):
        """(stream, code, text) of the failures so far."""
        self.read()
        return [
            (event.stream, event.error.code, str(event.error))
            for event in self.events
            if isinstance(event, Reply) and event.error is not None
        ]

    def close(self):
        self.sock.close()


class Here:
    """A server on a loop of the test, and raw connections to it."""

    def __init__(self, loop: Loop, path: object, **options: Any) -> None:
        self.loop, self.path = loop, path
        self.service = Service()
        services: Any = {SERVICE: self.service.table}
        self.server = Server(loop, services, Future, **options)
        listener = sock.listen(str(path))
        assert listener is not None
        self.server.serve(listener)
        self._raw: list[Raw] = []
        self._clients: list[Client] = []

    def raw(self) -> Raw:
        made = Raw(self.path)
        self._raw.append(made)
        turn(self.loop)
        return made

    def client(self) -> Client:
        made = Client(self.loop, sock.connect(str(self.path)), Future)
        self._clients.append(made)
        return made

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.server.close()
        for raw in self._raw:
            raw.close()
        turn(self.loop, 3)
        for gate in self.service.gates.values():
            gate.settle("")
        turn(self.loop, 3)


@pytest.fixture
def here(loop, directory):
    made = Here(loop, directory / "s")
    yield made
    made.close()


@pytest.fixture
def timed(fake_loop, directory):
    """A server on the loop with a clock of our own."""
    made = Here(fake_loop, directory / "s")
    yield made
    made.close()


def text(value):
    return StringValue(value=value)


def echo(client, value, **options):
    return client.call(SERVICE, "Echo", text(value), StringValue, **options)


# the client on the loop


def test_a_call_is_answered(here, loop):
    async def talk():
        client = here.client()
        return [(await echo(client, value)).value for value in ("a", "", "ä" * 1000)]

    assert run(loop, talk()) == ["a", "", "ä" * 1000]


def test_an_empty_response_is_a_success(here, loop):
    async def talk():
        return await here.client().call(SERVICE, "Bytes", Int64Value(), BytesValue)

    assert run(loop, talk()) == BytesValue()


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("plain", 2, "it broke"),
        ("shim", 5, "container not created: not found"),
        ("os", 5, "/x: no such file or directory"),
        ("timeout", 4, "context deadline exceeded"),
        ("details", 9, "look inside"),
    ],
)
def test_an_exception_of_a_handler_is_a_status(here, loop, name, code, message):
    async def talk():
        with pytest.raises(RpcError) as caught:
            await here.client().call(SERVICE, "Fail", text(name), Empty)
        return caught.value

    error = run(loop, talk())
    assert (error.code, str(error)) == (code, message)
    assert error.details == getattr(ERRORS[name], "details", ())


@pytest.mark.parametrize("name", ["surrogate", "long"])
def test_an_error_is_answered_whatever_its_text_is(here, loop, name):
    failures: list[object] = []
    loop.on_failure = lambda *given: failures.append(given)
    raw = here.raw()
    stream = raw.call("Fail", text(name))
    for _ in range(100):
        turn(loop)
        raw.read()
    assert [found[:2] for found in raw.statuses()] == [(stream, getattr(ERRORS[name], "code", 2))]
    assert failures == []


@pytest.mark.parametrize(
    ("service", "method", "code", "message"),
    [
        ("no.such.Service", "Echo", 12, "service no.such.Service"),
        ("", "Echo", 12, "service "),
        (SERVICE, "NoSuch", 12, "method NoSuch"),
        (SERVICE, "echo", 12, "method echo"),
        (SERVICE, "", 12, "method "),
    ],
)
def test_what_is_not_served_is_unimplemented(here, loop, service, method, code, message):
    async def talk():
        with pytest.raises(RpcError) as caught:
            await here.client().call(service, method, Empty(), Empty)
        return caught.value

    error = run(loop, talk())
    assert (error.code, str(error)) == (code, message)


def test_a_payload_that_is_no_request_is_refused(here, loop):
    async def talk():
        client = here.client()
        with pytest.raises(RpcError) as caught:
            await client.call(SERVICE, "Echo", BytesValue(value=b"\xff"), StringValue)
        assert (await echo(client, "still there")).value == "still there"
        return caught.value

    error = run(loop, talk())
    assert error.code == status.INTERNAL
    assert str(error).startswith("ttrpc: error unmarshalling payload: ")


def test_a_response_that_is_not_of_its_type_is_an_error(here, loop):
    async def talk():
        with pytest.raises(RpcError, match="error unmarshalling payload") as caught:
            await here.client().call(SERVICE, "Broken", Empty(), StringValue)
        return caught.value

    assert run(loop, talk()).code == status.INTERNAL


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_server_that_streams_to_a_unary_call_is_an_error(timed, fake_loop, count):
    client = timed.client()
    request = Int64Value(value=count)
    task = fake_loop.spawn(client.call(SERVICE, "Count", request, Int64Value))
    task.then(lambda _: None)
    turn(fake_loop, 10)
    assert task.done()
    with pytest.raises(RpcError) as caught:
        task.result()
    assert caught.value.code == status.INTERNAL


def test_a_handler_that_returns_nothing_is_an_error(here, loop):
    async def talk():
        with pytest.raises(RpcError) as caught:
            await here.client().call(SERVICE, "Nothing", Empty(), Empty)
        return caught.value

    assert run(loop, talk()).code == status.UNKNOWN


def test_answers_come_in_the_order_in_which_handlers_finish(here, loop):
    order: list[str] = []

    async def one(client, name):
        answer = await client.call(SERVICE, "Wait", text(name), StringValue)
        order.append(answer.value)

    async def talk():
        client = here.client()
        tasks = [loop.spawn(one(client, name)) for name in "abc"]
        await echo(client, "x")
        for name in "cab":
            here.service.gate(name).settle(name)
        for task in tasks:
            await task

    run(loop, talk())
    assert order == ["c", "a", "b"]


def test_many_calls_at_once_are_each_answered(here, loop):
    async def one(client, number):
        answer = await client.call(SERVICE, "Wait", text(str(number)), StringValue)
        return answer.value

    async def talk():
        client = here.client()
        tasks = [loop.spawn(one(client, number)) for number in range(500)]
        assert (await echo(client, "past them")).value == "past them"
        for number in reversed(range(500)):
            here.service.gate(str(number)).settle(f"answer {number}")
        return [await task for task in tasks]

    assert run(loop, talk()) == [f"answer {number}" for number in range(500)]


def test_too_many_calls_at_once_are_refused(here, loop, monkeypatch):
    monkeypatch.setattr(server_module, "MOST_STREAMS", 3)
    raw = here.raw()
    for name in ("Wait", "Work", "Chat"):
        raw.call(name, text("held"), streaming=True if name == "Chat" else None)
    refused = raw.call("Echo", text("x"))
    turn(loop, 3)
    message = "more than 3 calls at once on one connection"
    assert raw.statuses() == [(refused, status.RESOURCE_EXHAUSTED, message)]


def test_the_largest_response_arrives(here, loop):
    size = MAX - 20

    async def talk():
        client = here.client()
        return await client.call(SERVICE, "Bytes", Int64Value(value=size), BytesValue)

    assert run(loop, talk()).value == bytes(size)


def test_a_response_too_large_is_a_status_and_the_connection_lives(here, loop):
    async def talk():
        client = here.client()
        with pytest.raises(RpcError) as caught:
            await client.call(SERVICE, "Bytes", Int64Value(value=MAX), BytesValue)
        assert (await echo(client, "still there")).value == "still there"
        return caught.value

    error = run(loop, talk())
    assert error.code == status.RESOURCE_EXHAUSTED
    assert str(error) == f"message length {MAX + 10} exceed maximum message size of {MAX}"


def test_a_request_too_large_is_refused_here_and_the_connection_lives(here, loop):
    async def talk():
        client = here.client()
        with pytest.raises(RpcError) as caught:
            await echo(client, "x" * MAX)
        assert caught.value.code == status.RESOURCE_EXHAUSTED
        assert (await echo(client, "still there")).value == "still there"

    run(loop, talk())


def test_metadata_and_timeout_reach_the_handler(timed, fake_loop, clock):
    client = timed.client()
    task = fake_loop.spawn(echo(client, "x", timeout=5, metadata={"Key": "Value", "a": ""}))
    turn(fake_loop, 5)
    assert task.done()
    (context,) = timed.service.contexts
    assert context.metadata == {"key": "Value", "a": ""}
    assert context.deadline == clock.now + 5
    assert context.remaining(60) == 5
    assert context.remaining(2) == 2
    clock.now += 4
    assert context.remaining(60) == 1
    clock.now += 4
    assert context.remaining(60) == 0


def test_without_a_timeout_a_handler_has_its_own_bound(here, loop):
    run(loop, echo(here.client(), "x"))
    (context,) = here.service.contexts
    assert context.deadline is None
    assert context.remaining(60) == 60


# time


def test_a_call_that_takes_too_long_is_given_up(timed, fake_loop, clock):
    client = timed.client()
    task = fake_loop.spawn(
        client.call(SERVICE, "Work", text("slow"), StringValue, timeout=5), "call"
    )
    task.then(lambda _: None)
    turn(fake_loop, 5)
    clock.now += 4.9
    turn(fake_loop, 5)
    assert not task.done()
    clock.now += 0.1
    turn(fake_loop, 5)
    with pytest.raises(TimeoutError, match=r"^Work was not answered within 5 s$"):
        task.result()
    # The late answer is dropped, and the next call is answered.
    timed.service.gate("slow").settle("late")
    turn(fake_loop, 5)
    again = fake_loop.spawn(echo(client, "again", timeout=5))
    turn(fake_loop, 5)
    assert again.result().value == "again"
    assert all(timer.callback is None for timer in fake_loop._timers)


def test_a_waiting_handler_ends_with_its_callers_time(timed, fake_loop, clock):
    raw = timed.raw()
    stream = raw.call("Wait", text("w"), timeout_nano=5_000_000_000)
    turn(fake_loop, 3)
    clock.now += 4.9
    turn(fake_loop, 3)
    assert timed.service.log == ["began w"]
    clock.now += 0.1
    turn(fake_loop, 3)
    assert timed.service.log == ["began w", "cancelled w"]
    assert raw.statuses() == [(stream, 4, "context deadline exceeded")]
    timed.service.gate("w").settle("late")
    turn(fake_loop, 3)
    raw.read()
    assert len(raw.events) == 1


@pytest.mark.parametrize("nanoseconds", [-1, -(2**63)])
def test_a_time_that_is_over_already_ends_a_waiting_handler(timed, fake_loop, nanoseconds):
    raw = timed.raw()
    stream = raw.call("Wait", text("w"), timeout_nano=nanoseconds)
    turn(fake_loop, 4)
    assert raw.statuses() == [(stream, 4, "context deadline exceeded")]
    assert timed.service.log == ["began w", "cancelled w"]


def test_a_handler_that_changes_something_goes_on_after_its_callers_time(timed, fake_loop, clock):
    raw = timed.raw()
    stream = raw.call("Work", text("w"), timeout_nano=5_000_000_000)
    turn(fake_loop, 3)
    clock.now += 60
    turn(fake_loop, 3)
    assert timed.service.log == ["began w"]
    timed.service.gate("w").settle("done")
    turn(fake_loop, 3)
    raw.read()
    (reply,) = raw.events
    assert (reply.stream, StringValue.FromString(reply.payload).value) == (stream, "done")


def test_an_answer_in_time_leaves_no_timer(timed, fake_loop, clock):
    raw = timed.raw()
    raw.call("Wait", text("w"), timeout_nano=5_000_000_000)
    turn(fake_loop, 3)
    timed.service.gate("w").settle("in time")
    turn(fake_loop, 3)
    assert all(timer.callback is None for timer in fake_loop._timers)
    clock.now += 60
    turn(fake_loop, 3)
    raw.read()
    assert [event.error for event in raw.events] == [None]


def test_a_stream_ends_with_its_callers_time(timed, fake_loop, clock):
    raw = timed.raw()
    stream = raw.call("Chat", text("a"), streaming=True, timeout_nano=5_000_000_000)
    turn(fake_loop, 3)
    clock.now += 5
    turn(fake_loop, 3)
    assert raw.statuses() == [(stream, 4, "context deadline exceeded")]


# connections that are lost


def test_a_lost_connection_cancels_only_handlers_that_wait(here, loop):
    raw = here.raw()
    raw.call("Wait", text("waiting"))
    raw.call("Work", text("working"))
    raw.call("Chat", text("hello"), streaming=True)
    until(loop, lambda: len(here.service.log) == 2)
    raw.close()
    until(loop, lambda: here.server.connections() == 0)
    turn(loop, 2)
    assert here.service.log == ["began waiting", "began working", "cancelled waiting"]
    here.service.gate("working").settle("done")
    turn(loop, 2)
    assert here.service.log[3:] == ["ended working"]


def test_other_connections_are_not_touched(here, loop):
    first, second = here.raw(), here.raw()
    first.call("Wait", text("first"))
    stream = second.call("Wait", text("second"))
    until(loop, lambda: len(here.service.log) == 2)
    first.close()
    until(loop, lambda: here.server.connections() == 1)
    here.service.gate("second").settle("answered")
    turn(loop, 3)
    second.read()
    assert [(event.stream, event.error) for event in second.events] == [(stream, None)]


def test_a_handler_that_goes_on_without_its_caller_keeps_the_server_busy(here, loop):
    raw = here.raw()
    raw.call("Work", text("working"))
    until(loop, lambda: here.service.log)
    assert here.server.busy()
    raw.close()
    until(loop, lambda: here.server.connections() == 0)
    assert here.server.busy()
    here.service.gate("working").settle("done")
    turn(loop, 2)
    assert not here.server.busy()


def test_who_waits_does_not_keep_the_server_busy(here, loop):
    changes: list[bool] = []
    raw = here.raw()
    raw.call("Wait", text("waiting"))
    until(loop, lambda: here.service.log)
    turn(loop, 2)
    assert not here.server.busy()
    here.server.changed = lambda: changes.append(here.server.busy())
    raw.call("Work", text("working"))
    until(loop, lambda: len(here.service.log) == 2)
    assert here.server.busy()
    here.service.gate("working").settle("done")
    turn(loop, 3)
    assert not here.server.busy()
    assert changes[-1] is False


def test_a_connection_without_a_byte_is_normal(here, loop):
    here.raw().close()
    until(loop, lambda: here.server.connections() == 0)
    assert run(loop, echo(here.client(), "x")).value == "x"


def test_a_connection_lost_in_a_frame_is_normal(here, loop):
    raw = here.raw()
    raw.sock.send(frame.pack(1, frame.REQUEST, 0, b"x" * 100)[:50])
    turn(loop, 2)
    raw.close()
    until(loop, lambda: here.server.connections() == 0)
    assert here.service.log == []


def test_a_client_learns_that_the_connection_is_gone(here, loop):
    async def talk():
        client = here.client()
        await echo(client, "x")
        waiting = loop.spawn(client.call(SERVICE, "Wait", text("w"), StringValue), "waiting")
        await echo(client, "y")
        here.server.close()
        with pytest.raises(Closed, match=r"^ttrpc: closed$"):
            await waiting
        assert not client.open
        with pytest.raises(Closed):
            await echo(client, "z")
        client.close()

    run(loop, talk())


def test_a_closed_client_fails_its_calls(here, loop):
    async def talk():
        client = here.client()
        waiting = loop.spawn(client.call(SERVICE, "Wait", text("w"), StringValue), "waiting")
        await echo(client, "x")
        client.close()
        with pytest.raises(Closed):
            await waiting

    run(loop, talk())
    until(loop, lambda: here.service.log == ["began w", "cancelled w"])


def test_a_cancelled_call_is_forgotten(here, loop):
    async def talk():
        client = here.client()
        waiting = loop.spawn(client.call(SERVICE, "Wait", text("w"), StringValue), "waiting")
        await echo(client, "x")
        waiting.cancel()
        await echo(client, "y")
        assert client._pending == client._wire._open == {}
        here.service.gate("w").settle("late")
        return await echo(client, "z")

    assert run(loop, talk()).value == "z"


# accepting


def test_another_user_is_not_spoken_to(here, loop, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    raw = here.raw()
    turn(loop, 2)
    assert here.server.connections() == 0
    assert not raw.read()


def test_another_group_is_not_spoken_to(here, loop, monkeypatch):
    monkeypatch.setattr(os, "getegid", lambda: os.getgid() + 1)
    raw = here.raw()
    turn(loop, 2)
    assert not raw.read()


def test_connections_have_a_bound(fake_loop, directory):
    here = Here(fake_loop, directory / "s", most_connections=2)
    raws = [here.raw() for _ in range(3)]
    turn(fake_loop, 3)
    assert here.server.connections() == 2
    assert [raw.read() for raw in raws] == [True, True, False]
    raws[0].close()
    turn(fake_loop, 2)
    again = here.raw()
    turn(fake_loop, 2)
    assert again.read()
    here.close()


def test_out_of_descriptors_the_listener_rests(timed, fake_loop, clock, monkeypatch):
    def exhausted():
        raise OSError(24, "Too many open files")

    listener = timed.server._listener

    class Exhausted:
        def __getattr__(self, name):
            return getattr(listener, name)

        _accept = staticmethod(exhausted)

    with monkeypatch.context() as patch:
        patch.setattr(timed.server, "_listener", Exhausted())
        raw = timed.raw()
        turn(fake_loop, 2)
        assert listener.fileno() not in fake_loop._watchers
    clock.now += 0.2
    turn(fake_loop, 3)
    assert timed.server.connections() == 1
    stream = raw.call("Echo", text("x"))
    turn(fake_loop, 3)
    raw.read()
    assert [event.stream for event in raw.events] == [stream]


def test_after_stop_accepting_open_connections_go_on(here, loop):
    async def talk():
        client = here.client()
        await echo(client, "x")
        here.server.stop_accepting()
        here.server.stop_accepting()
        with pytest.raises(ConnectionRefusedError):
            sock.connect(str(here.path))
        return await echo(client, "y")

    assert run(loop, talk()).value == "y"


# slow readers


def test_a_slow_reader_holds_up_nobody_else(here, loop):
    slow = here.raw()
    streams = [slow.call("Bytes", Int64Value(value=1 << 20)) for _ in range(5)]
    assert run(loop, echo(here.client(), "past it")).value == "past it"
    assert here.server.busy()
    until(loop, lambda: asleep(loop))
    while len(slow.events) < 5:
        turn(loop)
        slow.read(100_000)
    assert [event.stream for event in slow.events] == streams
    assert all(len(event.payload) > 1 << 20 and not event.error for event in slow.events)
    turn(loop)
    assert not here.server.busy()
    assert asleep(loop)


def test_a_slow_reader_is_still_listened_to(here, loop):
    slow = here.raw()
    slow.call("Bytes", Int64Value(value=MAX - 20))
    until(loop, here.server.busy)
    until(loop, lambda: asleep(loop))
    assert here.server.busy()
    slow.call("Work", text("behind it"))
    until(loop, lambda: here.service.log == ["began behind it"])


def test_who_never_reads_is_disconnected(here, loop, monkeypatch):
    monkeypatch.setattr(server_module, "MOST_UNSENT", 2 << 20)
    never = here.raw()
    for _ in range(10):
        never.call("Bytes", Int64Value(value=1 << 20))
    until(loop, lambda: here.server.connections() == 0)
    assert run(loop, echo(here.client(), "x")).value == "x"


def test_a_stream_waits_for_its_reader(here, loop):
    raw = here.raw()
    stream = raw.call("Flood", Int64Value(value=100_000), streaming=False)
    turn(loop, 50)
    sent = here.service.sent
    assert 0 < sent < 50
    turn(loop, 50)
    assert here.service.sent == sent
    while len(raw.events) < 100:
        raw.read()
        turn(loop)
    assert all(event.stream == stream and isinstance(event, Message) for event in raw.events)
    assert here.service.sent > sent


def test_a_stream_whose_reader_goes_ends(here, loop):
    raw = here.raw()
    raw.call("Flood", Int64Value(value=100_000), streaming=False)
    until(loop, lambda: here.service.sent > 1)
    turn(loop, 50)
    raw.close()
    until(loop, lambda: here.service.log)
    assert here.service.log == ["flood ended"]


def test_a_message_too_large_ends_its_stream_alone(here, loop):
    raw = here.raw()
    stream = raw.call("Flood", Int64Value(value=MAX + 1), streaming=False)
    turn(loop, 5)
    ((found, code, message),) = raw.statuses()
    assert (found, code) == (stream, status.RESOURCE_EXHAUSTED)
    assert message.endswith(f"exceed maximum message size of {MAX}")
    raw.call("Echo", text("x"))
    turn(loop, 3)
    raw.read()
    assert len(raw.events) == 2


# streams, frame by frame


def test_what_is_sent_along_with_the_opening_is_the_first_message(here, loop):
    raw = here.raw()
    stream = raw.call("Collect", text("first"), streaming=True)
    raw.wire.send(stream, text("second").SerializeToString())
    raw.wire.send(stream, b"")
    raw.wire.close_send(stream)
    raw.flush()
    turn(loop, 5)
    raw.read()
    (reply,) = raw.events
    assert StringValue.FromString(reply.payload).value == "first second "


def test_an_opening_without_a_message_is_none(here, loop):
    raw = here.raw()
    stream = raw.call("Collect", Empty(), streaming=True)
    raw.wire.close_send(stream)
    raw.flush()
    turn(loop, 5)
    raw.read()
    assert [event.payload for event in raw.events] == [b""]


def test_a_server_stream_may_be_opened_with_an_empty_message(here, loop):
    raw = here.raw()
    stream = raw.call("Count", Int64Value(value=0), streaming=False)
    turn(loop, 5)
    raw.read()
    (event,) = raw.events
    assert isinstance(event, HalfClose)
    assert event.stream == stream


def test_a_server_stream_answers_a_plain_request_too(here, loop):
    raw = here.raw()
    raw.call("Count", Int64Value(value=2))
    turn(loop, 5)
    raw.read()
    assert [type(event) for event in raw.events] == [Message, Message, HalfClose]


def test_a_chat_goes_to_and_fro(here, loop):
    raw = here.raw()
    stream = raw.call("Chat", text("a"), streaming=True)
    for word in ("b", "c"):
        turn(loop, 3)
        raw.read()
        raw.wire.send(stream, text(word).SerializeToString())
        raw.flush()
    turn(loop, 3)
    raw.read()
    said = [StringValue.FromString(event.payload).value for event in raw.events]
    assert said == ["A", "B", "C"]
    raw.wire.close_send(stream)
    raw.flush()
    turn(loop, 3)
    raw.read()
    assert isinstance(raw.events[-1], HalfClose)


def test_of_a_stream_that_has_ended_nothing_is_kept(here, loop):
    raw = here.raw()
    raw.call("Count", Int64Value(value=1), streaming=False)
    raw.call("Quit", text("x"), streaming=True)
    until(loop, lambda: raw.read() and len(raw.events) == 3)
    turn(loop)
    (peer,) = here.server._peers
    assert peer._streams == peer._waiting == {}


def test_a_message_that_does_not_parse_fails_its_stream(here, loop):
    raw = here.raw()
    stream = raw.call("Chat", text("a"), streaming=True)
    raw.wire.send(stream, b"\x0a\xff")
    raw.flush()
    turn(loop, 5)
    ((found, code, message),) = raw.statuses()
    assert (found, code) == (stream, status.INTERNAL)
    assert message.startswith("ttrpc: error unmarshalling payload: ")


def test_data_for_a_unary_call_changes_nothing(here, loop):
    raw = here.raw()
    stream = raw.call("Work", text("w"), streaming=True)
    raw.wire.send(stream, b"surplus")
    raw.wire.close_send(stream)
    raw.flush()
    turn(loop, 3)
    here.service.gate("w").settle("answered")
    turn(loop, 3)
    raw.read()
    assert [StringValue.FromString(event.payload).value for event in raw.events] == ["answered"]


# from a thread, with the client that blocks


class There:
    """A server on a loop of its own, in a thread."""

    def __init__(self, path: object) -> None:
        self.loop = Loop()
        self.path = str(path)
        self.service = Service()
        services: Any = {SERVICE: self.service.table}
        self.server = Server(self.loop, services, Future)
        listener = sock.listen(self.path)
        assert listener is not None
        self.server.serve(listener)
        self._stop: Future[None] = Future()
        self._hear, self._say = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.loop.watch(self._hear, READ, lambda _: os.read(self._hear, 100))
        self._thread = threading.Thread(target=self.loop.run, args=(self._stop,))
        self._thread.start()

    def do(self, action):
        """Run `action` on the loop, and wait for it."""
        done = threading.Event()

        def act():
            action()
            done.set()

        self.loop.soon(act)
        os.write(self._say, b"x")
        assert done.wait(BOUND)

    def settle(self, name, value):
        self.do(lambda: self.service.gate(name).settle(value))

    def close(self):
        self.do(self.server.close)
        for name in list(self.service.gates):
            self.settle(name, "")
        self.do(lambda: self._stop.settle(None))
        self._thread.join(BOUND)
        self.loop.forget(self._hear)
        self.loop.close()
        os.close(self._hear)
        os.close(self._say)


@pytest.fixture
def there(nothing_is_left, directory):
    made = There(directory / "s")
    yield made
    made.close()


@pytest.fixture
def blocking(there):
    with BlockingClient(there.path) as client:
        yield client


def test_a_blocking_call_is_answered(blocking):
    assert echo(blocking, "x", timeout=BOUND).value == "x"
    assert echo(blocking, "", timeout=BOUND).value == ""


def test_a_blocking_call_raises_the_status(blocking):
    with pytest.raises(RpcError) as caught:
        blocking.call(SERVICE, "Fail", text("details"), Empty, timeout=BOUND)
    error = caught.value
    assert (error.code, str(error)) == (9, "look inside")
    assert [(one.type_url, one.value) for one in error.details] == [("t", b"v")]
    with pytest.raises(RpcError, match=r"^service no\.such$"):
        blocking.call("no.such", "Echo", Empty(), Empty, timeout=BOUND)


def test_requests_that_were_begun_are_finished_in_any_order(there, blocking):
    streams = [blocking.begin(SERVICE, "Wait", text(str(number))) for number in range(50)]
    assert echo(blocking, "past them", timeout=BOUND).value == "past them"
    for number in range(50):
        there.settle(str(number), f"answer {number}")
    for number in reversed(range(50)):
        answer = blocking.finish(streams[number], StringValue, BOUND)
        assert answer.value == f"answer {number}"


def test_a_blocking_call_gives_up_in_time(there, blocking):
    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
        blocking.call(SERVICE, "Work", text("slow"), StringValue, timeout=0.01)
    there.settle("slow", "late")
    assert echo(blocking, "again", timeout=BOUND).value == "again"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_blocking_unary_call_is_not_streamed_to(blocking, count):
    with pytest.raises(RpcError) as caught:
        blocking.call(SERVICE, "Count", Int64Value(value=count), Int64Value, timeout=BOUND)
    assert caught.value.code == status.INTERNAL
    assert echo(blocking, "x", timeout=BOUND).value == "x"


def test_the_server_may_be_told_another_time(there, blocking):
    with pytest.raises(RpcError) as caught:
        blocking.call(SERVICE, "Wait", text("w"), StringValue, timeout=BOUND, server_timeout=0.01)
    assert (caught.value.code, str(caught.value)) == (4, "context deadline exceeded")
    assert there.service.log == ["began w", "cancelled w"]


def test_metadata_of_a_blocking_call(there, blocking):
    echo(blocking, "x", timeout=BOUND, metadata={"Containerd-Namespace-TTRPC": "k8s.io"})
    assert there.service.contexts[0].metadata == {"containerd-namespace-ttrpc": "k8s.io"}


def test_the_largest_messages_travel_both_ways(blocking):
    value = "x" * (MAX - 100)
    assert echo(blocking, value, timeout=BOUND).value == value


def test_a_blocking_client_survives_what_is_too_large(blocking):
    with pytest.raises(RpcError) as caught:
        blocking.call(SERVICE, "Bytes", Int64Value(value=MAX), BytesValue, timeout=BOUND)
    assert caught.value.code == status.RESOURCE_EXHAUSTED
    with pytest.raises(RpcError):
        echo(blocking, "x" * MAX, timeout=BOUND)
    assert echo(blocking, "x", timeout=BOUND).value == "x"


def test_a_blocking_client_learns_that_the_connection_is_gone(there, blocking):
    stream = blocking.begin(SERVICE, "Wait", text("w"))
    there.do(there.server.close)
    with pytest.raises(Closed):
        blocking.finish(stream, StringValue, BOUND)
    with pytest.raises(Closed):
        echo(blocking, "x", timeout=BOUND)


def test_nobody_to_connect_to_is_an_os_error(directory):
    with pytest.raises(FileNotFoundError):
        BlockingClient(str(directory / "no"))


def streamed(client, method, messages, response, **options):
    return list(client.stream(SERVICE, method, messages, response, timeout=BOUND, **options))


@pytest.mark.parametrize("count", [0, 1, 100])
def test_a_client_stream(blocking, count):
    words = [text(f"w{number}") for number in range(count)]
    (answer,) = streamed(blocking, "Collect", words, StringValue)
    assert answer.value == " ".join(word.value for word in words)


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_server_stream(blocking, count):
    answers = streamed(blocking, "Count", Int64Value(value=count), Int64Value)
    assert [answer.value for answer in answers] == list(range(count))


def test_a_stream_in_both_directions(blocking):
    words = [text("a"), text(""), text("b")]
    assert [answer.value for answer in streamed(blocking, "Chat", words, StringValue)] == [
        "A",
        "",
        "B",
    ]


def test_a_stream_that_fails(blocking):
    with pytest.raises(RpcError) as caught:
        streamed(blocking, "Quit", [text("a")], StringValue)
    assert (caught.value.code, str(caught.value)) == (8, "enough")
    with pytest.raises(RpcError, match=r"^method NoSuch$"):
        streamed(blocking, "NoSuch", [], StringValue)


def test_a_stream_that_fails_while_the_client_still_sends_says_why(blocking):
    def words():
        yield text("first")
        # Answers come in order: after this one, that of the stream is there.
        echo(blocking, "x", timeout=BOUND)
        yield text("second")

    with pytest.raises(RpcError) as caught:
        streamed(blocking, "NoSuch", words(), StringValue)
    assert (caught.value.code, str(caught.value)) == (12, "method NoSuch")


def test_calls_and_streams_share_a_connection(there, blocking):
    stream = blocking.begin(SERVICE, "Wait", text("w"))
    assert len(streamed(blocking, "Count", Int64Value(value=10), Int64Value)) == 10
    there.settle("w", "answered")
    assert blocking.finish(stream, StringValue, BOUND).value == "answered"


def test_a_stream_given_up_leaves_the_connection_as_it_was(blocking):
    answers = blocking.stream(SERVICE, "Count", Int64Value(value=50), Int64Value, timeout=BOUND)
    assert next(answers).value == 0
    answers.close()
    assert echo(blocking, "x", timeout=BOUND).value == "x"
    assert blocking._events == {}


def test_many_clients_at_once(there):
    errors: list[BaseException] = []

    def talk(number):
        try:
            with BlockingClient(there.path) as client:
                for round_ in range(20):
                    value = f"{number} {round_}" * 100
                    assert echo(client, value, timeout=BOUND).value == value
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=partial(talk, number)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert errors == []


def test_a_client_that_only_writes_is_no_deadlock(there):
    # Both directions are full for a while: the server goes on reading.
    with BlockingClient(there.path) as client:
        streams = [client.begin(SERVICE, "Echo", text("x" * 300_000)) for _ in range(20)]
        for stream in streams:
            assert len(client.finish(stream, StringValue, BOUND).value) == 300_000


def test_the_server_is_quiet_when_nobody_asks(there, blocking):
    echo(blocking, "x", timeout=BOUND)
    polled: list[list[Any]] = []
    there.do(lambda: polled.append(select.select([there.loop._epoll.fileno()], [], [], 0)[0]))
    assert polled == [[]]
