"""Long runs: very many short containers through a containerd.

`make soak` runs them. No wrong exit code, no missing or repeated event, nothing left.
"""

from __future__ import annotations

import collections
import random
import threading
import time

import pytest

from shim_runc_py.testing import sequence
from shim_runc_py.testing.daemon import wait_until
from tests.containerd.docker import Docker

pytestmark = pytest.mark.soak

SEQUENTIAL = 1000
PARALLEL = 200


def check(listener, statuses):
    """Every container of `statuses` (id to exit status) has told its whole life, once."""
    events = listener.until("/tasks/delete", len(statuses))
    assert sequence.complaints(events) == []
    counts = collections.Counter((event.topic, event.message.container_id) for event in events)
    topics = ("/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete")
    assert counts == {(topic, id): 1 for topic in topics for id in statuses}
    told = {
        event.message.container_id: event.message.exit_status
        for event in events
        if event.topic == "/tasks/exit"
    }
    assert told == statuses


def live(docker: Docker, id: str, status: int) -> int:
    """One short container; returns its exit status as Wait and Delete tell it."""
    docker.run(id, f"exit {status}")
    waited = docker.client.task("Wait", id).exit_status
    deleted = docker.client.task("Delete", id).exit_status
    docker.client.delete_container(id)
    assert waited == deleted, (id, waited, deleted)
    return int(waited)


def test_a_thousand_containers_one_after_the_other(docker, listener, user, capsys):
    statuses = {f"s{number}": random.randrange(256) for number in range(SEQUENTIAL)}
    began = time.monotonic()
    seen = {id: live(docker, id, status) for id, status in statuses.items()}
    took = time.monotonic() - began
    assert seen == statuses
    check(listener, statuses)
    wait_until(lambda: not user.shims(), "all shims are gone", 10)
    with capsys.disabled():
        print(f"\n{user.pairing}: {took / SEQUENTIAL * 1000:.0f} ms for each container")


def test_two_hundred_containers_at_once(docker, listener, user, capsys):
    statuses = {f"p{number}": number for number in range(PARALLEL)}
    seen: dict[str, int] = {}
    failures: list[BaseException] = []
    gate = threading.Barrier(PARALLEL)

    def run(id: str, status: int) -> None:
        try:
            gate.wait(60)
            seen[id] = live(docker, id, status)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=item) for item in statuses.items()]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    took = time.monotonic() - began
    assert failures == []
    assert seen == statuses
    check(listener, statuses)
    wait_until(lambda: not user.shims(), "all shims are gone", 10)
    with capsys.disabled():
        print(f"\n{user.pairing}: {PARALLEL} containers in {took:.1f} s")
