"""One engine command at a time for one container: spawn, wait with a bound, explain the failure.

What it must not know: task states, requests, events. It raises `EngineError` with the text that a
client of the stock shim would read (SEMANTICS 3.7).

Rules
-----
* Every command has a deadline; then its whole process group is killed and the failure says so
  (FAILURES 21). A lost caller does not kill a command, an expired one does (SEMANTICS 1.0).
* Output is captured in a memfd, not in a pipe: nobody has to drain it while the command runs, and
  a hook that keeps it open does not delay the answer (SEMANTICS 5.1).
* The environment is the shim's without what belongs to the shim alone (SECURITY 29). NOTIFY_SOCKET
  would make runc wait for a readiness message.
"""

from __future__ import annotations

import os

from shim_runc_py import log
from shim_runc_py.errors import ShimError, words
from shim_runc_py.linux import spawn
from shim_runc_py.runc import argv as command_lines
from shim_runc_py.runc import failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Mapping, Sequence

    from shim_runc_py.loop import Loop
    from shim_runc_py.reaper import Exit, Reaper
else:
    import _signal

# Seconds. Far above what a healthy engine takes; see `Engine.run`.
CREATE_BOUND = 120.0
BOUND = 60.0
CHECKPOINT_BOUND = 600.0
KILLED_BOUND = 2.0

# What a shim that dies may leave to end by itself; to `delete` if it does not (`spawn_plain`).
_PLAIN = ("start", "exec", "kill", "delete", "pause", "resume", "ps", "update")
_NO_ROOM = (11, 12)  # EAGAIN, ENOMEM

_MOST_OUTPUT = 1 << 20
_MOST_LOG = 1 << 20


class EngineError(ShimError):
    """An engine command failed; `command` is the part about the command alone."""

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message)
        self.command = command or message


class PrepareError(ShimError):
    """What was to be done in the child before the engine failed; the engine did not run."""


class Engine:
    """The engine of one container."""

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        binary: str,
        root: str,
        bundle: str,
        environ: Mapping[str, str],
        *,
        systemd_cgroup: bool = False,
    ) -> None:
        """`root` is the effective state directory (with the namespace); `binary` "" for runc."""
        self._loop = loop
        self._reaper = reaper
        self.binary = binary or command_lines.DEFAULT_BINARY
        self.root = root
        self._name = os.path.basename(bundle)
        self._log = f"{bundle}/log.json"
        self._environ = environ
        self._systemd_cgroup = systemd_cgroup
        self._execs: set[int] = set()

    async def run(
        self,
        arguments: Sequence[str],
        prefix: str,
        *,
        seconds: float = BOUND,
        streams: spawn.Streams | None = None,
        stdin: bytes | None = None,
        prepare: Callable[[], object] | None = None,
        spawned: Callable[[], object] | None = None,
    ) -> str:
        """Run a sub-command; returns what it wrote when no `streams` are given.

        `prefix` begins the error text; "" gives the command's own error, without a look into the
        log (kill, update, ps and checkpoint: SEMANTICS 3.7). `spawned` is called once the child
        has its descriptors. Raises EngineError.
        """
        executable = spawn.find(self.binary, self._environ.get("PATH", ""))
        before = self._log_size()
        if executable is None:
            raise self._error(prefix, before, failure.not_found(self.binary))
        if self._environ.get("PYRUNC_STRICT") == "1":
            from shim_runc_py.linux import trust

            reason = trust.doubt(executable)
            if reason:
                raise self._error(prefix, before, failure.not_started(self.binary, reason))
        output = -1
        given = -1
        try:
            if streams is None:
                output = os.memfd_create("engine-output", os.MFD_CLOEXEC)
                streams = spawn.Streams(-1, output, output)
                if stdin is not None:
                    streams.stdin = given = _memfd(stdin)
            child = self._spawn(executable, arguments, streams, prepare, prefix, before)
            try:
                gone = self._reaper.child(child.pid)
                if arguments[0] == "exec":
                    self._execs.add(child.pid)
                if spawned is not None:
                    spawned()
                timed_out = False
                try:
                    ended: Exit = await self._loop.within(gone, seconds)
                except TimeoutError:
                    timed_out = True
                    _kill_group(child.pid)
                    try:
                        ended = await self._loop.within(gone, KILLED_BOUND)
                    except TimeoutError:  # it waits for a disk, or is frozen
                        text = f"{self.binary} does not end, although it was killed"
                        raise self._error(prefix, before, text) from None
                finally:
                    self._execs.discard(child.pid)
                log.debug("engine", verb=arguments[0], container=self._name, status=ended.status)
                said = None if output < 0 else _contents(output)
                if ended.status == 0 and not timed_out:
                    return said or ""
                trouble = child.failure()
            finally:
                child.close()
        finally:
            for fd in (output, given):
                if fd >= 0:
                    os.close(fd)
        if trouble is not None and trouble.preparing:
            raise PrepareError(trouble.words)
        if trouble is not None:
            reason = trouble.words[:1].lower() + trouble.words[1:]
            raise self._error(prefix, before, failure.not_started(self.binary, reason))
        text = failure.command_error(self.binary, ended.status, said)
        raise self._error(prefix, before, text)

    def end_execs(self) -> None:
        """Kill exec commands that still run: what they would start a process in is gone."""
        for pid in self._execs:
            _kill_group(pid)

    def _spawn(
        self,
        executable: str,
        arguments: Sequence[str],
        streams: spawn.Streams,
        prepare: Callable[[], object] | None,
        prefix: str,
        before: int,
    ) -> spawn.Child:
        words_ = command_lines.common(
            self.binary, self.root, self._log, systemd_cgroup=self._systemd_cgroup
        )
        words_ += arguments
        if arguments[0] not in _PLAIN:
            return spawn.spawn(words_, executable, self._environ, streams, prepare=prepare)
        try:
            return spawn.spawn_plain(words_, executable, self._environ, streams)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise
            raise self._error(
                prefix, before, failure.not_started(self.binary, words(error))
            ) from None

    def _log_size(self) -> int:
        try:
            return os.stat(self._log).st_size
        except OSError:
            return 0

    def _error(self, prefix: str, before: int, command: str) -> EngineError:
        if not prefix:
            return EngineError(command)
        problem = ""
        message = ""
        try:
            fd = os.open(self._log, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            problem = f"open {self._log}: {words(error)}"
        else:
            try:
                tail = os.pread(fd, _MOST_LOG, max(before, os.fstat(fd).st_size - _MOST_LOG))
            finally:
                os.close(fd)
            message = failure.last_error(tail.decode("utf-8", "replace"))
        return EngineError(
            failure.runtime_error(prefix, problem, message, command), message or command
        )


def _kill_group(pid: int) -> None:
    # The pid is not waited for yet, so the group cannot be somebody else's.
    try:
        os.killpg(pid, _signal.SIGKILL)
    except ProcessLookupError:  # it has not made its group yet
        os.kill(pid, _signal.SIGKILL)


def _memfd(data: bytes) -> int:
    fd = os.memfd_create("engine-input", os.MFD_CLOEXEC)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _contents(fd: int) -> str:
    return os.pread(fd, _MOST_OUTPUT, 0).decode("utf-8", "replace")
