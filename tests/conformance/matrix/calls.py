"""What is asked of the shims: the rows of the matrix.

A row is a call in a state. In a state of an exec the call is about that exec (exec_id "e1"). In
field values `{id}`, `{exec}`, `{bundle}` and `{place}` stand for the names of the day.

`Differs` says why the stock shim answers otherwise; a row that differs without it, or that has it
and does not differ, is a failure.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from shim_runc_py.api.legacy_options_pb2 import CreateOptions
from shim_runc_py.api.runc_options_pb2 import CheckpointOptions, Options
from shim_runc_py.api.runtime_options_pb2 import Options as RuntimeOptions
from shim_runc_py.api.types_pb2 import Mount
from shim_runc_py.testing.bundles import Bundle
from shim_runc_py.testing.shims import PROCESS_TYPE

INIT = ("nothing", "created", "restoring", "restored", "running", "paused", "stopped", "deleted")
EXEC = (
    "exec added",
    "exec added, init created",
    "exec added, init paused",
    "exec added, init stopped",
    "exec running",
    "exec running, init paused",
    "exec running, started again",
    "exec stopped",
    "exec stopped, init stopped",
    "exec deleted",
    "exec hopeless",
    "exec failed",
)
TERMINAL = ("terminal created", "terminal running", "terminal stopped", "exec with a terminal")
STREAMS = ("streams running",)
STATES = INIT + EXEC + TERMINAL + STREAMS
LIVING = ("created", "running", "paused")

# What a state is, for docs/task-api.md.
MEANING = {
    "nothing": "nothing was created under this id",
    "created": "created, not started",
    "restoring": "created from a checkpoint, not started",
    "restored": "restored from a checkpoint, running",
    "running": "init runs",
    "paused": "init was running and is paused",
    "stopped": "init was killed by SIGKILL, not deleted yet",
    "deleted": "the container was deleted",
    "exec added": "an exec was added to a running container, not started",
    "exec added, init created": "an exec was added to a created container",
    "exec added, init paused": "an exec was added, then the container was paused",
    "exec added, init stopped": "an exec was added, then init was killed",
    "exec running": "an exec runs",
    "exec running, init paused": "an exec runs in a container that is paused",
    "exec running, started again": "an exec runs, and a second Start was refused",
    "exec stopped": "an exec has ended with status 3",
    "exec stopped, init stopped": "an exec was running when init was killed",
    "exec deleted": "an exec has ended and was deleted",
    "exec hopeless": "an exec was added whose program does not exist",
    "exec failed": "such an exec could not be started",
    "terminal created": "a container with a terminal was created",
    "terminal running": "a container with a terminal runs",
    "terminal stopped": "a container with a terminal was killed",
    "exec with a terminal": "an exec with a terminal runs",
    "streams running": "a container with three FIFOs runs",
}

KNOWN = (
    "State",
    "Create",
    "Start",
    "Delete",
    "Pids",
    "Pause",
    "Resume",
    "Checkpoint",
    "Kill",
    "Exec",
    "ResizePty",
    "CloseIO",
    "Update",
    "Wait",
    "Stats",
    "Connect",
    "Shutdown",
)
OPTIONS = "containerd.runc.v1.Options"
WITH_EXEC_ID = ("State", "Start", "Delete", "Kill", "ResizePty", "CloseIO", "Wait")


class Differs:
    """Why the stock shim answers otherwise, in these states and versions of it."""

    def __init__(
        self,
        why: str,
        *states: str,
        since: tuple[int, ...] = (),
        before: tuple[int, ...] | None = None,
        sometimes: bool = False,
        skip: bool = False,
    ) -> None:
        """`sometimes`: it may also be the same; `skip`: it must not be asked."""
        self.why = why
        self.states = states
        self.since = since
        self.before = before
        self.sometimes = sometimes
        self.skip = skip

    def applies(self, state: str, version: tuple[int, ...]) -> bool:
        if self.states and state not in self.states:
            return False
        return version >= self.since and (self.before is None or version < self.before)


class Call:
    """An RPC with some input, to be made in each of `states`."""

    known = KNOWN

    def __init__(
        self,
        method: str,
        states: tuple[str, ...],
        input: str = "",
        *,
        differs: tuple[Differs, ...] = (),
        prepare: Callable[[Bundle], object] | None = None,
        service: str = "",
        end_shim: bool = False,
        **fields: Any,
    ) -> None:
        """`input` is its name in words, "" for the ordinary one; `prepare` changes the bundle.

        `fields` are those of the request that are not what is usual. `end_shim`: the shim is to
        be without any container, and must end.
        """
        self.method = method
        self.states = states
        self.input = input
        self.differs = differs
        self.prepare = prepare
        self.service = service
        self.end_shim = end_shim
        self.fields = fields

    @property
    def name(self) -> str:
        """Of the row, within a state."""
        return f"{self.method}: {self.input}" if self.input else self.method

    def defaults(self, exec_id: str) -> dict[str, Any]:
        """The fields that the method usually has, besides the id."""
        found: dict[str, Any] = {"exec_id": exec_id} if self.method in WITH_EXEC_ID else {}
        return {**found, **_DEFAULTS.get(self.method, {})}

    def why(self, state: str, version: tuple[int, ...]) -> Differs | None:
        """The reason that applies to a stock shim's answer, if it may differ."""
        return next((d for d in self.differs if d.applies(state, version)), None)


def any_of(message: Message, type_url: str = "") -> AnyMessage:
    return AnyMessage(
        type_url=type_url or message.DESCRIPTOR.full_name, value=message.SerializeToString()
    )


def raw(value: bytes, type_url: str = "x") -> AnyMessage:
    return AnyMessage(type_url=type_url, value=value)


def process(**changes: Any) -> AnyMessage:
    """The spec of an exec."""
    full = {
        "args": ["/bin/sleep", "1000"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
        **changes,
    }
    return AnyMessage(type_url=PROCESS_TYPE, value=json.dumps(full).encode())


def resources(**given: Any) -> AnyMessage:
    return raw(json.dumps(given).encode())


_DEFAULTS: dict[str, dict[str, Any]] = {
    "Create": {"bundle": "{bundle}"},
    "Kill": {"signal": 9},
    "Exec": {"exec_id": "e9", "spec": process()},
    "ResizePty": {"width": 80, "height": 25},
    "CloseIO": {"stdin": True},
    "Update": {"resources": resources(pids={"limit": 100})},
    "Checkpoint": {"path": "{place}/image"},
}


def args(*words: str) -> Callable[[Bundle], object]:
    """The container is to run something else."""
    return at("args", list(words))


def at(name: str, value: Any) -> Callable[[Bundle], object]:
    """Something in `process` of the config is to be `value`."""

    def change(bundle: Bundle) -> None:
        bundle.config["process"][name] = value
        bundle.save()

    return change


def no_process(bundle: Bundle) -> None:
    del bundle.config["process"]
    bundle.save()


def no_config(bundle: Bundle) -> None:
    (bundle.path / "config.json").unlink()


def write(name: str, content: str) -> Callable[[Bundle], object]:
    """A file in the bundle."""
    return lambda bundle: (bundle.path / name).write_text(content)


# Names that containerd would never send.
HOSTILE = {
    "that climbs": "../../x",
    "that is a path": "/etc",
    "that is a dot": ".",
    "with a blank": "a b",
    "with a newline": "a\nb",
    "that is an option": "-x",
    "of 77 letters": "x" * 77,
    "of 100 kB": "x" * 100_000,
}
SIGNALS = {"0": 0, "1": 1, "15": 15, "64": 64, "65": 65, "1000": 1000, "-1": (1 << 32) - 1}

# Why the stock shim answers otherwise. `nil` and `go_json` are words for kinds of answers.
nil = (Differs("dies of a nil pointer"),)
go_json = (Differs("answers Unknown, with words of Go's decoder"),)
registry = (Differs("answers with another code, and words of its type registry"),)
older_words = (Differs("has other words for it", before=(2,)),)
other_types = (
    Differs("knows only containerd.runc.v1.Options; these come to runtimes of another name"),
)
no_name = (Differs("opens the empty name"),)
names = (Differs("has no rule for names; containerd has, runc has another"),)
paths = (Differs("has no rule for names, and puts them into paths"),)
never_started = (
    Differs(
        "forgets the exit: status 0 without a time, and a Wait is never answered",
        "created",
        "terminal created",
    ),
)
taken = (
    Differs(
        "lets the engine find out; cleaning up, it unmounts the rootfs of the running container",
        "created", "running", "paused", "stopped",
    ),
    Differs("makes a second container of the same id", "restoring"),
    Differs("takes the end of the first cgroup for an OOM kill", "deleted", sometimes=True),
)  # fmt: skip
start_again = (
    Differs("dies: it closes a channel twice", "exec failed"),
    Differs("has no such check, and leaves it to the engine", "exec added, init stopped",
            before=(1, 7, 22)),
    Differs("has no such check", "exec stopped, init stopped", before=(1, 7, 22)),
)  # fmt: skip
exits_twice = (
    Differs("publishes the exit twice, once for each Start, and dies when init ends",
            "exec running, started again", since=(1, 7), sometimes=True),
)  # fmt: skip

ORDINARY = [
    Call("State", STATES),
    Call("Create", ("nothing",)),
    Call("Start", STATES, differs=start_again),
    Call("Delete", STATES, differs=never_started),
    Call("Pids", STATES),
    Call("Pause", INIT),
    Call("Resume", INIT),
    Call("Checkpoint", INIT),
    Call("Kill", STATES, differs=exits_twice),
    Call("Exec", (*INIT, *TERMINAL)),
    Call("ResizePty", STATES),
    Call("CloseIO", STATES),
    Call("Update", INIT),
    Call("Wait", STATES),
    Call("Stats", INIT),
    Call("Connect", INIT),
    Call("Shutdown", INIT),
    Call("Shutdown", ("running", "stopped"), "now", now=True),
    Call("Shutdown", ("nothing",), "no container is there", end_shim=True),
]

UNKNOWN_METHODS = [
    Call("Nothing", ("nothing", "running"), "a method that there is not"),
    Call("State", ("nothing",), "a service that there is not", service="containerd.task.v9.Task"),
]

IDS = [
    *(Call(name, ("running",), "an unknown id", id="nobody") for name in KNOWN if name != "Create"),
    *(Call(name, ("running",), "no id", id="") for name in KNOWN if name != "Create"),
    *(
        Call(name, ("running",), f"an id {how}", id=value)
        for name in ("State", "Delete", "Kill")
        for how, value in HOSTILE.items()
    ),
    *(
        Call(
            name,
            (*LIVING, "stopped"),
            "an unknown exec",
            exec_id="nobody",
            differs=(Differs("looks the exec up first", "stopped", before=(1, 7, 22)),)
            if name == "Start"
            else (),
        )
        for name in WITH_EXEC_ID
    ),
    *(
        Call(name, ("running",), f"an exec id {how}", exec_id=value)
        for name in ("State", "Start", "Delete", "Kill", "CloseIO")
        for how, value in (("that climbs", "../e"), ("of 100 kB", "x" * 100_000))
    ),
]

KILLS = [
    *(
        Call("Kill", (*LIVING, "stopped", "restoring", "exec running", "exec stopped"),
             f"signal {name}", signal=value)
        for name, value in SIGNALS.items()
    ),
    *(
        Call("Kill", (*LIVING, "stopped", "restoring", "exec added", "exec running",
                      "exec stopped"), f"signal {signum}, all", signal=signum, all=True)
        for signum in (0, 9, 15)
    ),
]  # fmt: skip

EXECS = [
    Call("Exec", EXEC, "the same id again", exec_id="e1"),
    Call("Exec", ("running",), "no spec", spec=None, differs=nil),
    Call("Exec", ("running",), "an empty spec", spec=AnyMessage(), differs=go_json),
    Call("Exec", ("running",), "a spec that is no JSON", spec=raw(b"{bad"), differs=go_json),
    Call("Exec", ("running",), "a spec that is a list", spec=raw(b"[]"), differs=go_json),
    Call("Exec", ("running",), "a spec that is null", spec=raw(b"null"),
         differs=(Differs("takes it for an empty spec"),)),
    Call("Exec", ("running",), "a spec with a wrong type", spec=raw(b'{"args": 5}'),
         differs=(Differs("decodes the spec; here the engine does, in Start"),)),
    Call("Exec", ("running",), "a spec without anything", spec=raw(b"{}")),
    Call("Exec", ("running",), "a spec of another type url",
         spec=AnyMessage(type_url="x.y/z", value=process().value)),
    Call("Exec", ("running",), "a terminal", terminal=True, stdout="{place}/nowhere"),
    Call("Exec", ("running",), "streams",
         stdin="{place}/0", stdout="{place}/1", stderr="{place}/2"),
    Call("Exec", ("running",), "stdout with an unknown scheme", stdout="http://x"),
    Call("Exec", ("running",), "stdout that cannot be parsed", stdout="binary://%zz"),
    Call("Exec", ("running",), "no exec id", exec_id="",
         differs=(Differs("adds an exec that nobody can ask for"),)),
    *(
        Call("Exec", ("running",), f"an exec id {how}", exec_id=value, differs=paths)
        for how, value in HOSTILE.items()
    ),
]  # fmt: skip

RESIZES = [
    Call("ResizePty", ("running", "terminal running", "exec with a terminal"), "zero",
         width=0, height=0),
    Call("ResizePty", ("running", "terminal running", "exec with a terminal"), "enormous",
         width=(1 << 32) - 1, height=70_000),
]  # fmt: skip

CLOSES = [
    Call("CloseIO", (*LIVING, "exec running", "streams running"), "nothing to close", stdin=False),
]

UPDATES = [
    Call("Update", LIVING, "no resources", resources=None, differs=nil),
    Call("Update", ("running",), "empty resources", resources=AnyMessage(), differs=go_json),
    Call("Update", ("running",), "resources that are no JSON", resources=raw(b"{bad"),
         differs=go_json),
    Call("Update", ("running",), "resources that are a list", resources=raw(b"[]"),
         differs=go_json),
    Call("Update", ("running",), "resources of a wrong type", resources=raw(b'{"pids": 1}'),
         differs=(Differs("decodes them before the engine does, in the same words"),)),
    Call("Update", (*LIVING, "stopped"), "nothing in resources", resources=raw(b"{}")),
    Call("Update", ("running",), "unknown resources", resources=raw(b'{"nothing": {"x": 1}}')),
    Call("Update", ("running",), "resources of any type url",
         resources=raw(b'{"pids":{"limit":90}}', "x.y/z")),
    Call("Update", ("running",), "too little memory", resources=resources(memory={"limit": 4096})),
    Call("Update", ("running",), "annotations", annotations={"a": "b"}),
]  # fmt: skip

CHECKPOINTS = [
    Call("Checkpoint", ("running",), "options of another type", options=any_of(Options(root="x")),
         differs=(Differs("dies of a failed type assertion", before=(1, 7)),
                  Differs("answers Unknown, with words of its type registry"))),
    Call("Checkpoint", ("running",), "options of an unknown type", options=raw(b"x", "foo.bar"),
         differs=registry),
    Call("Checkpoint", ("running",), "options that are none",
         options=raw(b"\xff\xff", "containerd.runc.v1.CheckpointOptions"), differs=registry),
    Call("Checkpoint", ("running",), "empty options", options=AnyMessage(),
         differs=(Differs("knows no type without a name, though there is nothing to decode"),)),
    Call("Checkpoint", ("running", "paused"), "a work directory",
         options=any_of(CheckpointOptions(work_path="/nowhere/work"))),
    Call("Checkpoint", ("running",), "no path", path=""),
]  # fmt: skip

NOTHING = ("nothing",)
CREATES = [
    Call("Create", ("created", "restoring", "running", "paused", "stopped", "deleted"),
         "the same id again", differs=taken),
    Call("Create", NOTHING, "no id", id="", differs=names),
    *(
        Call("Create", NOTHING, f"an id {how}", id=value, differs=names)
        for how, value in HOSTILE.items()
    ),
    Call("Create", NOTHING, "no bundle", bundle="",
         differs=(Differs("runs what lies in its working directory", skip=True),)),
    Call("Create", NOTHING, "a missing bundle", bundle="{place}/nowhere"),
    Call("Create", NOTHING, "a relative bundle", bundle="nowhere",
         differs=(Differs("looks for it in its working directory"),)),
    Call("Create", NOTHING, "a bundle that is a file", bundle="{bundle}/config.json"),
    Call("Create", NOTHING, "no config", prepare=no_config),
    Call("Create", NOTHING, "a config that is no JSON", prepare=write("config.json", "{bad")),
    Call("Create", NOTHING, "an empty config", prepare=write("config.json", "{}")),
    Call("Create", NOTHING, "a program that is not there", prepare=args("/nosuch")),
    Call("Create", NOTHING, "a program that is not in PATH", prepare=args("nosuch")),
    Call("Create", NOTHING, "a program that is a directory", prepare=args("/bin")),
    Call("Create", NOTHING, "a program that is not executable", prepare=args("/etc/passwd")),
    Call("Create", NOTHING, "no args", prepare=args()),
    Call("Create", NOTHING, "a relative cwd", prepare=at("cwd", "x")),
    Call("Create", NOTHING, "no process", prepare=no_process),
    Call("Create", NOTHING, "an rlimit that there is not",
         prepare=at("rlimits", [{"type": "RLIMIT_X", "hard": 1, "soft": 1}])),
    Call("Create", NOTHING, "a terminal that only the request has",
         terminal=True, stdout="{place}/nowhere"),
    Call("Create", NOTHING, "a terminal that only the spec has", prepare=at("terminal", True)),
    Call("Create", NOTHING, "a terminal without streams", prepare=at("terminal", True),
         terminal=True),
    Call("Create", NOTHING, "a terminal whose stdout is not there", prepare=at("terminal", True),
         terminal=True, stdout="{place}/nowhere"),
    Call("Create", NOTHING, "stdout and stderr that are not there",
         stdout="{place}/nowhere", stderr="{place}/neither"),
    Call("Create", NOTHING, "stdin that is not there", stdin="{place}/nowhere",
         stdout="{bundle}/out", stderr="{bundle}/out", prepare=write("out", "")),
    Call("Create", NOTHING, "only stdin, and that is not there", stdin="{place}/nowhere",
         differs=(Differs("gives no answer"),)),
    Call("Create", NOTHING, "stdin that is a file", stdin="{bundle}/config.json",
         stdout="{bundle}/out", stderr="{bundle}/out", prepare=write("out", ""),
         differs=(Differs("copies a plain file; newer versions of its FIFO library refuse it"),)),
    Call("Create", NOTHING, "a terminal whose stdout is a file", prepare=at("terminal", True),
         terminal=True, stdout="{bundle}/config.json"),
    Call("Create", NOTHING, "a terminal whose logging binary is not there",
         prepare=at("terminal", True), terminal=True, stdout="binary:///nosuch"),
    Call("Create", NOTHING, "stdout and stderr that are one file",
         stdout="{bundle}/out", stderr="{bundle}/out", prepare=write("out", "")),
    Call("Create", NOTHING, "stdout without stderr",
         stdout="{bundle}/out", prepare=write("out", ""), differs=no_name),
    Call("Create", NOTHING, "stderr without stdout",
         stderr="{bundle}/out", prepare=write("out", ""), differs=no_name),
    Call("Create", NOTHING, "output to a file that is made",
         stdout="file://{bundle}/new/out", stderr="file://{bundle}/new/out"),
    Call("Create", NOTHING, "stdout with an unknown scheme", stdout="http://x"),
    Call("Create", NOTHING, "stdout that cannot be parsed", stdout="binary://%zz"),
    Call("Create", NOTHING, "a logging binary that is not there", stdout="binary:///nosuch",
         stderr="binary:///nosuch", differs=older_words),
    Call("Create", NOTHING, "a logging binary that ends at once", stdout="binary:///bin/false",
         stderr="binary:///bin/false"),
    Call("Create", NOTHING, "empty options", options=AnyMessage()),
    Call("Create", NOTHING, "options without a value", options=raw(b"", "foo.bar"),
         differs=(Differs("looks at the type all the same", before=(1, 7)),)),
    Call("Create", NOTHING, "options", options=any_of(Options(no_new_keyring=True))),
    Call("Create", NOTHING, "options with a host in the type",
         options=any_of(Options(no_new_keyring=True), f"type.googleapis.com/{OPTIONS}"),
         differs=(Differs("wants the exact name", before=(1, 7)),)),
    Call("Create", NOTHING, "options of a checkpoint",
         options=any_of(CheckpointOptions(exit=True)),
         differs=(Differs("dies of a failed type assertion"),)),
    Call("Create", NOTHING, "options of an unknown type", options=raw(b"x", "foo.bar"),
         differs=registry),
    Call("Create", NOTHING, "options without a type", options=raw(b"x", ""), differs=(
        Differs("ignores them", before=(1, 7)), *registry)),
    Call("Create", NOTHING, "options that are none",
         options=raw(b"\xff\xff\xff", OPTIONS), differs=registry),
    Call("Create", NOTHING, "options of any runtime", options=any_of(
        RuntimeOptions(config_body=b"NoNewKeyring = true"), "runtimeoptions.v1.Options"),
        differs=other_types),
    Call("Create", NOTHING, "options of containerd 1.6's clients", options=any_of(
        CreateOptions(no_new_keyring=True), "containerd.linux.runc.CreateOptions"),
        differs=other_types),
    Call("Create", NOTHING, "an engine that is not in PATH",
         options=any_of(Options(binary_name="no-runc"))),
    Call("Create", NOTHING, "an engine that is not there",
         options=any_of(Options(binary_name="/no/runc"))),
    Call("Create", NOTHING, "an engine that fails",
         options=any_of(Options(binary_name="/bin/false"))),
    Call("Create", NOTHING, "a rootfs of an unknown type",
         rootfs=[Mount(type="nosuchfs", source="x")], differs=older_words),
    Call("Create", NOTHING, "an overlay of missing layers",
         rootfs=[Mount(type="overlay", source="overlay", options=["lowerdir=/nosuch"])],
         differs=older_words),
    Call("Create", NOTHING, "a bind mount of nothing",
         rootfs=[Mount(type="bind", source="/nosuch", options=["rbind"])],
         differs=older_words),
    Call("Create", NOTHING, "a tmpfs as rootfs", rootfs=[Mount(type="tmpfs", source="tmpfs")]),
    Call("Create", NOTHING, "a mount target that climbs", rootfs=[
        Mount(type="tmpfs", source="tmpfs"),
        Mount(type="tmpfs", source="tmpfs", target="../../x"),
    ], differs=(Differs("mounts it over the rootfs", before=(1, 7)),
                Differs("looks for it below the rootfs, where it is not"))),
    Call("Create", NOTHING, "a checkpoint", checkpoint="{place}/image"),
    Call("Create", NOTHING, "a checkpoint with a parent", checkpoint="{place}/image",
         parent_checkpoint="{place}/parent"),
]  # fmt: skip

CALLS = [
    *ORDINARY,
    *UNKNOWN_METHODS,
    *IDS,
    *KILLS,
    *EXECS,
    *RESIZES,
    *CLOSES,
    *UPDATES,
    *CHECKPOINTS,
    *CREATES,
]


def rows(state: str) -> list[Call]:
    """The calls that are made in a state, in their order."""
    return [call for call in CALLS if state in call.states]
