"""linux.sock: listen where nobody else listens, and know the peer (CONTRACT 4.2, SECURITY 43)."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import stat
import threading
from contextlib import closing

import pytest

from shim_runc_py.linux import sock
from tests.unit.driving import BOUND, fork


@pytest.fixture
def path(directory):
    return str(directory / "s")


@pytest.fixture
def listen(nothing_is_left):
    """`listen(path)`: sock.listen, closed after the test."""
    made = []

    def listen(path, *arguments):
        found = sock.listen(path, *arguments)
        if found is not None:
            made.append(found)
        return found

    yield listen
    for one in made:
        one.close()


def stale(path):
    """A socket file on which nobody listens any more."""
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(path)
        gone.listen()


def test_the_first_one_listens(path, listen):
    listener = listen(path)
    client = sock.connect(path)
    server = sock.accept(listener)
    server.sendall(b"x")
    assert client.recv(1) == b"x"
    for one in (client, server):
        one.close()


def test_a_socket_is_for_its_owner_alone(path, listen):
    before = os.umask(0)
    try:
        listener = listen(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert not os.get_inheritable(listener.fileno())
    assert not listener.getblocking()


def test_where_somebody_listens_nobody_else_does(path, listen):
    listener = listen(path)
    inode = os.stat(path).st_ino
    assert listen(path) is None
    assert os.stat(path).st_ino == inode
    sock.accept(listener).close()  # the probe


def test_a_stale_file_is_replaced(path, listen):
    stale(path)
    assert listen(path) is not None
    assert sock.alive(path)


def test_a_missing_directory_is_an_os_error(directory):
    with pytest.raises(FileNotFoundError):
        sock.listen(str(directory / "no" / "s"))


def test_a_path_has_107_bytes(directory, listen):
    room = sock.LONGEST_PATH - len(str(directory)) - 1
    assert listen(str(directory / ("x" * room))) is not None
    with pytest.raises(OSError):
        sock.listen(str(directory / ("x" * (room + 1))))


def test_nobody_is_alive_where_nothing_is(path):
    assert not sock.alive(path)


def test_nobody_is_alive_behind_a_stale_file(path):
    stale(path)
    assert not sock.alive(path)
    assert os.path.exists(path)


def test_nobody_is_alive_behind_a_plain_file(path):
    with open(path, "w"):
        pass
    assert not sock.alive(path)


def test_a_listener_that_does_not_accept_is_alive(path, listen):
    listen(path)
    assert sock.alive(path)
    assert sock.alive(path)


def test_a_full_backlog_is_a_sign_of_life(path, listen):
    listen(path, 1)
    waiting = []
    try:
        while True:
            waiting.append(sock.connect(path))
    except BlockingIOError:
        pass
    try:
        assert sock.alive(path, 0.01)
        assert listen(path) is None
    finally:
        for one in waiting:
            one.close()


def test_a_listener_of_another_user_is_not_taken_for_ours(path, listen, monkeypatch):
    listen(path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        sock.alive(path)
    with pytest.raises(PermissionError):
        sock.listen(path)
    assert os.path.exists(path)


def test_the_peer_of_a_connection_is_known(path, listen):
    listener = listen(path)
    ours = (os.getpid(), os.geteuid(), os.getegid())
    with closing(sock.connect(path)) as client, closing(sock.accept(listener)) as server:
        assert sock.peer(client) == ours
        assert sock.peer(server) == ours


def test_a_connection_does_not_block(path, listen):
    listen(path)
    with closing(sock.connect(path)) as client:
        assert not client.getblocking()
        with pytest.raises(BlockingIOError):
            client.recv(1)
    with closing(sock.unix()) as one, closing(sock.unix(blocking=True)) as other:
        assert (one.getblocking(), other.getblocking()) == (False, True)
        assert not os.get_inheritable(one.fileno())


@pytest.mark.parametrize("make", [lambda _: None, stale], ids=["nothing", "stale"])
def test_a_connection_to_nobody_fails_at_once(path, make):
    make(path)
    with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
        sock.connect(path)


# the lock


def test_a_lock_is_given_back(directory):
    for _ in range(2):
        with sock.Lock(str(directory), 0):
            pass


def test_a_lock_is_given_back_after_an_exception(directory):
    with pytest.raises(ValueError, match="x"), sock.Lock(str(directory), 0):
        raise ValueError("x")
    with sock.Lock(str(directory), 0):
        pass


def test_a_lock_that_is_held_is_waited_for_within_a_bound(directory, fds):
    holder = fds.open(directory, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    locked = pytest.raises(TimeoutError, match=f"^{directory} is locked by another starting shim$")
    with locked, sock.Lock(str(directory), 0):
        pytest.fail("not held")


def test_a_lock_that_is_given_back_is_taken(directory, fds):
    holder = fds.open(directory, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    held = threading.Event()

    def take():
        with sock.Lock(str(directory), BOUND):
            held.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not held.is_set()
    fds.close(holder)
    thread.join(BOUND)
    assert held.is_set()


def test_a_lock_dies_with_its_holder(directory, fds):
    read_end, write_end = fds.pipe(0)
    wait_end, go = fds.pipe(0)

    def hold():
        os.close(go)  # or it would wait for ever when the test fails
        with sock.Lock(str(directory)):
            os.write(write_end, b"x")
            os.read(wait_end, 1)

    pid = fork(hold)
    os.read(read_end, 1)
    with pytest.raises(TimeoutError), sock.Lock(str(directory), 0):
        pass
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    with sock.Lock(str(directory), 0):
        pass


# the socket file


def inode(path):
    found = os.stat(path)
    return found.st_dev, found.st_ino


def test_the_file_that_is_the_same_is_removed(path):
    stale(path)
    assert sock.unlink_if_same(path, inode(path))
    assert not os.path.exists(path)


def test_a_file_that_came_later_stays(path):
    stale(path)
    before = inode(path)
    os.rename(path, path + ".old")  # keeps the number taken
    stale(path)
    assert not sock.unlink_if_same(path, before)
    assert os.path.exists(path)


def test_a_symlink_to_it_is_not_the_file(path):
    stale(path)
    os.symlink(path, path + ".link")
    assert not sock.unlink_if_same(path + ".link", inode(path))
    assert os.path.lexists(path + ".link")


def test_a_file_that_is_gone_is_nobodys(path):
    assert not sock.unlink_if_same(path, (0, 0))
    assert not sock.unlink_if_same(path + "/deeper", (0, 0))


# descriptors by message


@pytest.fixture
def pair(nothing_is_left):
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    ours.settimeout(BOUND)
    yield ours, theirs
    ours.close()
    theirs.close()


def send(to, data, *fds):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    to.sendmsg([data], rights)


def test_one_descriptor_is_received(pair, fds):
    ours, theirs = pair
    read_end, write_end = fds.pipe()
    send(theirs, b"/dev/pts/0", read_end)
    data, found = sock.receive_fd(ours)
    fds.keep(found)
    assert data == b"/dev/pts/0"
    assert not os.get_inheritable(found)
    os.write(write_end, b"x")
    assert os.read(found, 1) == b"x"


def test_a_name_of_4096_bytes_is_received_whole(pair, fds):
    ours, theirs = pair
    read_end, _ = fds.pipe()
    send(theirs, b"x" * 4096, read_end)
    data, found = sock.receive_fd(ours)
    fds.keep(found)
    assert data == b"x" * 4096


@pytest.mark.parametrize("count", [0, 2, 3, 4, 5, 20])
def test_none_or_several_descriptors_are_refused_and_closed(pair, fds, count):
    ours, theirs = pair
    read_end, _ = fds.pipe()
    send(theirs, b"x", *[read_end] * count)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="expected one descriptor, got"):
        sock.receive_fd(ours)
    assert os.listdir("/proc/self/fd") == before


def test_an_end_of_file_is_no_descriptor(pair):
    ours, theirs = pair
    theirs.close()
    with pytest.raises(OSError, match="expected one descriptor, got 0"):
        sock.receive_fd(ours)
