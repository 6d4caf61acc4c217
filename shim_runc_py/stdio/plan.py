"""What the stdio fields of a request ask for (SEMANTICS 4.2, 4.7, CONTRACT 8.9).

Pure: strings in, a plan out. The scheme of `stdout` alone decides, as in the stock shim.
"""

from __future__ import annotations

from shim_runc_py.errors import InvalidArgument, ShimError

NULL = "null"  # nothing attached
PIPES = "pipes"  # pipes to the engine, copied to FIFOs or plain files
FILE = "file"  # pipes, both outputs appended to one file that is made
LOGGER = "logger"  # pipes to a program that reads them
TERMINAL = "terminal"  # a pty, copied to one FIFO
TERMINAL_LOGGER = "terminal logger"  # a pty, copied to a program

_HEX = b"0123456789abcdefABCDEF"
_LOGGER_SCHEMES = ("binary", "binary-v2")


class Plan:
    """`kind` is one of the names above; a stream that is not attached has path "".

    For a logger `command` is its command line, and `must_say_ready` tells whether it has to write
    a byte when it is ready (else closing the descriptor is enough).
    """

    __slots__ = ("command", "kind", "must_say_ready", "stderr", "stdin", "stdout")

    def __init__(
        self,
        kind: str,
        stdin: str = "",
        stdout: str = "",
        stderr: str = "",
        command: tuple[str, ...] = (),
        must_say_ready: bool = False,
    ) -> None:
        self.kind = kind
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.command = command
        self.must_say_ready = must_say_ready

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"Plan({values})"

    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other)

    __hash__ = None  # type: ignore[assignment]


def plan(stdin: str, stdout: str, stderr: str, terminal: bool) -> Plan:
    """Raises ShimError for a scheme that is not known and InvalidArgument for an unusable path."""
    for uri in (stdin, stdout, stderr):
        if "\0" in uri:
            raise InvalidArgument(f"stdio path {uri!r}")
    scheme = scheme_of(stdout)
    if scheme in _LOGGER_SCHEMES:
        kind = TERMINAL_LOGGER if terminal else LOGGER
        command = logger_command(stdout)
        return Plan(kind, _path(stdin), stdout, stderr, command, scheme == "binary-v2")
    if terminal:
        return Plan(TERMINAL, _path(stdin), _path(stdout))
    if not (stdin or stdout or stderr):
        return Plan(NULL)
    if scheme == "file":
        path = _unquote(_split(stdout)[0], stdout, plus=False)
        if not path.startswith("/"):
            raise InvalidArgument(f"stdout {stdout}: the path of a file must be absolute")
        return Plan(FILE, _path(stdin), path, path if stderr else "")
    if scheme not in ("", "fifo"):
        raise ShimError(f"failed to create init process I/O: unknown STDIO scheme {scheme}")
    return Plan(PIPES, _path(stdin), _path(stdout), _path(stderr))


def scheme_of(uri: str) -> str:
    """The scheme of a stdio URI; "" for a plain path."""
    scheme, separator, _ = uri.partition("://")
    return scheme if separator else ""


def logger_command(uri: str) -> tuple[str, ...]:
    """The command line in `binary:///path?key=value&other=...`: the path, then key, value, ...

    A key without a value is followed by an empty word, and of a repeated key the first value
    counts, as in the stock shim; unlike there, the order is that of the URI. Raises
    InvalidArgument unless the path is absolute.
    """
    path, query = _split(uri)
    program = _unquote(path, uri, plus=False)
    if not program.startswith("/"):
        raise InvalidArgument(f"stdout {uri}: the path of a logging binary must be absolute")
    found: dict[str, str] = {}
    for pair in query.split("&"):
        if pair:
            key, _, value = pair.partition("=")
            found.setdefault(_unquote(key, uri, plus=True), _unquote(value, uri, plus=True))
    return (program, *(word for pair in found.items() for word in pair))


def _split(uri: str) -> tuple[str, str]:
    """(path, query) of a URI without a host."""
    rest = uri.partition("://")[2].partition("#")[0]
    path, _, query = rest.partition("?")
    return path, query


def _unquote(text: str, uri: str, *, plus: bool) -> str:
    """Undo %xx in a part of `uri`, and + in a query; raises ShimError for a broken escape."""
    if plus:
        text = text.replace("+", " ")
    if "%" not in text:
        return text
    head, *rest = text.encode().split(b"%")
    out = bytearray(head)
    for part in rest:
        digits = part[:2]
        if len(digits) < 2 or not all(digit in _HEX for digit in digits) or digits == b"00":
            escape = digits.decode("utf-8", "replace")
            raise ShimError(
                "failed to create init process I/O: unable to parse stdout uri: "
                f'parse "{uri}": invalid URL escape "%{escape}"'
            )
        out.append(int(digits, 16))
        out += part[2:]
    return out.decode("utf-8", "surrogateescape")


def _path(uri: str) -> str:
    return uri.removeprefix("fifo://")
