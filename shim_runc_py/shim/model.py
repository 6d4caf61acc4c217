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
from shim_runc_py.shim import rehearsal, zygote
from shim_runc_py.shim.flags import Flags
from shim_runc_py.shim.start import Daemon
from shim_runc_py.ttrpc.client import Client
from shim_runc_py.ttrpc.status import Closed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import signal as _signal
    from collections.abc import Callable
else:
    import _signal

BOUND = 1.0  # seconds for the model to come to rest
NAMESPACE = "k8s.io"
ID = "0" * 64  # as long as those of pods
ENVIRON = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def share(place: str, stand_in: Callable[[_socket.socket, int], None]) -> int:
    """Make the image, in the zygote, and share it with all later forks; bytes of it.

    `stand_in` is what forks do with a connection. Without a model, for whatever reason, the image
    is the zygote itself.
    """
    import _socket

    image = pages.begin()
    if image < 0:
        return 0
    path = f"/proc/{os.getpid()}/fd/{image}"
    ours, theirs = _socket.socketpair()
    try:
        director = os.fork()
        if not director:
            theirs.close()
            _direct(f"{place}/.model-{os.getpid()}", ours, path)
        if not os.fork():
            ours.close()
            stand_in(theirs, director)
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


def _direct(stage: str, connection: _socket.socket, image: str) -> None:
    """In the director: be containerd, until the model is at rest. Never returns."""
    model = -1
    try:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        os.close(zygote.LISTENER)
        os.makedirs(f"{stage}/0", 0o700)
        os.chdir(stage)
        scene = rehearsal.Scene(f"{stage}/0", ID)
        loop = Loop()
        scene.take_events(loop, "t")
        listener = sock.listen("s")
        assert listener is not None
        flags = Flags()
        flags.namespace, flags.id, flags.address = NAMESPACE, ID, f"{stage}/c"
        daemon = Daemon(flags, listener, f"{stage}/s", scene.bundle, f"{stage}/t", debug=False)
        connection.settimeout(BOUND)
        model = os.pidfd_open(zygote.ask_to_serve(connection, daemon, ENVIRON, image=image))
        listener.close()
        client = Client(loop, sock.connect("s"), Future)
        loop.run(loop.spawn(loop.within(loop.spawn(_play(client, scene)), BOUND)))
    except Exception:
        pass
    finally:
        try:
            if model >= 0:
                _signal.pidfd_send_signal(model, _signal.SIGKILL)
        except ProcessLookupError:
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
