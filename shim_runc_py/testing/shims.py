"""A shim binary, started as containerd starts it, and a client that speaks to it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from shim_runc_py.api import task_pb2 as m
from shim_runc_py.testing import conditions
from shim_runc_py.testing.bundles import Bundle
from shim_runc_py.testing.conditions import SLOW
from shim_runc_py.ttrpc.client import BlockingClient
from shim_runc_py.ttrpc.status import Closed, RpcError

BOUND = 30.0 * SLOW
PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"

_RESPONSES: dict[str, tuple[type[Message], type[Message]]] = {
    "State": (m.StateRequest, m.StateResponse),
    "Create": (m.CreateTaskRequest, m.CreateTaskResponse),
    "Start": (m.StartRequest, m.StartResponse),
    "Delete": (m.DeleteRequest, m.DeleteResponse),
    "Pids": (m.PidsRequest, m.PidsResponse),
    "Pause": (m.PauseRequest, Empty),
    "Resume": (m.ResumeRequest, Empty),
    "Checkpoint": (m.CheckpointTaskRequest, Empty),
    "Kill": (m.KillRequest, Empty),
    "Exec": (m.ExecProcessRequest, Empty),
    "ResizePty": (m.ResizePtyRequest, Empty),
    "CloseIO": (m.CloseIORequest, Empty),
    "Update": (m.UpdateTaskRequest, Empty),
    "Wait": (m.WaitRequest, m.WaitResponse),
    "Stats": (m.StatsRequest, m.StatsResponse),
    "Connect": (m.ConnectRequest, m.ConnectResponse),
    "Shutdown": (m.ShutdownRequest, Empty),
}


class Binary:
    """A shim binary: `name` for test ids; `version` of a stock one's containerd, else ()."""

    def __init__(
        self,
        name: str,
        path: str,
        version: tuple[int, ...] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`environ` is added to the environment that the binary is executed with."""
        self.name = name
        self.path = path
        self.version = version
        self.environ = dict(environ or {})

    @property
    def stock(self) -> bool:
        return bool(self.version)

    @property
    def task_version(self) -> int:
        """Of the task service that it certainly serves."""
        return 3 if self.version >= (2,) else 2

    def __repr__(self) -> str:
        return self.name


class Result:
    """What a short-lived command of the binary did, and how long that took."""

    def __init__(self, status: int, stdout: bytes, stderr: bytes, seconds: float = 0.0) -> None:
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        self.seconds = seconds


class Task:
    """A client of one shim. Each method is a call of the RPC with that name, in lower case."""

    def __init__(self, client: BlockingClient, version: int, namespace: str) -> None:
        self.client = client
        self.service = f"containerd.task.v{version}.Task"
        self._metadata = {"containerd-namespace-ttrpc": namespace}

    def call(self, method: str, *, timeout: float | None = BOUND, **fields: Any) -> Any:
        """Call `method`; raises RpcError with the shim's status."""
        request, response = _RESPONSES[method]
        return self.client.call(
            self.service,
            method,
            request(**fields),
            response,
            timeout=BOUND if timeout is None else timeout + 5,
            server_timeout=timeout,
            metadata=self._metadata,
        )

    def begin(self, method: str, **fields: Any) -> int:
        """Send a request without waiting; `finish` has the answer."""
        request, _ = _RESPONSES[method]
        return self.client.begin(self.service, method, request(**fields), metadata=self._metadata)

    def finish(self, method: str, stream: int, timeout: float = BOUND) -> Any:
        return self.client.finish(stream, _RESPONSES[method][1], timeout)

    def create(self, bundle: Bundle, **fields: Any) -> Any:
        given = {"id": bundle.id, "bundle": str(bundle), "options": conditions.options()}
        return self.call("Create", **{**given, **fields})

    def start(self, id: str, exec_id: str = "") -> Any:
        return self.call("Start", id=id, exec_id=exec_id)

    def exec(self, id: str, exec_id: str, process: Mapping[str, Any], **fields: Any) -> Any:
        """`process` is an OCI process; cwd and env have defaults."""
        full = {"args": [], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
        value = json.dumps({**full, **process}).encode()
        spec = AnyMessage(type_url=PROCESS_TYPE, value=value)
        return self.call("Exec", id=id, exec_id=exec_id, spec=spec, **fields)

    def state(self, id: str, exec_id: str = "") -> Any:
        return self.call("State", id=id, exec_id=exec_id)

    def wait(self, id: str, exec_id: str = "", timeout: float = BOUND) -> Any:
        return self.call("Wait", id=id, exec_id=exec_id, timeout=timeout)

    def kill(self, id: str, signum: int = 9, exec_id: str = "", everyone: bool = False) -> Any:
        return self.call("Kill", id=id, exec_id=exec_id, signal=signum, all=everyone)

    def delete(self, id: str, exec_id: str = "") -> Any:
        return self.call("Delete", id=id, exec_id=exec_id)

    def shutdown(self, id: str = "") -> None:
        """Ask the shim to end; a closed connection is its answer, too."""
        try:
            self.call("Shutdown", id=id)
        except Closed:
            pass


class Shim:
    """One running shim. `close` ends it and everything in it, and checks that it went."""

    def __init__(
        self,
        binary: Binary,
        bundle: Bundle,
        containerd: str,
        ttrpc_address: str,
        *,
        namespace: str = "test",
        stdin: bytes | None = None,
        environ: Mapping[str, str] | None = None,
        debug: bool = False,
    ) -> None:
        """Start the shim for `bundle`. Raises AssertionError when `start` fails."""
        self.binary = binary
        self.namespace = namespace
        self.containerd = containerd
        self.environ = {
            **os.environ,
            "TTRPC_ADDRESS": ttrpc_address,
            "GOMAXPROCS": "2",
            **binary.environ,
            **(environ or {}),
        }
        self._bundles = [bundle]
        self._log = os.open(bundle.path / "log", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._logged = b""
        self._closed = False
        self._clients: list[BlockingClient] = []
        result = self.run_start(bundle, stdin, debug)
        assert result.status == 0, (result.status, result.stdout)
        self.start_seconds = result.seconds
        self.address = parse_answer(result.stdout)
        self.path = self.address.removeprefix("unix://")
        self.task = self.connect()
        self.pid = int(self.task.call("Connect", id=bundle.id).shim_pid)
        self._pidfd = os.pidfd_open(self.pid)

    def argv(self, bundle: Bundle, action: str, debug: bool = False) -> list[str]:
        """The command line that containerd uses."""
        words = [self.binary.path, "-namespace", self.namespace, "-address", self.containerd]
        words += ["-publish-binary", "/usr/bin/containerd", "-id", bundle.id]
        if action == "delete":
            words += ["-bundle", str(bundle)]
        return [*words, *(["-debug"] if debug else []), action]

    def run_start(self, bundle: Bundle, stdin: bytes | None = None, debug: bool = False) -> Result:
        """`start`, with one pipe for both output streams, read to its end."""
        began = time.monotonic()
        done = subprocess.run(
            self.argv(bundle, "start", debug),
            cwd=bundle,
            env=self.environ,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=False,
            process_group=0,
            timeout=BOUND,
            check=False,
        )
        return Result(done.returncode, done.stdout, b"", time.monotonic() - began)

    def join(self, bundle: Bundle) -> str:
        """`start` for a further container; returns the address."""
        self._bundles.append(bundle)
        result = self.run_start(bundle)
        assert result.status == 0, (result.status, result.stdout)
        return parse_answer(result.stdout)

    def owns(self, bundle: Bundle) -> None:
        """`close` is to end the container of this bundle, too."""
        self._bundles.append(bundle)

    def run_delete(self, bundle: Bundle, debug: bool = False) -> Result:
        """`delete` for one of the containers."""
        began = time.monotonic()
        done = subprocess.run(
            self.argv(bundle, "delete", debug),
            cwd=bundle,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            process_group=0,
            timeout=BOUND,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    def connect(self) -> Task:
        """A further connection, closed with the shim."""
        client = BlockingClient(self.path)
        self._clients.append(client)
        return Task(client, self.binary.task_version, self.namespace)

    def log(self) -> str:
        """What the shim has logged so far."""
        try:
            while part := os.read(self._log, 65536):
                self._logged += part
        except BlockingIOError:
            pass
        return self._logged.decode("utf-8", "replace")

    def alive(self) -> bool:
        return not select.select([self._pidfd], [], [], 0)[0]

    def wait_gone(self, timeout: float = BOUND) -> None:
        """Raises TimeoutError when the shim does not end."""
        if not select.select([self._pidfd], [], [], timeout)[0]:
            raise TimeoutError(f"shim {self.pid} does not end; its log: {self.log()}")

    def close(self) -> None:
        """Kill and delete what is there, shut the shim down; whatever happens, leave nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            if self.alive():
                for bundle in self._bundles:
                    self.end(bundle.id)
                self._quietly(self.task.shutdown)
                try:
                    self.wait_gone(10 * SLOW)
                except TimeoutError:
                    os.kill(self.pid, 9)
                    self.wait_gone()
            for bundle in self._bundles:
                self._quietly(self.run_delete, bundle)
        finally:
            for client in self._clients:
                client.close()
            os.close(self._log)
            os.close(self._pidfd)
            Path(self.path).unlink(missing_ok=True)

    def end(self, id: str) -> None:
        """Kill and delete a container, as far as it is there."""
        self._quietly(self._end, id)

    def _end(self, id: str) -> None:
        state = self.task.state(id)
        if state.status == 4:  # runc 1.1 thaws a container when it updates it
            self._quietly(lambda: self.task.call("Resume", id=id))
        if state.status != 3:  # there is nothing to kill before a restore
            self._quietly(self.task.kill, id, 9, "", True)
            if state.pid:
                self.task.wait(id)
        self.task.delete(id)

    @staticmethod
    def _quietly(action: Callable[..., object], *arguments: object) -> None:
        try:
            action(*arguments)
        except Exception:  # cleaning up: the leak check names what stayed
            pass


@contextmanager
def refused(code: int, text: str) -> Iterator[None]:
    """The call inside is answered with status `code` and a message that has `text` in it."""
    answer = None
    try:
        yield
    except RpcError as error:
        answer = error
    assert answer is not None, f"not refused; expected status {code}: {text}"
    assert answer.code == code, (answer.code, str(answer))
    assert text in str(answer), str(answer)


def parse_answer(output: bytes) -> str:
    """The address in an answer of `start`, in any of the three forms."""
    text = output.strip()
    if text.startswith(b"{"):
        return str(json.loads(text)["address"])
    if text.startswith(b"unix://"):
        return text.decode()
    from shim_runc_py.api.bootstrap_pb2 import BootstrapResult

    return BootstrapResult.FromString(output).address


@contextmanager
def running(*arguments: Any, **options: Any) -> Iterator[Shim]:
    """`with running(binary, bundle, ...) as shim:`"""
    shim = Shim(*arguments, **options)
    try:
        yield shim
    finally:
        shim.close()
