"""A program that takes a container's output: the binary:// contract (SEMANTICS 4.7).

The logger gets the read ends of the container's output as descriptors 3 (stdout) and 4 (stderr),
and says that it is ready by closing 5, or by writing a byte to it. Its environment is CONTAINER_ID
and CONTAINER_NAMESPACE and nothing else. It ends by the end of its input, which comes at Delete;
then it is sent SIGTERM, and SIGKILL if that does not help.

Better than the stock shim in three places: the wait for a logger to be ready has a bound; before
SIGTERM it gets time to read what is still in the pipes; and a logger that dies takes nothing with
it: from then on its pipes are read and dropped, so that the container neither hangs nor is
killed by SIGPIPE (FAILURES 6).

An operator may name the only programs that are allowed, in PYRUNC_LOGGERS, separated by colons
(SECURITY 5).
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from shim_runc_py import log
from shim_runc_py.errors import DeadlineExceeded, InvalidArgument, ShimError
from shim_runc_py.linux import spawn
from shim_runc_py.stdio.client import Client, close_all
from shim_runc_py.stdio.pump import Pump
from shim_runc_py.stdio.streams import Stdio, make_pipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Sequence

    from shim_runc_py.loop import Loop
    from shim_runc_py.reaper import Reaper
    from shim_runc_py.stdio import plan as plans
else:
    import _signal

READY_BOUND = 30.0  # seconds for a logger to say that it is ready
READ_BOUND = 2.0  # seconds for it to read what is left
WRITE_BOUND = 1.0  # seconds for it to write that and to end by itself
STOP_BOUND = 12.0  # seconds between SIGTERM and SIGKILL


class Logger:
    """One logging program and its two pipes; `close` or `stop` ends it."""

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        command: Sequence[str],
        process: str,
        namespace: str,
        allowed: str,
        owner: tuple[int, int],
    ) -> None:
        """Start it. Raises ShimError."""
        if allowed and command[0] not in allowed.split(":"):
            raise InvalidArgument(f"{command[0]} is none of the loggers in PYRUNC_LOGGERS")
        self._loop = loop
        self._command = command
        self._drains: list[Pump] = []
        self._ended = False
        out_read, self.stdout = os.pipe2(os.O_CLOEXEC)
        err_read, self.stderr = os.pipe2(os.O_CLOEXEC)
        self._ready, ready = os.pipe2(os.O_CLOEXEC)
        self._reads = [out_read, err_read]
        try:
            if owner != (0, 0):
                os.fchown(self.stdout, *owner)
                os.fchown(self.stderr, *owner)
            child = spawn.spawn(
                command,
                command[0],
                {"CONTAINER_ID": process, "CONTAINER_NAMESPACE": namespace},
                spawn.Streams(),
                others={3: out_read, 4: err_read, 5: ready},
                dies_with_parent=False,
            )
        except BaseException:
            self._ended = True
            self.close()
            raise
        finally:
            os.close(ready)
        self._child = child
        self._gone = reaper.child(child.pid)
        self._gone.then(lambda _: self._has_gone())

    async def ready(self, must_say: bool, seconds: float, name: str) -> None:
        """Wait for the logger, called `name`. Raises ShimError when it does not start or say so."""
        waiting = self._loop.spawn(self._loop.readable(self._ready), "logger")
        try:
            await self._loop.within(waiting, min(seconds, READY_BOUND))
        except TimeoutError:
            waiting.cancel()
            raise DeadlineExceeded(
                f"logging binary {self._command[0]} did not call ready"
            ) from None
        said = os.read(self._ready, 1)
        trouble = self._child.failure()
        if trouble is not None:
            words = trouble.words[:1].lower() + trouble.words[1:]
            raise ShimError(f"failed to start {name}: fork/exec {self._command[0]}: {words}")
        if must_say and not said:
            raise ShimError(
                "logging binary did not call ready (it may have crashed or exited prematurely)"
            )

    def _has_gone(self) -> None:
        if not self._ended:
            log.error("logger has ended; output is dropped", logger=self._command[0])
            self._ended = True
            null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            for fd in self._reads:
                os.set_blocking(fd, False)
                self._drains.append(Pump(self._loop, fd, null))
            self._reads.append(null)

    def spawned(self) -> None:
        """The engine has the write ends. Ours stay: the logger's input ends at Delete, not before.

        (A container that is restarted by its engine must find them open: SEMANTICS 4.7.)
        """

    async def stop(self) -> None:
        """The stop sequence: end of input, time to read and write it, SIGTERM, SIGKILL."""
        self._close_writes()
        if not self._ended:
            self._ended = True
            deadline = self._loop.clock() + READ_BOUND
            while self._unread() and not self._gone.done() and self._loop.clock() < deadline:
                await self._loop.sleep(0.005)
            if not await self._goes_within(WRITE_BOUND):
                self._signal(_signal.SIGTERM)
                if not await self._goes_within(STOP_BOUND):
                    log.warning("logger does not end; killing it", logger=self._command[0])
                    self._signal(_signal.SIGKILL)
        self.close()

    async def _goes_within(self, seconds: float) -> bool:
        try:
            await self._loop.within(self._gone, seconds)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Give up the pipes; a logger that still runs is told to end and nobody waits for it."""
        self._close_writes()
        if not self._ended:
            self._ended = True
            self._signal(_signal.SIGTERM)
        for pump in self._drains:
            pump.stop()
        fds, self._reads = self._reads, []
        if self._ready >= 0:
            fds.append(self._ready)
            self._ready = -1
        for fd in fds:
            os.close(fd)
        if hasattr(self, "_child"):
            self._child.close()

    def kill(self) -> None:
        """End it and what it has started at once: it was never ready for anything."""
        self._ended = True
        if not self._gone.done():
            os.killpg(self._child.pid, _signal.SIGKILL)

    def _close_writes(self) -> None:
        for name in ("stdout", "stderr"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)

    def _unread(self) -> int:
        total = 0
        for fd in self._reads:
            raw = fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0")
            total += struct.unpack("i", raw)[0]
        return total

    def _signal(self, signum: int) -> None:
        if not self._gone.done():
            try:
                os.kill(self._child.pid, signum)  # not waited for, so it cannot be another
            except ProcessLookupError:
                pass


class LoggerStdio(Stdio):
    """The container's outputs are a logger's inputs; no byte passes through here."""

    def __init__(self, loop: Loop, plan: plans.Plan, logger: Logger) -> None:
        super().__init__()
        self._plan = plan
        self._client = Client(loop)
        self._logger = logger
        self._stdin: list[int] = []
        self.streams = spawn.Streams(-1, logger.stdout, logger.stderr)
        if plan.stdin:
            self._stdin = list(make_pipe((0, 0), container_reads=True))
            self.streams.stdin = self._stdin[0]

    async def attach(self, seconds: float) -> None:
        if self._plan.stdin:
            reader = self._client.open_stdin(self._plan.stdin)
            sink = self._stdin.pop()
            pump = Pump(self._client.loop, reader, sink, splice=True)
            self._client.pump(pump, [reader, sink], "stdin")

    def close_stdin(self) -> None:
        self._client.close_stdin()

    async def finish(self) -> None:
        await self._logger.stop()

    def close(self) -> None:
        self._client.close()
        close_all(self._stdin)
        self._logger.close()
