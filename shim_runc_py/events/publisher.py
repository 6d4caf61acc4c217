"""Carries task events to containerd, in order, for as long as it takes.

One queue, one sender, one event under way at a time: what was published first arrives first. The
stock shim gives an event up after about 15 s and lets events that it tries again be overtaken
(SEMANTICS 5.6); docker and the kubelet then show dead containers as running (FAILURES 3). Here an
event is only taken from the queue when containerd has accepted it, or has said that it never will.

What it must not know: containers and their states. It is given topics and messages.

Rules
-----
* `publish` only puts into the queue: no request waits for containerd.
* The connection is made when there is something to send. TTRPC_ADDRESS never changes in a shim's
  life, also not when containerd is restarted (CONTRACT 9.2).
* The queue is bounded. When it is full, the oldest event that is no exit goes first; exits are
  never dropped while the shim lives, and there is at most one for each process.
"""

from __future__ import annotations

import time
from collections import deque

from shim_runc_py import errors, log
from shim_runc_py.api.forward_pb2 import Envelope, ForwardRequest
from shim_runc_py.events import topics
from shim_runc_py.linux import sock
from shim_runc_py.loop import Future
from shim_runc_py.ttrpc.client import Client
from shim_runc_py.ttrpc.status import Closed, RpcError
from shim_runc_py.ttrpc.wellknown_pb2 import Any, Empty, Timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from shim_runc_py.loop import Loop

SERVICE = "containerd.services.events.ttrpc.v1.Events"
TIMEOUT = 5.0  # seconds for one attempt
MOST_QUEUED = 8192
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 2.0


class Publisher:
    """Sends events to the ttrpc socket at `address`; with an empty address it only logs them."""

    def __init__(self, loop: Loop, address: str, namespace: str) -> None:
        self._loop = loop
        self._address = address.removeprefix("unix://")
        self._namespace = namespace
        self._queue: deque[Envelope] = deque()
        self._client: Client | None = None
        self._sending = False
        self._empty: Future[None] = Future()
        self._empty.settle(None)
        self.dropped = 0

    def publish(self, event: tuple[str, Message]) -> None:
        """Queue `event` (topic, message) with the time of now."""
        topic, message = event
        seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
        envelope = Envelope(
            timestamp=Timestamp(seconds=seconds, nanos=nanos),
            namespace=self._namespace,
            topic=topic,
            event=Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString()),
        )
        if not self._address:
            log.info("event without a place to go", topic=topic)
            return
        if len(self._queue) >= MOST_QUEUED:
            self._make_room()
        self._queue.append(envelope)
        if not self._sending:
            self._sending = True
            self._empty = Future()
            self._loop.spawn(self._send_all(), "publisher")

    def queued(self) -> int:
        """How many events containerd has not accepted yet."""
        return len(self._queue)

    async def flush(self, seconds: float) -> bool:
        """Wait until everything is sent; False if that takes more than `seconds`."""
        try:
            await self._loop.within(self._empty, seconds)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Drop the connection; what is queued is lost."""
        self._queue.clear()
        if self._client is not None:
            self._client.close()
            self._client = None

    def _make_room(self) -> None:
        # The first one may be under way: it is not touched.
        for index in range(1, len(self._queue)):
            if self._queue[index].topic != topics.EXIT:
                log.error("event dropped: queue is full", topic=self._queue[index].topic)
                del self._queue[index]
                self.dropped += 1
                return

    async def _send_all(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while self._queue:
                envelope = self._queue[0]
                try:
                    await self._send(envelope)
                except RpcError as error:
                    if error.code in (errors.INVALID_ARGUMENT, errors.RESOURCE_EXHAUSTED):
                        # Not an event, or too large: trying again is of no use (CONTRACT 9.2).
                        log.error("event refused", topic=envelope.topic, error=error)
                    else:
                        await self._loop.sleep(pause)
                        pause = min(pause * 2, _LONGEST_PAUSE)
                        continue
                except (OSError, Closed, TimeoutError) as error:
                    if pause == _FIRST_PAUSE:
                        log.warning("containerd does not take events", error=error)
                    self._disconnect()
                    await self._loop.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                    continue
                pause = _FIRST_PAUSE
                if self._queue and self._queue[0] is envelope:
                    self._queue.popleft()
        finally:
            self._sending = False
            self._empty.settle(None)

    async def _send(self, envelope: Envelope) -> None:
        if self._client is None or not self._client.open:
            self._client = Client(self._loop, sock.connect(self._address), Future)
        await self._client.call(
            SERVICE,
            "Forward",
            ForwardRequest(envelope=envelope),
            Empty,
            timeout=TIMEOUT,
            metadata={"containerd-namespace-ttrpc": self._namespace},
        )

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
