"""Exec, attach and port-forward over WebSocket, against a streaming server that is ours."""

from __future__ import annotations

import gc
import json
import socket
import threading

import pytest

pytest.importorskip("websockets", reason="the extra `cri` is not installed")

from websockets.sync.server import serve

from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.cri.failures import CRIError, TimedOut
from shim_runc_py.cri.services import RuntimeService
from shim_runc_py.cri.streaming import STDERR, STDOUT, V4, V5, Streaming, exit_of


def status(code):
    return {
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"exit code {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


class Server:
    """A streaming server; `behave(connection)` is what it does with one."""

    def __init__(self, behave, protocols=(V5, V4)):
        self.failed: list[BaseException] = []

        def guarded(connection):
            try:
                behave(connection)
            except BaseException as error:
                self.failed.append(error)

        self._server = serve(
            guarded, "127.0.0.1", 0, subprotocols=protocols, ping_interval=None, close_timeout=2
        )
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/exec/token"

    def stop(self):
        self._server.shutdown()
        self._thread.join()
        gc.collect()  # the server's selector is a cycle, with a descriptor in it


@pytest.fixture
def streaming(daemon, connection):
    """`streaming(behave)`: the streaming interface of a daemon whose server behaves so."""
    servers = []

    def make(behave, protocols=(V5, V4)):
        server = Server(behave, protocols)
        servers.append(server)
        for operation in ("Exec", "Attach", "PortForward"):
            reply = getattr(pb, f"{operation}Response")(url=server.url)
            daemon.on(operation, reply)
        return Streaming(RuntimeService(connection))

    yield make
    for server in servers:
        server.stop()
        assert not server.failed


def test_output_and_exit_code_arrive(streaming):
    def behave(connection):
        for message in (b"\x01", b"\x01out", b"\x02err", b"\x01more"):
            connection.send(message)
        connection.send(b"\x03" + json.dumps(status(7)).encode())

    with streaming(behave).exec("c", ["x"]) as stream:
        ended = stream.collect(5)
    assert (ended.stdout, ended.stderr, ended.exit_code) == (b"outmore", b"err", 7)


def test_the_request_says_which_streams_there_are(daemon, streaming):
    made = streaming(lambda connection: None)
    made.exec("c", ["x"], tty=True, stdin=True).close()
    made.exec("c", ["x"]).close()
    made.attach("c", stdin=True).close()
    asked = [(r.tty, r.stdin, r.stdout, r.stderr) for r in daemon.requests("Exec")]
    assert asked == [(True, True, True, False), (False, False, True, True)]
    attached = daemon.requests("Attach")[0]
    assert (attached.tty, attached.stdin, attached.stderr) == (False, True, True)


def test_input_sizes_and_the_end_of_input_are_sent(streaming):
    received: list[bytes] = []

    def behave(connection):
        received.extend(connection.recv() for _ in range(4))

    with streaming(behave).exec("c", ["x"], stdin=True) as stream:
        stream.write(b"a" * 40000)
        stream.resize(80, 24)
        stream.end_stdin()
        assert stream.collect(5).exit_code is None
    assert received[0] + received[1][1:] == b"\x00" + b"a" * 40000
    assert (received[2][:1], json.loads(received[2][1:])) == (b"\x04", {"Width": 80, "Height": 24})
    assert received[3] == b"\xff\x00"


def test_v4_cannot_end_stdin_and_says_so(streaming):
    with streaming(lambda connection: None, [V4]).exec("c", ["x"], stdin=True) as stream:
        assert not stream.can_end_stdin
        with pytest.raises(CRIError, match="no way to end stdin"):
            stream.end_stdin()


def test_writing_after_the_end_is_an_error(streaming):
    with streaming(lambda connection: None).exec("c", ["x"], stdin=True) as stream:
        stream.collect(5)
        with pytest.raises(CRIError, match="the stream is over"):
            stream.write(b"x")


def test_silence_is_timed_out(streaming):
    hold = threading.Event()
    with streaming(lambda connection: hold.wait(10)).exec("c", ["x"]) as stream:
        with pytest.raises(TimedOut, match=r"within 0\.05 s"):
            stream.read(0.05)
        hold.set()
        assert stream.read(5) is None


def test_pieces_keep_their_order(streaming):
    def behave(connection):
        for message in (b"\x01a", b"\x02b", b"\x01c"):
            connection.send(message)

    with streaming(behave).exec("c", ["x"]) as stream:
        assert [stream.read(5) for _ in range(4)] == [
            (STDOUT, b"a"),
            (STDERR, b"b"),
            (STDOUT, b"c"),
            None,
        ]


def test_a_port_is_forwarded(daemon, streaming):
    def behave(connection):
        for channel in (b"\x00", b"\x01"):
            connection.send(channel + (8080).to_bytes(2, "little"))
        assert connection.recv() == b"\x00ping"
        connection.send(b"\x00pong")

    with streaming(behave).port_forward("s", 8080) as stream:
        stream.write(b"ping")
        assert stream.read(5) == b"pong"
        assert stream.read(5) == b""
    assert list(daemon.requests("PortForward")[0].port) == [8080]


def test_a_port_that_nobody_listens_to_is_an_error_in_the_daemons_words(streaming):
    def behave(connection):
        for channel in (b"\x00", b"\x01"):
            connection.send(channel + (81).to_bytes(2, "little"))
        connection.send(b"\x01connection refused")

    with (
        streaming(behave).port_forward("s", 81) as stream,
        pytest.raises(CRIError, match="port 81: connection refused"),
    ):
        stream.read(5)


@pytest.mark.parametrize("url", ["", "unix:///x", "//host/x", "ftp://127.0.0.1/"])
def test_a_url_that_is_none_is_an_error(daemon, connection, url):
    daemon.on("Exec", pb.ExecResponse(url=url))
    with pytest.raises(CRIError, match=r"^Exec: the daemon's"):
        Streaming(RuntimeService(connection)).exec("c", ["x"])


def test_a_streaming_server_that_is_not_there_is_an_error(daemon, connection):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
    daemon.on("Exec", pb.ExecResponse(url=f"http://127.0.0.1:{port}/exec/x"))
    with pytest.raises(CRIError, match=f"cannot reach the streaming server at 127.0.0.1:{port}"):
        Streaming(RuntimeService(connection)).exec("c", ["x"])


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ('{"status": "Success"}', 0, ""),
        (json.dumps(status(137)), 137, "exit code 137"),
        ('{"status": "Failure", "reason": "InternalError", "message": "no"}', None, "no"),
        ('{"status": "Failure", "reason": "NonZeroExitCode"}', None, "{"),
        ("not json", None, "not json"),
        ("[]", None, "[]"),
    ],
)
def test_the_end_of_a_process(text, code, message):
    found = exit_of(text.encode())
    assert found[0] == code
    assert found[1].startswith(message)
