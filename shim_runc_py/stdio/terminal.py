"""A process on a terminal: the master side, and the pumps between it and the client.

The engine creates the pty inside the container, connects to a socket whose path it was given, and
sends the master as SCM_RIGHTS (SEMANTICS 3.8). The socket lies in a directory of its own, mode
0700, for the time of the one command.

A terminal has no end of its own: programs may close and open it again, and the master then only
reports that nobody has it open right now. The end of the output is the end of the process
(SEMANTICS 4.6). The end of stdin is just that; the stock shim hangs the terminal up, and what the
program still writes is lost.
"""

from __future__ import annotations

import os

from shim_runc_py.errors import DeadlineExceeded, ShimError, words
from shim_runc_py.linux import pty, sock
from shim_runc_py.loop import Future
from shim_runc_py.stdio.client import Client, close_all
from shim_runc_py.stdio.pump import Pump
from shim_runc_py.stdio.streams import Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from shim_runc_py.loop import Loop
    from shim_runc_py.stdio import plan as plans
    from shim_runc_py.stdio.logger import Logger

_STICKY = 0o1000


class ConsoleSocket:
    """A listening socket for one master; `close` removes it and its directory."""

    def __init__(self, loop: Loop, environ: Mapping[str, str]) -> None:
        """Raises OSError."""
        self._loop = loop
        runtime_dir = environ.get("XDG_RUNTIME_DIR", "")
        self._directory = f"{runtime_dir or '/tmp'}/pty{os.urandom(5).hex()}"
        os.mkdir(self._directory, 0o700)
        self.path = f"{self._directory}/pty.sock"
        self._listener = sock.unix()
        try:
            self._listener.bind(self.path)
            os.chmod(self.path, 0o755 | _STICKY if runtime_dir else 0o600)
            self._listener.listen(1)
        except BaseException:
            self.close()
            raise

    async def receive(self, seconds: float) -> int:
        """The master, non-blocking. Raises ShimError."""
        prefix = "failed to retrieve console master"
        waiting = self._loop.spawn(self._loop.readable(self._listener.fileno()), "console")
        try:
            await self._loop.within(waiting, seconds)
        except TimeoutError:
            waiting.cancel()
            raise DeadlineExceeded(prefix) from None
        try:
            connection = sock.accept(self._listener)
            try:
                connection.settimeout(1.0)
                _, master = sock.receive_fd(connection)
            finally:
                connection.close()
            try:
                pty.check(master)
                os.set_blocking(master, False)
            except OSError:
                os.close(master)
                raise
        except OSError as error:
            raise ShimError(f"{prefix}: {words(error)}") from None
        return master

    def close(self) -> None:
        self._listener.close()
        for remove, path in ((os.unlink, self.path), (os.rmdir, self._directory)):
            try:
                remove(path)
            except OSError:
                pass


class TerminalStdio(Stdio):
    """A pty whose master is pumped to and from the client's FIFOs; stderr does not exist."""

    def __init__(
        self,
        loop: Loop,
        plan: plans.Plan,
        environ: Mapping[str, str],
        logger: Logger | None = None,
    ) -> None:
        """With a `logger`, the output goes to it in place of a FIFO."""
        super().__init__()
        self.streams = None
        self._plan = plan
        self._client = Client(loop)
        self._socket: ConsoleSocket | None = ConsoleSocket(loop, environ)
        self.console_path = self._socket.path
        self._master = -1
        self._size: tuple[int, int] | None = None
        self._output: Pump | None = None
        self._gone = False
        self._logger = logger

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
        if self._logger is not None:
            sink = os.dup(self._logger.stdout)
            os.set_blocking(sink, False)  # nobody else writes to this pipe
            opened.append(sink)
        else:
            sink = await self._open_fifo(deadline - loop.clock(), opened)
        drained: Future[None] = Future()
        self.drained = drained
        self._output = Pump(loop, self._master, sink, source_is_terminal=True)
        self._output.ended.then(lambda _: drained.settle(None))
        self._client.pump(self._output, opened, "stdout")
        if self._gone:
            self._output.finish()

    async def _open_fifo(self, seconds: float, opened: list[int]) -> int:
        prefix = "failed to start console copy"
        try:
            sink, _ = await self._client.open_output(
                self._plan.stdout, seconds, prefix, opened, terminal=True
            )
        except BaseException:
            close_all(opened)
            raise
        return sink

    async def finish(self) -> None:
        if self._logger is not None:
            await self._logger.stop()

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
        if self._logger is not None:
            self._logger.close()
