"""What a frame means, for each role, without any input or output (CONTRACT 6.2 – 6.7).

Give received bytes to `receive` and get events; call `call`, `respond`, `send` and the like and
take the bytes to be sent from `outgoing`. Neither half knows of sockets, time or an event loop.

Rules
-----
* A stream begins with a request of the client; its id is odd and larger than all before.
* A request without flags is a unary call. REMOTE_OPEN says that data will follow, REMOTE_CLOSED
  that none will; either opens a stream if the method streams.
* A stream of the server ends with a response (unary, client-streaming, any error) or with a data
  frame that has REMOTE_CLOSED (server-streaming). After that the id means nothing any more.
* There is no cancel: a client forgets a stream, and a late answer to it is dropped in silence.
* An empty message is a message. A data frame has no message only if NO_DATA says so.
* Every violation that can be laid to one stream is answered on that stream, and the connection
  goes on. Unknown frame types are ignored.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from shim_runc_py.ttrpc import frame, status
from shim_runc_py.ttrpc.envelope_pb2 import KeyValue, Request, Response, Status
from shim_runc_py.ttrpc.frame import DATA, NO_DATA, REMOTE_CLOSED, REMOTE_OPEN, REQUEST, RESPONSE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.any_pb2 import Any


class Call:
    """A client opened a stream. `more`: data of the client will follow."""

    __slots__ = ("metadata", "method", "more", "payload", "service", "stream", "timeout_nano")

    def __init__(self, stream: int, request: Request, more: bool) -> None:
        self.stream = stream
        self.service = request.service
        self.method = request.method
        self.payload = request.payload
        self.timeout_nano = request.timeout_nano
        self.metadata = request.metadata
        self.more = more


class Message:
    """A message of a stream that is open."""

    __slots__ = ("payload", "stream")

    def __init__(self, stream: int, payload: bytes) -> None:
        self.stream = stream
        self.payload = payload


class HalfClose:
    """The other side sends nothing more on this stream."""

    __slots__ = ("stream",)

    def __init__(self, stream: int) -> None:
        self.stream = stream


class Reply:
    """The response that ends a stream of a client. `error` is None on success."""

    __slots__ = ("error", "payload", "stream")

    def __init__(self, stream: int, payload: bytes, error: status.RpcError | None) -> None:
        self.stream = stream
        self.payload = payload
        self.error = error


class _Connection:
    """What both roles share: the splitter and the bytes to be sent."""

    def __init__(self) -> None:
        self._splitter = frame.Splitter()
        self._outgoing = bytearray()

    def outgoing(self) -> bytearray:
        """The bytes to be sent; whoever has sent some deletes them from the front."""
        return self._outgoing

    def _put(self, stream: int, kind: int, flags: int, payload: bytes = b"") -> None:
        if len(payload) > frame.MAX_PAYLOAD:
            raise status.RpcError(status.RESOURCE_EXHAUSTED, frame.too_large(len(payload)))
        self._outgoing += frame.pack(stream, kind, flags, payload)


class ServerConnection(_Connection):
    """One accepted connection."""

    def __init__(self) -> None:
        super().__init__()
        self._last = 0
        self._open: dict[int, bool] = {}  # stream: is the client still sending

    def receive(self, data: bytes) -> list[Call | Message | HalfClose]:
        """The events in `data`; what is wrong with it has been answered already."""
        events: list[Call | Message | HalfClose] = []
        for got in self._splitter.feed(data):
            if got.kind == REQUEST:
                self._request(got, events)
            elif got.kind == DATA:
                self._data(got, events)
        return events

    def _request(self, got: frame.Frame, events: list[Call | Message | HalfClose]) -> None:
        stream = got.stream
        if stream % 2 == 0:
            self._refuse(stream, "StreamID must be odd for client initiated streams")
            return
        if stream <= self._last:
            self._refuse(stream, "StreamID cannot be re-used and must increment")
            return
        self._last = stream
        if got.oversize:
            self._answer(stream, status.RESOURCE_EXHAUSTED, frame.too_large(got.oversize))
            return
        request = Request()
        try:
            request.ParseFromString(got.payload)
        except DecodeError as error:
            self._refuse(stream, f"unmarshal request error: {error}")
            return
        more = bool(got.flags & REMOTE_OPEN) and not got.flags & REMOTE_CLOSED
        self._open[stream] = more
        events.append(Call(stream, request, more))

    def _data(self, got: frame.Frame, events: list[Call | Message | HalfClose]) -> None:
        stream = got.stream
        if stream not in self._open:
            self._refuse(stream, "StreamID is no longer active")
            return
        if got.oversize:
            del self._open[stream]
            self._answer(stream, status.RESOURCE_EXHAUSTED, frame.too_large(got.oversize))
            events.append(HalfClose(stream))
            return
        if not self._open[stream]:
            self._refuse(stream, "data handling error: ttrpc: stream closed")
            return
        closes = bool(got.flags & REMOTE_CLOSED)
        if closes and got.payload:
            self._refuse(stream, "data close message cannot include data")
            closes = True
        elif not got.flags & NO_DATA and not closes:
            events.append(Message(stream, got.payload))
        if closes:
            self._open[stream] = False
            events.append(HalfClose(stream))

    def is_open(self, stream: int) -> bool:
        """May the server still send on `stream`?"""
        return stream in self._open

    def respond(self, stream: int, payload: bytes) -> None:
        """End `stream` with a message; one that is too large becomes a status, not a dead link."""
        if self._open.pop(stream, None) is None:
            return
        try:
            # A response with an empty message has no fields: a frame of length 0.
            body = Response(payload=payload).SerializeToString() if payload else b""
            self._put(stream, RESPONSE, 0, body)
        except status.RpcError as error:
            self._answer(stream, error.code, str(error))

    def fail(self, stream: int, code: int, message: str, details: Iterable[Any] = ()) -> None:
        """End `stream` with a status other than OK."""
        if self._open.pop(stream, None) is not None:
            self._answer(stream, code, message, details)

    def send(self, stream: int, payload: bytes) -> None:
        """A message of a stream; raises RpcError when too large or when the stream has ended."""
        if stream not in self._open:
            raise status.RpcError(status.CANCELLED, "ttrpc: stream closed")
        self._put(stream, DATA, 0, payload)

    def finish(self, stream: int) -> None:
        """End a server-streaming `stream` without an error."""
        if self._open.pop(stream, None) is not None:
            self._put(stream, DATA, REMOTE_CLOSED | NO_DATA)

    def _refuse(self, stream: int, message: str) -> None:
        self._answer(stream, status.INVALID_ARGUMENT, message)

    def _answer(self, stream: int, code: int, message: str, details: Iterable[Any] = ()) -> None:
        # Not every str is text: a path may have bytes that are no UTF-8.
        text = message.encode("utf-8", "replace")[: frame.MAX_PAYLOAD // 2]
        body = Response(status=Status(code=code, message=text.decode("utf-8", "ignore")))
        body.status.details.extend(details)
        if body.ByteSize() > frame.MAX_PAYLOAD:
            del body.status.details[:]
        self._put(stream, RESPONSE, 0, body.SerializeToString())


class ClientConnection(_Connection):
    """One connection to a server."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 1
        self._open: dict[int, bool] = {}  # stream: may we still send

    def call(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout_nano: int = 0,
        metadata: Mapping[str, str] | None = None,
        streaming: bool | None = None,
    ) -> int:
        """Open a stream and return its id.

        `streaming`: None for a unary call, True when messages of the client follow, False for a
        stream in which only the server sends. Raises RpcError when the request is too large.
        """
        request = Request(
            service=service, method=method, payload=payload, timeout_nano=timeout_nano
        )
        for key, value in (metadata or {}).items():
            request.metadata.append(KeyValue(key=key.lower(), value=value))
        flags = 0 if streaming is None else REMOTE_OPEN if streaming else REMOTE_CLOSED
        stream = self._next
        self._put(stream, REQUEST, flags, request.SerializeToString())
        self._next += 2
        self._open[stream] = bool(streaming)
        return stream

    def send(self, stream: int, payload: bytes) -> None:
        """A message on a stream opened with streaming=True; raises RpcError when it is closed."""
        if not self._open.get(stream):
            raise status.RpcError(status.CANCELLED, "ttrpc: stream closed")
        self._put(stream, DATA, 0, payload)

    def is_open(self, stream: int) -> bool:
        """May the client still send on `stream`?"""
        return bool(self._open.get(stream))

    def close_send(self, stream: int) -> None:
        """Say that nothing more follows; saying it twice does no harm."""
        if self._open.get(stream):
            self._open[stream] = False
            self._put(stream, DATA, REMOTE_CLOSED | NO_DATA)

    def forget(self, stream: int) -> None:
        """Nobody waits for this stream any more; what comes for it is dropped."""
        self._open.pop(stream, None)

    def receive(self, data: bytes) -> list[Reply | Message | HalfClose]:
        """The events in `data` for streams that are still waited for."""
        events: list[Reply | Message | HalfClose] = []
        for got in self._splitter.feed(data):
            stream = got.stream
            if stream not in self._open:
                continue
            if got.oversize and got.kind in (RESPONSE, DATA):
                del self._open[stream]
                text = frame.too_large(got.oversize)
                error = status.RpcError(status.RESOURCE_EXHAUSTED, text)
                events.append(Reply(stream, b"", error))
            elif got.kind == RESPONSE:
                del self._open[stream]
                events.append(self._reply(got))
            elif got.kind == DATA:
                if not got.flags & NO_DATA:
                    events.append(Message(stream, got.payload))
                if got.flags & REMOTE_CLOSED:
                    del self._open[stream]
                    events.append(HalfClose(stream))
        return events

    def _reply(self, got: frame.Frame) -> Reply:
        response = Response()
        try:
            response.ParseFromString(got.payload)
        except DecodeError as error:
            text = f"unmarshal response error: {error}"
            return Reply(got.stream, b"", status.RpcError(status.INTERNAL, text))
        found = response.status
        if found.code == status.OK:
            return Reply(got.stream, response.payload, None)
        details = tuple(found.details)
        return Reply(got.stream, b"", status.RpcError(found.code, found.message, details))
