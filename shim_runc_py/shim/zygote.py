"""The zygote: one preloaded process of a node that forks every shim (DESIGN section 5).

What a shim needs is imported, exercised and frozen once; a fork has it at once and shares the pages
with all others. `entry` is the other side and has the formats. The first `start` finds nobody,
begins the zygote and becomes its first caller. The fork for a `start` answers, and is the shim.

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
    model.share(place)


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
            _stand_in(connection, pid)
    except OSError:
        pass
    finally:
        connection.close()
    return True


def _stand_in(connection: "_socket.socket", pid: int) -> None:
    """In a fork: do what is asked for by the process `pid`. Never returns."""
    status = 1
    try:
        become_own(connection)
        try:
            words, environ, parent = take_over(pid)
        except (Refused, OSError, ValueError):
            connection.sendall(b"-")
        else:
            given = read_request(connection)
            run(words[given[0] - 1 :], environ, Remote(connection, given[1:], parent))
        status = 0
    finally:
        os._exit(status)


def become_own(connection: "_socket.socket") -> None:
    """In a fork: give up what belongs to the zygote."""
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    os.setpgid(0, 0)
    os.close(LISTENER)
    connection.settimeout(REQUEST_BOUND)


def read_request(connection: "_socket.socket") -> bytes:
    """Accept it, and read it to its end."""
    connection.sendall(b"+")
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


def run(argv: list[str], environ: dict[str, str], caller: "Remote") -> None:
    """Run a command for somebody else; does not return in a daemon."""
    caller.answer(*roles.run(argv, environ, caller))


class Remote(Caller):
    """A caller at the other end of a connection.

    The fork that stands in for it becomes the daemon itself, once it has given its answer: there is
    no need for another process, as nobody waits for the end of this one.
    """

    def __init__(
        self, connection: "_socket.socket", given: bytes, parent: int, image: str = ""
    ) -> None:
        """With an `image` the daemon is the model of a shim (`shim/model.py`)."""
        super().__init__(given, parent)
        self._connection = connection
        self._image = image

    def answer(self, status: int, output: bytes, complaint: bytes) -> None:
        """Raises OSError when it has gone. The end of the connection is the end of the answer."""
        self._connection.sendall(encode(status, output, complaint))
        self._connection.close()

    def detach(
        self, daemon: "Daemon", environ: dict[str, str], introduce: "Callable[[int], bytes]"
    ) -> None:
        from shim_runc_py.shim import start

        self.answer(0, introduce(os.getpid()), b"")
        daemon.image = self._image
        start.become_daemon(daemon, environ)


def encode(status: int, output: bytes, complaint: bytes) -> bytes:
    """The answer as `entry` reads it."""
    return bytes((status,)) + len(output).to_bytes(4, "little") + output + complaint


def take_over(pid: int) -> tuple[list[str], dict[str, str], int]:
    """Become like `pid`: (its command line, its environment, its parent).

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
    _take_limits(pid)
    _take_oom_score(pid)
    os.umask(int(theirs["Umask"], 8))
    os.chdir(f"/proc/{pid}/cwd")
    return words, environ, int(their_stat[1])


def parse_status(text: str) -> dict[str, str]:
    """The lines of /proc/PID/status by their names."""
    found = {}
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        found[name] = value.strip()
    return found


def _strings(path: str) -> list[str]:
    return procfs.read(path).split("\0")[:-1]


def _take_limits(pid: int) -> None:
    if procfs.read("/proc/self/limits") == procfs.read(f"/proc/{pid}/limits"):
        return  # nearly always, and seen at a glance
    import resource

    for kind in range(_LIMITS):
        limits = resource.prlimit(pid, kind)
        if limits != resource.getrlimit(kind):
            try:
                resource.setrlimit(kind, limits)
            except (ValueError, OSError):
                raise Refused("resource limits") from None


def _take_oom_score(pid: int) -> None:
    score = procfs.read(f"/proc/{pid}/oom_score_adj")
    if score != procfs.read("/proc/self/oom_score_adj"):
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(score)
        except OSError:
            raise Refused("oom score") from None
