"""One process of a container: its state, its streams, and how it ended.

Knows nothing of the engine; `container` drives it. What other requests may ask at any time (state,
pid, exit) are plain attributes: State and Wait never stand behind a running engine command.
"""

from __future__ import annotations

from shim_runc_py.loop import Future, Gate
from shim_runc_py.stdio.streams import Stdio
from shim_runc_py.task import states
from shim_runc_py.ttrpc.wellknown_pb2 import Timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim_runc_py.reaper import Exit

# "Not exited" on the wire: the zero time of Go, which clients turn back into no time at all. An
# absent field would be read as 1970 (SEMANTICS 1.1).
ZERO_TIME = Timestamp(seconds=-62135596800)


def timestamp(at: int) -> Timestamp:
    """Nanoseconds since 1970 as a message."""
    seconds, nanos = divmod(at, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


class Process:
    """The init process of a container (`is_init`) or an exec."""

    __slots__ = (
        "announced",
        "early",
        "exit",
        "exited",
        "gate",
        "gone",
        "id",
        "is_init",
        "pid",
        "spec",
        "state",
        "stderr",
        "stdin",
        "stdin_closed",
        "stdio",
        "stdout",
        "terminal",
    )

    def __init__(
        self,
        id: str,
        stdio_names: tuple[str, str, str],
        terminal: bool,
        *,
        is_init: bool,
        spec: bytes = b"",
    ) -> None:
        """`stdio_names` are the request's strings, which State repeats; `spec` an exec's JSON."""
        self.id = id
        self.is_init = is_init
        self.stdin, self.stdout, self.stderr = stdio_names
        self.terminal = terminal
        self.spec = spec
        self.state = states.CREATED
        self.pid = 0
        self.gone: Future[Exit] | None = None  # the reaper's word
        self.early: Exit | None = None  # an exit that waits for its start to be announced
        self.announced = True  # no create or start of it is under way
        self.exit: Exit | None = None
        self.exited: Future[Exit | None] = Future()  # None: the start failed, nothing ran
        self.gate = Gate()
        self.stdio = Stdio()
        self.stdin_closed = False

    def move(self, verb: str) -> str:
        """The state after `verb`; raises ShimError if it is refused in this state."""
        return states.next_state(verb, self.state, init=self.is_init)

    def use(self, stdio: Stdio) -> None:
        """Take over the streams for the start that begins."""
        self.stdio.close()
        self.stdio = stdio
        if self.stdin_closed:
            stdio.close_stdin()

    def close_stdin(self) -> None:
        """Remembered when it comes before the streams are there (SEMANTICS 1.11)."""
        self.stdin_closed = True
        self.stdio.close_stdin()

    def ended(self, how: Exit) -> None:
        """From now on State and Wait tell of the exit."""
        self.state = self.move("exit")
        self.exit = how
        self.stdio.exited()
        self.exited.settle(how)

    def exit_status(self) -> int:
        return self.exit.status if self.exit is not None else 0

    def exited_at(self) -> Timestamp:
        return timestamp(self.exit.at) if self.exit is not None else ZERO_TIME
