"""Unix sockets: listen where nobody else listens, connect without blocking, know the peer.

`_socket` is the built-in module below `socket`; the latter brings `selectors` and `enum` along,
which is outside the import budget.

Kernel facts
------------
* connect(2) on a unix socket does not wait for accept: it succeeds as soon as somebody listens and
  the backlog has room, fails with ECONNREFUSED when the file is there and nobody listens, and with
  ENOENT when there is no file. EAGAIN (non-blocking) means a full backlog: somebody is there.
* Between bind and listen a connect is refused, so a prober would take a fresh socket for a stale
  one. The whole sequence therefore runs under a lock (CONTRACT 4.2): flock(2) on the directory,
  which needs no file of its own and is released by the kernel when its holder dies.
* SO_PEERCRED on the connecting side gives the credentials of whoever called listen.
* sun_path has room for 107 bytes and a NUL.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import struct
import time

LONGEST_PATH = 107
BACKLOG = 128
_UCRED = struct.Struct("iII")  # pid_t, uid_t, gid_t


def unix(blocking: bool = False) -> _socket.socket:
    """A new stream socket, close-on-exec."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    sock.setblocking(blocking)
    return sock


def accept(listener: _socket.socket) -> _socket.socket:
    """The next connection, blocking mode as the default is; raises OSError."""
    fd, _address = listener._accept()  # type: ignore[attr-defined]
    return _socket.socket(fileno=fd)


def connect(path: str) -> _socket.socket:
    """A non-blocking connection to `path`; raises OSError at once if nobody listens there."""
    sock = unix()
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def peer(sock: _socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the other side of a connected socket."""
    raw = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return pid, uid, gid


def alive(path: str, seconds: float = 0.1) -> bool:
    """Does somebody of our own user listen on `path`? Bounded by `seconds`.

    Raises PermissionError if the listener is another user: a planted socket must not become the
    shim of a pod (SECURITY 43).
    """
    sock = unix(blocking=True)
    try:
        sock.settimeout(seconds)
        sock.connect(path)
        if peer(sock)[1] != os.geteuid():
            raise PermissionError(1, "the socket belongs to another user", path)
    except PermissionError:
        raise
    except BlockingIOError:
        return True  # a full backlog is a sign of life
    except OSError:
        return False
    finally:
        sock.close()
    return True


class Lock:
    """`with Lock(directory):` – one starter of shims at a time; waits at most `seconds`."""

    def __init__(self, directory: str, seconds: float = 5.0) -> None:
        self._directory = directory
        self._seconds = seconds
        self._fd = -1

    def __enter__(self) -> None:
        self._fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        deadline = time.monotonic() + self._seconds
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(self._fd)
                    raise TimeoutError(
                        f"{self._directory} is locked by another starting shim"
                    ) from None
                time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def listen(path: str, backlog: int = BACKLOG) -> _socket.socket | None:
    """Listen on `path`, mode 0600; None if somebody alive does already. Call under the `Lock`.

    A stale file is replaced. The directory must exist.
    """
    sock = unix()
    try:
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != 98:  # EADDRINUSE
                raise
            if alive(path):
                sock.close()
                return None
            os.unlink(path)
            sock.bind(path)
        os.chmod(path, 0o600)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def unlink_if_same(path: str, inode: tuple[int, int]) -> bool:
    """Remove the socket file `path` if it still is the one with `inode` (device, number)."""
    try:
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) != inode:
            return False
        os.unlink(path)
    except OSError:
        return False
    return True


def receive_fd(sock: _socket.socket) -> tuple[bytes, int]:
    """(data, descriptor) from a message with exactly one descriptor (SCM_RIGHTS).

    Raises OSError when the message has none or several; surplus ones are closed.
    """
    data, ancillary, _, _ = sock.recvmsg(4096, _socket.CMSG_SPACE(16), _socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, raw in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            count = len(raw) // 4
            fds += struct.unpack(f"{count}i", raw[: count * 4])
    if len(fds) != 1:
        for fd in fds:
            os.close(fd)
        raise OSError(71, f"expected one descriptor, got {len(fds)}")
    return data, fds[0]
