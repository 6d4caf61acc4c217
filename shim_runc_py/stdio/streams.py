"""The streams of one process, from before the engine runs until its Delete.

Four moments, the same for every kind of stdio:

    open            before the engine: make the descriptors that it is given (`opening`)
    spawned         the engine has them: give up our copies of the container's ends
    attach          the engine is done: open the client's FIFOs and let the pumps run (`client`)
    finish, close   at Delete: whoever takes the output gets the time; then everything goes

Why the client's FIFOs are opened only after the engine is done: their readers may come late, and
a container that could not be created must not have made a client wait. What is written meanwhile
stays in the pipe.
"""

from __future__ import annotations

import os

from shim_runc_py import log
from shim_runc_py.linux.spawn import Streams
from shim_runc_py.loop import Future
from shim_runc_py.stdio import plan as plans
from shim_runc_py.stdio.client import Client, close_all
from shim_runc_py.stdio.pump import Pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim_runc_py.loop import Loop


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

    async def finish(self) -> None:
        """At Delete, before `close`: whoever takes the output gets the time to do so."""

    def close(self) -> None:
        """Close everything; more than once does no harm."""


class PipeStdio(Stdio):
    """Pipes to the container, pumped from and to the client's FIFOs or files."""

    def __init__(self, loop: Loop, plan: plans.Plan, owner: tuple[int, int]) -> None:
        super().__init__()
        self._plan = plan
        self._client = Client(loop)
        self._container: list[int] = []  # ends that only the container shall have
        self._ours: dict[str, int] = {}
        self.streams = Streams()
        try:
            if plan.stdin:
                # Our copy of the container's end stays: a client that writes on after the
                # container has closed its stdin then sees no EPIPE (SEMANTICS 4.4).
                self.streams.stdin, self._ours["stdin"] = make_pipe(owner, container_reads=True)
                self._ours["stdin, container's end"] = self.streams.stdin
            if plan.stdout:
                self._ours["stdout"], self.streams.stdout = make_pipe(owner, container_reads=False)
                self._container.append(self.streams.stdout)
            if plan.stderr:
                self._ours["stderr"], self.streams.stderr = make_pipe(owner, container_reads=False)
                self._container.append(self.streams.stderr)
        except OSError:
            self.close()
            raise

    def spawned(self) -> None:
        close_all(self._container)

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
                    path,
                    deadline - loop.clock(),
                    prefix,
                    opened,
                    follow=self._plan.kind != plans.FILE,  # made by us, see `opening`
                )
            except BaseException:
                close_all(opened)
                raise
            source = self._ours.pop(name)
            pump = Pump(loop, source, sink, splice=is_fifo, drop_unwritable=_dropping(path))
            pump.ended.then(lambda _, name=name: ended(name))  # type: ignore[misc]
            self._client.pump(pump, [*opened, source], name)

    def close_stdin(self) -> None:
        self._client.close_stdin()

    def close(self) -> None:
        self._client.close()
        close_all(self._container)
        for fd in self._ours.values():
            os.close(fd)
        self._ours.clear()


def make_pipe(owner: tuple[int, int], *, container_reads: bool) -> tuple[int, int]:
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
