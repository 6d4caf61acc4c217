"""What containerd hands to `start`, and how it is answered (CONTRACT 2.5 - 2.8).

containerd up to 2.2 sends the runtime options as an Any, or nothing; 2.3 and later send
BootstrapParams. An Any also parses as BootstrapParams, so the latter is believed only if it names
the same task and namespace as the flags.

The answer is the plain address: every containerd from 1.6 on takes it and speaks Task v2, which is
what keeps its clean-up of single pod members (CONTRACT 2.7). The two other forms are there for an
operator who wants Task v3 (PYRUNC_TASK_API=3 in the shim's environment).

Pure, but for a table of options in a file; in the launcher's import budget.
"""

from shim_runc_py.shim import wire

MOST_INPUT = 10 << 20
DEFAULT_SOCKET_DIR = "/run/containerd/s"
PLAIN, JSON, PROTOBUF = "plain", "json", "protobuf"

_OPTION_TYPES = (
    "containerd.runc.v1.Options",
    "runtimeoptions.v1.Options",
    "containerd.linux.runc.CreateOptions",
)


class Bootstrap:
    """The parsed input. `options` is (type URL, value), ("", b"") when there are none."""

    def __init__(self) -> None:
        self.options: tuple[str, bytes] = ("", b"")
        self.modern = False  # BootstrapParams
        self.socket_dir = DEFAULT_SOCKET_DIR
        self.ttrpc_address = ""
        self.debug = False


def parse(data: bytes, task: str, namespace: str) -> Bootstrap:
    """The input of `start`; raises WireError when it is neither of the two forms."""
    result = Bootstrap()
    if not data:
        return result
    message = wire.fields(data)
    try:
        modern = wire.first_text(message, 1) == task and wire.first_text(message, 2) == namespace
    except wire.WireError:
        modern = False
    if not modern:
        result.options = _any(message)
        return result
    result.modern = True
    result.ttrpc_address = wire.first_text(message, 5)
    result.socket_dir = wire.first_text(message, 9) or DEFAULT_SOCKET_DIR
    for number, value in message:
        if number == 3 and isinstance(value, int):
            level = value - (1 << 64) if value >> 63 else value
            result.debug = level <= -4
        elif number == 8 and isinstance(value, bytes):
            found = _any(wire.fields(wire.first_bytes(wire.fields(value), 1)))
            if found[0].rpartition("/")[2] in _OPTION_TYPES:
                result.options = found
    return result


def _any(message: list[tuple[int, int | bytes]]) -> tuple[str, bytes]:
    return wire.first_text(message, 1), wire.first_bytes(message, 2)


def shim_cgroup(options: tuple[str, bytes]) -> str:
    """The cgroup that the shim itself shall live in, "" for none; raises WireError.

    The one option that matters before the shim serves. Field numbers: CONTRACT 8.5.
    """
    name = options[0].rpartition("/")[2]
    if name == "containerd.runc.v1.Options":
        return wire.first_text(wire.fields(options[1]), 3)
    if name == "containerd.linux.runc.CreateOptions":
        return wire.first_text(wire.fields(options[1]), 9)
    if name == "runtimeoptions.v1.Options" and _may_name_a_cgroup(options[1]):
        return _from_table(options)
    return ""


def _may_name_a_cgroup(value: bytes) -> bool:
    """Is it worth while to read the table? That takes modules which `start` does not have."""
    return b"shimcgroup" in value.lower() or bool(wire.first_bytes(wire.fields(value), 2))


def _from_table(options: tuple[str, bytes]) -> str:
    from shim_runc_py.errors import InvalidArgument
    from shim_runc_py.task import options as runtime_options
    from shim_runc_py.ttrpc.wellknown_pb2 import Any

    try:
        return runtime_options.decode(Any(type_url=options[0], value=options[1])).shim_cgroup
    except InvalidArgument:
        return ""  # Create will say what is wrong with it


def answer_form(modern: bool, environ: dict[str, str]) -> str:
    """Which of the three forms to answer in."""
    if environ.get("PYRUNC_TASK_API") != "3":
        return PLAIN
    return PROTOBUF if modern else JSON


def answer(form: str, address: str) -> bytes:
    """The bytes for standard output; no newline, nothing else."""
    if form == PROTOBUF:
        # `protocol` comes last: containerd 2.3.0 - 2.3.3 trims white space off the end.
        return wire.number(1, 3) + wire.text(2, address) + wire.text(3, "ttrpc")
    if form == JSON:
        return f'{{"version":3,"address":"{address}","protocol":"ttrpc"}}'.encode()
    return address.encode()
