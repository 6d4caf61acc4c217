"""Moves bytes from one descriptor to another until the source ends.

A pump is in one of two states: it waits for its source to have something, or it waits for its sink
to have room. It never waits for both, so nothing spins: a source that stays readable is not watched
while the sink is full (FAILURES 44).

Two ways to move. Between two pipes splice(2) does it in the kernel, without a copy and without the
bytes ever being seen by Python. With a terminal or a file on either side it is read and write.

A sink that fails (a full disk) does not stop a pump that carries a container's output: what cannot
be written is dropped and counted, because a container whose pipe is read no more would hang in its
next write for ever (FAILURES 6).

Kernel facts
------------
* splice with SPLICE_F_NONBLOCK gives EAGAIN both for an empty source and for a full sink; which of
  the two it was, the source's own readiness tells.
* A level-triggered watch with no events still reports a hang-up, so a source is not "muted" but
  forgotten while the sink is full.
* A terminal's master gives EIO while no process has its slave open; that is no end (linux.pty).
  Masters are watched edge-triggered and therefore used until EAGAIN. Adding a descriptor to an
  epoll reports what it is ready for at that moment, so no edge is missed between the two.
* splice does not append to a file opened with O_APPEND.
* A pipe has room for 64 KiB, and each splice of that wakes two processes. With 256 KiB it is twice
  as fast at half the cost (benchmarks, `stdio`). Room costs memory only while it is used, but it
  is given to those alone that were found full.
"""

from __future__ import annotations

import fcntl
import os
import select

from shim_runc_py import loop as events
from shim_runc_py.loop import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim_runc_py.loop import Loop

PORTION = 65536
_MOST_ROUNDS = 16  # portions moved before others get their turn
_WIDE = 262144  # bytes in a pipe that is busy
_EIO = 5


class Pump:
    """Copies `source` to `sink`; both are non-blocking. `ended` is settled when it is over.

    Descriptors belong to whoever made the pump. They are to be closed when `ended` is settled,
    with None or with the OSError that stopped it; `stop` settles it.
    """

    def __init__(
        self,
        loop: Loop,
        source: int,
        sink: int,
        *,
        splice: bool = False,
        source_is_terminal: bool = False,
        sink_is_terminal: bool = False,
        drop_unwritable: Callable[[OSError], object] | None = None,
    ) -> None:
        """`drop_unwritable` is told once of a sink's failure; without it the pump ends then."""
        self._loop = loop
        self._source = source
        self._sink = sink
        self._move: Callable[[], int] = self._splice if splice else self._copy
        self._source_is_terminal = source_is_terminal
        self._sink_is_terminal = sink_is_terminal
        self._drop_unwritable = drop_unwritable
        self._rest = memoryview(b"")
        self._portion = PORTION
        self._last = False
        self._watched = -1
        self.ended: Future[OSError | None] = Future()
        self._wait_for_source()

    def finish(self) -> None:
        """Take what the source has now, then end: for a terminal whose process is gone."""
        if not self._last:
            self._last = True
            if self._watched == self._source:
                self._run()

    def stop(self) -> None:
        """End at once, whatever is left."""
        self._end(None)

    def _wait_for_source(self) -> None:
        self._watch(self._source, events.READ, self._source_is_terminal)

    def _wait_for_sink(self) -> None:
        self._watch(self._sink, events.WRITE, self._sink_is_terminal)

    def _watch(self, fd: int, mask: int, edge: bool) -> None:
        if self._watched != fd:
            self._unwatch()
            self._loop.watch(fd, mask | events.EDGE if edge else mask, self._run)
            self._watched = fd

    def _unwatch(self) -> None:
        if self._watched >= 0:
            self._loop.forget(self._watched)
            self._watched = -1

    def _run(self, _: int = 0) -> None:
        if self.ended.done():
            return
        for _round in range(_MOST_ROUNDS):
            try:
                count = self._move()
            except BlockingIOError:
                self._blocked()
                return
            except OSError as error:
                if error.errno == _EIO and self._rest and self._sink_is_terminal:
                    self._wait_for_sink()
                elif error.errno == _EIO and self._source_is_terminal:
                    self._source_is_empty()
                else:
                    self._end(error)
                return
            if not count:
                self._end(None)
                return
        # There may be more, but others want their turn.
        self._wait_for_source()
        if self._source_is_terminal:
            self._loop.soon(self._run)

    def _widen(self) -> None:
        self._portion = _WIDE
        for fd in (self._source, self._sink):
            try:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _WIDE)
            except OSError:  # no pipe, or its owner has no room left
                continue

    def _blocked(self) -> None:
        if self._rest:
            self._wait_for_sink()
        elif self._move != self._splice:
            self._source_is_empty()
        else:
            poll = select.poll()
            poll.register(self._source, select.POLLIN)
            ready = poll.poll(0)
            if not ready:
                self._source_is_empty()
            elif ready[0][1] & select.POLLIN:
                self._wait_for_sink()
            else:  # hung up and empty
                self._end(None)

    def _source_is_empty(self) -> None:
        if self._last:
            self._end(None)
        else:
            self._wait_for_source()

    def _splice(self) -> int:
        count = os.splice(
            self._source, self._sink, self._portion, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
        )
        if count == PORTION == self._portion:  # it was full
            self._widen()
        return count

    def _copy(self) -> int:
        if not self._rest:
            data = os.read(self._source, PORTION)
            if not data:
                return 0
            self._rest = memoryview(data)
        try:
            written = os.write(self._sink, self._rest)
        except BlockingIOError:
            raise
        except OSError as error:
            if self._drop_unwritable is None or (error.errno == _EIO and self._sink_is_terminal):
                raise
            self._drop_unwritable(error)
            self._rest = memoryview(b"")
            self._move = self._drop
            return 1
        self._rest = self._rest[written:]
        return written

    def _drop(self) -> int:
        return len(os.read(self._source, PORTION))

    def _end(self, error: OSError | None) -> None:
        if not self.ended.done():
            self._unwatch()
            self.ended.settle(error)
