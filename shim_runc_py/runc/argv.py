"""The command lines of an OCI engine, in the order of the stock shim (SEMANTICS 12, CONTRACT B).

Pure: values in, lists of strings out. Order and spelling are kept because wrappers around runc
parse them, and because the parity report compares them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_BINARY = "runc"
# Engines whose files and system calls are known, by the name of their binary.
KNOWN_ENGINES = ("runc", "crun")
DEFAULT_ROOT = "/run/containerd/runc"


def root(base: str, namespace: str) -> str:
    """The engine's state directory for a containerd namespace."""
    return f"{(base or DEFAULT_ROOT).rstrip('/')}/{namespace}"


def common(binary: str, root_dir: str, log: str, *, systemd_cgroup: bool = False) -> list[str]:
    """What stands before every sub-command."""
    argv = [binary or DEFAULT_BINARY, "--root", root_dir, "--log", log, "--log-format", "json"]
    if systemd_cgroup:
        argv.append("--systemd-cgroup")
    return argv


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for engines and loggers: without what belongs to the shim alone."""
    return {
        key: value
        for key, value in environ.items()
        if key != "NOTIFY_SOCKET" and not key.startswith(("PYTHON", "LD_", "LISTEN_"))
    }


def create(
    container: str,
    bundle: str,
    pid_file: str,
    *,
    console_socket: str = "",
    no_pivot: bool = False,
    no_new_keyring: bool = False,
) -> list[str]:
    argv = ["create", "--bundle", bundle, "--pid-file", pid_file]
    if console_socket:
        argv += ["--console-socket", console_socket]
    if no_pivot:
        argv.append("--no-pivot")
    if no_new_keyring:
        argv.append("--no-new-keyring")
    return [*argv, container]


def start(container: str) -> list[str]:
    return ["start", container]


def execute(
    container: str, process_file: str, pid_file: str, *, console_socket: str = ""
) -> list[str]:
    argv = ["exec", "--process", process_file]
    if console_socket:
        argv += ["--console-socket", console_socket]
    return [*argv, "--detach", "--pid-file", pid_file, container]


def kill(container: str, signum: int, *, everyone: bool = False) -> list[str]:
    return ["kill", *(["--all"] if everyone else []), container, str(signum)]


def delete(container: str, *, force: bool = False) -> list[str]:
    return ["delete", *(["--force"] if force else []), container]


def pause(container: str) -> list[str]:
    return ["pause", container]


def resume(container: str) -> list[str]:
    return ["resume", container]


def ps(container: str) -> list[str]:
    return ["ps", "--format", "json", container]


def update(container: str) -> list[str]:
    """The resources go to standard input, as JSON."""
    return ["update", "--resources=-", container]


def checkpoint(
    container: str,
    image_path: str,
    work_path: str,
    *,
    parent_path: str = "",
    tcp_established: bool = False,
    external_unix_sockets: bool = False,
    shell_job: bool = False,
    file_locks: bool = False,
    empty_namespaces: Sequence[str] = (),
    leave_running: bool = False,
) -> list[str]:
    argv = ["checkpoint", "--image-path", image_path, "--work-path", work_path]
    if parent_path:
        argv += ["--parent-path", parent_path]
    if tcp_established:
        argv.append("--tcp-established")
    if external_unix_sockets:
        argv.append("--ext-unix-sk")
    if shell_job:
        argv.append("--shell-job")
    if file_locks:
        argv.append("--file-locks")
    for namespace in empty_namespaces:
        argv += ["--empty-ns", namespace]
    if leave_running:
        argv.append("--leave-running")
    return [*argv, container]


def restore(
    container: str,
    bundle: str,
    pid_file: str,
    image_path: str,
    work_path: str,
    *,
    console_socket: str = "",
    no_pivot: bool = False,
) -> list[str]:
    """There is no --parent-path: runc restore does not know it (SEMANTICS 3.9)."""
    argv = ["restore", "--image-path", image_path, "--work-path", work_path]
    argv += ["--detach", "--pid-file", pid_file]
    if console_socket:
        argv += ["--console-socket", console_socket]
    if no_pivot:
        argv.append("--no-pivot")
    return [*argv, "-no-subreaper", "--bundle", bundle, container]


def features() -> list[str]:
    """Without the common part."""
    return ["features"]
