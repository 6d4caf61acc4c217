"""Runtime options: from whatever type a client sent to the one that is used (CONTRACT 1.3).

Four types arrive. `containerd.runc.v1.Options` when the runtime is called io.containerd.runc.v2;
`runtimeoptions.v1.Options` from CRI and docker for a runtime of any other name, holding the options
table as TOML or the path of a file with it; `containerd.linux.runc.CreateOptions` from the client
helpers of containerd 1.6 and 1.7; and nothing at all. Every other type is refused by name: the
stock shim dies of some of them (SEMANTICS 1.0).
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from shim_runc_py.api.runc_options_pb2 import Options
from shim_runc_py.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any as Anything

    from google.protobuf.any_pb2 import Any

# Keys of the TOML table are the Go field names (CONTRACT 1.3), in any case: so containerd 2 reads
# the table of io.containerd.runc.v2.
_TOML_KEYS = {
    "NoPivotRoot": "no_pivot_root",
    "NoNewKeyring": "no_new_keyring",
    "ShimCgroup": "shim_cgroup",
    "IoUid": "io_uid",
    "IoGid": "io_gid",
    "BinaryName": "binary_name",
    "Root": "root",
    "CriuPath": "criu_path",
    "SystemdCgroup": "systemd_cgroup",
    "CriuImagePath": "criu_image_path",
    "CriuWorkPath": "criu_work_path",
    "TaskApiAddress": "task_api_address",
    "TaskApiVersion": "task_api_version",
}
_FIELDS = {key.lower(): name for key, name in _TOML_KEYS.items()}
# What containerd itself puts into the table, or takes from it.
_OTHERS = ("typeurl", "configpath", "configbody")


def decode(any_: Any | None, ignored: list[str] | None = None) -> Options:
    """The options in a request; an absent or empty Any gives the defaults.

    Keys of a table that mean nothing to anybody are added to `ignored`, for the log. Raises
    InvalidArgument for a type that is not known and for bytes that are not of their type.
    """
    if any_ is None or not any_.value:
        return Options()
    name = any_.type_url.rpartition("/")[2]
    try:
        if name == "containerd.runc.v1.Options":
            return Options.FromString(any_.value)
        if name == "runtimeoptions.v1.Options":
            return _from_runtime_options(any_.value, ignored)
        if name == "containerd.linux.runc.CreateOptions":
            return _from_legacy(any_.value)
    except DecodeError as error:
        raise InvalidArgument(f"options are no {name}: {error}") from None
    raise InvalidArgument(
        f'options of type "{any_.type_url}": a runc shim takes containerd.runc.v1.Options, '
        "runtimeoptions.v1.Options or containerd.linux.runc.CreateOptions"
    )


def _from_runtime_options(value: bytes, ignored: list[str] | None) -> Options:
    from shim_runc_py.api.runtime_options_pb2 import Options as RuntimeOptions

    given = RuntimeOptions.FromString(value)
    if given.config_body:
        return from_toml(given.config_body, "the runtime's options table", ignored)
    if given.config_path:
        try:
            with open(given.config_path, "rb") as file:
                return from_toml(file.read(), given.config_path, ignored)
        except OSError as error:
            raise InvalidArgument(f"runtime options {error.filename}: {error.strerror}") from None
        except ValueError as error:  # a NUL in the path
            raise InvalidArgument(f"runtime options {given.config_path!r}: {error}") from None
    return Options()


def from_toml(body: bytes, where: str, ignored: list[str] | None = None) -> Options:
    """Options from a TOML table with the Go field names; raises InvalidArgument.

    A key that is none of them is no error: containerd does not mind it either, and a table may be
    written for a newer shim. Those that are not containerd's own are added to `ignored`.
    """
    import tomllib

    try:
        table: dict[str, Anything] = tomllib.loads(body.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(f"{where} is no TOML: {error}") from None
    options = Options()
    for key, value in table.items():
        name = _FIELDS.get(key.lower())
        if name is None:
            if ignored is not None and key.lower() not in _OTHERS:
                ignored.append(key)
            continue
        try:
            setattr(options, name, value)
        except (TypeError, ValueError):
            raise InvalidArgument(f"{where}: {key} = {value!r} has the wrong type") from None
    return options


def _from_legacy(value: bytes) -> Options:
    from shim_runc_py.api.legacy_options_pb2 import CreateOptions

    given = CreateOptions.FromString(value)
    return Options(
        no_pivot_root=given.no_pivot_root,
        no_new_keyring=given.no_new_keyring,
        shim_cgroup=given.shim_cgroup,
        io_uid=given.io_uid,
        io_gid=given.io_gid,
        criu_work_path=given.criu_work_path,
        criu_image_path=given.criu_image_path,
    )


def as_json(options: Options) -> str:
    """The options as the stock shim writes them: snake case, without zero values."""
    import json

    fields = {field.name: value for field, value in options.ListFields()}
    return json.dumps(fields, separators=(",", ":"))
