"""Thousands of short containers through one shim: `make soak` (FAILURES 1, 8, 10, 11, 31, 38).

Not part of the default run. What is looked for: a wrong status, an event too few or too many or out
of order, and anything that grows with the number of containers that have come and gone.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim_runc_py.testing import leaks
from shim_runc_py.testing.sequence import complaints

pytestmark = pytest.mark.soak
LIFE = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
SLOPE = 1.0  # KiB of private memory for each container that is allowed to stay: noise, no leak


def private(pid):
    """Private memory in KiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))


@pytest.fixture
def pod(make_bundle, start_shim):
    """(shim, a function that makes a further bundle of its group)"""
    group = {"io.containerd.runc.v2.group": "soak"}
    sandbox = make_bundle("sleep", annotations=group)
    shim = start_shim(sandbox)
    shim.task.create(sandbox)
    shim.task.start(sandbox.id)

    def make(status):
        bundle = make_bundle("sleep", ["/bin/sh", "-c", f"exit {status}"], annotations=group)
        shim.join(bundle)
        return bundle

    return shim, make


def test_a_thousand_in_a_row(pod, sink):
    shim, make = pod
    bundles = [make(status) for status in range(10)]
    marks = {}
    for number in range(1000):
        bundle = bundles[number % 10]
        shim.task.create(bundle)
        shim.task.start(bundle.id)
        assert shim.task.wait(bundle.id).exit_status == number % 10
        assert shim.task.delete(bundle.id).exit_status == number % 10
        if number in (199, 999):
            marks[number] = (private(shim.pid), len(leaks.descriptors(shim.pid)))
    for bundle in bundles:
        sink.wait_for("/tasks/delete", container_id=bundle.id)
    assert complaints(sink.events()) == []
    for bundle in bundles:
        assert sink.topics(bundle.id) == LIFE * 100
    slope = (marks[999][0] - marks[199][0]) / 800
    print(f"private memory {marks[199][0]} -> {marks[999][0]} KiB, {slope:.2f} KiB a container")
    assert slope < SLOPE
    assert marks[999][1] == marks[199][1]


def test_two_hundred_at_once(pod, sink):
    shim, make = pod
    before = len(leaks.descriptors(shim.pid))
    connections = [shim.connect() for _ in range(8)]
    bundles = [make(number % 100) for number in range(200)]
    todo = [(connections[n % 8], bundle, n % 100) for n, bundle in enumerate(bundles)]

    def everywhere(method, **more):
        streams = [
            (task, task.begin(method, id=b.id, **(more and {"bundle": str(b)})), status)
            for task, b, status in todo
        ]
        return [(task.finish(method, stream, 300), status) for task, stream, status in streams]

    everywhere("Create", bundle=True)
    everywhere("Start")
    for answer, status in everywhere("Wait") + everywhere("Delete"):
        assert answer.exit_status == status
    for bundle in bundles:
        sink.wait_for("/tasks/delete", container_id=bundle.id)
        assert sink.topics(bundle.id) == LIFE
    assert complaints(sink.events()) == []
    assert len(leaks.descriptors(shim.pid)) == before + len(connections)


def test_three_thousand_execs(pod, sink):
    shim, _ = pod
    id = shim._bundles[0].id
    spec = {"args": ["/bin/true"]}
    marks = []
    files = set()
    for number in range(3000):
        name = f"e{number}"
        shim.task.exec(id, name, spec)
        shim.task.start(id, name)
        assert shim.task.wait(id, name).exit_status == 0
        shim.task.delete(id, name)
        if number in (499, 2999):
            marks.append((private(shim.pid), len(leaks.descriptors(shim.pid))))
            files.add(len(os.listdir(shim._bundles[0].path)))
    sink.wait_for("/tasks/exit", id="e2999")
    assert complaints(sink.events()) == []
    slope = (marks[1][0] - marks[0][0]) / 2500
    print(f"private memory {marks[0][0]} -> {marks[1][0]} KiB, {slope:.3f} KiB an exec")
    assert slope < SLOPE
    assert marks[1][1] == marks[0][1]
    assert len(files) == 1


def test_two_hundred_terminals(pod, make_bundle, outputs):
    shim, _ = pod
    bundle = make_bundle("tty", ["/bin/echo", "x"])
    before = len(leaks.descriptors(shim.pid))
    for _ in range(200):
        out = outputs()
        shim.task.create(bundle, terminal=True, stdout=str(out))
        shim.task.start(bundle.id)
        shim.task.wait(bundle.id)
        shim.task.delete(bundle.id)
        assert out.read() == b"x\r\n"
    assert len(leaks.descriptors(shim.pid)) == before


@pytest.mark.stock(skip="stays for ever")
def test_a_shim_that_nobody_needs_goes_by_itself(make_bundle, start_shim):
    shim = start_shim(make_bundle("sleep"))
    for client in shim._clients:
        client.close()
    shim.wait_gone(75)
    assert not Path(shim.path).exists()
