"""The daemon: serves the task service until it is told to go (CONTRACT 5, SEMANTICS 10.3).

Its life: detach, become a subreaper, open the log, serve; at the end stop accepting, give the
socket's name back, send what containerd has not heard yet, and go. Nothing of it is done twice and
no step waits without a bound.

When does it end? After a Shutdown that finds no container; after SIGTERM or SIGINT, which leave the
containers alone; and by itself when it has neither a container nor a connection for a while: then
nobody is left who could ever call Shutdown (FAILURES 1, 13). A lost connection alone is no reason,
as a restarting containerd loses all of them (CONTRACT 5.1).
"""

from __future__ import annotations

import os
import sys

import prctl

from shim_runc_py import log
from shim_runc_py.events.publisher import Publisher
from shim_runc_py.linux import pages, sock
from shim_runc_py.loop import Future, Loop
from shim_runc_py.reaper import Reaper
from shim_runc_py.runc import argv
from shim_runc_py.task.container import Host
from shim_runc_py.task.service import TaskService
from shim_runc_py.ttrpc.server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal

    from shim_runc_py.loop import Timer
    from shim_runc_py.shim.start import Daemon
else:
    import _signal

FLUSH_BOUND = 5.0  # seconds for containerd to take the last events
ANSWERS_BOUND = 2.0  # seconds for clients to take the last answers
MODEL_REST = 0.03  # seconds without anything to do until the model counts as being at rest
ABANDONED = 60.0  # seconds without a container and without a connection
PROGRAM = "containerd-shim-pyrunc-v2"


def run(daemon: Daemon, environ: dict[str, str]) -> int:
    """Serve; returns the exit status. Descriptors 0 - 2 are /dev/null already."""
    _open_log(daemon)
    try:
        _detach(daemon, environ)
        Shim(daemon, environ).run()
    except BaseException as error:
        _report_crash(daemon, error)
        return 1
    return 0


def _detach(daemon: Daemon, environ: dict[str, str]) -> None:
    flags = daemon.flags
    os.chdir("/")  # the bundle goes while other containers of the group live
    _close_others(daemon.listener.fileno())
    prctl.set_child_subreaper(1)
    prctl.set_dumpable(0)  # no core with the secrets of specs (SECURITY 41)
    prctl.set_name(PROGRAM)
    if environ:  # python-prctl looks for the first variable, and crashes without one
        prctl.set_proctitle(
            f"{PROGRAM} -namespace {flags.namespace} -id {flags.id} -address {flags.address}"
        )


def _close_others(listener: int) -> None:
    """Inherited descriptors keep somebody's disk busy (FAILURES 41)."""
    os.closerange(3, listener)
    os.closerange(listener + 1, os.sysconf("SC_OPEN_MAX"))


def _open_log(daemon: Daemon) -> None:
    """Descriptor 2 becomes the bundle's log FIFO; without a reader it stays /dev/null."""
    if daemon.debug:
        log.threshold = log.DEBUG
    try:
        fd = os.open(f"{daemon.bundle}/log", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    os.dup2(fd, 2, inheritable=False)
    os.close(fd)


def _report_crash(daemon: Daemon, error: BaseException) -> None:
    """Why a shim died has to be found out afterwards, with or without a reader of its log."""
    import traceback

    text = "".join(traceback.format_exception(error))
    log.error("shim ends after an error of its own", traceback=text)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(f"{daemon.bundle}/shim.crash", flags, 0o600)
        os.write(fd, text.encode())
        os.close(fd)
    except OSError:
        pass


class Shim:
    """Puts the rooms together; the only place that knows all of them."""

    def __init__(self, daemon: Daemon, environ: dict[str, str]) -> None:
        self._daemon = daemon
        found = os.stat(daemon.path)
        self._inode = (found.st_dev, found.st_ino)
        self.loop = Loop()
        self.loop.on_failure = _log_failure  # type: ignore[method-assign]
        self.loop.on_rest = self._rest  # type: ignore[method-assign]
        if daemon.image:
            self.loop.rest = MODEL_REST
        self._reaper = Reaper(self.loop)
        self._publisher = Publisher(self.loop, daemon.ttrpc_address, daemon.flags.namespace)
        host = Host(
            self.loop,
            self._reaper,
            self._publisher.publish,
            daemon.flags.namespace,
            # What the Go runtime of the stock shim gives its engines.
            argv.environment(environ) | {"GOMAXPROCS": "4"},
        )
        self._service = TaskService(host, self.stop)
        self._server = Server(self.loop, self._service.services(), Future)
        self._stopping: Future[None] = Future()
        self._abandoned: Timer | None = None

    def run(self) -> None:
        """Serve until stopped."""
        for signum in (_signal.SIGTERM, _signal.SIGINT):
            self.loop.on_signal(signum, self.stop)
        self.loop.on_signal(_signal.SIGUSR1, self._dump)
        self._server.changed = self._look_around
        self._server.serve(self._daemon.listener)
        self._look_around()
        log.debug("shim serves", address=self._daemon.path, pid=os.getpid())
        self.loop.run(self.loop.spawn(self._until_stopped(), "shim"))

    def stop(self) -> None:
        """Begin to go: from now on a `start` of the group finds nobody and makes a new shim."""
        if self._stopping.done():
            return
        self._server.stop_accepting()
        try:
            with sock.Lock(os.path.dirname(self._daemon.path), 0.5):
                sock.unlink_if_same(self._daemon.path, self._inode)
        except (OSError, TimeoutError) as error:
            log.warning("socket is left behind", path=self._daemon.path, error=error)
        self._stopping.settle(None)

    async def _until_stopped(self) -> None:
        await self._stopping
        if not await self._publisher.flush(FLUSH_BOUND):
            log.error("events are lost", count=self._publisher.queued())
        deadline = self.loop.clock() + ANSWERS_BOUND
        while self._server.busy() and self.loop.clock() < deadline:
            await self.loop.sleep(0.005)
        log.info("shim ends", id=self._daemon.flags.id)
        self._publisher.close()
        self._server.close()

    def _look_around(self) -> None:
        """Called when something changed: is there still anybody to serve?"""
        needed = self._server.connections() > 0 or not self._service.idle()
        if needed and self._abandoned is not None:
            self._abandoned.cancel()
            self._abandoned = None
        elif not needed and self._abandoned is None and not self._stopping.done():
            self._abandoned = self.loop.after(ABANDONED, self._give_up)

    def _give_up(self) -> None:
        log.warning("no container and no client: shim ends", seconds=ABANDONED)
        self.stop()

    def _rest(self) -> None:
        """Nothing has happened for a while, and nothing may for long."""
        if not self._daemon.image:
            pages.give_back()
        elif self._service.running():
            pages.write(self._daemon.image)
            os._exit(0)

    def _dump(self) -> None:
        """SIGUSR1: what is going on, framed as in the stock shim."""
        import gc

        from shim_runc_py.loop import Task

        lines = ["=== BEGIN goroutine stack dump ==="]
        for container in self._service.containers.values():
            lines.append(f"container {container.id}: init {container.init.state}")
            for process in container.execs.values():
                lines.append(f"  exec {process.id}: {process.state}, pid {process.pid}")
        for task in [found for found in gc.get_objects() if isinstance(found, Task)]:
            if not task.done():
                lines.append(f"task {task.name} waits at {task.where()}")
        lines.append(f"events queued: {self._publisher.queued()}")
        lines.append("=== END goroutine stack dump ===")
        log.info("\n".join(lines))


def _log_failure(name: str, error: BaseException) -> None:
    import traceback

    log.error(f"{name} failed", traceback="".join(traceback.format_exception(error)))


def by_hand(daemon: Daemon, environ: dict[str, str]) -> int:
    """Serve in the foreground, for a shim started by hand with -socket; logs go to stderr."""
    if daemon.debug:
        log.threshold = log.DEBUG
    prctl.set_child_subreaper(1)
    try:
        Shim(daemon, environ).run()
    except KeyboardInterrupt:
        pass
    except Exception as error:
        _report_crash(daemon, error)
        print(error, file=sys.stderr)
        return 1
    return 0
