"""`-info`: what this runtime is and what its engine can do (CONTRACT 2.4, SEMANTICS 12.6).

containerd 2.0 and later ask at start-up, and 2.2 and later before a Create. No namespace, no id and
no environment of a task are there; standard input has the runtime options or nothing.
"""

import os

from shim_runc_py import __version__
from shim_runc_py.shim import wire
from shim_runc_py.shim.bootstrap import MOST_INPUT
from shim_runc_py.shim.flags import RUNTIME_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FEATURES = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
ENGINE_BOUND = 10.0  # seconds


class InfoError(Exception):
    """There is no such engine, or the options are no options."""


def run(given: bytes, environ: "Mapping[str, str]") -> bytes:
    """The serialized RuntimeInfo. `given` is the Any on standard input. Raises InfoError."""
    binary = _binary_name(given)
    message = wire.text(1, RUNTIME_NAME)
    message += wire.text(2, wire.text(1, __version__))
    message += wire.text(3, given)
    features = _features(binary, environ)
    if features:
        message += wire.text(4, wire.text(1, FEATURES) + wire.text(2, features))
    return message


def read_input() -> bytes:
    """Standard input to its end."""
    parts = []
    while part := os.read(0, 65536):
        parts.append(part)
        if sum(map(len, parts)) > MOST_INPUT:
            raise InfoError(f"more than {MOST_INPUT} bytes on standard input")
    return b"".join(parts)


def _binary_name(given: bytes) -> str:
    if not given:
        return ""
    from google.protobuf.message import DecodeError

    from shim_runc_py.errors import InvalidArgument
    from shim_runc_py.task import options
    from shim_runc_py.ttrpc.wellknown_pb2 import Any

    try:
        return options.decode(Any.FromString(given)).binary_name
    except (DecodeError, InvalidArgument) as error:
        raise InfoError(f"failed to read the options on standard input: {error}") from None


def _features(binary: str, environ: "Mapping[str, str]") -> bytes:
    """What `<engine> features` prints, b"" for an engine without that command.

    Passed on as it is: the stock shim drops what it does not know itself.
    """
    from shim_runc_py.linux import spawn, wait
    from shim_runc_py.runc import argv, spec

    name = binary or argv.DEFAULT_BINARY
    executable = spawn.find(name, environ.get("PATH", ""))
    if executable is None or not os.access(executable, os.X_OK):
        raise InfoError(
            f'failed to look up the path of "{name}": exec: "{name}": '
            "executable file not found in $PATH"
        )
    output = os.memfd_create("engine-output", os.MFD_CLOEXEC)
    child = spawn.spawn(
        [name, *argv.features()],
        executable,
        argv.environment(environ),
        spawn.Streams(-1, output, -1),
    )
    status = wait.within(child.pid, ENGINE_BOUND)
    if status is None:
        os.killpg(child.pid, 9)
    said = os.pread(output, MOST_INPUT, 0) if status == 0 else b""
    try:
        spec.check_object(said)
    except ValueError:
        return b""
    return said
