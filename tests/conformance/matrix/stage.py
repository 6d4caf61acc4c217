"""Brings a container into a state, makes a call, and writes down what came of it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from shim_runc_py.api import task_types_pb2
from shim_runc_py.api.runc_options_pb2 import Options, ProcessDetails
from shim_runc_py.errors import UNKNOWN
from shim_runc_py.linux import cgroup
from shim_runc_py.testing.bundles import Bundle
from shim_runc_py.testing.shims import Shim, refused
from shim_runc_py.testing.sink import Event
from shim_runc_py.ttrpc.status import Closed, RpcError
from tests.conformance.matrix.calls import Call

CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
)
QUERIES = ("State", "Pids", "Wait", "Stats", "Connect")
ZERO_TIME = -62135596800
PATIENCE = 10.0  # seconds for an answer
WAITS = 0.3  # seconds after which a Wait counts as one that waits
EVENTS = 5.0  # seconds for events that are expected
UNEXPECTED = 0.3  # seconds for events when it is not known how many will come
SLEEP = {"args": ["/bin/sleep", "1000"]}


class Tools:
    """The fixtures that a stage needs."""

    def __init__(self, **fixtures: Any) -> None:
        self.make_bundle: Callable[..., Bundle] = fixtures["make_bundle"]
        self.start_shim: Callable[..., Shim] = fixtures["start_shim"]
        self.sink = fixtures["sink"]
        self.outputs = fixtures["outputs"]
        self.inputs = fixtures["inputs"]
        self.fake_engine = fixtures["fake_engine"]
        self.place: Path = fixtures["place"]


class Scene:
    """A container in some state; `exec_id` names the process that is asked about."""

    def __init__(self, bundle: Bundle, place: Path) -> None:
        self.bundle = bundle
        self.place = place
        self.exec_id = ""
        self.pids: dict[int, str] = {}
        self.others: list[str] = []  # ids under which a Create may have made something

    def fill(self, value: Any) -> Any:
        """Put this scene's names into the fields of a call."""
        if isinstance(value, str) and "{" in value:
            for name, word in (
                ("{id}", self.bundle.id),
                ("{exec}", self.exec_id),
                ("{bundle}", str(self.bundle)),
                ("{place}", str(self.place)),
            ):
                value = value.replace(name, word)
            return value
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if isinstance(value, dict):
            return {key: self.fill(item) for key, item in value.items()}
        return value

    def mask(self, text: str) -> str:
        """Replace what is different in every run."""
        for value, name in (
            (str(self.bundle), "<bundle>"),
            (str(self.place), "<place>"),
            (self.bundle.id, "<id>"),
        ):
            text = text.replace(value, name)
        text = re.sub(r"/tmp/pyrunc-[a-z0-9_]+", "<session>", text)
        text = re.sub(r"x{60,}", "x...", text)
        text = re.sub(r"<place>/engine[0-9a-f]{4}/fake-runc", "<engine>", text)
        text = re.sub(r"usage: \d+", "usage: <n>", text)
        text = re.sub(r"(CRIU|criu).*?(?= path= |$)", "<words about criu>", text)
        for pid, name in self.pids.items():
            text = re.sub(rf"\b{pid}\b", name, text)
        return text


class Stage:
    """One shim, which brings up containers; `ask` makes a call in a state."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._shim: Shim | None = None
        self._scene: Scene | None = None
        self._state = ""
        self._marks: Iterator[int] = iter(range(1_000_000))

    @property
    def shim(self) -> Shim:
        """A shim that answers, with a container that nobody asks about: it marks time."""
        if self._shim is None or not self._shim.alive():
            self._beacon = self._tools.make_bundle("sleep")
            self._shim = self._tools.start_shim(self._beacon)
            self._shim.task.create(self._beacon)
            self._scene = None
        return self._shim

    # states

    def _bring(self, state: str, call: Call) -> Scene:
        """A container in `state`; the last one, if the last call has left it as it was."""
        shim = self.shim
        if self._scene is not None and self._state == state and call.prepare is None:
            return self._scene
        self._strike()
        fixture = "tty" if state.startswith("terminal") else "sleep"
        bundle = self._tools.make_bundle("cat" if state.startswith("streams") else fixture)
        shim.owns(bundle)
        scene = Scene(bundle, self._tools.place)
        if call.prepare is not None:
            call.prepare(bundle)
        _STATES[state](self, scene)
        self._scene, self._state = scene, state
        return scene

    def _strike(self) -> None:
        """Take the last scene down."""
        if self._scene is not None and self._shim is not None:
            for id in (self._scene.bundle.id, *self._scene.others):
                self._shim.end(id)
        self._scene = None

    def _create(self, scene: Scene, **fields: Any) -> None:
        pid = self.shim.task.create(scene.bundle, **fields).pid
        if pid:
            scene.pids[pid] = "<init>"

    def _running(self, scene: Scene, **fields: Any) -> None:
        self._create(scene, **fields)
        self.shim.task.start(scene.bundle.id)

    def _paused(self, scene: Scene) -> None:
        self._running(scene)
        self.shim.task.call("Pause", id=scene.bundle.id)

    def _stopped(self, scene: Scene) -> None:
        self._running(scene)
        self._kill(scene)

    def _kill(self, scene: Scene) -> None:
        self.shim.task.kill(scene.bundle.id, 9)
        self.shim.task.wait(scene.bundle.id)
        self._tools.sink.wait_for("/tasks/exit", id=scene.bundle.id)

    def _deleted(self, scene: Scene) -> None:
        self._stopped(scene)
        self.shim.task.delete(scene.bundle.id)

    def _restoring(self, scene: Scene) -> None:
        self._create(scene, checkpoint=str(scene.place / "image"))

    def _restored(self, scene: Scene) -> None:
        """The fake engine restores by creating and starting."""
        engine, bundle = self._tools.fake_engine, scene.bundle
        value = Options(binary_name=str(engine.path)).SerializeToString()
        options = AnyMessage(type_url="containerd.runc.v1.Options", value=value)
        self._create(scene, checkpoint=str(scene.place / "image"), options=options)
        root = f"--root /run/containerd/runc/test --log {bundle}/log.json --log-format json"
        engine.on(
            "restore",
            f"runc {root} create --bundle {bundle} --pid-file {bundle}/init.pid {bundle.id} && "
            f"exec runc {root} start {bundle.id}",
        )
        scene.pids[self.shim.task.start(bundle.id).pid] = "<init>"

    def _exec_added(self, scene: Scene, process: dict[str, Any] | None = None) -> None:
        self._running(scene)
        scene.exec_id = "e1"
        self.shim.task.exec(scene.bundle.id, "e1", process or SLEEP)

    def _exec_running(self, scene: Scene) -> None:
        self._exec_added(scene)
        scene.pids[self.shim.task.start(scene.bundle.id, "e1").pid] = "<exec>"

    def _exec_started_again(self, scene: Scene) -> None:
        self._exec_running(scene)
        with refused(UNKNOWN, "cannot start a running process"):
            self.shim.task.start(scene.bundle.id, "e1")

    def _exec_stopped(self, scene: Scene) -> None:
        self._exec_added(scene, {"args": ["/bin/sh", "-c", "exit 3"]})
        scene.pids[self.shim.task.start(scene.bundle.id, "e1").pid] = "<exec>"
        self.shim.task.wait(scene.bundle.id, "e1")
        self._tools.sink.wait_for("/tasks/exit", container_id=scene.bundle.id, id="e1")

    def _exec_deleted(self, scene: Scene) -> None:
        self._exec_stopped(scene)
        self.shim.task.delete(scene.bundle.id, "e1")

    def _exec_hopeless(self, scene: Scene) -> None:
        self._exec_added(scene, {"args": ["/nosuch"]})

    def _exec_failed(self, scene: Scene) -> None:
        self._exec_hopeless(scene)
        with refused(UNKNOWN, "no such file or directory"):
            self.shim.task.start(scene.bundle.id, "e1")

    def _exec_before_init(self, scene: Scene) -> None:
        self._create(scene)
        scene.exec_id = "e1"
        self.shim.task.exec(scene.bundle.id, "e1", SLEEP)

    def _exec_left(self, scene: Scene) -> None:
        self._exec_added(scene)
        self._kill(scene)

    def _exec_died_with_init(self, scene: Scene) -> None:
        self._exec_running(scene)
        self._kill(scene)

    def _exec_added_paused(self, scene: Scene) -> None:
        self._exec_added(scene)
        self.shim.task.call("Pause", id=scene.bundle.id)

    def _exec_paused(self, scene: Scene) -> None:
        self._exec_running(scene)
        self.shim.task.call("Pause", id=scene.bundle.id)

    def _terminal_created(self, scene: Scene) -> None:
        self._create(scene, terminal=True, stdout=str(self._tools.outputs()))

    def _terminal_running(self, scene: Scene) -> None:
        self._terminal_created(scene)
        self.shim.task.start(scene.bundle.id)

    def _terminal_stopped(self, scene: Scene) -> None:
        self._terminal_running(scene)
        self._kill(scene)

    def _terminal_exec(self, scene: Scene) -> None:
        self._running(scene)
        scene.exec_id = "e1"
        out = str(self._tools.outputs())
        self.shim.task.exec(scene.bundle.id, "e1", SLEEP, terminal=True, stdout=out)
        scene.pids[self.shim.task.start(scene.bundle.id, "e1").pid] = "<exec>"

    def _streams(self) -> dict[str, str]:
        tools = self._tools
        return {
            "stdin": str(tools.inputs()),
            "stdout": str(tools.outputs()),
            "stderr": str(tools.outputs()),
        }

    def _streams_running(self, scene: Scene) -> None:
        self._running(scene, **self._streams())

    # a call

    def ask(self, state: str, call: Call, expected: str | None) -> str:
        """What comes of `call` in `state`; `expected` tells how many events to wait for."""
        try:
            scene = self._bring(state, call)
        except Closed:  # the last call has killed the shim after all
            assert self._shim is not None
            self._shim.wait_gone(PATIENCE)
            scene = self._bring(state, call)
        shim = self.shim
        id = scene.bundle.id
        if call.end_shim:
            self._strike_beacon()
        before = self._status(scene)
        if not call.end_shim:
            self._mark()  # what brought the scene about has been told
        seen = len(self._tools.sink.events())
        answer = self._answer(scene, call)
        if answer in ("DIES", "HANGS") or call.end_shim:
            if answer == "HANGS":
                os.kill(shim.pid, signal.SIGKILL)  # whatever it waits for, the rest may wait, too
            shim.wait_gone(PATIENCE)
            self._shim = self._scene = None
            return answer
        events = self._events_since(seen, id, expected)
        after = self._status(scene)
        parts = [answer, *(self._event(scene, event) for event in events)]
        if after != before:
            parts.append(f"=> {after}")
        refused_ = not answer.startswith("OK") and call.method not in ("Start", "Create")
        harmless = refused_ or call.method in QUERIES
        if len(parts) > 1 or not harmless or call.prepare is not None:
            self._strike()
        return " ".join(parts)

    def _strike_beacon(self) -> None:
        self._strike()
        assert self._shim is not None
        self._shim.end(self._beacon.id)

    def _answer(self, scene: Scene, call: Call) -> str:
        fields: dict[str, Any] = {"id": scene.bundle.id, **call.defaults(scene.exec_id)}
        fields = scene.fill({**fields, **call.fields})
        if call.method == "Create":
            scene.others.append(fields["id"])
        task = self.shim.task
        try:
            if call.service or call.method not in call.known:
                service = call.service or task.service
                task.client.call(service, call.method, Empty(), Empty, timeout=PATIENCE)
                return "OK"
            stream = task.begin(call.method, **fields)
            patience = WAITS if call.method == "Wait" else PATIENCE
            response = task.finish(call.method, stream, patience)
        except RpcError as error:
            return scene.mask(f"{CODES[error.code]} {error}".replace("\n", "\\n"))
        except Closed:
            return "OK" if call.method == "Shutdown" else "DIES"
        except TimeoutError:
            return "waits" if call.method == "Wait" else "HANGS"
        pid = getattr(response, "pid", 0)
        if pid and pid not in scene.pids:
            scene.pids[pid] = "<exec>" if fields.get("exec_id") else "<init>"
        return f"OK {self._fields(scene, response)}".strip()

    def _fields(self, scene: Scene, message: Message) -> str:
        shown = []
        for field, value in message.ListFields():
            if field.name == "container_id" and value == scene.bundle.id:
                continue
            values = value if field.is_repeated else [value]
            words = sorted(self._value(scene, field.name, item) for item in values)
            shown.append(f"{field.name}={','.join(words)}")
        return " ".join(shown)

    def _value(self, scene: Scene, name: str, value: Any) -> str:
        if name == "exited_at":
            return "never" if value.seconds == ZERO_TIME else "then"
        if name == "stats":
            version = "v2" if cgroup.is_unified() else "v1"
            assert value.type_url == f"io.containerd.cgroups.{version}.Metrics"
            return "<metrics>"
        if name == "status":
            return task_types_pb2.Status.Name(value)
        if name == "shim_pid":
            return "<shim>" if value == self.shim.pid else str(value)
        if isinstance(value, AnyMessage):
            assert value.type_url == "containerd.runc.v1.ProcessDetails"
            return f"<details {ProcessDetails.FromString(value.value).exec_id}>"
        if isinstance(value, Message):
            return f"({self._fields(scene, value)})"
        if isinstance(value, int) and not isinstance(value, bool) and name.endswith("pid"):
            return scene.pids.get(value, "<other>")
        return scene.mask(str(value))

    # what came of it

    def _status(self, scene: Scene) -> str:
        """Of the process that is asked about, as State shows it; "gone" when it is not there."""
        try:
            state = self.shim.task.state(scene.bundle.id, scene.exec_id)
        except RpcError:
            return "gone"
        except Closed:
            return "DIES"
        return str(task_types_pb2.Status.Name(state.status))

    def _events_since(self, seen: int, id: str, expected: str | None) -> list[Event]:
        """The container's events after the first `seen`, once nothing more can come.

        Events of a shim arrive in their order: when a further one has come, they have.
        """
        sink = self._tools.sink
        count = -1 if expected is None else expected.count(" /tasks/")

        def new() -> list[Event]:
            events: list[Event] = sink.events()[seen:]
            return [event for event in events if event.message.container_id == id]

        sink.wait_until(
            lambda: len(new()) >= count >= 0, UNEXPECTED if expected is None else EVENTS
        )
        self._mark()
        return new()

    def _mark(self) -> None:
        """Every event that the shim has published so far has arrived."""
        mark = f"mark{next(self._marks)}"
        self.shim.task.exec(self._beacon.id, mark, SLEEP)
        self._tools.sink.wait_for("/tasks/exec-added", container_id=self._beacon.id, exec_id=mark)

    def _event(self, scene: Scene, event: Event) -> str:
        return f"{event.topic}({self._fields(scene, event.message)})"

    def close(self) -> None:
        self._strike()


def _nothing(_stage: Stage, _scene: Scene) -> None:
    """No container of that name."""


# The states by their names; `Call.states` refers to them.
_STATES: dict[str, Callable[[Stage, Scene], None]] = {
    "nothing": _nothing,
    "created": Stage._create,
    "running": Stage._running,
    "paused": Stage._paused,
    "stopped": Stage._stopped,
    "deleted": Stage._deleted,
    "restoring": Stage._restoring,
    "restored": Stage._restored,
    "exec added": Stage._exec_added,
    "exec added, init created": Stage._exec_before_init,
    "exec added, init paused": Stage._exec_added_paused,
    "exec added, init stopped": Stage._exec_left,
    "exec running": Stage._exec_running,
    "exec running, init paused": Stage._exec_paused,
    "exec running, started again": Stage._exec_started_again,
    "exec stopped": Stage._exec_stopped,
    "exec stopped, init stopped": Stage._exec_died_with_init,
    "exec deleted": Stage._exec_deleted,
    "exec hopeless": Stage._exec_hopeless,
    "exec failed": Stage._exec_failed,
    "terminal created": Stage._terminal_created,
    "terminal running": Stage._terminal_running,
    "terminal stopped": Stage._terminal_stopped,
    "exec with a terminal": Stage._terminal_exec,
    "streams running": Stage._streams_running,
}
