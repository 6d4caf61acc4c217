"""Much data, slow, full and absent readers, many streams (SEMANTICS 4; FAILURES 5, 22, 24, 33, 42,
44)."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from shim_runc_py.testing import leaks
from shim_runc_py.testing.daemon import wait_until

MIB = 1 << 20
FLOOD = b"0123456789abcde\n"
STOPPED = 3


def sh(script):
    return ["/bin/sh", "-c", script]


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def run(make_bundle, start_shim, outputs):
    """`run(fixture, args, **create)`: (shim, bundle, stdout) of a started container."""

    def run(fixture, args=None, **fields):
        bundle = make_bundle(fixture, args)
        shim = start_shim(bundle)
        if "stdout" not in fields:
            fields["stdout"] = outputs()
        out = fields["stdout"]
        if not fields.get("terminal"):
            fields["stderr"] = str(outputs())
        fields["stdout"] = str(out)
        shim.task.create(bundle, **fields)
        shim.task.start(bundle.id)
        return shim, bundle, out

    return run


def cpu(pid):
    """Clock ticks that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def unread(fifo):
    """A reader of the client, in blocking mode."""
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    return reader


def read_all(reader):
    parts = []
    while part := os.read(reader, 65536):
        parts.append(part)
    return b"".join(parts)


def test_20_mib_go_both_ways_unharmed(run, inputs):
    data = os.urandom(20 * MIB)
    stdin = inputs()
    shim, bundle, out = run("cat", stdin=str(stdin))
    stdin.write(data)
    shim.task.call("CloseIO", id=bundle.id, stdin=True)
    stdin.close()
    assert digest(out.read()) == digest(data)
    assert shim.task.wait(bundle.id).exit_status == 0


def test_20_mib_come_out_of_a_terminal_unharmed(run):
    script = f"stty raw -echo; yes 0123456789abcde | head -c {20 * MIB}"
    shim, bundle, out = run("tty", sh(script), terminal=True)
    assert shim.task.wait(bundle.id).exit_status == 0
    shim.task.delete(bundle.id)
    assert digest(out.read()) == digest(FLOOD * (20 * MIB // len(FLOOD)))


def test_much_goes_into_a_terminal_unharmed(run, inputs):
    data = os.urandom(MIB).replace(b"\xff", b"x")
    stdin = inputs()
    script = f"stty raw -echo; echo ready; head -c {len(data)} | sha256sum"
    shim, bundle, out = run("tty", sh(script), terminal=True, stdin=str(stdin))
    out.wait_for(b"ready")
    stdin.write(data)
    assert shim.task.wait(bundle.id).exit_status == 0
    assert digest(data).encode() in out.read()


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_an_execs_burst_is_complete_though_delete_comes_at_once(run, outputs, terminal):
    shim, bundle, _ = run("sleep")
    before = "stty raw -echo; " if terminal else ""
    out = outputs()
    fields = {} if terminal else {"stderr": str(outputs())}
    shim.task.exec(
        bundle.id,
        "e1",
        {"args": sh(f"{before}yes 0123456789abcde | head -c {8 * MIB}")},
        terminal=terminal,
        stdout=str(out),
        **fields,
    )
    shim.task.start(bundle.id, "e1")
    assert shim.task.wait(bundle.id, "e1").exit_status == 0
    shim.task.delete(bundle.id, "e1")
    assert digest(out.read()) == digest(FLOOD * (8 * MIB // len(FLOOD)))


def test_a_slow_reader_gets_everything_though_delete_comes_at_once(run, place):
    os.mkfifo(place / "slow")
    got = []

    def read():
        reader = os.open(place / "slow", os.O_RDONLY)
        while part := os.read(reader, 4096):
            got.append(part)
            time.sleep(0.001)  # the reader's slowness is what is tested
        os.close(reader)

    thread = threading.Thread(target=read)
    thread.start()
    shim, bundle, _ = run(
        "sleep", sh("yes 0123456789abcde | head -c 1048576"), stdout=place / "slow"
    )
    assert shim.task.wait(bundle.id).exit_status == 0
    shim.task.delete(bundle.id)
    thread.join(20)
    assert digest(b"".join(got)) == digest(FLOOD * (MIB // len(FLOOD)))


def test_a_full_reader_costs_nothing_and_loses_nothing(run, place):
    os.mkfifo(place / "full")
    reader = unread(place / "full")
    shim, bundle, _ = run(
        "sleep", sh("yes 0123456789abcde | head -c 2097152; exit 5"), stdout=place / "full"
    )
    pids = [process.pid for process in shim.task.call("Pids", id=bundle.id).processes]
    wait_until(
        lambda: any(
            "pipe_write" in wchan(pid) or "anon_pipe" in wchan(pid)
            for pid in pids + more(shim, bundle)
        ),
        "the container is stopped by its full pipe",
        8,
    )
    before = cpu(shim.pid)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        assert shim.task.state(bundle.id).status == 2
        time.sleep(0.05)  # an interval in which nothing is to happen
    assert cpu(shim.pid) - before < 20
    assert digest(read_all(reader)) == digest(FLOOD * (2 * MIB // len(FLOOD)))
    os.close(reader)
    assert shim.task.wait(bundle.id).exit_status == 5


def wchan(pid):
    try:
        return Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""


def more(shim, bundle):
    return [process.pid for process in shim.task.call("Pids", id=bundle.id).processes]


def test_a_reader_that_goes_and_comes_back_often_misses_nothing(run, place):
    os.mkfifo(place / "back")
    reader = unread(place / "back")
    shim, bundle, _ = run("sleep", sh("seq 1 60000"), stdout=place / "back")
    got = []
    for _ in range(20):
        got.append(os.read(reader, 2000))
        os.close(reader)
        if shim.task.state(bundle.id).status == STOPPED:
            reader = os.open(place / "back", os.O_RDONLY | os.O_NONBLOCK)
            os.set_blocking(reader, True)
        else:
            reader = unread(place / "back")
    got.append(read_all(reader))
    os.close(reader)
    assert b"".join(got).split() == [str(number).encode() for number in range(1, 60001)]
    assert shim.task.wait(bundle.id).exit_status == 0


@pytest.mark.stock(skip="its wait for the reader takes all of the caller's time", since=(2,))
def test_nobody_reads_and_delete_comes_back_all_the_same(run, place):
    os.mkfifo(place / "never")
    reader = unread(place / "never")
    shim, bundle, _ = run("sleep", sh("head -c 130000 /dev/zero"), stdout=place / "never")
    assert shim.task.wait(bundle.id).exit_status == 0
    began = time.monotonic()
    shim.task.call("Delete", id=bundle.id, timeout=5)
    assert time.monotonic() - began < 5
    while os.read(reader, 65536):
        pass
    os.close(reader)


def test_a_client_may_write_on_after_the_container_has_ended(run, inputs):
    stdin = inputs()
    shim, bundle, _ = run("hello", stdin=str(stdin))
    shim.task.wait(bundle.id)
    stdin.write(b"nobody reads this\n")
    shim.task.delete(bundle.id)
    if not shim.binary.stock:  # which leaves its end of the FIFO open
        with pytest.raises(OSError, match=r"Broken pipe|No such device"):
            stdin.write(b"x")


def test_a_detached_terminal_can_be_attached_again(run, inputs):
    stdin = inputs()
    shim, bundle, out = run(
        "tty", sh("stty -echo; echo ready; cat"), terminal=True, stdin=str(stdin)
    )
    out.wait_for(b"ready")
    for word in (b"one", b"two", b"three"):
        stdin.write(word + b"\n")
        out.wait_for(word)
        stdin.close()
    stdin.write(b"\x04")  # the end, as a terminal has it
    assert shim.task.wait(bundle.id).exit_status == 0


def test_a_terminal_has_a_size_before_its_start(run, make_bundle, start_shim, outputs):
    bundle = make_bundle("tty", sh("stty size"))
    shim = start_shim(bundle)
    out = outputs()
    shim.task.create(bundle, terminal=True, stdout=str(out), stderr="/nowhere")
    shim.task.call("ResizePty", id=bundle.id, width=100, height=40)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    assert out.read() == b"40 100\r\n"


def test_what_holds_a_terminal_open_does_not_hold_up_its_end(run, outputs):
    shim, bundle, _ = run("sleep")
    out = outputs()
    shim.task.exec(
        bundle.id,
        "e1",
        {"args": sh("trap '' HUP; sleep 1000 & echo done")},
        terminal=True,
        stdout=str(out),
    )
    shim.task.start(bundle.id, "e1")
    assert shim.task.wait(bundle.id, "e1", timeout=5).exit_status == 0
    shim.task.delete(bundle.id, "e1")
    assert b"done" in out.read(5)


def test_twenty_execs_at_once_keep_their_streams_apart(run, outputs):
    shim, bundle, _ = run("sleep")
    before = len(leaks.descriptors(shim.pid))
    streams = {}
    for number in range(20):
        out = outputs()
        shim.task.exec(
            bundle.id,
            f"e{number}",
            {"args": sh(f"yes {number} | head -n 20000")},
            stdout=str(out),
            stderr=str(outputs()),
        )
        streams[number] = out
    starts = [shim.task.begin("Start", id=bundle.id, exec_id=f"e{n}") for n in streams]
    for stream in starts:
        shim.task.finish("Start", stream)
    for number, out in streams.items():
        assert out.read() == f"{number}\n".encode() * 20000
        shim.task.wait(bundle.id, f"e{number}")
        shim.task.delete(bundle.id, f"e{number}")
    if not shim.binary.stock:
        assert len(leaks.descriptors(shim.pid)) == before
