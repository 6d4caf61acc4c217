"""`start`: make sure that a shim serves the task's group, and print its address.

The steps, in an order that matters (CONTRACT 2.3, 4.2, 5):

1. Read the input to its end, and the grouping annotations in config.json of the working directory,
   which is the bundle.
2. Under the lock of the socket directory: listen on the group's socket. If somebody alive listens
   there already, that is the shim: print its address and be done.
3. Fork the daemon *after* listen, so that a connection never finds nobody; it waits in the backlog
   until the daemon accepts. The daemon gives up standard output at once: containerd reads it to
   the end.
4. Set the daemon's oom score and cgroup, write `address`, print the address.

When a step fails, containerd only removes the bundle; it does not call `delete`. So whatever was
made before is undone here: the daemon is killed and the socket removed.

In the launcher's import budget.
"""

import os

from shim_runc_py.linux import sock
from shim_runc_py.shim import address, bootstrap
from shim_runc_py.shim.wire import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

    from shim_runc_py.shim.flags import Flags
    from shim_runc_py.shim.roles import Caller


class StartError(Exception):
    """`start` failed; the text is for the user of containerd."""


class Daemon:
    """What a daemon needs to begin to serve; handed over by fork."""

    def __init__(
        self,
        flags: "Flags",
        listener: "_socket.socket",
        path: str,
        bundle: str,
        ttrpc_address: str,
        debug: bool,
    ) -> None:
        self.flags = flags
        self.listener = listener
        self.path = path
        self.bundle = bundle
        self.ttrpc_address = ttrpc_address
        self.debug = debug
        self.image = ""  # a file for its memory, if it is but a model (`shim/model.py`)


def run(flags: "Flags", environ: dict[str, str], caller: "Caller") -> bytes:
    """The bytes for standard output. Raises StartError; does not return in the daemon."""
    bundle = os.getcwd()
    if environ.get("PYRUNC_STRICT") == "1":
        _refuse_doubtful()
    if len(caller.given) > bootstrap.MOST_INPUT:
        raise StartError(f"more than {bootstrap.MOST_INPUT} bytes on standard input")
    try:
        boot = bootstrap.parse(caller.given, flags.id, flags.namespace)
        cgroup = bootstrap.shim_cgroup(boot.options)
    except WireError as error:
        raise StartError(f"unable to read the options on standard input: {error}") from None
    group = _group(bundle) or flags.id
    path = address.socket_path(boot.socket_dir, flags.address, flags.namespace, group)
    if len(path) > sock.LONGEST_PATH:
        raise StartError(f"{path}: unix socket path too long (> {sock.LONGEST_PATH})")
    answer = bootstrap.answer(bootstrap.answer_form(boot.modern, environ), f"unix://{path}")
    listener = _listen(boot.socket_dir, path)
    if listener is None:
        _write_address(bundle, path)
        return answer
    ttrpc_address = boot.ttrpc_address or environ.get("TTRPC_ADDRESS", "")
    debug = flags.debug or boot.debug
    daemon = Daemon(flags, listener, path, bundle, ttrpc_address, debug)

    def introduce(pid: int) -> bytes:
        _adjust_oom_score(pid, caller.parent)
        if cgroup:
            _join_cgroup(pid, cgroup)
        _write_address(bundle, path)
        return answer

    try:
        if environ.get("SCHED_CORE"):
            _share_core()  # here, where a failure can be told; a fork inherits it
        caller.detach(daemon, environ, introduce)
    except BaseException as error:
        os.unlink(path)
        if isinstance(error, StartError):
            raise
        raise StartError(str(error)) from None
    return answer


def fork(daemon: Daemon, environ: dict[str, str], introduce: "Callable[[int], bytes]") -> None:
    """Make a child that serves; it is killed again if `introduce(its pid)` raises."""
    pid = os.fork()
    if not pid:
        become_daemon(daemon, environ)
    try:
        introduce(pid)
    except BaseException:
        from shim_runc_py.linux import wait

        os.kill(pid, 9)
        wait.within(pid, 1.0)
        raise


def _refuse_doubtful() -> None:
    """In strict mode: no shim out of files that others may have written (SECURITY 33)."""
    import sys

    from shim_runc_py.linux import trust

    for path in (sys.executable, os.path.dirname(os.path.dirname(__file__))):
        reason = trust.doubt(path)
        if reason:
            raise StartError(f"strict mode: {reason}")


def _group(bundle: str) -> str:
    try:
        with open(f"{bundle}/config.json", "rb") as file:
            return address.group(file.read())
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise StartError(f"open config.json: {text}") from None
    except ValueError as error:
        raise StartError(f"config.json cannot be read: {error}") from None


def _listen(directory: str, path: str) -> "_socket.socket | None":
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        found = os.lstat(directory)
        if found.st_mode & 0o170022 != 0o040000 or found.st_uid != os.geteuid():
            text = f"{directory} is no directory that only its owner, user {os.geteuid()}, "
            raise StartError(f"create new shim socket: {text}may write to")
        with sock.Lock(directory):
            return sock.listen(path)
    except OSError as error:
        raise StartError(f"create new shim socket: {error}") from None


def become_daemon(daemon: Daemon, environ: dict[str, str]) -> None:
    """In the process that is to serve; never returns."""
    status = 1
    try:
        os.setpgid(0, 0)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for fd in (0, 1, 2):
            os.dup2(null, fd, inheritable=False)
        os.close(null)
        from shim_runc_py.ttrpc import messages

        messages.lean()
        from shim_runc_py.shim import serve

        status = serve.run(daemon, environ)
    finally:
        os._exit(status)


def _adjust_oom_score(pid: int, parent: int) -> None:
    """One more than containerd's: of the two, the kernel shall take the shim first."""
    try:
        with open(f"/proc/{parent}/oom_score_adj") as file:
            score = min(1000, int(file.read()) + 1)
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(score))
    except PermissionError:
        pass  # not root, or a user namespace
    except OSError as error:
        raise StartError(f"failed to adjust OOM score for shim: {error}") from None


def _join_cgroup(pid: int, path: str) -> None:
    from shim_runc_py.linux import cgroup

    if not path.startswith("/") or address.clean(path) != path:
        raise StartError(f"failed to load cgroup {path}: not an absolute, clean path")
    try:
        cgroup.join(pid, path)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise StartError(f"failed to join cgroup {path}: {text}") from None


def _share_core() -> None:
    """Give this process group a core scheduling cookie of its own; raises StartError."""
    from shim_runc_py.linux import libc

    try:
        libc.share_core_with_group()
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise StartError(f"enable sched core support: {text}") from None


def _write_address(bundle: str, path: str) -> None:
    """containerd 1.6 and 1.7 find a running shim by this file; it has no newline (CONTRACT 3)."""
    temporary = f"{bundle}/.address"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o644)
    try:
        os.fchmod(fd, 0o644)
        os.write(fd, f"unix://{path}".encode())
    finally:
        os.close(fd)
    os.rename(temporary, f"{bundle}/address")
