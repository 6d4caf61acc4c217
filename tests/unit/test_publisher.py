"""events.publisher: events reach containerd in order, for as long as it takes (CONTRACT 9).

containerd's part is played by the sink that the package ships for tests, in a thread of its own.
"""

from __future__ import annotations

import itertools
import time
from functools import partial
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from shim_runc_py.api import events_pb2 as messages
from shim_runc_py.api.forward_pb2 import ForwardRequest
from shim_runc_py.events import publisher as publisher_module
from shim_runc_py.events import topics
from shim_runc_py.events.publisher import Publisher
from shim_runc_py.linux import sock
from shim_runc_py.loop import Future
from shim_runc_py.testing.sink import Sink
from shim_runc_py.ttrpc import frame
from shim_runc_py.ttrpc.server import Method, Server
from shim_runc_py.ttrpc.status import INVALID_ARGUMENT, UNAVAILABLE, RpcError
from tests.unit.driving import BOUND, run, turn, until

AT = Timestamp(seconds=1700000000)


def started(number):
    return topics.start(f"c{number}", number)


def exited(number):
    return topics.exited(f"c{number}", f"c{number}", number, 0, AT)


@pytest.fixture
def containerd(nothing_is_left, directory):
    """A sink that listens."""
    made = Sink(directory / "t")
    yield made
    made.stop()


@pytest.fixture
def publisher(loop, directory):
    """A publisher that sends to where `containerd` listens."""
    made = Publisher(loop, f"unix://{directory}/t", "k8s.io")
    yield made
    made.close()
    turn(loop, 2)


def publish(publisher, *events):
    for event in events:
        publisher.publish(event)


def flush(loop, publisher):
    assert run(loop, publisher.flush(BOUND))


def ids(sink):
    return [event.message.container_id for event in sink.events()]


class Answering:
    """The events service on a loop of the test. `answer(envelope)` may raise or give a future."""

    def __init__(self, loop, directory, answer):
        self.received: list[Any] = []
        self.metadata: list[Any] = []
        self.answer = answer

        async def forward(request, context):
            self.received.append(request.envelope)
            self.metadata.append(context.metadata)
            found = self.answer(request.envelope)
            if found is not None:
                await found
            return Empty()

        table = {"Forward": Method(ForwardRequest, forward)}
        self.server = Server(loop, {publisher_module.SERVICE: table}, Future)
        listener = sock.listen(str(directory / "t"))
        assert listener is not None
        self.server.serve(listener)

    def topics(self):
        return [envelope.topic for envelope in self.received]


@pytest.fixture
def answering(loop, fake_loop, directory):
    """`answering(loop, answer)`: the service, closed after the test."""
    made = []

    def answering(loop, answer=lambda _: None):
        made.append(Answering(loop, directory, answer))
        return made[-1]

    yield answering
    for one in made:
        one.server.close()


def test_an_event_arrives_as_containerd_wants_it(loop, answering, publisher):
    service = answering(loop)
    before = time.time_ns()
    publish(publisher, exited(5))
    flush(loop, publisher)
    ((envelope,), (metadata,)) = service.received, service.metadata
    assert (envelope.namespace, envelope.topic) == ("k8s.io", "/tasks/exit")
    assert envelope.event.type_url == "containerd.events.TaskExit"
    assert messages.TaskExit.FromString(envelope.event.value) == exited(5)[1]
    at = envelope.timestamp.seconds * 1_000_000_000 + envelope.timestamp.nanos
    assert before <= at <= time.time_ns()
    assert metadata == {"containerd-namespace-ttrpc": "k8s.io"}


def test_publishing_only_puts_into_the_queue(loop, answering, publisher):
    service = answering(loop)
    publish(publisher, started(1), started(2))
    assert publisher.queued() == 2
    assert service.received == []
    flush(loop, publisher)
    assert publisher.queued() == 0


def test_events_arrive_in_the_order_of_publishing(loop, containerd, publisher):
    publish(publisher, *[started(number) for number in range(200)])
    flush(loop, publisher)
    assert ids(containerd) == [f"c{number}" for number in range(200)]


def test_one_event_is_under_way_at_a_time(loop, answering, publisher):
    gates = [Future[None]() for _ in range(3)]
    left = list(gates)
    service = answering(loop, lambda _: left.pop(0))

    def arrived(number):
        return len(service.received) > number

    publish(publisher, *[started(number) for number in range(3)])
    for number, gate in enumerate(gates):
        until(loop, partial(arrived, number))
        turn(loop, 3)
        assert len(service.received) == number + 1
        assert publisher.queued() == 3 - number
        gate.settle(None)
    flush(loop, publisher)


def test_one_connection_carries_all_events(loop, answering, publisher):
    service = answering(loop)
    for number in range(3):
        publish(publisher, started(number))
        flush(loop, publisher)
        assert service.server.connections() == 1


def test_events_wait_for_containerd_to_come_back(loop, containerd, publisher):
    publish(publisher, started(1))
    flush(loop, publisher)
    containerd.stop()
    publish(publisher, started(2), exited(2), started(3))
    assert not run(loop, publisher.flush(0.01))
    assert publisher.queued() == 3
    containerd.start()
    flush(loop, publisher)
    assert ids(containerd) == ["c1", "c2", "c2", "c3"]
    assert containerd.topics("c2") == ["/tasks/start", "/tasks/exit"]


def test_containerd_may_come_later_than_the_first_event(loop, containerd, publisher):
    containerd.stop()
    publish(publisher, started(1))
    assert not run(loop, publisher.flush(0.01))
    containerd.start()
    flush(loop, publisher)
    assert ids(containerd) == ["c1"]


def test_an_idle_connection_that_was_lost_is_made_again(loop, containerd, publisher):
    for number in range(3):
        publish(publisher, started(number))
        flush(loop, publisher)
        containerd.stop()
        containerd.start()
    publish(publisher, started(3))
    flush(loop, publisher)
    assert ids(containerd) == ["c0", "c1", "c2", "c3"]


def test_an_event_refused_for_now_is_sent_again_before_the_next(loop, answering, publisher):
    refusals = [RpcError(UNAVAILABLE, "not now"), RpcError(2, "unknown")]

    def answer(_):
        if refusals:
            raise refusals.pop()

    service = answering(loop, answer)
    publish(publisher, started(1), exited(1))
    flush(loop, publisher)
    assert service.topics() == ["/tasks/start"] * 3 + ["/tasks/exit"]
    assert service.server.connections() == 1


def test_the_sink_may_refuse_for_a_while(loop, containerd, publisher):
    containerd.refuse(True)
    publish(publisher, started(1), exited(1))
    assert not run(loop, publisher.flush(0.05))
    assert containerd.events() == []
    containerd.refuse(False)
    flush(loop, publisher)
    assert containerd.topics() == ["/tasks/start", "/tasks/exit"]


def test_an_event_that_is_not_valid_is_dropped(loop, answering, publisher, capfd):
    def answer(envelope):
        if envelope.topic == "/tasks/oom":
            raise RpcError(INVALID_ARGUMENT, "no such topic: invalid argument")

    service = answering(loop, answer)
    publish(publisher, started(1), topics.oom("c1"), exited(1))
    flush(loop, publisher)
    assert service.topics() == ["/tasks/start", "/tasks/oom", "/tasks/exit"]
    assert 'msg="event refused" topic="/tasks/oom"' in capfd.readouterr().err


def test_an_event_that_fits_no_frame_is_dropped(loop, answering, publisher):
    service = answering(loop)
    large = messages.TaskCreate(container_id="c1", bundle="x" * frame.MAX_PAYLOAD)
    publish(publisher, ("/tasks/create", large), exited(1))
    assert run(loop, publisher.flush(1))
    assert service.topics() == ["/tasks/exit"]


# the queue


def test_a_full_queue_drops_the_oldest_event_that_is_no_exit(
    loop, publisher, monkeypatch, answering
):
    monkeypatch.setattr(publisher_module, "MOST_QUEUED", 4)
    publish(publisher, exited(0), exited(1), started(2), started(3))
    assert publisher.dropped == 0
    publish(publisher, started(4), exited(5))
    assert publisher.queued() == 4
    assert publisher.dropped == 2
    service = answering(loop)
    flush(loop, publisher)
    assert service.topics() == ["/tasks/exit", "/tasks/exit", "/tasks/start", "/tasks/exit"]
    pids = [messages.TaskExit.FromString(envelope.event.value).pid for envelope in service.received]
    assert pids[:2] + pids[3:] == [0, 1, 5]


def test_a_full_queue_never_drops_an_exit(loop, publisher, monkeypatch, answering):
    monkeypatch.setattr(publisher_module, "MOST_QUEUED", 4)
    publish(publisher, *[exited(number) for number in range(10)], started(10), exited(11))
    assert publisher.dropped <= 1
    service = answering(loop)
    flush(loop, publisher)
    assert service.topics().count("/tasks/exit") == 11


def test_the_event_under_way_is_not_dropped(loop, publisher, monkeypatch, answering):
    monkeypatch.setattr(publisher_module, "MOST_QUEUED", 3)
    gate = Future[None]()
    service = answering(loop, lambda _: gate)
    publish(publisher, started(0))
    until(loop, lambda: service.received)
    publish(publisher, *[started(number) for number in range(1, 6)])
    gate.settle(None)
    flush(loop, publisher)
    pids = [messages.TaskStart.FromString(one.event.value).pid for one in service.received]
    assert pids == [0, 4, 5]
    assert publisher.dropped == 3


def test_a_dropped_event_is_logged(publisher, monkeypatch, capfd):
    monkeypatch.setattr(publisher_module, "MOST_QUEUED", 2)
    publish(publisher, exited(0), topics.oom("c1"), exited(2))
    assert 'msg="event dropped: queue is full" topic="/tasks/oom"' in capfd.readouterr().err


# time


def test_flush_is_bounded(fake_loop, clock, directory):
    publisher = Publisher(fake_loop, str(directory / "t"), "ns")
    publisher.publish(started(1))
    task = fake_loop.spawn(publisher.flush(3))
    turn(fake_loop, 2)
    clock.now += 2.9
    turn(fake_loop, 2)
    assert not task.done()
    clock.now += 0.1
    turn(fake_loop, 2)
    assert task.result() is False
    assert publisher.queued() == 1
    publisher.close()
    clock.now += 10
    turn(fake_loop, 2)


def test_flush_of_nothing_comes_back_at_once(fake_loop, directory):
    publisher = Publisher(fake_loop, str(directory / "t"), "ns")
    task = fake_loop.spawn(publisher.flush(0))
    turn(fake_loop)
    assert task.result() is True


@pytest.fixture
def connections(monkeypatch):
    """When a connection was tried; each makes a new client."""
    made: list[str] = []
    connect = sock.connect

    def counted(path):
        made.append(path)
        return connect(path)

    monkeypatch.setattr(sock, "connect", counted)
    return made


def next_timer(loop, clock):
    """Let the time pass until something is due."""
    clock.now = min(timer.when for timer in loop._timers if timer.callback is not None)
    turn(loop, 6)


def pauses_between(times):
    return [later - earlier for earlier, later in itertools.pairwise(times)]


EXPECTED_PAUSES = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("error", [ConnectionRefusedError(), RpcError(UNAVAILABLE, "not now")])
def test_attempts_become_rarer_up_to_a_bound(
    fake_loop, clock, directory, answering, monkeypatch, error
):
    attempts: list[float] = []
    real = sock.connect

    def attempt(_):
        attempts.append(clock.now)
        if len(attempts) <= len(EXPECTED_PAUSES):
            raise error

    def connect(path):
        attempt(path)
        return real(path)

    if isinstance(error, OSError):
        answering(fake_loop)
        monkeypatch.setattr(sock, "connect", connect)
    else:
        answering(fake_loop, attempt)
    publisher = Publisher(fake_loop, str(directory / "t"), "ns")
    publisher.publish(started(1))
    turn(fake_loop, 6)
    while publisher.queued():
        next_timer(fake_loop, clock)
    assert pauses_between(attempts) == pytest.approx(EXPECTED_PAUSES)
    publisher.close()
    turn(fake_loop, 2)


def test_after_a_success_attempts_are_frequent_again(fake_loop, clock, directory, answering):
    attempts: list[float] = []

    def refuse(_):
        attempts.append(clock.now)
        if len(attempts) != 4:
            raise RpcError(UNAVAILABLE, "not now")

    answering(fake_loop, refuse)
    publisher = Publisher(fake_loop, str(directory / "t"), "ns")
    publish(publisher, started(1), started(2))
    turn(fake_loop, 6)
    while len(attempts) < 7:
        next_timer(fake_loop, clock)
    assert pauses_between(attempts) == pytest.approx([0.01, 0.02, 0.04, 0, 0.01, 0.02])
    publisher.close()
    clock.now += 10
    turn(fake_loop, 6)


def test_a_containerd_that_does_not_answer_is_tried_again(
    fake_loop, clock, answering, directory, connections
):
    gates = [Future[None](), Future[None]()]
    left = list(gates)
    service = answering(fake_loop, lambda _: left.pop(0) if left else None)
    publisher = Publisher(fake_loop, str(directory / "t"), "ns")
    publisher.publish(started(1))
    for attempt in (1, 2):
        turn(fake_loop, 10)
        assert len(service.received) == attempt
        clock.now += 4.9
        turn(fake_loop, 5)
        assert len(service.received) == attempt
        clock.now += 0.1
        turn(fake_loop, 5)
        clock.now += 2.0  # the longest pause
    turn(fake_loop, 10)
    assert len(service.received) == 3
    assert len(connections) == 3
    assert publisher.queued() == 0
    for gate in gates:
        gate.settle(None)
    turn(fake_loop, 2)
    publisher.close()


# without containerd


def test_without_an_address_events_are_only_logged(loop, capfd):
    publisher = Publisher(loop, "", "ns")
    publisher.publish(started(1))
    assert publisher.queued() == 0
    assert run(loop, publisher.flush(0))
    text = capfd.readouterr().err
    assert 'msg="event without a place to go" topic="/tasks/start"' in text


def test_a_closed_publisher_lets_go_of_everything(loop, directory, answering):
    gate = Future[None]()
    service = answering(loop, lambda _: gate)
    publisher = Publisher(loop, str(directory / "t"), "ns")
    publisher.publish(started(1))
    publisher.publish(started(2))
    until(loop, lambda: service.received)
    publisher.close()
    assert publisher.queued() == 0
    until(loop, lambda: not service.server.connections())
    assert run(loop, publisher.flush(BOUND))
    assert len(service.received) == 1
    gate.settle(None)
    turn(loop, 2)
