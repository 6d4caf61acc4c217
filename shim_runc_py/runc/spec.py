"""What a shim reads in an OCI spec: two annotations and whether the pid namespace is private.

Pure, but for the reading of the file. The spec goes to the engine byte for byte; nothing here
changes it (SECURITY 38).
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def read(bundle: str) -> dict[str, Any]:
    """The bundle's config.json; raises OSError and ValueError."""
    with open(f"{bundle}/config.json", "rb") as file:
        found = json.load(file)
    if not isinstance(found, dict):
        raise ValueError("config.json is no object")
    return found


def has_private_pid_namespace(spec: dict[str, Any]) -> bool:
    """Does the kernel kill every process of the container with its init (SEMANTICS 5.4)?

    False for the host's pid namespace and for one joined by its path.
    """
    linux = spec.get("linux")
    namespaces = linux.get("namespaces") if isinstance(linux, dict) else None
    if not isinstance(namespaces, list):
        return False
    return any(
        isinstance(entry, dict) and entry.get("type") == "pid" and not entry.get("path")
        for entry in namespaces
    )


def wants_systemd_cgroup(spec: dict[str, Any]) -> bool:
    """Is the cgroups path of the form `slice:prefix:name`, which only makes sense to systemd?

    runc without --systemd-cgroup would make a directory of that name (CONTRACT 1.4).
    """
    linux = spec.get("linux")
    path = linux.get("cgroupsPath") if isinstance(linux, dict) else None
    return isinstance(path, str) and path.count(":") == 2 and "/" not in path


def own_cgroup(spec: dict[str, Any], id: str) -> str:
    """The absolute cgroups path if it is named like the container, so nobody else's; else ""."""
    linux = spec.get("linux")
    path = linux.get("cgroupsPath") if isinstance(linux, dict) else None
    words = path.split("/") if isinstance(path, str) else [None]
    return "/".join(words) if words[0] == "" and words[-1] == id != "" and ".." not in words else ""


def check_object(text: bytes) -> dict[str, Any]:
    """`text` as a JSON object; raises ValueError when it is none."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is something else")
    return found


class UnsafeCwd(ValueError):
    """A working directory behind somebody's descriptor."""


def check_cwd(process: object) -> None:
    """Raises UnsafeCwd for a working directory in /proc/PID/fd, in whatever way it is spelled.

    An engine that leaks a descriptor of the host would make that directory the container's
    (SECURITY 9, CVE-2024-21626). No other directory is looked at here.
    """
    cwd = process.get("cwd") if isinstance(process, dict) else None
    if not isinstance(cwd, str):
        return
    names = [name for name in cwd.split("/") if name not in ("", ".")]
    for at, name in enumerate(names):
        rest = names[at + 1 :]
        if name != "proc" or not rest:
            continue
        if rest[1:2] == ["task"]:
            del rest[1:3]
        of_a_process = rest[0].isdigit() or rest[0] in ("self", "thread-self")
        if of_a_process and rest[1:2] == ["fd"]:
            raise UnsafeCwd(f"working directory {cwd} is a descriptor of a process")


def process_with_terminal(process_json: bytes, terminal: bool) -> bytes:
    """The JSON of an exec's process with `terminal` as the request has it (SEMANTICS 1.9).

    Raises ValueError when it is no JSON object, and UnsafeCwd.
    """
    process = check_object(process_json)
    check_cwd(process)
    if terminal:
        process["terminal"] = True
    else:
        process.pop("terminal", None)
    return json.dumps(process, separators=(",", ":")).encode() + b"\n"
