"""The client's side of stdio: its FIFOs and files, and the pumps into and out of them.

Order of the opens (SEMANTICS 4.3, seen on the stock shim; clients depend on it)
--------------------------------------------------------------------------------
1. stdin: a read end, then a write end of our own. Because of the latter a client may go away and
   come back without the container seeing an end of file; `close_stdin` gives it up (SEMANTICS 4.5).
2. stdout, then stderr: a write end *as soon as a reader of the client is there*, and only then a
   read end of our own. With our read end first, a container that ends quickly could be copied and
   closed before the client came, and the client's open would then wait for ever.
3. Both ends of an output FIFO are ours until the container's side has ended: a client may go and
   come back without the container seeing EPIPE. Then both are closed at once, which is the end of
   file that clients wait for before they call Delete.
"""

from __future__ import annotations

import os

from shim_runc_py import log
from shim_runc_py.errors import DeadlineExceeded, ShimError, words
from shim_runc_py.linux import fifo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim_runc_py.loop import Future, Loop
    from shim_runc_py.stdio.pump import Pump

_EARLY_CLOSE = 0.1  # seconds for a client that closed stdin before it was opened to write to it


class Client:
    """The client's ends: a FIFO for stdin, and what a pump into or out of it needs."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.pumps: list[Pump] = []
        self._stdin_writer = -1
        self._close_wanted = False

    async def open_output(
        self,
        path: str,
        seconds: float,
        prefix: str,
        opened: list[int],
        *,
        follow: bool = True,
        terminal: bool = False,
    ) -> tuple[int, bool]:
        """(write end, is it a FIFO); all descriptors are also put into `opened`.

        A plain file is opened for appending and must exist, and be no symlink unless `follow`.
        Waits for a reader of a FIFO.
        """
        try:
            place = fifo.Place(path, follow=follow)
        except OSError as error:
            text = f"stat {path}: {words(error)}"
            if not terminal:
                text = f'containerd-shim: opening file "{path}" failed: open {path}: {words(error)}'
            raise ShimError(f"{prefix}: {text}") from None
        try:
            if not place.is_fifo:
                opened.append(place.open(os.O_WRONLY | os.O_APPEND))
                return opened[-1], False
            writer = place.open_writer()
            pause = 0.001
            deadline = self.loop.clock() + seconds
            while writer is None:
                if self.loop.clock() >= deadline:
                    text = f'containerd-shim: opening w/o fifo "{path}" failed'
                    raise DeadlineExceeded(f"{prefix}: {text}")
                await self.loop.sleep(pause)
                pause = min(0.02, pause * 2)
                writer = place.open_writer()
            opened.append(writer)
            opened.append(place.open_reader())
            return writer, True
        except OSError as error:
            raise ShimError(f"{prefix}: open {path}: {words(error)}") from None
        finally:
            place.close()

    def open_stdin(self, path: str) -> int:
        """A read end, kept from ending by a write end of ours. Raises ShimError."""
        try:
            place = fifo.Place(path)
        except OSError as error:
            text = f"failed to open stdin fifo {path}: stat {path}: {words(error)}"
            raise ShimError(text) from None
        try:
            if not place.is_fifo:
                raise ShimError(f"failed to open stdin fifo {path}: file {path} is not fifo")
            reader = place.open_reader()
            writer = place.open_writer()
            assert writer is not None
            self._stdin_writer = writer
        finally:
            place.close()
        if self._close_wanted:
            self.loop.after(_EARLY_CLOSE, self.close_stdin)
        return reader

    def close_stdin(self) -> None:
        self._close_wanted = True
        if self._stdin_writer >= 0:
            os.close(self._stdin_writer)
            self._stdin_writer = -1

    def pump(self, pump: Pump, closes: list[int], name: str) -> Pump:
        """Keep `pump`; when it ends, `closes` is closed at once."""
        self.pumps.append(pump)

        def ended(future: Future[OSError | None]) -> None:
            error = future.result()
            if error is not None:
                log.warning(f"error copying {name}", error=error)
            close_all(closes)

        pump.ended.then(ended)
        return pump

    def close(self) -> None:
        self.close_stdin()
        for pump in self.pumps:
            pump.stop()


def close_all(fds: list[int]) -> None:
    """Close and forget descriptors."""
    while fds:
        os.close(fds.pop())
