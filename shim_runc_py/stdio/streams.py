"""The streams of one process, from before the engine runs until its Delete.

Four moments, the same for every kind of stdio:

    open_stdio      before the engine: make the descriptors that it is given
    spawned         the engine has them: give up our copies of the container's ends
    attach          the engine is done: open the client's FIFOs and let the pumps run
    close           at Delete: everything goes

Why the client's FIFOs are opened only after the engine is done: their readers may come late, and
a container that could not be created must not have made a client wait. What is written meanwhile
stays in the pipe.

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
from shim_runc_py.linux import fifo, pty
from shim_runc_py.linux.spawn import Streams
from shim_runc_py.loop import Future
from shim_runc_py.stdio import plan as plans
from shim_runc_py.stdio.console import ConsoleSocket
from shim_runc_py.stdio.pump import Pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shim_runc_py.loop import Loop

_EARLY_CLOSE = 0.1  # seconds for a client that closed stdin before it was opened to write to it


def open_stdio(
    loop: Loop, plan: plans.Plan, owner: tuple[int, int], environ: Mapping[str, str]
) -> Stdio:
    """The streams for a plan. `owner` (uid, gid) gets the container's pipe ends, so that a
    container in a user namespace may open /dev/stdout again. Raises ShimError."""
    try:
        if plan.kind == plans.NULL:
            return Stdio()
        if plan.kind == plans.TERMINAL:
            return TerminalStdio(loop, plan, environ)
        return PipeStdio(loop, plan, owner)
    except OSError as error:
        raise ShimError(f"failed to create init process I/O: {words(error)}") from None


class Stdio:
    """Nothing attached: every stream is /dev/null. The base of the other kinds."""

    console_path = ""  # for the engine's --console-socket

    def __init__(self) -> None:
        self.streams: Streams | None = Streams()  # None: the engine's own output is captured
        self.drained: Future[None] = Future()  # all output is with the client
        self.drained.settle(None)

    def spawned(self) -> None:
        """The engine has its descriptors."""

    async def attach(self, seconds: float) -> None:
        """Connect to the client, waiting at most `seconds` for it. Raises ShimError."""

    def exited(self) -> None:
        """The process is gone."""

    def close_stdin(self) -> None:
        """Let the process see the end of its input once the client's end is closed, too."""

    def resize(self, width: int, height: int) -> None:
        """Set the size of the terminal, if there is one. Raises OSError."""

    def close(self) -> None:
        """Close everything; more than once does no harm."""


class _Client:
    """The client's ends: a FIFO for stdin, and what a pump into or out of it needs."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.pumps: list[Pump] = []
        self._stdin_writer = -1
        self._close_wanted = False

    async def open_output(
        self, path: str, seconds: float, prefix: str, opened: list[int]
    ) -> tuple[int, bool]:
        """(write end, is it a FIFO); all descriptors are also put into `opened`.

        A plain file is opened for appending and must exist. Waits for a reader of a FIFO.
        """
        try:
            place = fifo.Place(path)
        except OSError as error:
            text = f'opening file "{path}" failed: open {path}: {words(error)}'
            raise ShimError(f"{prefix}: containerd-shim: {text}") from None
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
            _close(closes)

        pump.ended.then(ended)
        return pump

    def close(self) -> None:
        self.close_stdin()
        for pump in self.pumps:
            pump.stop()


class PipeStdio(Stdio):
    """Pipes to the container, pumped from and to the client's FIFOs or files."""

    def __init__(self, loop: Loop, plan: plans.Plan, owner: tuple[int, int]) -> None:
        super().__init__()
        self._plan = plan
        self._client = _Client(loop)
        self._container: list[int] = []  # ends that only the container shall have
        self._ours: dict[str, int] = {}
        self.streams = Streams()
        try:
            if plan.stdin:
                # Our copy of the container's end stays: a client that writes on after the
                # container has closed its stdin then sees no EPIPE (SEMANTICS 4.4).
                self.streams.stdin, self._ours["stdin"] = _pipe(owner, container_reads=True)
                self._ours["stdin, container's end"] = self.streams.stdin
            if plan.stdout:
                self._ours["stdout"], self.streams.stdout = _pipe(owner, container_reads=False)
                self._container.append(self.streams.stdout)
            if plan.stderr:
                self._ours["stderr"], self.streams.stderr = _pipe(owner, container_reads=False)
                self._container.append(self.streams.stderr)
        except OSError:
            self.close()
            raise

    def spawned(self) -> None:
        _close(self._container)

    async def attach(self, seconds: float) -> None:
        loop = self._client.loop
        deadline = loop.clock() + seconds
        if self._plan.stdin:
            reader = self._client.open_stdin(self._plan.stdin)
            sink = self._ours.pop("stdin")
            pump = Pump(loop, reader, sink, splice=True)
            self._client.pump(pump, [reader, sink], "stdin")
        outputs = [("stdout", self._plan.stdout), ("stderr", self._plan.stderr)]
        left = [name for name, path in outputs if path]
        drained: Future[None] = Future()
        self.drained = drained
        if not left:
            drained.settle(None)

        def ended(name: str) -> None:
            left.remove(name)
            if not left:
                drained.settle(None)

        prefix = "failed to start io pipe copy: unable to copy pipes"
        for name, path in outputs:
            if not path:
                continue
            opened: list[int] = []
            try:
                sink, is_fifo = await self._client.open_output(
                    path, deadline - loop.clock(), prefix, opened
                )
            except BaseException:
                _close(opened)
                raise
            source = self._ours.pop(name)
            pump = Pump(loop, source, sink, splice=is_fifo, drop_unwritable=_dropping(path))
            pump.ended.then(lambda _, name=name: ended(name))  # type: ignore[misc]
            self._client.pump(pump, [*opened, source], name)

    def close_stdin(self) -> None:
        self._client.close_stdin()

    def close(self) -> None:
        self._client.close()
        _close(self._container)
        for fd in self._ours.values():
            os.close(fd)
        self._ours.clear()


class TerminalStdio(Stdio):
    """A pty whose master is pumped to and from the client's FIFOs; stderr does not exist."""

    def __init__(self, loop: Loop, plan: plans.Plan, environ: Mapping[str, str]) -> None:
        super().__init__()
        self.streams = None
        self._plan = plan
        self._client = _Client(loop)
        self._socket: ConsoleSocket | None = ConsoleSocket(loop, environ)
        self.console_path = self._socket.path
        self._master = -1
        self._size: tuple[int, int] | None = None
        self._output: Pump | None = None
        self._gone = False

    async def attach(self, seconds: float) -> None:
        loop = self._client.loop
        deadline = loop.clock() + seconds
        assert self._socket is not None
        try:
            self._master = await self._socket.receive(seconds)
        finally:
            self._socket.close()
            self._socket = None
        if self._size is not None:
            self.resize(*self._size)
        if self._plan.stdin:
            reader = self._client.open_stdin(self._plan.stdin)
            # A second number for the master: an epoll has one entry for a number.
            sink = os.dup(self._master)
            pump = Pump(loop, reader, sink, sink_is_terminal=True)
            self._client.pump(pump, [reader, sink], "stdin")
        opened: list[int] = []
        try:
            sink, is_fifo = await self._client.open_output(
                self._plan.stdout, deadline - loop.clock(), "failed to start console copy", opened
            )
            if not is_fifo:
                raise ShimError(f"failed to start console copy: {self._plan.stdout} is not a fifo")
        except BaseException:
            _close(opened)
            raise
        drained: Future[None] = Future()
        self.drained = drained
        self._output = Pump(loop, self._master, sink, source_is_terminal=True)
        self._output.ended.then(lambda _: drained.settle(None))
        self._client.pump(self._output, opened, "stdout")
        if self._gone:
            self._output.finish()

    def exited(self) -> None:
        # Until now a master without a slave only meant that nobody had it open.
        self._gone = True
        if self._output is not None:
            self._output.finish()

    def close_stdin(self) -> None:
        self._client.close_stdin()

    def resize(self, width: int, height: int) -> None:
        self._size = (width, height)
        if self._master >= 0:
            pty.resize(self._master, width, height)

    def close(self) -> None:
        self._client.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


def _pipe(owner: tuple[int, int], *, container_reads: bool) -> tuple[int, int]:
    """(read end, write end); the container's end is blocking and owned by `owner`."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    theirs, ours = (read_end, write_end) if container_reads else (write_end, read_end)
    try:
        os.set_blocking(ours, False)
        if owner != (0, 0):
            os.fchown(theirs, *owner)
    except OSError:
        os.close(read_end)
        os.close(write_end)
        raise
    return read_end, write_end


def _dropping(path: str) -> Callable[[OSError], object]:
    def report(error: OSError) -> None:
        log.error("output is dropped from now on", path=path, error=error)

    return report


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
