"""Processes in a pod's containers: probes, exec and attach with their streams, forwarded ports."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.cri.failures import CRIError, NotFound, TimedOut
from shim_runc_py.cri.streaming import STDOUT
from shim_runc_py.testing import leaks
from shim_runc_py.testing.daemon import wait_until
from tests.cri.node import script

BOUND = 20


def test_exec_sync_tells_output_and_exit_code(node, handler):
    with node.running(node.spec(handler)) as running:
        reply = node.runtime.exec_sync(running.id(), ["sh", "-c", "echo o; echo e >&2; exit 7"], 10)
        assert (reply.stdout, reply.stderr, reply.exit_code) == (b"o\n", b"e\n", 7)
        with pytest.raises(CRIError, match="executable file not found"):
            node.runtime.exec_sync(running.id(), ["nonesuch"])
        reply = node.runtime.exec_sync(running.id(), ["sh", "-c", "kill -9 $$"])
        assert reply.exit_code == 137


def test_exec_sync_takes_much_output(node, handler):
    with node.running(node.spec(handler)) as running:
        reply = node.runtime.exec_sync(
            running.id(), ["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo e >&2"], 30
        )
        assert len(reply.stdout) == 3000000
        assert reply.stderr == b"e\n"


def test_a_command_that_takes_too_long_is_gone_afterwards(node, handler):
    with node.running(node.spec(handler)) as running:
        began = time.monotonic()
        with pytest.raises(TimedOut):
            running.exec("sh", "-c", "exec sleep 778", timeout=1)
        assert 1 <= time.monotonic() - began < 10
        wait_until(lambda: "sleep 778" not in running.output("ps"), "the process is gone", 10)
        assert running.exec("true").exit_code == 0


def test_exec_streams_both_outputs_and_the_exit_code(node, handler):
    with (
        node.running(node.spec(handler)) as running,
        node.streaming.exec(running.id(), ["sh", "-c", "echo out; echo err >&2; exit 9"]) as stream,
    ):
        ended = stream.collect(BOUND)
        assert (ended.stdout, ended.stderr, ended.exit_code) == (b"out\n", b"err\n", 9)


def test_exec_streams_input(node, handler):
    with node.running(node.spec(handler)) as running:
        command = ["sh", "-c", "head -c 200000 | wc -c; exit 2"]
        with node.streaming.exec(running.id(), command, stdin=True) as stream:
            stream.write(b"x" * 200000)
            ended = stream.collect(BOUND)
        assert (ended.stdout.strip(), ended.exit_code) == (b"200000", 2)


def test_exec_on_a_terminal_has_its_size(node, handler):
    with (
        node.running(node.spec(handler)) as running,
        node.streaming.exec(running.id(), ["sh"], tty=True, stdin=True) as stream,
    ):
        stream.resize(111, 33)
        stream.write(b"test -t 0 && until stty size | grep '33 111'; do :; done; exit 4\n")
        ended = stream.collect(BOUND)
        assert b"\n33 111\r\n" in ended.stdout
        assert (ended.stderr, ended.exit_code) == (b"", 4)


def test_a_stream_that_is_closed_early_ends_nothing_else(node, handler):
    with node.running(node.spec(handler)) as running:
        with node.streaming.exec(running.id(), ["sh", "-c", "while echo x; do :; done"]) as stream:
            assert stream.read(BOUND)[0] == STDOUT
        assert running.exec("true").exit_code == 0
        assert running.state() == pb.ContainerState.CONTAINER_RUNNING


def test_exec_in_a_container_that_is_not_there(node):
    with pytest.raises(NotFound, match="nonesuch"):
        node.streaming.exec("nonesuch", ["x"])


def test_attach_reaches_the_containers_own_process(node, handler):
    text = "while read l; do echo got $l; echo err $l >&2; done; exit 5"
    pod = node.spec(handler, script("main", text, stdin=True))
    with node.running(pod) as running:
        for word in ("one", "two"):  # stdin stays open from one attach to the next
            with node.streaming.attach(running.id(), stdin=True) as stream:
                stream.write(word.encode() + b"\n")
                pieces = dict([stream.read(BOUND), stream.read(BOUND)])
                assert pieces == {1: f"got {word}\n".encode(), 2: f"err {word}\n".encode()}
        assert running.state() == pb.ContainerState.CONTAINER_RUNNING
        assert set(running.log()) == {b"got one\n", b"err one\n", b"got two\n", b"err two\n"}


def test_stdin_once_ends_with_the_first_attach(node, handler):
    text = "while read l; do echo got $l; done; exit 5"
    pod = node.spec(handler, script("main", text, stdin=True, stdin_once=True))
    with node.running(pod) as running:
        with node.streaming.attach(running.id(), stdin=True) as stream:
            stream.write(b"one\n")
            assert stream.read(BOUND) == (STDOUT, b"got one\n")
        wait_until(
            lambda: running.state() == pb.ContainerState.CONTAINER_EXITED, "the container ended"
        )
        assert running.status.container("main").exit_code == 5


def test_attach_to_a_terminal_has_its_size(node, handler):
    text = "while read l; do stty size; test $l = end && exit 6; done"
    pod = node.spec(handler, script("main", text, stdin=True, tty=True))
    with (
        node.running(pod) as running,
        node.streaming.attach(running.id(), tty=True, stdin=True) as stream,
    ):
        stream.resize(99, 22)
        seen = b""
        deadline = time.monotonic() + BOUND
        while b"22 99\r\n" not in seen:  # a resize is another call: it may be overtaken
            assert time.monotonic() < deadline
            stream.write(b"more\n")
            seen += stream.read(BOUND)[1]
        stream.write(b"end\n")
        stream.collect(BOUND)
        wait_until(
            lambda: running.state() == pb.ContainerState.CONTAINER_EXITED, "the container ended"
        )
        assert running.status.container("main").exit_code == 6


def test_a_port_is_forwarded(node, handler):
    pod = node.spec(handler, script("main", "while :; do nc -l -p 8080 -e cat; done"))
    with node.running(pod) as running:
        wait_until(lambda: ":8080" in running.output("netstat", "-tln"), "the port is open")
        for data in (b"ping", b"x" * 100000):
            with node.streaming.port_forward(running.sandbox, 8080) as stream:
                stream.write(data)
                received = b""
                while len(received) < len(data):
                    received += stream.read(BOUND)
                assert received == data
            wait_until(lambda: ":8080" in running.output("netstat", "-tln"), "it is open again")
        with (
            node.streaming.port_forward(running.sandbox, 81) as stream,
            pytest.raises(CRIError, match="connection refused"),
        ):
            stream.read(BOUND)


class Footprint:
    """What a shim holds: private memory in KiB, descriptors, child processes."""

    def __init__(self, pid):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found = re.findall(r"^Private_\w+:\s+(\d+)", text, re.MULTILINE)
        self.memory = sum(int(kb) for kb in found)
        self.descriptors = len(leaks.descriptors(pid))
        threads = Path(f"/proc/{pid}/task").glob("*/children")
        self.children = sum(len(path.read_text().split()) for path in threads)


def probe(node, handler, count, interval):
    """`count` execs, one each `interval` seconds; what the shim holds may not grow."""
    with node.running(node.spec(handler)) as running:
        pid = int(node.shims()[0].partition(":")[0])
        id = running.id()

        def run(number):
            due = time.monotonic()
            for _ in range(number):
                assert node.runtime.exec_sync(id, ["true"], 5).exit_code == 0
                due += interval
                time.sleep(max(0, due - time.monotonic()))

        run(20)
        before = Footprint(pid)
        run(count)
        spare = 0 if handler == "pyrunc" else 8
        wait_until(
            lambda: (
                Footprint(pid).descriptors <= before.descriptors + spare
                and Footprint(pid).children <= before.children
            ),
            f"descriptors and processes are as after 20 execs: {vars(before)}",
            10,
        )
        # A leak of 1 KiB an exec would show. The heap of Go grows by tens of megabytes at times.
        if handler == "pyrunc":
            assert Footprint(pid).memory <= before.memory + max(count, 256)
        return before, Footprint(pid)


def test_probes_do_not_make_a_shim_grow(node, handler):
    probe(node, handler, 50, 0)


@pytest.mark.soak
def test_probes_of_a_minute_do_not_make_a_shim_grow(node, handler):
    before, after = probe(node, handler, 600, 0.1)
    print(f"{handler} on {node.daemon.generation}: {vars(before)} -> {vars(after)}")
