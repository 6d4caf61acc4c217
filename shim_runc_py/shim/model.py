"""The model: a shim at rest, played in full, whose memory is the image of all others.

`linux/pages.py` says what the image is good for. The zygote forks a model as it forks every shim,
and a director, which stands in for containerd and makes the model run a container that is none.
When the model is at rest it puts its memory into the image and ends. What is not alike in other
shims they keep for themselves; so the model decides what sharing gives, and never what is right.

Nothing of anybody's container gets into the image, as there is none yet.
"""

from __future__ import annotations

import os

from shim_runc_py.api import task_pb2
from shim_runc_py.linux import pages, sock, wait
from shim_runc_py.loop import Future, Loop
from shim_runc_py.shim import rehearsal, serve, wire, zygote
from shim_runc_py.ttrpc.client import Client
from shim_runc_py.ttrpc.status import Closed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import signal as _signal
else:
    import _signal

BOUND = 1.0  # seconds for the model to come to rest
NAMESPACE = "k8s.io"
ID = "0" * 64  # as long as those of pods
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def share(place: str) -> int:
    """Make the image, in the zygote, and share it with all later forks; bytes of it.

    Without a model, for whatever reason, the image is the zygote itself.
    """
    import _socket

    image = pages.begin()
    if image < 0:
        return 0
    path = f"/proc/{os.getpid()}/fd/{image}"
    stage = f"{place}/.model-{os.getpid()}"
    ours, theirs = _socket.socketpair()
    try:
        director = os.fork()
        if not director:
            theirs.close()
            _direct(place, stage, ours)
        if not os.fork():
            ours.close()
            _be_model(place, stage, theirs, director, path)
        ours.close()
        theirs.close()
        wait.within(director, BOUND + 0.2)
    except OSError:  # it is over, and the kernel has reaped it; or there was no room for it
        ours.close()
        theirs.close()
    try:
        size = pages.adopt(image)
        if not size and pages.write(path):
            size = pages.adopt(image)
        return size
    finally:
        os.close(image)


def _be_model(
    place: str, stage: str, connection: _socket.socket, director: int, image: str
) -> None:
    """In the model: what a fork does for a caller. Never returns."""
    try:
        zygote.become_own(connection)
        parent = zygote.take_over(director)[2]
        given = zygote.read_request(connection)
        os.chdir(f"{stage}/{ID}")
        words = ["-namespace", NAMESPACE, "-id", ID, "-address", f"{stage}/c", "start"]
        environ = {"PATH": PATH, "TTRPC_ADDRESS": f"{stage}/t"}
        zygote.run(
            [serve.PROGRAM, *words], environ, zygote.Remote(connection, given, parent, image)
        )
    finally:
        os._exit(1)


def _direct(place: str, stage: str, connection: _socket.socket) -> None:
    """In the director: be containerd, until the model is at rest. Never returns."""
    import _socket

    model, path = -1, ""
    try:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        os.close(zygote.LISTENER)
        os.mkdir(stage, 0o700)
        os.chdir(stage)
        scene = rehearsal.Scene(stage, ID)
        loop = Loop()
        scene.take_events(loop, "t")
        connection.settimeout(BOUND)
        # The socket is beside the zygote's, as room in names is scarce.
        connection.sendall(wire.text(1, ID) + wire.text(2, NAMESPACE) + wire.text(9, place))
        connection.shutdown(_socket.SHUT_WR)
        answer = b""
        while part := connection.recv(4096):
            answer += part
        path = answer[6:].decode().removeprefix("unix://")  # behind "+", status, length
        served = sock.connect(path)
        model = os.pidfd_open(sock.peer(served)[0])
        client = Client(loop, served, Future)
        loop.run(loop.spawn(loop.within(loop.spawn(_play(client, scene)), BOUND)))
    except Exception:
        pass
    finally:
        try:
            if path:
                os.unlink(path)
            if model >= 0:
                _signal.pidfd_send_signal(model, _signal.SIGKILL)
        except OSError:
            pass
        rehearsal.remove(stage)
        os._exit(0)


async def _play(client: Client, scene: rehearsal.Scene) -> None:
    """Returns when the model has ended."""
    m = task_pb2

    async def call(method: str, request: object, answer: object) -> None:
        await client.call(rehearsal.SERVICE, method, request, answer)  # type: ignore[arg-type]

    try:
        await call("Create", scene.create(), m.CreateTaskResponse)
        await call("Start", m.StartRequest(id=ID), m.StartResponse)
        await call("Wait", m.WaitRequest(id=ID), m.WaitResponse)
    except Closed:
        pass
    finally:
        scene.kill()
