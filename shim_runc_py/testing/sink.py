"""Where a shim's events arrive when there is no containerd: the events service on a socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty

from shim_runc_py.api import events_pb2
from shim_runc_py.api.forward_pb2 import Envelope, ForwardRequest
from shim_runc_py.linux import sock
from shim_runc_py.loop import Future, Loop
from shim_runc_py.testing.conditions import SLOW
from shim_runc_py.ttrpc.server import Context, Method, Server
from shim_runc_py.ttrpc.status import UNAVAILABLE, RpcError

BOUND = 30.0 * SLOW


class Event:
    """One event as it came: `message` is the decoded event, `at` our clock."""

    def __init__(self, envelope: Envelope) -> None:
        self.topic = envelope.topic
        self.namespace = envelope.namespace
        self.timestamp = envelope.timestamp
        self.type_url = envelope.event.type_url
        kind = getattr(events_pb2, self.type_url.rpartition(".")[2])
        self.message: Any = kind.FromString(envelope.event.value)
        self.at = time.monotonic()

    def __repr__(self) -> str:
        fields = str(self.message).replace("\n", " ")
        return f"<{self.topic} {fields}>"


class Sink:
    """Serves containerd.services.events.ttrpc.v1.Events on `path`, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._refuse = False
        self._loop = Loop()
        self._stop: Future[None] = Future()
        self._thread: threading.Thread | None = None
        self._server: Server | None = None
        self.start()

    def start(self) -> None:
        """Listen (again)."""
        listener = sock.listen(str(self.path))
        assert listener is not None
        self._loop = Loop()
        self._stop = Future()
        table = {"Forward": Method(ForwardRequest, self._forward)}
        services: Any = {"containerd.services.events.ttrpc.v1.Events": table}
        self._server = Server(self._loop, services, Future)
        self._server.serve(listener)
        self._thread = threading.Thread(target=self._loop.run, args=(self._stop,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and drop every connection, as a containerd that ends."""
        if self._thread is None or self._server is None:
            return
        server, loop, stop = self._server, self._loop, self._stop

        def end() -> None:
            server.close()
            stop.settle(None)

        loop.soon(end)
        poke = sock.unix(blocking=True)
        try:
            poke.connect(str(self.path))  # wakes the loop
        except OSError:
            pass
        finally:
            poke.close()
        self._thread.join(BOUND)
        self._loop.close()
        self._thread = None
        self.path.unlink(missing_ok=True)

    def refuse(self, on: bool) -> None:
        """Answer every event with Unavailable while `on`."""
        self._refuse = on

    async def _forward(self, request: ForwardRequest, _: Context) -> Empty:
        if self._refuse:
            raise RpcError(UNAVAILABLE, "refused by the test")
        with self._changed:
            self._events.append(Event(request.envelope))
            self._changed.notify_all()
        return Empty()

    def events(self) -> list[Event]:
        """Everything so far, in the order of arrival."""
        with self._changed:
            return list(self._events)

    def topics(self, container: str | None = None) -> list[str]:
        """The topics so far, of one container if given."""
        return [
            event.topic
            for event in self.events()
            if container is None or event.message.container_id == container
        ]

    def wait_until(self, condition: Callable[[], bool], timeout: float = BOUND) -> bool:
        """Wait until `condition` holds, which is looked at after each event; tells whether."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def wait_for(self, topic: str, timeout: float = BOUND, **fields: Any) -> Event:
        """The first event with `topic` and these field values; raises TimeoutError."""

        def find() -> Event | None:
            for event in self._events:
                if event.topic == topic and all(
                    getattr(event.message, name) == value for name, value in fields.items()
                ):
                    return event
            return None

        with self._changed:
            if not self._changed.wait_for(lambda: find() is not None, timeout):
                raise TimeoutError(f"no {topic} with {fields}; there are {self._events}")
            found = find()
            assert found is not None
            return found
