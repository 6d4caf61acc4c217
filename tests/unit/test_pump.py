"""stdio.pump: bytes from one descriptor to another, until the source ends. Real descriptors."""

from __future__ import annotations

import errno
import fcntl
import os
import tty

import pytest

from shim_runc_py.linux import pty
from shim_runc_py.stdio import pump as pump_module
from shim_runc_py.stdio.pump import PORTION, Pump
from tests.unit.driving import asleep, turn, until

PAGE = 4096
# More than a pump moves before it lets others have their turn.
MUCH = bytes(range(256)) * (20 * PORTION // 256)

splice = pytest.mark.parametrize("splice", [False, True], ids=["copy", "splice"])


def small(pipe):
    """The pipe with room for one page, and for nothing else."""
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PAGE)
    return pipe


def write_all(fd, data):
    """As much as goes; returns the rest."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except BlockingIOError:
        pass
    return bytes(view)


def read_all(fd):
    """What is there, without waiting."""
    parts = []
    try:
        while part := os.read(fd, 1 << 20):
            parts.append(part)
    except BlockingIOError:
        pass
    return b"".join(parts)


def ended(pump):
    assert pump.ended.done()
    return pump.ended.result()


@splice
def test_everything_arrives_and_then_the_end(loop, fds, splice):
    source, feed = fds.pipe()
    drain, sink = fds.pipe()
    pump = Pump(loop, source, sink, splice=splice)
    os.write(feed, b"one ")
    until(loop, lambda: asleep(loop))
    assert os.read(drain, 100) == b"one "
    os.write(feed, b"two")
    fds.close(feed)
    until(loop, pump.ended.done)
    assert ended(pump) is None
    assert os.read(drain, 100) == b"two"
    assert asleep(loop)


@splice
def test_what_was_written_before_is_moved(loop, fds, splice):
    source, feed = fds.pipe()
    drain, sink = fds.pipe()
    os.write(feed, b"early")
    fds.close(feed)
    pump = Pump(loop, source, sink, splice=splice)
    until(loop, pump.ended.done)
    assert os.read(drain, 100) == b"early"


@splice
def test_an_empty_source_just_ends(loop, fds, splice):
    source, feed = fds.pipe()
    _, sink = fds.pipe()
    pump = Pump(loop, source, sink, splice=splice)
    turn(loop, 2)
    assert not pump.ended.done()
    fds.close(feed)
    until(loop, pump.ended.done)
    assert ended(pump) is None


def stream(loop, feed, drain, pump, data, fds):
    """Feed `data` and drain what comes, in turns of the loop; returns what came."""
    got = []
    rest = data
    while True:
        if rest:
            rest = write_all(feed, rest)
            if not rest:
                fds.close(feed)
        loop.turn()
        got.append(read_all(drain))
        if pump.ended.done():
            return b"".join(got)


@splice
def test_much_arrives_whole_and_in_order(loop, fds, splice):
    source, feed = fds.pipe()
    drain, sink = fds.pipe()
    pump = Pump(loop, source, sink, splice=splice)
    assert stream(loop, feed, drain, pump, MUCH, fds) == MUCH
    assert ended(pump) is None


@splice
def test_a_sink_with_little_room_gets_everything(loop, fds, splice):
    source, feed = fds.pipe()
    drain, sink = small(fds.pipe())
    pump = Pump(loop, source, sink, splice=splice)
    assert stream(loop, feed, drain, pump, MUCH[: 4 * PORTION], fds) == MUCH[: 4 * PORTION]


@splice
def test_a_full_sink_is_waited_for_without_spinning(loop, fds, splice):
    source, feed = fds.pipe()
    drain, sink = small(fds.pipe())
    pump = Pump(loop, source, sink, splice=splice)
    os.write(feed, MUCH[: 3 * PAGE])
    until(loop, lambda: asleep(loop))  # although the source is still readable
    assert not pump.ended.done()
    fds.close(feed)
    until(loop, lambda: asleep(loop))  # although it has hung up
    assert not pump.ended.done()
    got = b""
    while not pump.ended.done():
        got += read_all(drain)
        loop.turn()
    assert got + read_all(drain) == MUCH[: 3 * PAGE]
    assert ended(pump) is None


@splice
def test_a_stalled_sink_holds_up_nobody_else(loop, fds, splice):
    source, feed = fds.pipe()
    _, sink = small(fds.pipe())
    stalled = Pump(loop, source, sink, splice=splice)
    os.write(feed, MUCH[: 3 * PAGE])
    other_source, other_feed = fds.pipe()
    other_drain, other_sink = fds.pipe()
    pump = Pump(loop, other_source, other_sink, splice=splice)
    os.write(other_feed, b"past it")
    fds.close(other_feed)
    until(loop, pump.ended.done)
    assert os.read(other_drain, 100) == b"past it"
    assert not stalled.ended.done()
    stalled.stop()


@splice
def test_a_busy_pump_lets_others_have_their_turn(loop, fds, monkeypatch, splice):
    monkeypatch.setattr(pump_module, "PORTION", 10)
    monkeypatch.setattr(pump_module, "_WIDE", 10)
    source, feed = fds.pipe()
    drain, sink = fds.pipe()
    os.write(feed, MUCH[:1000])
    pump = Pump(loop, source, sink, splice=splice)
    loop.turn()
    got = read_all(drain)
    assert 0 < len(got) <= 10 * pump_module._MOST_ROUNDS < 1000
    fds.close(feed)
    while not pump.ended.done():
        loop.turn()
        got += read_all(drain)
    assert got == MUCH[:1000]


# FIFOs


@splice
def test_a_client_may_go_and_come_back(loop, fds, directory, splice):
    path = directory / "fifo"
    os.mkfifo(path)
    held = fds.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = fds.open(path, os.O_WRONLY | os.O_NONBLOCK)
    source, feed = fds.pipe()
    pump = Pump(loop, source, sink, splice=splice)
    client = fds.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.write(feed, b"first")
    until(loop, lambda: asleep(loop))
    assert read_all(client) == b"first"
    fds.close(client)
    os.write(feed, b"second")
    until(loop, lambda: asleep(loop))
    client = fds.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.write(feed, b" third")
    fds.close(feed)
    until(loop, pump.ended.done)
    assert ended(pump) is None
    fds.close(sink, held)
    assert read_all(client) == b"second third"


@splice
def test_a_sink_without_a_reader_ends_the_pump(loop, fds, splice):
    source, feed = fds.pipe()
    drain, sink = fds.pipe()
    pump = Pump(loop, source, sink, splice=splice)
    fds.close(drain)
    os.write(feed, b"x")
    until(loop, pump.ended.done)
    error = ended(pump)
    assert error is not None
    assert error.errno == errno.EPIPE
    assert asleep(loop)


@splice
def test_a_reader_that_goes_while_the_sink_is_full_ends_the_pump(loop, fds, splice):
    source, feed = fds.pipe()
    drain, sink = small(fds.pipe())
    pump = Pump(loop, source, sink, splice=splice)
    os.write(feed, MUCH[: 3 * PAGE])
    until(loop, lambda: asleep(loop))
    fds.close(drain)
    until(loop, pump.ended.done)
    error = ended(pump)
    assert error is not None
    assert error.errno == errno.EPIPE


# files, and sinks that fail


def test_a_file_is_appended_to(loop, fds, directory):
    path = directory / "log"
    path.write_text("before ")
    source, feed = fds.pipe()
    pump = Pump(loop, source, fds.open(path, os.O_WRONLY | os.O_APPEND))
    os.write(feed, b"after")
    fds.close(feed)
    until(loop, pump.ended.done)
    assert path.read_text() == "before after"


def test_a_full_disk_drops_output_and_reads_on(loop, fds):
    told: list[OSError] = []
    source, feed = fds.pipe()
    full = fds.open("/dev/full", os.O_WRONLY)
    pump = Pump(loop, source, full, drop_unwritable=told.append)
    rest = write_all(feed, MUCH)
    while rest:  # as a container that would hang if nobody read on
        loop.turn()
        rest = write_all(feed, rest)
    fds.close(feed)
    until(loop, pump.ended.done)
    assert ended(pump) is None
    assert [error.errno for error in told] == [errno.ENOSPC]


def test_dropping_waits_for_more_without_spinning(loop, fds):
    source, feed = fds.pipe()
    full = fds.open("/dev/full", os.O_WRONLY)
    pump = Pump(loop, source, full, drop_unwritable=lambda _: None)
    os.write(feed, b"x")
    until(loop, lambda: asleep(loop))
    assert not pump.ended.done()
    fds.close(feed)
    until(loop, pump.ended.done)


def test_a_broken_pipe_is_dropped_as_well_if_asked_for(loop, fds):
    told: list[OSError] = []
    source, feed = fds.pipe()
    drain, sink = fds.pipe()
    pump = Pump(loop, source, sink, drop_unwritable=told.append)
    fds.close(drain)
    os.write(feed, MUCH[:PAGE])
    fds.close(feed)
    until(loop, pump.ended.done)
    assert ended(pump) is None
    assert [error.errno for error in told] == [errno.EPIPE]


def test_without_leave_to_drop_a_full_disk_ends_the_pump(loop, fds):
    source, feed = fds.pipe()
    pump = Pump(loop, source, fds.open("/dev/full", os.O_WRONLY))
    os.write(feed, b"x")
    until(loop, pump.ended.done)
    error = ended(pump)
    assert error is not None
    assert error.errno == errno.ENOSPC


def test_a_source_that_cannot_be_read_ends_the_pump(loop, fds):
    _, wrong = fds.pipe()
    drain, sink = fds.pipe()
    pump = Pump(loop, wrong, sink)
    pump._run()
    error = ended(pump)
    assert error is not None
    assert error.errno == errno.EBADF
    assert read_all(drain) == b""


# stop and finish


@splice
def test_a_stopped_pump_moves_nothing_more(loop, fds, splice):
    source, feed = fds.pipe()
    drain, sink = fds.pipe()
    pump = Pump(loop, source, sink, splice=splice)
    os.write(feed, b"x")
    pump.stop()
    pump.stop()
    assert ended(pump) is None
    assert asleep(loop)
    assert read_all(drain) == b""


@splice
def test_a_pump_stopped_while_its_sink_is_full_is_forgotten(loop, fds, splice):
    source, feed = fds.pipe()
    drain, sink = small(fds.pipe())
    pump = Pump(loop, source, sink, splice=splice)
    os.write(feed, MUCH[: 3 * PAGE])
    until(loop, lambda: asleep(loop))
    pump.stop()
    read_all(drain)
    assert asleep(loop)


@splice
def test_finish_takes_what_is_there_and_ends(loop, fds, splice):
    source, feed = fds.pipe()
    drain, sink = fds.pipe()
    fcntl.fcntl(feed, fcntl.F_SETPIPE_SZ, 1 << 20)
    pump = Pump(loop, source, sink, splice=splice)
    data = MUCH[: 1 << 20]
    os.write(feed, data)
    pump.finish()
    pump.finish()
    got = b""
    while not pump.ended.done():
        got += read_all(drain)
        loop.turn()
    assert got + read_all(drain) == data
    assert ended(pump) is None


@splice
def test_finish_of_an_idle_pump_ends_it_at_once(loop, fds, splice):
    source, _ = fds.pipe()
    _, sink = fds.pipe()
    pump = Pump(loop, source, sink, splice=splice)
    pump.finish()
    assert ended(pump) is None
    assert asleep(loop)


@splice
def test_finish_waits_for_a_full_sink(loop, fds, splice):
    source, feed = fds.pipe()
    drain, sink = small(fds.pipe())
    pump = Pump(loop, source, sink, splice=splice)
    os.write(feed, MUCH[: 3 * PAGE])
    until(loop, lambda: asleep(loop))
    pump.finish()
    assert not pump.ended.done()
    got = b""
    while not pump.ended.done():
        got += read_all(drain)
        loop.turn()
    assert got + read_all(drain) == MUCH[: 3 * PAGE]


@splice
def test_finish_of_an_ended_pump_does_nothing(loop, fds, splice):
    source, feed = fds.pipe()
    _, sink = fds.pipe()
    pump = Pump(loop, source, sink, splice=splice)
    fds.close(feed)
    until(loop, pump.ended.done)
    pump.finish()
    pump.stop()
    assert asleep(loop)


# terminals


@pytest.fixture
def terminal(fds):
    """(master, slave's path); the slave is raw, and open nowhere."""
    master, slave = os.openpty()
    fds.keep(master)
    tty.setraw(slave)
    path = os.ttyname(slave)
    os.set_blocking(master, False)
    os.close(slave)
    return master, path


def open_slave(fds, path):
    return fds.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)


def test_a_terminal_without_a_slave_has_not_ended(loop, fds, terminal):
    master, path = terminal
    drain, sink = fds.pipe()
    pump = Pump(loop, master, sink, source_is_terminal=True)
    until(loop, lambda: asleep(loop))
    assert not pump.ended.done()
    for text in (b"first", b"second"):
        slave = open_slave(fds, path)
        os.write(slave, text)
        fds.close(slave)
        got = b""
        while len(got) < len(text):
            loop.turn()
            got += read_all(drain)
        assert got == text
        until(loop, lambda: asleep(loop))
        assert not pump.ended.done()
    pump.finish()
    assert ended(pump) is None


def test_all_output_of_a_terminal_arrives_before_the_end(loop, fds, terminal):
    master, path = terminal
    drain, sink = fds.pipe()
    slave = open_slave(fds, path)
    pump = Pump(loop, master, sink, source_is_terminal=True)
    got = b""
    rest = MUCH[: 5 * PORTION]
    while rest:
        rest = write_all(slave, rest)
        loop.turn()
        got += read_all(drain)
    fds.close(slave)
    pump.finish()
    while not pump.ended.done():
        loop.turn()
        got += read_all(drain)
    assert got + read_all(drain) == MUCH[: 5 * PORTION]
    assert ended(pump) is None


def test_a_busy_terminal_is_used_up_although_it_is_told_of_once(loop, fds, terminal, monkeypatch):
    monkeypatch.setattr(pump_module, "PORTION", 10)
    master, path = terminal
    drain, sink = fds.pipe()
    slave = open_slave(fds, path)
    os.write(slave, MUCH[:1000])
    pump = Pump(loop, master, sink, source_is_terminal=True)
    got = b""
    while len(got) < 1000:
        loop.turn()
        got += read_all(drain)
    assert got == MUCH[:1000]
    assert not pump.ended.done()
    pump.stop()


def test_a_terminal_waits_for_a_full_sink(loop, fds, terminal):
    master, path = terminal
    drain, sink = small(fds.pipe())
    slave = open_slave(fds, path)
    pump = Pump(loop, master, sink, source_is_terminal=True)
    left = write_all(slave, MUCH[: 2 * PORTION])
    sent = 2 * PORTION - len(left)
    assert sent > PAGE
    # Only what the terminal had taken is sure to be moved; the loop then waits for the sink.
    until(loop, lambda: asleep(loop))
    assert not pump.ended.done()
    fds.close(slave)
    pump.finish()
    got = b""
    while not pump.ended.done():
        got += read_all(drain)
        loop.turn()
    assert got + read_all(drain) == MUCH[:sent]


def test_input_of_a_terminal_waits_for_room(loop, fds, terminal):
    master, path = terminal
    slave = open_slave(fds, path)
    source, feed = fds.pipe()
    pump = Pump(loop, source, master, sink_is_terminal=True)
    data = MUCH[: 4 * PORTION]
    rest = write_all(feed, data)
    until(loop, lambda: asleep(loop))  # nobody reads the slave
    got = b""
    while len(got) < len(data):
        got += read_all(slave)
        if rest:
            rest = write_all(feed, rest)
        turn(loop)
    assert got == data
    assert not pump.ended.done()
    fds.close(feed)
    until(loop, pump.ended.done)
    assert ended(pump) is None


def test_input_before_a_slave_is_opened_is_not_lost(loop, fds, terminal):
    master, path = terminal
    source, feed = fds.pipe()
    pump = Pump(loop, source, master, sink_is_terminal=True)
    os.write(feed, b"typed ahead")
    until(loop, lambda: asleep(loop))
    assert not pump.ended.done()
    slave = open_slave(fds, path)
    os.write(feed, b", and more")
    got = b""
    while len(got) < 21:
        turn(loop)
        got += read_all(slave)
    assert got == b"typed ahead, and more"
    pump.stop()


def test_a_terminal_that_refuses_input_is_no_failed_sink(loop, fds, terminal, monkeypatch):
    # Not every kernel lets one write to a master without a slave.
    def refuse(fd, data):
        raise OSError(errno.EIO, "Input/output error")

    master, _ = terminal
    source, feed = fds.pipe()
    os.write(feed, b"x")
    told: list[OSError] = []
    pump = Pump(loop, source, master, sink_is_terminal=True, drop_unwritable=told.append)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        until(loop, lambda: asleep(loop))
    assert not pump.ended.done()
    assert told == []
    pump.stop()


def test_a_terminal_can_be_read_and_written_at_once(loop, fds, terminal):
    master, path = terminal
    slave = open_slave(fds, path)
    source, feed = fds.pipe()
    drain, sink = fds.pipe()
    output = Pump(loop, master, sink, source_is_terminal=True)
    input_ = Pump(loop, source, fds.keep(os.dup(master)), sink_is_terminal=True)
    os.write(feed, b"in")
    until(loop, lambda: asleep(loop))
    assert read_all(slave) == b"in"
    os.write(slave, b"out")
    got = b""
    while got != b"out":
        loop.turn()
        got += read_all(drain)
    output.stop()
    input_.stop()


def test_a_terminal_is_told_from_a_pipe(fds, terminal):
    pty.check(terminal[0])
    with pytest.raises(OSError) as caught:
        pty.check(fds.pipe()[0])
    assert caught.value.errno == errno.ENOTTY


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ((80, 25), (80, 25)),
        ((0, 0), (0, 0)),
        ((65536 + 7, 1 << 20), (7, 0)),
        ((65535, 1), (65535, 1)),
    ],
)
def test_a_size_is_cut_to_16_bits(fds, terminal, asked, size):
    pty.resize(terminal[0], *asked)
    assert os.get_terminal_size(open_slave(fds, terminal[1])) == size


@pytest.mark.parametrize(("amount", "wide"), [(PORTION - 1, False), (PORTION, True)])
def test_a_pipe_that_was_full_gets_more_room_and_others_do_not(loop, fds, amount, wide):
    source, write_end = fds.pipe()
    read_end, sink = fds.pipe()
    before = fcntl.fcntl(sink, fcntl.F_GETPIPE_SZ)
    pump = Pump(loop, source, sink, splice=True)
    os.write(write_end, bytes(amount))
    turn(loop, 3)
    assert len(os.read(read_end, 1 << 20)) == amount
    assert (fcntl.fcntl(sink, fcntl.F_GETPIPE_SZ) > before) == wide
    assert (fcntl.fcntl(source, fcntl.F_GETPIPE_SZ) > before) == wide
    pump.stop()
