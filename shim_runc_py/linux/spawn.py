"""Start a child process, the only place that forks for one.

What it must not know: which program, and who waits for it (the reaper does).

Why fork and not posix_spawn or vfork, where it matters: the child has to ask for a death signal (an
engine must not outlive its shim half-way through a create, SEMANTICS 12.3) and may have to do
something before the program starts (mount a rootfs), and neither is possible between vfork and
exec. A shim has one thread, so code that runs after fork is safe (FAILURES 77). Where neither is
needed `spawn_plain` does without: of a process of 12 MB a fork copies the page tables, and each
page that parent or child writes to until the exec.

Kernel facts
------------
* The death signal (prctl(2) PR_SET_PDEATHSIG) belongs to the *thread* that forked, is cleared in a
  child of the child, and is lost when the parent died before it was asked for; hence the look at
  getppid afterwards.
* An ignored signal stays ignored over exec. CPython ignores SIGPIPE and SIGXFSZ; they are given
  back to the program (SECURITY 31).
* All descriptors of a CPython process are close-on-exec; dup2 makes exactly the three standard
  ones inheritable (SECURITY 30).
* A child that cannot exec has no way to say so but a descriptor that closes on exec. It is a memfd
  and not a pipe: nobody has to watch it, and the text is there whenever the child was reaped.
"""

from __future__ import annotations

import fcntl
import os

import prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Mapping, Sequence
else:
    import _signal

NOT_STARTED = 127  # exit status of a child that could not be turned into the program


class Streams:
    """The three standard streams of a child; -1 is /dev/null."""

    __slots__ = ("stderr", "stdin", "stdout")

    def __init__(self, stdin: int = -1, stdout: int = -1, stderr: int = -1) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr


class Failure:
    """Why a child ran no program: `words` of the error, `errno` (0 if it had none)."""

    __slots__ = ("errno", "preparing", "words")

    def __init__(self, preparing: bool, errno: int, words: str) -> None:
        self.preparing = preparing
        self.errno = errno
        self.words = words


class Child:
    """A forked child. `failure()` is meaningful once it was reaped; `close()` when done with."""

    __slots__ = ("_report", "pid")

    def __init__(self, pid: int, report: int) -> None:
        self.pid = pid
        self._report = report

    def failure(self) -> Failure | None:
        """None if the program ran; else what kept it from running."""
        if self._report < 0:
            return None
        text = os.pread(self._report, 65536, 0).decode("utf-8", "replace")
        if not text:
            return None
        step, number, message = text.split(" ", 2)
        return Failure(step == "prepare", int(number), message)

    def report(self, step: str, error: BaseException) -> None:
        """In the child: say why there is no program."""
        number = error.errno if isinstance(error, OSError) and error.errno else 0
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        os.pwrite(self._report, f"{step} {number} {text}".encode("utf-8", "replace"), 0)

    def close(self) -> None:
        if self._report >= 0:
            os.close(self._report)
            self._report = -1


def find(binary: str, search_path: str) -> str | None:
    """The file to execute for an engine's name, as exec.LookPath of Go finds it; or None.

    An absolute path is taken as it is. Relative ones and directories of PATH that are not absolute
    are passed over: an engine must not come out of the current directory (SECURITY 10).
    """
    if "/" in binary:
        return binary if binary.startswith("/") else None
    for directory in search_path.split(":"):
        path = f"{directory}/{binary}"
        if directory.startswith("/") and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def spawn(
    argv: Sequence[str],
    executable: str,
    environ: Mapping[str, str],
    streams: Streams,
    *,
    others: Mapping[int, int] | None = None,
    cwd: str | None = None,
    own_group: bool = True,
    dies_with_parent: bool = True,
    prepare: Callable[[], object] | None = None,
) -> Child:
    """Fork and exec `executable`.

    `others` maps further descriptor numbers of the child to descriptors here; `prepare` is called
    in the child before the program, and an exception from it is reported like a failed exec.
    Raises OSError when there is no room for a process or a descriptor.
    """
    child, parent = _fork()
    if child.pid:
        return child
    step = "prepare"
    try:
        _become_plain(parent, own_group, dies_with_parent)
        if prepare is not None:
            prepare()
        step = "exec"
        if cwd is not None:
            os.chdir(cwd)
        _connect({0: streams.stdin, 1: streams.stdout, 2: streams.stderr, **(others or {})})
        os.execve(executable, list(argv), environ)
    except BaseException as error:
        child.report(step, error)
    finally:
        os._exit(NOT_STARTED)


def spawn_plain(
    argv: Sequence[str], executable: str, environ: Mapping[str, str], streams: Streams
) -> Child:
    """The same without a death signal and at a third of the cost: nothing is copied.

    For short commands that may end by themselves, but for `delete` (`shim/delete.py`), when their
    shim is gone. Raises OSError when the program cannot be executed or there is no room for it.
    """
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
    for number, fd in enumerate((streams.stdin, streams.stdout, streams.stderr)):
        if fd < 0:
            actions.append((os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0))
        else:
            actions.append((os.POSIX_SPAWN_DUP2, fd, number))
    pid = os.posix_spawn(
        executable,
        list(argv),
        environ,
        file_actions=actions,
        setpgroup=0,
        setsigmask=(),
        setsigdef=(_signal.SIGPIPE, _signal.SIGXFSZ),
    )
    return Child(pid, -1)


def call(action: Callable[[], object]) -> Child:
    """Run `action` in a forked child of this program: for system calls that may block for long.

    The child exits 0 when `action` returned; when it raised, `failure()` has the reason. It
    shares namespaces with the caller, so a mount it makes is there afterwards.
    """
    child, parent = _fork()
    if child.pid:
        return child
    status = NOT_STARTED
    try:
        _become_plain(parent, own_group=True, dies_with_parent=True)
        action()
        status = 0
    except BaseException as error:
        child.report("prepare", error)
    finally:
        os._exit(status)


def _fork() -> tuple[Child, int]:
    """The child (pid 0 in the child itself) and the parent's pid."""
    low = os.memfd_create("spawn", os.MFD_CLOEXEC)
    try:
        # Out of the way of every number that `others` may name.
        report = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 10)
    finally:
        os.close(low)
    parent = os.getpid()
    try:
        return Child(os.fork(), report), parent
    except OSError:
        os.close(report)
        raise


def _become_plain(parent: int, own_group: bool, dies_with_parent: bool) -> None:
    """In the child: give up what belongs to the parent's loop."""
    _signal.set_wakeup_fd(-1)
    if own_group:
        os.setpgid(0, 0)
    if dies_with_parent:
        prctl.set_pdeathsig(_signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(128 + _signal.SIGKILL)
    for signum in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(signum, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def _connect(wanted: Mapping[int, int]) -> None:
    """In the child: put descriptor `wanted[n]` at number n, for every n at once.

    The sources may stand in each other's way, so each is moved out of the way first.
    """
    room = max(wanted) + 1
    null = -1
    moved = {}
    for number, source in wanted.items():
        if source < 0:
            if null < 0:
                null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            source = null
        if source < room:
            source = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, room)
        moved[number] = source
    for number, source in moved.items():
        os.dup2(source, number, inheritable=True)
