"""What the stdio fields of a request ask for (SEMANTICS 4.2, CONTRACT 8.9).

Pure: strings in, a plan out. The scheme of `stdout` alone decides, as in the stock shim.
"""

from __future__ import annotations

from shim_runc_py.errors import InvalidArgument, ShimError

NULL = "null"  # nothing attached
PIPES = "pipes"  # pipes to the engine, copied to FIFOs or files
TERMINAL = "terminal"  # a pty, copied to one FIFO


class Plan:
    """`kind` is one of the names above; a stream that is not attached has path ""."""

    __slots__ = ("kind", "stderr", "stdin", "stdout")

    def __init__(self, kind: str, stdin: str = "", stdout: str = "", stderr: str = "") -> None:
        self.kind = kind
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr

    def __repr__(self) -> str:
        return f"Plan({self.kind!r}, {self.stdin!r}, {self.stdout!r}, {self.stderr!r})"

    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other)

    __hash__ = None  # type: ignore[assignment]


def plan(stdin: str, stdout: str, stderr: str, terminal: bool) -> Plan:
    """Raises ShimError for a scheme that is not known and InvalidArgument for an unusable path."""
    for uri in (stdin, stdout, stderr):
        if "\0" in uri:
            raise InvalidArgument(f"stdio path {uri!r}")
    if terminal:
        return Plan(TERMINAL, _path(stdin), _path(stdout))
    if not (stdin or stdout or stderr):
        return Plan(NULL)
    scheme = scheme_of(stdout)
    if scheme not in ("", "fifo"):
        raise ShimError(f"failed to create init process I/O: unknown STDIO scheme {scheme}")
    return Plan(PIPES, _path(stdin), _path(stdout), _path(stderr))


def scheme_of(uri: str) -> str:
    """The scheme of a stdio URI; "" for a plain path."""
    scheme, separator, _ = uri.partition("://")
    return scheme if separator else ""


def _path(uri: str) -> str:
    return uri.removeprefix("fifo://")
