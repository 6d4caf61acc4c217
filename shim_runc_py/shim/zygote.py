"""The zygote: one preloaded process of a node that forks every shim (DESIGN section 5).

What a shim needs is imported, exercised and frozen once; a fork has it at once and shares the pages
with all others. `entry` is the other side and has the formats. The first `start` finds nobody,
begins the zygote and becomes its first caller. A fork for `start` asks for a second one, with a
request of another kind: a message with a descriptor, the listening socket; that fork serves.

A fork stands in for the process at the other end of the connection, so it takes over what an
executed program would have inherited from that: arguments, environment, working directory, umask,
resource limits and oom score, read from /proc while the caller waits. What cannot be taken over
(user, groups, capabilities, namespaces, cgroup, cpus, priority) has to be the same already;
otherwise the request is refused with "-", and the caller does it by itself.

Its life: single-threaded, never reads a request (the fork does, so a slow caller is nobody else's
trouble), lets the kernel reap, and goes when it has been idle for a while without children. Killed
at any moment it is missed by nobody: running shims are complete, the next `start` begins another.

Kernel facts
------------
* SIGCHLD set to SIG_IGN makes children vanish without a wait. It is inherited by fork, so each fork
  sets it back.
* While the caller waits for its answer its pid cannot be reused, so /proc/PID is the caller's.
* With sched_autogroup_enabled a session is a unit of scheduling. The zygote therefore stays in the
  session of its caller, containerd's, as every shim does that is executed.
* A title longer than the argument list of the execve cannot be set without CAP_SYS_RESOURCE, hence
  an argument of blanks.
"""

import os
import sys

from shim_runc_py.linux import procfs, sock
from shim_runc_py.shim import roles
from shim_runc_py.shim.roles import Caller

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import signal as _signal
    from collections.abc import Callable

    from shim_runc_py.shim.start import Daemon

    Limits = list[tuple[int, int]]  # soft and hard, by kind
else:
    import _signal

IDLE = 300.0  # seconds without a request and without a child
REQUEST_BOUND = 5.0  # seconds for a caller to send what it has
TITLE_ROOM = 1024
LISTENER = 3
_MUST_BE_SAME = (
    "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs",
    "Seccomp", "Cpus_allowed", "Mems_allowed",
)  # fmt: skip
_STAT_MUST_BE_SAME = (16, 37, 38)  # nice, rt_priority, policy: counted from behind the command
_LIMITS = 16


class Unsafe(Exception):
    """The directory of the zygotes is not ours alone."""


class Refused(Exception):
    """The caller differs from the zygote in something that a fork cannot change."""


def begin(place: str, name: str) -> None:
    """Execute a zygote that listens on `place`/`name`, unless somebody does already.

    It listens before this returns. Raises OSError and Unsafe.
    """
    os.makedirs(place, 0o700, exist_ok=True)
    found = os.lstat(place)
    if found.st_mode != 0o40700 or found.st_uid != os.geteuid():
        raise Unsafe(f"{place} is not a directory of mode 0700 of our own")
    path = f"{place}/{name}"
    with sock.Lock(place):
        listener = sock.listen(path)
        if listener is None or os.fork():
            return
        try:
            os.setpgid(0, 0)
            os.chdir("/")
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            kept = os.dup(listener.fileno())
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.dup2(kept, LISTENER)
            os.closerange(LISTENER + 1, os.sysconf("SC_OPEN_MAX"))
            before = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
            # Not empty: prctl.set_proctitle looks for the first variable, and crashes without one.
            environ = {"PYRUNC_ZYGOTE": place}
            if "PYRUNC_ZYGOTE_IDLE" in os.environ:
                environ["PYRUNC_ZYGOTE_IDLE"] = os.environ["PYRUNC_ZYGOTE_IDLE"]
            os.execve(sys.executable, [*before, roles.ZYGOTE, path, " " * TITLE_ROOM], environ)
        finally:
            os._exit(127)


def serve(path: str) -> int:
    """Fork for every caller until nobody needs it; `path` is where the inherited socket is."""
    import select

    from shim_runc_py.linux import wait

    idle = float(os.environ.get("PYRUNC_ZYGOTE_IDLE", IDLE))
    listener = _open_listener()
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    _preload()
    _rehearse(os.path.dirname(path))
    while True:
        if poll.poll(idle * 1000):
            _answer(listener)
        elif not wait.has_children():
            _retire(listener, path)
            return 0


def _open_listener() -> "_socket.socket":
    import _socket

    import prctl

    prctl.set_proctitle("containerd-shim-pyrunc-v2 zygote")
    prctl.set_name("pyrunc-zygote")
    os.set_inheritable(LISTENER, False)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
    listener = _socket.socket(fileno=LISTENER)
    listener.setblocking(False)
    listener.listen(sock.BACKLOG)  # once more: SO_PEERCRED shall name this process
    return listener


def _preload() -> None:
    """Import what a shim may ever need."""
    from shim_runc_py.ttrpc import messages

    messages.lean()
    from shim_runc_py.shim import model, rehearsal  # noqa: F401


def _rehearse(place: str) -> None:
    """Do everything once, and keep the collector away from what is there then."""
    import gc

    from shim_runc_py.linux import libc
    from shim_runc_py.shim import model, rehearsal

    rehearsal.hold(place)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
    gc.collect()
    libc.trim_heap()
    gc.freeze()
    model.share(place, stand_in)


def _retire(listener: "_socket.socket", path: str) -> None:
    """Go without losing a caller: whoever connected before the name was gone is answered."""
    try:
        with sock.Lock(os.path.dirname(path), 0.5):
            os.unlink(path)
    except (OSError, TimeoutError):
        pass
    while _answer(listener):
        pass


def _answer(listener: "_socket.socket") -> bool:
    """Fork for the next caller; False if there is none."""
    try:
        connection = sock.accept(listener)
    except BlockingIOError:
        return False
    except OSError:
        return True  # it went away again, or there is no room: it will help itself
    try:
        pid, uid, _ = sock.peer(connection)
        if uid == os.geteuid() and not os.fork():
            stand_in(connection, pid)
    except OSError:
        pass
    finally:
        connection.close()
    return True


def stand_in(connection: "_socket.socket", pid: int) -> None:
    """In a fork: do what is asked for by the process `pid`. Never returns."""
    status = 1
    try:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        os.setpgid(0, 0)
        os.close(LISTENER)
        connection.settimeout(REQUEST_BOUND)
        first, listener = _receive(connection)
        if listener >= 0:
            _serve_task(connection, listener)
        else:
            _run_role(connection, pid, first)
        status = 0
    finally:
        os._exit(status)


def _receive(connection: "_socket.socket") -> tuple[bytes, int]:
    """The first bytes of a request, and the descriptor that a request to serve has, else -1."""
    import _socket

    room = _socket.CMSG_SPACE(4)
    data, ancillary, _, _ = connection.recvmsg(65536, room, _socket.MSG_CMSG_CLOEXEC)
    for level, kind, raw in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            return data, int.from_bytes(raw[:4], sys.byteorder)
    return data, -1


def _read_on(connection: "_socket.socket", data: bytes) -> bytes:
    while part := connection.recv(65536):
        data += part
    return data


def _run_role(connection: "_socket.socket", pid: int, request: bytes) -> None:
    """Be the process `pid` and run its command."""
    path: str = connection.getsockname()
    try:
        words, environ, parent, limits = take_over(pid)
    except (Refused, OSError, ValueError):
        connection.sendall(b"-")
        return
    connection.sendall(b"+")
    given = _read_on(connection, request)
    argv = words[given[0] - 1 :]
    reply = roles.run(argv, environ, _Remote(path, given[1:], parent, limits))
    connection.sendall(encode(*reply))
    connection.close()  # now: at the end of a process its memory goes first


def encode(status: int, output: bytes, complaint: bytes) -> bytes:
    """The answer as `entry` reads it."""
    return bytes((status,)) + len(output).to_bytes(4, "little") + output + complaint


class _Remote(Caller):
    """A caller at the other end of a connection; the zygote forks its daemon, too.

    What `start` does touches a megabyte that a shim never needs again. So it is not the fork that
    did it that serves, but a second, fresh one, which is told what and where.
    """

    def __init__(self, path: str, given: bytes, parent: int, limits: "Limits | None") -> None:
        super().__init__(given, parent)
        self._path = path
        self._limits = limits

    def detach(
        self, daemon: "Daemon", environ: dict[str, str], introduce: "Callable[[int], bytes]"
    ) -> None:
        from shim_runc_py.shim import start

        try:
            pid = self._ask(daemon, environ)
        except OSError:
            start.fork(daemon, environ, introduce)
            return
        try:
            introduce(pid)
        except BaseException:
            os.kill(pid, _signal.SIGKILL)
            raise

    def _ask(self, daemon: "Daemon", environ: dict[str, str]) -> int:
        connection = sock.unix(blocking=True)
        try:
            connection.settimeout(REQUEST_BOUND)
            connection.connect(self._path)
            return ask_to_serve(connection, daemon, environ, self._limits)
        finally:
            connection.close()


def ask_to_serve(
    connection: "_socket.socket",
    daemon: "Daemon",
    environ: dict[str, str],
    limits: "Limits | None" = None,
    image: str = "",
) -> int:
    """The pid of the fork that serves, the other end of `connection`; raises OSError, StartError.

    `limits`, if they are not the zygote's. With an `image` the fork is no shim to stay, but the
    model of one (`shim/model.py`).
    """
    import _socket
    import marshal

    from shim_runc_py.shim import start

    flags = daemon.flags
    words = (flags.namespace, flags.id, flags.address, daemon.path, daemon.bundle, image)
    switches = (daemon.ttrpc_address, daemon.debug, daemon.share_core)
    umask = os.umask(0)
    os.umask(umask)
    request = marshal.dumps((words, switches, environ, umask, limits))
    listener = daemon.listener.fileno().to_bytes(4, sys.byteorder)
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, listener)
    connection.sendmsg([b"s"], [rights])
    connection.sendall(request)
    connection.shutdown(_socket.SHUT_WR)
    answer = _read_on(connection, b"")
    if not answer.isdigit():
        raise start.StartError(answer.decode("utf-8", "replace") or "no answer of the zygote")
    return int(answer)


def _serve_task(connection: "_socket.socket", listener: int) -> None:
    """Be a shim: the other side of `ask_to_serve`."""
    import _socket
    import marshal

    from shim_runc_py.shim import start
    from shim_runc_py.shim.flags import Flags

    words, switches, environ, umask, limits = marshal.loads(_read_on(connection, b""))
    flags = Flags()
    flags.namespace, flags.id, flags.address, path, bundle, image = words
    ttrpc_address, debug, share_core = switches
    try:
        os.umask(umask)
        _set_limits(limits)
        if share_core:
            start.share_core()
    except (start.StartError, OSError, ValueError) as error:
        connection.sendall(f"{error}".encode())
        return
    served = _socket.socket(fileno=listener)
    served.listen(sock.BACKLOG)  # once more: SO_PEERCRED shall name this process
    daemon = start.Daemon(flags, served, path, bundle, ttrpc_address, debug, image=image)
    connection.sendall(b"%d" % os.getpid())
    connection.close()
    start.become_daemon(daemon, environ)


def take_over(pid: int) -> "tuple[list[str], dict[str, str], int, Limits | None]":
    """Become like `pid`: (its command line, its environment, its parent, its limits if others).

    Raises Refused when that is not possible, OSError when it is gone.
    """
    ours = parse_status(procfs.read("/proc/self/status"))
    theirs = parse_status(procfs.read(f"/proc/{pid}/status"))
    for name in _MUST_BE_SAME:
        if ours.get(name) != theirs.get(name):
            raise Refused(name)
    if theirs.get("Seccomp", "0") != "0":
        raise Refused("Seccomp")
    our_stat, their_stat = (
        procfs.read(f"/proc/{who}/stat").rpartition(")")[2].split() for who in ("self", pid)
    )
    if [our_stat[n] for n in _STAT_MUST_BE_SAME] != [their_stat[n] for n in _STAT_MUST_BE_SAME]:
        raise Refused("priority")
    if procfs.read("/proc/self/cgroup") != procfs.read(f"/proc/{pid}/cgroup"):
        raise Refused("cgroup")
    words = _strings(f"/proc/{pid}/cmdline")
    environ = dict(item.split("=", 1) for item in _strings(f"/proc/{pid}/environ") if "=" in item)
    limits = _take_limits(pid)
    _take_oom_score(pid)
    os.umask(int(theirs["Umask"], 8))
    os.chdir(f"/proc/{pid}/cwd")
    return words, environ, int(their_stat[1]), limits


def parse_status(text: str) -> dict[str, str]:
    """The lines of /proc/PID/status by their names."""
    found = {}
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        found[name] = value.strip()
    return found


def _strings(path: str) -> list[str]:
    return procfs.read(path).split("\0")[:-1]


def _take_limits(pid: int) -> "Limits | None":
    """None if they are the same already, which is seldom not so, and seen at a glance."""
    if procfs.read("/proc/self/limits") == procfs.read(f"/proc/{pid}/limits"):
        return None
    import resource

    limits = [resource.prlimit(pid, kind) for kind in range(_LIMITS)]
    try:
        _set_limits(limits)
    except (ValueError, OSError):
        raise Refused("resource limits") from None
    return limits


def _set_limits(limits: "Limits | None") -> None:
    """Raises OSError and ValueError."""
    import resource

    for kind, limit in enumerate(limits or ()):
        if limit != resource.getrlimit(kind):
            resource.setrlimit(kind, limit)


def _take_oom_score(pid: int) -> None:
    score = procfs.read(f"/proc/{pid}/oom_score_adj")
    if score != procfs.read("/proc/self/oom_score_adj"):
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(score)
        except OSError:
            raise Refused("oom score") from None
