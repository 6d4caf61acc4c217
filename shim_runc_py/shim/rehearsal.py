"""What the zygote does before it forks: imports, and the life of a container that is not there.

Whatever a fork does for the first time costs it time and pages of its own: class dictionaries that
get their shape, byte code that specialises itself (PEP 659), method caches, message tables that upb
builds lazily. So the zygote plays a container's whole life once, with a script for an engine, and
each fork finds all of that done. What it gave is in docs/decisions.md, section 13.

What it must leave behind: nothing. No thread, descriptor, child, signal handler or file; and a
failure of it is no failure of the zygote, which only forks dearer shims then.
"""

from __future__ import annotations

import _json  # noqa: F401
import os
import resource  # noqa: F401

import prctl

from shim_runc_py.api import (  # noqa: F401
    forward_pb2,
    legacy_options_pb2,
    metrics_v1_pb2,
    metrics_v2_pb2,
    runc_options_pb2,
    runtime_options_pb2,
    task_pb2,
    task_v3_pb2,
)
from shim_runc_py.linux import cgroup1, cgroup2, libc, mounts, pty, sock  # noqa: F401
from shim_runc_py.loop import Future
from shim_runc_py.shim import delete, serve, start, wire, zygote
from shim_runc_py.shim.flags import parse
from shim_runc_py.shim.roles import Caller
from shim_runc_py.stdio import logger, terminal  # noqa: F401
from shim_runc_py.task import checkpoint, metrics, oom, options  # noqa: F401
from shim_runc_py.ttrpc.client import Client
from shim_runc_py.ttrpc.server import Method, Server
from shim_runc_py.ttrpc.status import RpcError
from shim_runc_py.ttrpc.wellknown_pb2 import Any, Empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable

    from shim_runc_py.loop import Loop
else:
    import _signal

ROUNDS = 2
BOUND = 3.0  # seconds for a round
SERVICE = "containerd.task.v2.Task"
_EVENTS = "containerd.services.events.ttrpc.v1.Events"
# What an engine is asked for, as far as its caller can see. What it leaves running must not end by
# itself before it does: a shell may wait for its children at any time.
_ENGINE = """#!/bin/sh
for word in "$@"; do
    case $word in create|exec|start|kill|delete) verb=$word ;; esac
    [ "$before" = --pid-file ] && file=$word
    before=$word
done
case $verb in
    create) sleep 5 & echo $! >"$file"; echo $! >"$0.pid" ;;
    exec) sleep 5 & echo $! >"$file" ;;
    kill) kill -9 "$(cat "$0.pid")" ;;
esac
"""
_CONFIG = """{"ociVersion": "1.0.2", "process": {"args": ["x"], "cwd": "/", "user": {"uid": 0}},
"root": {"path": "rootfs"}, "linux": {"namespaces": [{"type": "pid"}]},
"annotations": {"io.kubernetes.cri.sandbox-id": "rehearsal"}}"""
# CRI sends a handler's options as TOML; to import its parser costs a shim 2.3 MB (tomllib, re).
_OPTIONS = b"BinaryName = 'x'\nSystemdCgroup = false\nIoUid = 0\n"
_PROCESS = b'{"args": ["x"], "cwd": "/", "env": [], "user": {"uid": 0, "gid": 0}}'


def hold(place: str) -> None:
    """Play it, with files in a new directory in `place`. Raises nothing but what kills a process.

    Changes the working directory to / and the signals to their defaults.
    """
    stage = f"{place}/.rehearsal-{os.getpid()}"
    try:
        os.mkdir(stage, 0o700)
        prctl.set_child_subreaper(1)
        for number in range(ROUNDS):
            options.from_toml(_OPTIONS, "the rehearsal")
            _Round(f"{stage}/{number}").play()
    except Exception:
        pass
    finally:
        prctl.set_child_subreaper(0)
        os.chdir("/")
        for signum in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGUSR1, _signal.SIGCHLD):
            _signal.signal(signum, _signal.SIG_DFL)
        remove(stage)


class Scene:
    """A bundle, an engine, and what stands in for containerd; in a new directory `stage`."""

    def __init__(self, stage: str, id: str) -> None:
        self.bundle = f"{stage}/{id}"
        self._engine = f"{stage}/engine"
        os.makedirs(f"{self.bundle}/rootfs", 0o700)
        for name in ("log", "out", "err"):
            os.mkfifo(f"{self.bundle}/{name}", 0o600)
        _write(f"{self.bundle}/config.json", _CONFIG, 0o600)
        _write(self._engine, _ENGINE, 0o700)
        self._readers = [
            os.open(f"{self.bundle}/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            for name in ("log", "out", "err")
        ]
        self._sink: Server | None = None

    def create(self) -> task_pb2.CreateTaskRequest:
        """The request that makes the container."""
        given = runc_options_pb2.Options(binary_name=self._engine)
        return task_pb2.CreateTaskRequest(
            id=os.path.basename(self.bundle),
            bundle=self.bundle,
            stdout=f"{self.bundle}/out",
            stderr=f"{self.bundle}/err",
            options=Any(type_url=given.DESCRIPTOR.full_name, value=given.SerializeToString()),
        )

    def take_events(self, loop: Loop, path: str) -> None:
        """Serve the events service on `path`."""
        events = sock.listen(path)
        assert events is not None
        forward = Method(forward_pb2.ForwardRequest, _forward)
        self._sink = Server(loop, {_EVENTS: {"Forward": forward}}, Future)
        self._sink.serve(events)

    def kill(self) -> None:
        """End the container's process."""
        try:
            with open(f"{self._engine}.pid") as file:
                os.kill(int(file.read()), _signal.SIGKILL)
        except (OSError, ValueError):
            pass

    def close(self) -> None:
        """Give back what is open."""
        if self._sink is not None:
            self._sink.close()
        for reader in self._readers:
            os.close(reader)


class _Round:
    """One container, one exec, one client."""

    def __init__(self, stage: str) -> None:
        self._scene = Scene(stage, "bundle")

    def play(self) -> None:
        zygote.take_over(os.getpid())
        os.chdir(self._scene.bundle)
        stage = os.path.dirname(self._scene.bundle)
        words = ["-namespace", "n", "-address", f"{stage}/c", "-id", "bundle", "start"]
        flags = parse(words)
        # Here and not in the directory of all sockets, and relative, as room in names is scarce.
        given = wire.text(1, "bundle") + wire.text(2, "n") + wire.text(9, ".")
        start.run(flags, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, _Stage(self, given))
        delete.run(flags, {})

    def serve(self, daemon: start.Daemon, environ: dict[str, str]) -> None:
        daemon.ttrpc_address = "../t"
        shim = serve.Shim(daemon, environ)
        self._scene.take_events(shim.loop, daemon.ttrpc_address)
        shim.loop.spawn(self._client(shim.loop, daemon.path, shim.stop), "rehearsal")
        late = shim.loop.after(BOUND, shim.stop)
        try:
            shim.run()
        finally:
            late.cancel()
            self._scene.close()
            shim.loop.close()

    async def _client(self, loop: Loop, path: str, done: Callable[[], None]) -> None:
        client = Client(loop, sock.connect(path), Future)
        m = task_pb2

        async def call(method: str, request: object, answer: object) -> None:
            try:
                await client.call(SERVICE, method, request, answer, timeout=BOUND)  # type: ignore[arg-type]
            except RpcError:
                pass

        exec_ = m.ExecProcessRequest(id="bundle", exec_id="e")
        exec_.spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process"
        exec_.spec.value = _PROCESS
        try:
            await call("Create", self._scene.create(), m.CreateTaskResponse)
            await call("Connect", m.ConnectRequest(id="bundle"), m.ConnectResponse)
            await call("State", m.StateRequest(id="bundle"), m.StateResponse)
            await call("Start", m.StartRequest(id="bundle"), m.StartResponse)
            await call("Exec", exec_, Empty)
            await call("Start", m.StartRequest(id="bundle", exec_id="e"), m.StartResponse)
            await call("Kill", m.KillRequest(id="bundle", exec_id="e", signal=9), Empty)
            await call("Wait", m.WaitRequest(id="bundle", exec_id="e"), m.WaitResponse)
            await call("Delete", m.DeleteRequest(id="bundle", exec_id="e"), m.DeleteResponse)
            await call("Pids", m.PidsRequest(id="bundle"), m.PidsResponse)
            await call("Stats", m.StatsRequest(id="bundle"), m.StatsResponse)
            await call("Kill", m.KillRequest(id="bundle", signal=9), Empty)
            await call("Wait", m.WaitRequest(id="bundle"), m.WaitResponse)
            await call("Delete", m.DeleteRequest(id="bundle"), m.DeleteResponse)
            await call("Shutdown", m.ShutdownRequest(id="bundle"), Empty)
        finally:
            client.close()
            done()


class _Stage(Caller):
    """Instead of becoming the daemon: play it, and come back."""

    def __init__(self, round_: _Round, given: bytes) -> None:
        super().__init__(given, os.getpid())
        self._round = round_

    def detach(
        self, daemon: start.Daemon, environ: dict[str, str], introduce: Callable[[int], bytes]
    ) -> None:
        self._round.serve(daemon, environ)


async def _forward(_request: object, _context: object) -> Empty:
    return Empty()


def _write(path: str, text: str, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    os.write(fd, text.encode())
    os.close(fd)


def remove(path: str) -> None:
    """A directory of ours, with everything in it."""
    for where, directories, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(f"{where}/{name}")
        for name in directories:
            os.rmdir(f"{where}/{name}")
    if os.path.isdir(path):
        os.rmdir(path)
