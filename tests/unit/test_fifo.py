"""linux.fifo: a client's pipes, without blocking and without being led elsewhere."""

from __future__ import annotations

import fcntl
import os
import threading

import pytest

from shim_runc_py.linux.fifo import Place
from tests.unit.driving import BOUND


@pytest.fixture
def path(directory):
    """A FIFO."""
    made = directory / "fifo"
    os.mkfifo(made)
    return made


@pytest.fixture
def fifo(path, nothing_is_left):
    made = Place(str(path))
    yield made
    made.close()


def test_a_fifo_is_told_from_a_file(fifo, directory):
    assert fifo.is_fifo
    (directory / "plain").write_text("")
    for other in (directory / "plain", directory):
        found = Place(str(other))
        assert not found.is_fifo
        assert found.path == str(other)
        found.close()


def test_without_a_reader_there_is_no_writer(fifo):
    assert fifo.open_writer() is None


def test_with_a_reader_there_is_a_writer(fifo, fds):
    reader = fds.keep(fifo.open_reader())
    writer = fifo.open_writer()
    assert writer is not None
    fds.keep(writer)
    os.write(writer, b"x")
    assert os.read(reader, 10) == b"x"


def test_a_reader_that_waits_inside_its_open_counts(fifo, path, fds):
    opened: list[int] = []
    thread = threading.Thread(target=lambda: opened.append(os.open(path, os.O_RDONLY)))
    thread.start()
    writer = fifo.open_writer()
    while writer is None:  # until the thread has come to its open
        writer = fifo.open_writer()
    fds.keep(writer)
    thread.join(BOUND)
    fds.keep(opened[0])


def test_a_read_end_can_always_be_opened_and_does_not_block(fifo, fds):
    reader = fds.keep(fifo.open_reader())
    assert os.read(reader, 1) == b""  # nobody was there yet: no end of file, but no data either
    writer = fds.open(fifo.path, os.O_WRONLY | os.O_NONBLOCK)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    fds.close(writer)
    assert os.read(reader, 1) == b""


def test_what_is_opened_is_not_inherited_and_does_not_block(fifo, fds):
    reader = fds.keep(fifo.open_reader())
    writer = fifo.open_writer()
    assert writer is not None
    fds.keep(writer)
    for fd in (reader, writer):
        assert not os.get_inheritable(fd)
        assert not os.get_blocking(fd)
    assert fcntl.fcntl(reader, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    assert fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY


def test_nobody_can_put_another_file_in_its_place(fifo, path, fds):
    inode = os.stat(path).st_ino
    path.unlink()
    path.write_text("a trap")
    reader = fds.keep(fifo.open_reader())
    assert os.fstat(reader).st_ino == inode
    path.unlink()
    path.symlink_to("/dev/zero")
    writer = fifo.open_writer()
    assert writer is not None
    assert os.fstat(fds.keep(writer)).st_ino == inode


def test_a_file_is_opened_with_the_flags_asked_for(directory, fds):
    (directory / "plain").write_text("a")
    place = Place(str(directory / "plain"))
    try:
        writer = fds.keep(place.open(os.O_WRONLY | os.O_APPEND))
    finally:
        place.close()
    os.write(writer, b"b")
    assert (directory / "plain").read_text() == "ab"


def test_a_path_that_is_not_there_is_named(directory):
    for path in (directory / "no", directory / "no" / "deeper"):
        with pytest.raises(FileNotFoundError) as caught:
            Place(str(path))
        assert caught.value.filename == str(path)


def test_an_open_that_cannot_be_is_an_os_error(directory):
    place = Place(str(directory))
    with pytest.raises(IsADirectoryError):
        place.open_writer()
    place.close()


def test_closing_twice_does_no_harm(fifo):
    fifo.close()
    fifo.close()


def test_both_ends_keep_what_a_client_has_not_read(fifo, path, fds):
    reader = fds.keep(fifo.open_reader())
    writer = fifo.open_writer()
    assert writer is not None
    fds.keep(writer)
    client = fds.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.write(writer, b"first ")
    fds.close(client)
    os.write(writer, b"second")
    client = fds.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(client, 100) == b"first second"
    fds.close(writer, reader)
    assert os.read(client, 1) == b""
