"""Exec, attach and port-forward with their streams: the kubelet's streaming interface.

CRI answers these calls with a URL of the daemon's streaming server, good once and for a minute. We
speak WebSocket to it, with the remote command subprotocols of Kubernetes: each message is a channel
byte and data. Channels of a process: 0 stdin, 1 stdout, 2 stderr, 3 its end as a JSON Status, 4
terminal sizes as JSON, and since v5 a message 255 with a channel closes that channel: before v5
there is no way to end stdin. Channels of a forwarded port: 0 data, 1 errors; each begins with the
port as two bytes, little-endian.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.cri.failures import CRIError, TimedOut
from shim_runc_py.cri.services import RuntimeService

STDIN, STDOUT, STDERR, STATUS, RESIZE = range(5)
CLOSE = 255
V5 = Subprotocol("v5.channel.k8s.io")
V4 = Subprotocol("v4.channel.k8s.io")
DATA, ERRORS = 0, 1
OPEN_TIMEOUT = 10.0
_CHUNK = 32 << 10
_GRACE = 5.0  # for the close of the connection after the end was told

Dial = Callable[[str, int], socket.socket]


def dial(host: str, port: int) -> socket.socket:
    """The usual way to the streaming server."""
    made = socket.create_connection((host, port), OPEN_TIMEOUT)
    made.settimeout(None)
    return made


@dataclass(frozen=True)
class Ended:
    """What a streamed process left: its output and its exit code, None when nobody told it."""

    stdout: bytes
    stderr: bytes
    exit_code: int | None
    message: str = ""


class ProcessStream:
    """The streams of one process. To be closed; closing does not end the process."""

    def __init__(self, operation: str, connection: ClientConnection) -> None:
        self._operation = operation
        self._connection = connection
        self.exit_code: int | None = None
        self.message = ""

    def __enter__(self) -> ProcessStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    @property
    def can_end_stdin(self) -> bool:
        return self._connection.subprotocol == V5

    def write(self, data: bytes) -> None:
        """To stdin. Raises CRIError when the stream is over."""
        for start in range(0, len(data), _CHUNK):
            self._send(bytes([STDIN]) + data[start : start + _CHUNK])

    def end_stdin(self) -> None:
        """Raises CRIError with a streaming server that only speaks v4."""
        if not self.can_end_stdin:
            raise CRIError(self._operation, f"{V4} has no way to end stdin")
        self._send(bytes([CLOSE, STDIN]))

    def resize(self, columns: int, rows: int) -> None:
        """The size of the terminal."""
        size = json.dumps({"Width": columns, "Height": rows})
        self._send(bytes([RESIZE]) + size.encode())

    def read(self, timeout: float | None = None) -> tuple[int, bytes] | None:
        """A channel (STDOUT or STDERR) and its next bytes; None at the end, when `exit_code` and
        `message` are set. Raises TimedOut after `timeout` seconds without any.
        """
        while True:
            try:
                message = self._connection.recv(timeout)
            except TimeoutError:
                raise TimedOut(self._operation, f"no output within {timeout:g} s") from None
            except ConnectionClosed:
                return None
            data = message.encode() if isinstance(message, str) else message
            if len(data) < 2:
                continue  # opens a channel
            if data[0] == STATUS:
                self.exit_code, self.message = exit_of(data[1:])
            elif data[0] in (STDOUT, STDERR):
                return data[0], data[1:]

    def collect(self, timeout: float | None = None) -> Ended:
        """Read to the end; `timeout` in seconds is between two pieces of output."""
        pieces: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        while (read := self.read(timeout)) is not None:
            pieces[read[0]].append(read[1])
        return Ended(
            b"".join(pieces[STDOUT]), b"".join(pieces[STDERR]), self.exit_code, self.message
        )

    def _send(self, message: bytes) -> None:
        try:
            self._connection.send(message)
        except ConnectionClosed as error:
            raise CRIError(self._operation, f"the stream is over: {error}") from None


class PortStream:
    """A connection to a port of a pod. To be closed."""

    def __init__(self, connection: ClientConnection, port: int) -> None:
        self._connection = connection
        self._port = port
        self._begun: set[int] = set()

    def __enter__(self) -> PortStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), _CHUNK):
            try:
                self._connection.send(bytes([DATA]) + data[start : start + _CHUNK])
            except ConnectionClosed as error:
                raise CRIError("PortForward", f"the stream is over: {error}") from None

    def read(self, timeout: float | None = None) -> bytes:
        """The next bytes; empty at the end. Raises TimedOut, and CRIError with the daemon's words
        when it cannot reach the port.
        """
        while True:
            try:
                message = self._connection.recv(timeout)
            except TimeoutError:
                raise TimedOut("PortForward", f"nothing within {timeout:g} s") from None
            except ConnectionClosed:
                return b""
            data = message.encode() if isinstance(message, str) else message
            channel, rest = data[0], data[1:]
            if channel not in self._begun:
                self._begun.add(channel)
                rest = rest[2:]
            if not rest:
                continue
            if channel == ERRORS:
                raise CRIError("PortForward", f"port {self._port}: {rest.decode(errors='replace')}")
            return rest


class Streaming:
    """Streams of one daemon's containers. Every method raises CRIError."""

    def __init__(self, runtime: RuntimeService, dial: Dial = dial) -> None:
        self._runtime = runtime
        self._dial = dial

    def exec(
        self, container: str, command: Sequence[str], *, tty: bool = False, stdin: bool = False
    ) -> ProcessStream:
        """Start a process in a container. A terminal has no stderr of its own."""
        request = pb.ExecRequest(
            container_id=container, cmd=command, tty=tty, stdin=stdin, stdout=True, stderr=not tty
        )
        url = self._runtime.exec(request)
        return ProcessStream("Exec", self._open("Exec", url, [V5, V4]))

    def attach(self, container: str, *, tty: bool = False, stdin: bool = False) -> ProcessStream:
        """The container's own process; `tty` and `stdin` have to be what its config says."""
        request = pb.AttachRequest(
            container_id=container, tty=tty, stdin=stdin, stdout=True, stderr=not tty
        )
        url = self._runtime.attach(request)
        return ProcessStream("Attach", self._open("Attach", url, [V5, V4]))

    def port_forward(self, sandbox: str, port: int) -> PortStream:
        """A connection to a TCP port on the pod's loopback."""
        request = pb.PortForwardRequest(pod_sandbox_id=sandbox, port=[port])
        url = self._runtime.port_forward(request)
        return PortStream(self._open("PortForward", url, [V4]), port)

    def _open(self, operation: str, url: str, protocols: Sequence[Subprotocol]) -> ClientConnection:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise CRIError(operation, f"the daemon's streaming URL is none: {url}")
        port = parts.port or (443 if secure else 80)
        try:
            made = self._dial(parts.hostname, port)
        except OSError as error:
            raise CRIError(
                operation, f"cannot reach the streaming server at {parts.netloc}: {error.strerror}"
            ) from None
        try:
            opened = connect(
                url.replace("http", "ws", 1),
                sock=made,
                subprotocols=protocols,
                compression=None,
                open_timeout=OPEN_TIMEOUT,
                ping_interval=None,
                close_timeout=_GRACE,
                max_size=None,
            )
            # It wants to be a context; ours is that of the stream, which closes it.
            return opened.__enter__()
        except (InvalidHandshake, InvalidMessage, TimeoutError, OSError, EOFError) as error:
            made.close()
            raise CRIError(operation, f"the streaming server at {parts.netloc}: {error}") from None


def exit_of(status: bytes) -> tuple[int | None, str]:
    """Exit code and message of a Status of Kubernetes; the code is None when it tells another
    failure than that of the command.
    """
    try:
        read = json.loads(status)
        if read.get("status") == "Success":
            return 0, ""
        message = str(read.get("message", ""))
        if read.get("reason") == "NonZeroExitCode":
            for cause in read["details"]["causes"]:
                if cause.get("reason") == "ExitCode":
                    return int(cause["message"]), message
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, status.decode(errors="replace")
    return None, message
