"""Services on a listening unix socket.

The only place where an exception of a handler turns into a wire status (`status.of`). Handlers are
coroutines that run concurrently, also those of one connection; answers go out in the order in
which handlers finish.

Rules
-----
* Nobody but our own user may speak to us: SO_PEERCRED is looked at before a byte is read
  (CONTRACT 4.3, SECURITY 2). A connection that is closed without a byte is normal: probes do that.
* Reading never waits for writing. What a client does not take is kept up to a bound; beyond it the
  connection is closed, because frames cannot be left out (CONTRACT 6.9).
* A lost connection cancels the handlers that only wait; those that change something go on to their
  end, as nobody could tell where they stopped (CONTRACT 6.6). The same holds for a passed timeout,
  of which every handler knows through its `Context`.
* Out of descriptors: the listener rests for a moment instead of spinning (FAILURES 40).

Kernel fact: accept gives ECONNABORTED, EMFILE and the like for the connection, not for the
listener; none of them ends serving.
"""

from __future__ import annotations

import _socket
import os
import struct
from collections import deque

from google.protobuf.message import DecodeError

from shim_runc_py.ttrpc import connection, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from typing import Any, Protocol

    from google.protobuf.message import Message

    class Settled(Protocol):
        def done(self) -> bool: ...
        def settle(self, value: None) -> None: ...
        def __await__(self) -> Any: ...

    class Cancellable(Protocol):
        def cancel(self) -> None: ...

    class Running(Cancellable, Protocol):
        def then(self, callback: Callable[[Any], object]) -> None: ...

    class EventLoop(Protocol):
        """What server and client want of an event loop; times are seconds of `clock`."""

        @property
        def clock(self) -> Callable[[], float]: ...
        def watch(self, fd: int, events: int, callback: Callable[[int], object]) -> None: ...
        def rewatch(self, fd: int, events: int) -> None: ...
        def forget(self, fd: int) -> None: ...
        def after(self, seconds: float, callback: Callable[[], object]) -> Cancellable: ...
        def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str = "") -> Running: ...


READ, WRITE = 1, 4  # EPOLLIN, EPOLLOUT
MOST_STREAMS = 16384  # of one connection; a container's Waits and execs are far below
MOST_UNSENT = 32 << 20  # bytes that a client left unread
_PORTION = 65536
_REST = 0.1  # seconds without accepting when there are no descriptors


class Context:
    """What a handler knows of its call besides the request."""

    __slots__ = ("_clock", "deadline", "metadata")

    def __init__(
        self, clock: Callable[[], float], deadline: float | None, metadata: Mapping[str, str]
    ) -> None:
        self._clock = clock
        self.deadline = deadline
        self.metadata = metadata

    def remaining(self, most: float) -> float:
        """Seconds until the caller gives up, at most `most`."""
        if self.deadline is None:
            return most
        return max(0.0, min(most, self.deadline - self._clock()))


class Method:
    """A unary method: `handler(request, context)` returns the response message.

    `waits`: the handler changes nothing, so it is cancelled when its caller is gone or its time
    is over.
    """

    __slots__ = ("handler", "request", "waits")

    def __init__(
        self,
        request: type[Message],
        handler: Callable[[Any, Context], Awaitable[Message]],
        *,
        waits: bool = False,
    ) -> None:
        self.request = request
        self.handler = handler
        self.waits = waits


class StreamMethod:
    """A method that streams: `handler(stream, context)`.

    With `server_streams` the handler sends with `stream.send` and returns None; without, it
    returns the one response message.
    """

    __slots__ = ("client_streams", "handler", "request", "server_streams")

    def __init__(
        self,
        request: type[Message],
        handler: Callable[[Stream, Context], Awaitable[Message | None]],
        *,
        client_streams: bool,
        server_streams: bool,
    ) -> None:
        self.request = request
        self.handler = handler
        self.client_streams = client_streams
        self.server_streams = server_streams


class Stream:
    """The server's end of an open stream."""

    def __init__(self, peer: _Peer, stream: int, request: type[Message]) -> None:
        self._peer = peer
        self._stream = stream
        self._request = request
        self._arrived: deque[bytes | None] = deque()
        self._reader: Any = None

    def arrive(self, payload: bytes | None) -> None:
        """A message of the client, or None for its half-close."""
        self._arrived.append(payload)
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.settle(None)

    async def receive(self) -> Any:
        """The next message of the client, None after its last one.

        Raises RpcError when the bytes are no such message.
        """
        if not self._arrived:
            self._reader = self._peer.server.future()
            await self._reader
        payload = self._arrived.popleft()
        if payload is None:
            self._arrived.append(None)
            return None
        return decode(self._request, payload)

    async def send(self, message: Message) -> None:
        """A message to the client; waits while much of what was sent before is unread.

        Raises RpcError when the message is too large or the client is gone.
        """
        await self._peer.room()
        self._peer.wire.send(self._stream, message.SerializeToString())
        self._peer.flush()


def decode(kind: type[Message], payload: bytes) -> Message:
    """`payload` as a message; raises RpcError with the Go library's text."""
    message = kind()
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        text = f"ttrpc: error unmarshalling payload: {error}"
        raise status.RpcError(status.INTERNAL, text) from None
    return message


class Server:
    """Serves `services` (service name -> method name -> method) on one listening socket."""

    def __init__(
        self,
        loop: EventLoop,
        services: Mapping[str, Mapping[str, Method | StreamMethod]],
        future: Callable[[], Any],
        *,
        most_connections: int = 4096,
    ) -> None:
        """`future` makes an awaitable with `settle(value)`, of the loop's kind."""
        self.loop = loop
        self.services = services
        self.future = future
        self._most = most_connections
        self._listener: _socket.socket | None = None
        self._peers: set[_Peer] = set()
        self.working = 0  # handlers that change something, also those without a caller by now
        self.changed: Callable[[], object] = lambda: None  # called when `busy` may have changed

    def serve(self, listener: _socket.socket) -> None:
        """Accept on `listener` from now on; it belongs to the server."""
        listener.setblocking(False)
        self._listener = listener
        self.loop.watch(listener.fileno(), READ, self._accept)

    def stop_accepting(self) -> None:
        """Close the listener; open connections go on."""
        if self._listener is not None:
            self.loop.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def connections(self) -> int:
        return len(self._peers)

    def busy(self) -> bool:
        """Is there an answer to be sent, or a handler running that does more than wait?"""
        return self.working > 0 or any(peer.wire.outgoing() for peer in self._peers)

    def close(self) -> None:
        """Stop accepting and drop every connection; handlers that only wait are cancelled."""
        self.stop_accepting()
        for peer in list(self._peers):
            peer.close()

    def _accept(self, _: int) -> None:
        listener = self._listener
        if listener is None:
            return
        try:
            fd, _address = listener._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return
        except OSError:
            self.loop.forget(listener.fileno())
            self.loop.after(_REST, self._resume)
            return
        sock = _socket.socket(fileno=fd)
        raw = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        _pid, uid, gid = struct.unpack("iII", raw)
        if (uid, gid) != (os.geteuid(), os.getegid()) or len(self._peers) >= self._most:
            sock.close()
            return
        sock.setblocking(False)
        self._peers.add(_Peer(self, sock))

    def _resume(self) -> None:
        if self._listener is not None:
            self.loop.watch(self._listener.fileno(), READ, self._accept)

    def gone(self, peer: _Peer) -> None:
        self._peers.discard(peer)
        self.changed()


class _Peer:
    """One connection: its socket, its frames, its running handlers."""

    def __init__(self, server: Server, sock: _socket.socket) -> None:
        self.server = server
        self.wire = connection.ServerConnection()
        self._sock = sock
        self._open = True
        self._writing = False
        self._waiting: dict[int, Running] = {}
        self._working = 0
        self._streams: dict[int, Stream] = {}
        self._room: list[Any] = []
        server.loop.watch(sock.fileno(), READ, self._ready)

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self.server.loop.forget(self._sock.fileno())
        self._sock.close()
        for task in list(self._waiting.values()):
            task.cancel()
        for stream in self._streams.values():
            stream.arrive(None)
        self._wake_writers()
        self.server.gone(self)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self.flush()
        if events & ~WRITE and self._open:
            self._read()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_PORTION)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for event in self.wire.receive(data):
            if isinstance(event, connection.Call):
                self._begin(event)
            else:
                stream = self._streams.get(event.stream)
                if stream is not None:
                    message = isinstance(event, connection.Message)
                    stream.arrive(event.payload if message else None)  # type: ignore[union-attr]
        self.flush()

    def _begin(self, call: connection.Call) -> None:
        methods = self.server.services.get(call.service)
        if methods is None:
            self.wire.fail(call.stream, status.UNIMPLEMENTED, f"service {call.service}")
            return
        method = methods.get(call.method)
        if method is None:
            self.wire.fail(call.stream, status.UNIMPLEMENTED, f"method {call.method}")
            return
        if self._working + len(self._waiting) >= MOST_STREAMS:
            text = f"more than {MOST_STREAMS} calls at once on one connection"
            self.wire.fail(call.stream, status.RESOURCE_EXHAUSTED, text)
            return
        clock = self.server.loop.clock
        deadline = clock() + call.timeout_nano / 1e9 if call.timeout_nano else None
        metadata = {pair.key: pair.value for pair in call.metadata}
        context = Context(clock, deadline, metadata)
        name = call.method
        if isinstance(method, StreamMethod):
            # Before the handler runs: what the client sent along arrives in this very turn.
            stream = self._streams[call.stream] = Stream(self, call.stream, method.request)
            if not method.client_streams or call.payload:
                stream.arrive(call.payload)
            if not call.more:
                stream.arrive(None)
            task = self.server.loop.spawn(self._run_stream(method, stream, call, context), name)
            self._track(task, call.stream, deadline)
        elif method.waits:
            task = self.server.loop.spawn(self._run(method, call, context), name)
            self._track(task, call.stream, deadline)
        else:
            self._working += 1
            self.server.working += 1
            self.server.loop.spawn(self._run(method, call, context), name).then(self._worked)

    def _track(self, task: Running, stream: int, deadline: float | None) -> None:
        """A handler that is cancelled when its caller is gone or tired of waiting."""
        self._waiting[stream] = task
        timer: Cancellable | None = None
        if deadline is not None:
            loop = self.server.loop
            timer = loop.after(max(0.0, deadline - loop.clock()), lambda: self._expire(stream))

        def ended(_: object) -> None:
            self._waiting.pop(stream, None)
            if timer is not None:
                timer.cancel()

        task.then(ended)

    def _expire(self, stream: int) -> None:
        task = self._waiting.get(stream)
        if task is not None:
            self.wire.fail(stream, status.DEADLINE_EXCEEDED, "context deadline exceeded")
            self.flush()
            task.cancel()

    def _worked(self, _: object) -> None:
        self._working -= 1
        self.server.working -= 1
        self.server.changed()

    async def _run(self, method: Method, call: connection.Call, context: Context) -> None:
        try:
            request = decode(method.request, call.payload)
            response = await method.handler(request, context)
            self.wire.respond(call.stream, response.SerializeToString())
        except Exception as error:
            self._fail(call.stream, error)
        self.flush()

    async def _run_stream(
        self, method: StreamMethod, stream: Stream, call: connection.Call, context: Context
    ) -> None:
        try:
            response = await method.handler(stream, context)
            if method.server_streams:
                self.wire.finish(call.stream)
            else:
                assert response is not None
                self.wire.respond(call.stream, response.SerializeToString())
        except Exception as error:
            self._fail(call.stream, error)
        finally:
            self._streams.pop(call.stream, None)
        self.flush()

    def _fail(self, stream: int, error: Exception) -> None:
        code, text = status.of(error)
        self.wire.fail(stream, code, text, getattr(error, "details", ()))

    async def room(self) -> None:
        """Wait until the client has taken most of what was sent to it."""
        while self._open and len(self.wire.outgoing()) > 4 * _PORTION:
            future = self.server.future()
            self._room.append(future)
            await future
        if not self._open:
            raise status.RpcError(status.CANCELLED, "ttrpc: closed")

    def _wake_writers(self) -> None:
        room, self._room = self._room, []
        for future in room:
            future.settle(None)

    def flush(self) -> None:
        """Send what there is, and watch for room if not all of it goes."""
        if not self._open:
            return
        outgoing = self.wire.outgoing()
        while outgoing:
            try:
                sent = self._sock.send(memoryview(outgoing)[: 16 * _PORTION])
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self.close()
                return
            del outgoing[:sent]
        if len(outgoing) > MOST_UNSENT:
            self.close()
            return
        if bool(outgoing) != self._writing:
            self._writing = bool(outgoing)
            self.server.loop.rewatch(self._sock.fileno(), READ | WRITE if outgoing else READ)
        if not outgoing:
            if self._room:
                self._wake_writers()
            self.server.changed()
