"""Open the named pipes of a client without blocking and without being led elsewhere.

Kernel facts (fifo(7), open(2)), seen on 5.10 – 6.18
----------------------------------------------------
* O_WRONLY | O_NONBLOCK fails with ENXIO until a reader is there. A reader that still waits inside
  its own open(2) counts: our open wakes it.
* O_RDONLY | O_NONBLOCK always succeeds. A read then gives 0 while no writer is there, which is no
  end of file if no writer ever was.
* While one side holds both ends, the other side may come and go: no EPIPE, no end of file, and
  what was written stays. The last close of all throws away what nobody read.
* An open of /proc/self/fd/N of an O_PATH descriptor opens that very file, whatever has been put
  at its path meanwhile (SECURITY 8).
"""

from __future__ import annotations

import os
import stat


class Place:
    """The file at a path, held by O_PATH: what it is cannot change between look and open."""

    __slots__ = ("_fd", "is_fifo", "path")

    def __init__(self, path: str, *, follow: bool = True) -> None:
        """Without `follow` a symlink at `path` itself cannot be opened (ELOOP).

        Raises FileNotFoundError, PermissionError and the like with the path in it.
        """
        self.path = path
        self._fd = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
        self.is_fifo = stat.S_ISFIFO(os.fstat(self._fd).st_mode)

    def open(self, flags: int) -> int:
        """A new descriptor of this file; raises OSError as open(2) would."""
        return os.open(f"/proc/self/fd/{self._fd}", flags | os.O_CLOEXEC)

    def open_reader(self) -> int:
        """A non-blocking read end."""
        return self.open(os.O_RDONLY | os.O_NONBLOCK)

    def open_writer(self) -> int | None:
        """A non-blocking write end, or None while nobody has the other end open."""
        try:
            return self.open(os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == 6:  # ENXIO
                return None
            raise

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
