"""The master side of a terminal: is it one, and how large.

Kernel facts
------------
* A read of the master fails with EIO while no process has the slave open. That is not the end:
  the slave may be opened again as long as the container lives (SEMANTICS 4.6).
* In that state epoll reports EPOLLHUP without end when level-triggered; masters are watched
  edge-triggered, and a new opening of the slave followed by output is an edge.
* read(2) and poll(2) on a master flush what is still on its way from the slave, so after the last
  slave is closed every byte that was written can be read before EIO.
"""

from __future__ import annotations

import fcntl
import struct
import termios

_WINSIZE = struct.Struct("HHHH")


def check(fd: int) -> None:
    """Raises OSError (ENOTTY) unless `fd` is a terminal."""
    try:
        termios.tcgetattr(fd)
    except termios.error as error:
        raise OSError(*error.args) from None


def resize(fd: int, width: int, height: int) -> None:
    """Set the size in characters; each is cut to 16 bits as the stock shim does."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, _WINSIZE.pack(height & 0xFFFF, width & 0xFFFF, 0, 0))
