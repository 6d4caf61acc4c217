"""The client's ends of stdio: what containerd's client library does with FIFOs."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from shim_runc_py.testing.conditions import SLOW

BOUND = 30.0 * SLOW


class Output:
    """Reads a FIFO to its end in a thread, beginning before any writer is there."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o700)
        self.path = path
        self._parts: list[bytes] = []
        self._lock = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __str__(self) -> str:
        return str(self.path)

    def _read(self) -> None:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            while part := os.read(fd, 65536):
                with self._lock:
                    self._parts.append(part)
                    self._lock.notify_all()
        finally:
            os.close(fd)
            with self._lock:
                self._ended = True
                self._lock.notify_all()

    def so_far(self) -> bytes:
        with self._lock:
            return b"".join(self._parts)

    def wait_for(self, text: bytes, timeout: float = BOUND) -> bytes:
        """Everything read, once `text` is in it; raises TimeoutError."""
        with self._lock:
            if not self._lock.wait_for(
                lambda: text in b"".join(self._parts) or self._ended, timeout
            ):
                raise TimeoutError(f"{text!r} did not come; so far {b''.join(self._parts)!r}")
            found = b"".join(self._parts)
        if text not in found:
            raise AssertionError(f"the stream ended without {text!r}: {found!r}")
        return found

    def ended(self) -> bool:
        with self._lock:
            return self._ended

    def read(self, timeout: float = BOUND) -> bytes:
        """Everything, once the stream has ended; raises TimeoutError."""
        with self._lock:
            if not self._lock.wait_for(lambda: self._ended, timeout):
                raise TimeoutError(f"no end of file; so far {b''.join(self._parts)[-200:]!r}")
            return b"".join(self._parts)

    def abandon(self) -> None:
        """Let the thread end if nobody ever wrote."""
        if not self.ended():
            try:
                os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                pass


class Input:
    """A FIFO to write to; the shim opens the other end."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o700)
        self.path = path
        self._fd = -1

    def __str__(self) -> str:
        return str(self.path)

    def write(self, data: bytes) -> None:
        """Blocks as a client's write does; the shim must have opened its end."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(self._fd, True)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
