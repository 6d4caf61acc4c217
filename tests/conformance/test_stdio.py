"""The streams of a process: FIFOs, files, terminals, nothing (SEMANTICS 4)."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import struct
import termios

import pytest

from shim_runc_py.testing.daemon import wait_until
from shim_runc_py.testing.shims import refused

DEADLINE = 4


@pytest.fixture
def run(make_bundle, start_shim, outputs):
    """`run(fixture, args, **create)`: (shim, bundle, stdout, stderr) of a started container."""

    def run(fixture="hello", args=None, *, config=None, **fields):
        bundle = make_bundle(fixture, args)
        if config is not None:
            config(bundle.config)
            bundle.save()
        shim = start_shim(bundle)
        out, err = outputs(), outputs()
        streams = {"stdout": str(out)}
        if not fields.get("terminal"):
            streams["stderr"] = str(err)
        shim.task.create(bundle, **{**streams, **fields})
        shim.task.start(bundle.id)
        return shim, bundle, out, err

    return run


def test_both_streams_arrive_apart(run):
    shim, bundle, out, err = run("both-streams")
    assert (out.read(), err.read()) == (b"to-stdout\n", b"to-stderr\n")
    shim.task.wait(bundle.id)


def test_a_client_sees_the_end_before_it_calls_delete(run):
    shim, bundle, out, err = run("hello")
    shim.task.wait(bundle.id)
    assert out.read(5) == b"hello\n"
    assert err.read(5) == b""
    shim.task.delete(bundle.id)


def test_everything_written_just_before_the_exit_arrives(run):
    shim, bundle, out, _ = run("flood")
    shim.task.wait(bundle.id)
    shim.task.delete(bundle.id)
    expected = b"0123456789abcde\n" * (8388608 // 16)
    assert hashlib.sha256(out.read()).digest() == hashlib.sha256(expected).digest()


@pytest.mark.stock(fails='opens the empty name: opening file "" failed')
def test_one_stream_alone_may_be_attached(make_bundle, start_shim, outputs):
    bundle = make_bundle("both-streams")
    shim = start_shim(bundle)
    out = outputs()
    shim.task.create(bundle, stdout=str(out))
    shim.task.start(bundle.id)
    assert shim.task.wait(bundle.id).exit_status == 0
    assert out.read() == b"to-stdout\n"


def test_without_streams_a_container_writes_into_nothing(make_bundle, start_shim):
    bundle = make_bundle("both-streams", ["/bin/sh", "-c", "echo x && echo y >&2 && exit 6"])
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    assert shim.task.wait(bundle.id).exit_status == 6


def test_plain_files_are_appended_to(make_bundle, start_shim, place):
    target = place / "log.txt"
    target.write_text("before\n")
    bundle = make_bundle("both-streams")
    shim = start_shim(bundle)
    shim.task.create(bundle, stdout=str(target), stderr=str(target))
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    shim.task.delete(bundle.id)
    lines = target.read_text().splitlines()
    assert lines[0] == "before"
    assert sorted(lines[1:]) == ["to-stderr", "to-stdout"]


def test_a_client_that_never_opens_its_end_fails_create_in_time(make_bundle, start_shim, place):
    os.mkfifo(place / "nobody", 0o700)
    bundle = make_bundle("hello")
    shim = start_shim(bundle)
    with refused(
        DEADLINE,
        "failed to start io pipe copy: unable to copy pipes: containerd-shim: opening w/o fifo "
        f'"{place}/nobody" failed: context deadline exceeded',
    ):
        shim.task.call(
            "Create",
            timeout=2,
            id=bundle.id,
            bundle=str(bundle),
            stdout=str(place / "nobody"),
            stderr=str(place / "nobody"),
        )
    shim.run_delete(bundle)


def test_an_unknown_scheme_is_refused(make_bundle, start_shim):
    bundle = make_bundle("hello")
    shim = start_shim(bundle)
    with refused(2, "failed to create init process I/O: unknown STDIO scheme http"):
        shim.task.create(bundle, stdout="http://somewhere", stderr="")


def test_a_reader_may_go_and_come_back(run, place):
    shim, bundle, out, _ = run(
        "hello",
        ["/bin/sh", "-c", "echo one; read line; echo two; read line; echo three"],
        stdin=str(make_fifo(place / "stdin")),
    )
    out.wait_for(b"one")
    # A second reader, so that the first can go without being missed.
    second = os.open(out.path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(place / "stdin", os.O_WRONLY)
    os.write(writer, b"\n")
    out.wait_for(b"two")
    os.close(second)
    os.write(writer, b"\n")
    os.close(writer)
    assert out.read() == b"one\ntwo\nthree\n"
    assert shim.task.wait(bundle.id).exit_status == 0


def make_fifo(path):
    os.mkfifo(path, 0o700)
    return path


def test_output_waits_for_a_reader_that_comes_back(make_bundle, start_shim, place):
    """The reader goes, the container writes on, a new reader gets what was written."""
    fifo, stdin = make_fifo(place / "out"), make_fifo(place / "in")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    bundle = make_bundle("cat")
    shim = start_shim(bundle)
    shim.task.create(bundle, stdin=str(stdin), stdout=str(fifo), stderr=str(fifo))
    shim.task.start(bundle.id)
    os.close(reader)
    writer = os.open(stdin, os.O_WRONLY)
    os.write(writer, b"written while nobody read\n")
    os.close(writer)
    wait_until(lambda: unread(fifo) > 0, "the output waits in the FIFO")
    reader = os.open(fifo, os.O_RDONLY)
    shim.task.call("CloseIO", id=bundle.id, stdin=True)
    with os.fdopen(reader, "rb") as stream:
        assert stream.read() == b"written while nobody read\n"
    assert shim.task.wait(bundle.id).exit_status == 0


def unread(fifo):
    """Bytes in a FIFO; looking does not take them."""
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))[0]
    finally:
        os.close(fd)


def test_stdin_ends_by_close_io_and_not_by_the_client_going_away(run, inputs):
    stdin = inputs()
    shim, bundle, out, _ = run("cat", stdin=str(stdin))
    stdin.write(b"first\n")
    out.wait_for(b"first\n")
    stdin.close()
    stdin.write(b"second\n")  # a new writer; the container has seen no end
    out.wait_for(b"second\n")
    assert shim.task.state(bundle.id).status == 2
    shim.task.call("CloseIO", id=bundle.id, stdin=True)
    stdin.write(b"third\n")
    stdin.close()
    assert out.read() == b"first\nsecond\nthird\n"
    assert shim.task.wait(bundle.id).exit_status == 0
    shim.task.call("CloseIO", id=bundle.id, stdin=True)


def test_close_io_loses_nothing_that_was_written_before(run, inputs):
    data = os.urandom(3 << 20)
    stdin = inputs()
    shim, bundle, out, _ = run("cat", stdin=str(stdin))
    stdin.write(data)
    shim.task.call("CloseIO", id=bundle.id, stdin=True)
    stdin.close()
    assert hashlib.sha256(out.read()).digest() == hashlib.sha256(data).digest()
    shim.task.wait(bundle.id)


@pytest.mark.stock(fails="forgets a CloseIO that comes before the exec's Start")
def test_close_io_before_the_start_of_an_exec_is_remembered(run, inputs, outputs):
    shim, bundle, _, _ = run("sleep")
    stdin, out, err = inputs(), outputs(), outputs()
    shim.task.exec(
        bundle.id,
        "e1",
        {"args": ["/bin/cat"]},
        stdin=str(stdin),
        stdout=str(out),
        stderr=str(err),
    )
    shim.task.call("CloseIO", id=bundle.id, exec_id="e1", stdin=True)
    shim.task.start(bundle.id, "e1")
    assert shim.task.wait(bundle.id, "e1", timeout=5).exit_status == 0


def test_a_background_process_does_not_hold_up_the_exit(run, outputs):
    shim, bundle, _, _ = run("sleep")
    out, err = outputs(), outputs()
    shim.task.exec(
        bundle.id,
        "e1",
        {"args": ["/bin/sh", "-c", "sleep 1000 & echo done"]},
        stdout=str(out),
        stderr=str(err),
    )
    shim.task.start(bundle.id, "e1")
    assert shim.task.wait(bundle.id, "e1", timeout=5).exit_status == 0
    assert out.wait_for(b"done\n") == b"done\n"
    assert not out.ended()
    # Delete gives up on it after a while, and the client's stream ends.
    shim.task.call("Delete", id=bundle.id, exec_id="e1", timeout=4)
    assert out.read(2) == b"done\n"


def test_a_terminal_is_one(run, inputs):
    stdin = inputs()
    shim, bundle, out, _ = run("tty", terminal=True, stdin=str(stdin))
    shim.task.call("ResizePty", id=bundle.id, width=100, height=40)
    stdin.write(b"stty size; test -t 0 && echo is-a-tty; exit 3\n")
    assert shim.task.wait(bundle.id).exit_status == 3
    text = out.read().decode()
    assert "40 100" in text
    assert "is-a-tty\r\n" in text
    state = shim.task.state(bundle.id)
    assert state.terminal
    shim.task.call("ResizePty", id=bundle.id, width=80, height=25)


def test_large_output_of_a_terminal_is_complete(run):
    shim, bundle, out, _ = run("tty", ["/bin/sh", "-c", "stty -onlcr; seq 1 100000"], terminal=True)
    shim.task.wait(bundle.id)
    shim.task.delete(bundle.id)
    assert out.read().split() == [str(number).encode() for number in range(1, 100001)]


@pytest.mark.stock(skip="hangs the terminal up when its stdin is closed")
def test_close_io_leaves_a_terminal_open(run, inputs):
    stdin = inputs()
    script = "trap 'exit 5' HUP; echo ready; sleep 1; echo still here; exit 3"
    shim, bundle, out, _ = run("tty", ["/bin/sh", "-c", script], terminal=True, stdin=str(stdin))
    out.wait_for(b"ready")
    stdin.write(b"")
    stdin.close()
    shim.task.call("CloseIO", id=bundle.id, stdin=True)
    assert shim.task.wait(bundle.id).exit_status == 3
    assert b"still here" in out.read()


def test_an_exec_gets_a_terminal_of_its_own(run, inputs, outputs):
    shim, bundle, _, _ = run("sleep")
    out = outputs()
    shim.task.exec(
        bundle.id,
        "e1",
        {"args": ["/bin/sh", "-c", "test -t 1 && echo yes; stty size"]},
        terminal=True,
        stdout=str(out),
    )
    shim.task.start(bundle.id, "e1")
    assert shim.task.wait(bundle.id, "e1").exit_status == 0
    assert b"yes\r\n" in out.read()
    shim.task.delete(bundle.id, "e1")


def test_a_terminal_flag_that_the_spec_does_not_have_is_told_by_runc(
    make_bundle, start_shim, outputs
):
    bundle = make_bundle("hello")
    shim = start_shim(bundle)
    with refused(2, "cannot use console socket if runc will not detach or allocate tty"):
        shim.task.create(bundle, terminal=True, stdout=str(outputs()))
    other = make_bundle("tty")
    with refused(2, "cannot allocate tty if runc will detach without setting console socket"):
        shim.task.create(other)


def test_a_container_has_blocking_streams_of_its_own_and_nothing_more(run):
    script = "ls -l /proc/self/fd; cat /proc/self/fdinfo/1; cat /proc/self/status"
    shim, bundle, out, _ = run("hello", ["/bin/sh", "-c", script])
    shim.task.wait(bundle.id)
    text = out.read().decode()
    links = re.findall(r" (\d+) -> (\S+)", text)
    assert {number for number, _ in links} <= {"0", "1", "2", "3"}
    flags = int(re.search(r"flags:\s*(\d+)", text)[1], 8)
    assert not flags & os.O_NONBLOCK
    ignored = int(re.search(r"SigIgn:\s*(\w+)", text)[1], 16)
    blocked = int(re.search(r"SigBlk:\s*(\w+)", text)[1], 16)
    assert ignored & (1 << 12) == 0  # SIGPIPE, number 13
    assert blocked == 0


def test_the_pipes_belong_to_the_user_that_the_options_name(make_bundle, start_shim, outputs):
    from google.protobuf.any_pb2 import Any

    from shim_runc_py.api.runc_options_pb2 import Options

    bundle = make_bundle("hello", ["/bin/stat", "-L", "-c", "%u %g", "/proc/self/fd/1"])
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    bundle.save()
    shim = start_shim(bundle)
    out = outputs()
    options = Any(
        type_url="containerd.runc.v1.Options",
        value=Options(io_uid=1000, io_gid=1000).SerializeToString(),
    )
    shim.task.create(bundle, stdout=str(out), stderr=str(outputs()), options=options)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    assert out.read() == b"1000 1000\n"


def test_the_client_keeps_its_fifo(run):
    shim, bundle, out, _ = run("hello")
    shim.task.wait(bundle.id)
    shim.task.delete(bundle.id)
    out.read()
    found = out.path.stat()
    assert stat.S_ISFIFO(found.st_mode)
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o700)
