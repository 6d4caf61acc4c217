"""Calls and streams to a server: `Client` on an event loop, `BlockingClient` for tools and tests.

Both give the same answers: the response message, `RpcError` for a status, `Closed` when the
connection is gone, TimeoutError when the time is over. The timeout travels with the request, so
that the server knows when its answer is of no use any more; our own clock decides.
"""

from __future__ import annotations

import _socket
import select
import time

from shim_runc_py.ttrpc import connection, status
from shim_runc_py.ttrpc.server import READ, WRITE, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, TypeVar

    from google.protobuf.message import Message

    from shim_runc_py.ttrpc.server import EventLoop

    M = TypeVar("M", bound=Message)

_PORTION = 65536
_STREAMED = "the server streamed to a unary call"


def _nano(seconds: float | None) -> int:
    return 0 if seconds is None else max(1, int(seconds * 1e9))


class Client:
    """Unary calls over one connection, on an event loop."""

    def __init__(self, loop: EventLoop, sock: _socket.socket, future: Callable[[], Any]) -> None:
        """Takes over the connected, non-blocking `sock`."""
        self._loop = loop
        self._sock = sock
        self._future = future
        self._wire = connection.ClientConnection()
        self._pending: dict[int, Any] = {}
        self._writing = False
        self.open = True
        loop.watch(sock.fileno(), READ, self._ready)

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        response: type[M],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> M:
        """Call a unary method. `timeout` in seconds; raises RpcError, Closed, TimeoutError."""
        if not self.open:
            raise status.Closed
        stream = self._wire.call(
            service,
            method,
            request.SerializeToString(),
            timeout_nano=_nano(timeout),
            metadata=metadata,
        )
        answer = self._pending[stream] = self._future()
        timer = None
        if timeout is not None:
            late = TimeoutError(f"{method} was not answered within {timeout:g} s")
            timer = self._loop.after(timeout, lambda: answer.fail(late))
        self._flush()
        try:
            payload = await answer
        finally:
            self._pending.pop(stream, None)
            self._wire.forget(stream)
            if timer is not None:
                timer.cancel()
        return decode(response, payload)  # type: ignore[return-value]

    def close(self) -> None:
        """Close the connection; pending calls raise Closed."""
        if not self.open:
            return
        self.open = False
        self._loop.forget(self._sock.fileno())
        self._sock.close()
        pending, self._pending = self._pending, {}
        for answer in pending.values():
            answer.fail(status.Closed())

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if not self.open or not events & ~WRITE:
            return
        try:
            data = self._sock.recv(_PORTION)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for event in self._wire.receive(data):
            answer = self._pending.get(event.stream)
            if answer is None:
                continue
            if not isinstance(event, connection.Reply):
                answer.fail(status.RpcError(status.INTERNAL, _STREAMED))
            elif event.error is None:
                answer.settle(event.payload)
            else:
                answer.fail(event.error)

    def _flush(self) -> None:
        if not self.open:
            return
        outgoing = self._wire.outgoing()
        try:
            while outgoing:
                del outgoing[: self._sock.send(memoryview(outgoing)[: 16 * _PORTION])]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.close()
            return
        if bool(outgoing) != self._writing:
            self._writing = bool(outgoing)
            self._loop.rewatch(self._sock.fileno(), READ | WRITE if outgoing else READ)


class BlockingClient:
    """Calls and streams over one connection, without a loop. Not for several threads at once."""

    def __init__(self, path: str, timeout: float = 5.0) -> None:
        """Connect to the unix socket `path`; raises OSError."""
        self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            self._sock.settimeout(timeout)
            self._sock.connect(path)
        except BaseException:
            self._sock.close()
            raise
        self._sock.setblocking(False)
        self._wire = connection.ClientConnection()
        self._events: dict[int, list[connection.Reply | connection.Message | None]] = {}

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def call(
        self,
        service: str,
        method: str,
        request: Message,
        response: type[M],
        *,
        timeout: float | None = 30.0,
        server_timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> M:
        """Call a unary method; raises RpcError, Closed, TimeoutError.

        `server_timeout` (default: `timeout`) is what the server is told.
        """
        stream = self.begin(
            service,
            method,
            request,
            timeout=timeout if server_timeout is None else server_timeout,
            metadata=metadata,
        )
        return self.finish(stream, response, timeout)

    def begin(
        self,
        service: str,
        method: str,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Send a unary request without waiting for the answer; see `finish`."""
        stream = self._wire.call(
            service,
            method,
            request.SerializeToString(),
            timeout_nano=_nano(timeout),
            metadata=metadata,
        )
        self._events[stream] = []
        self._exchange(0)
        return stream

    def finish(self, stream: int, response: type[M], timeout: float | None = 30.0) -> M:
        """The answer to a request that was begun."""
        try:
            event = self._next(stream, timeout)
        finally:
            self._events.pop(stream, None)
            self._wire.forget(stream)
        if not isinstance(event, connection.Reply):
            raise status.RpcError(status.INTERNAL, _STREAMED)
        if event.error is not None:
            raise event.error
        return decode(response, event.payload)  # type: ignore[return-value]

    def stream(
        self,
        service: str,
        method: str,
        messages: Iterable[Message] | Message,
        response: type[M],
        *,
        timeout: float | None = 30.0,
        metadata: Mapping[str, str] | None = None,
    ) -> Iterator[M]:
        """Call a streaming method; yields what the server sends.

        `messages`: an iterable for a client-streaming method, one message for one where only the
        server streams. A client-streaming method without server streaming yields its one response.
        """
        from google.protobuf.message import Message as AnyMessage

        first = b""
        rest: Iterable[Message] = ()
        streaming = not isinstance(messages, AnyMessage)
        if isinstance(messages, AnyMessage):
            first = messages.SerializeToString()
        else:
            rest = messages
        stream = self._wire.call(
            service,
            method,
            first,
            timeout_nano=_nano(timeout),
            metadata=metadata,
            streaming=streaming,
        )
        self._events[stream] = []
        try:
            for message in rest:
                if not self._wire.is_open(stream):
                    break  # answered before the end; the answer says why
                self._wire.send(stream, message.SerializeToString())
                self._exchange(0)
            self._wire.close_send(stream)
            while True:
                event = self._next(stream, timeout)
                if event is None:
                    return
                if isinstance(event, connection.Reply) and event.error is not None:
                    raise event.error
                yield decode(response, event.payload)  # type: ignore[misc]
                if isinstance(event, connection.Reply):
                    return
        finally:
            self._events.pop(stream, None)
            self._wire.forget(stream)

    def _next(
        self, stream: int, timeout: float | None
    ) -> connection.Reply | connection.Message | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        queue = self._events[stream]
        while not queue:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"no answer within {timeout:g} s")
            self._exchange(left)
        return queue.pop(0)

    def _exchange(self, timeout: float | None) -> None:
        """Send and receive what is possible; waits at most `timeout` for something to happen."""
        outgoing = self._wire.outgoing()
        poll = select.poll()
        poll.register(self._sock.fileno(), READ | WRITE if outgoing else READ)
        ready = poll.poll(None if timeout is None else max(0, timeout * 1000))
        if not ready:
            return
        events = ready[0][1]
        if events & WRITE:
            try:
                del outgoing[: self._sock.send(outgoing)]
            except BlockingIOError:
                pass
            except OSError:
                raise status.Closed from None
        if not events & ~WRITE:
            return
        try:
            data = self._sock.recv(_PORTION)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise status.Closed
        for event in self._wire.receive(data):
            queue = self._events.get(event.stream)
            if queue is not None:
                queue.append(None if isinstance(event, connection.HalfClose) else event)
