"""A container: its engine, its processes, and the verbs that containerd calls on it.

The two promises that every client builds on (SEMANTICS 5.3)
------------------------------------------------------------
* The start of a process is published before its exit, however short its life.
* The exit of the init process is published last, after those of all execs.

There is one thread, so both are plain: an exit that comes while its create or start is not yet
announced is put aside (`Process.early`), and the init's exit waits until no exec is left.

Verbs that change one process hold that process's gate while the engine runs. State, Wait, Connect,
Pids, Stats and Kill do not; they only look at attributes, or run an engine command of their own.
"""

from __future__ import annotations

import os

from shim_runc_py import log
from shim_runc_py.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ShimError,
    words,
)
from shim_runc_py.events import topics
from shim_runc_py.linux import cgroup
from shim_runc_py.loop import Future
from shim_runc_py.runc import argv, failure
from shim_runc_py.runc import spec as specs
from shim_runc_py.runc.engine import BOUND, CREATE_BOUND, Engine, EngineError, PrepareError
from shim_runc_py.stdio.plan import plan
from shim_runc_py.stdio.streams import open_stdio
from shim_runc_py.task import bundle, identifiers, options, states
from shim_runc_py.task.process import Process
from shim_runc_py.task.rootfs import Rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Mapping
    from typing import Any

    from google.protobuf.message import Message

    from shim_runc_py.api.runc_options_pb2 import Options
    from shim_runc_py.api.task_pb2 import CreateTaskRequest, ExecProcessRequest
    from shim_runc_py.loop import Loop
    from shim_runc_py.reaper import Exit, Reaper
    from shim_runc_py.ttrpc.server import Context
else:
    import _signal

ATTACH_BOUND = 30.0  # seconds that a client has to open its FIFOs
DRAIN_BOUND = 10.0  # seconds that Delete waits for output to be taken
AFTER_DRAIN = 3.0  # seconds of the caller's time that Delete keeps for the engine
EXECS_BOUND = 30.0  # seconds that the init's exit waits for execs that will not die
KILLED_BOUND = 10.0  # seconds for a process that was sent SIGKILL


class Host:
    """What all containers of a shim share."""

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        publish: Callable[[tuple[str, Message]], object],
        namespace: str,
        environ: Mapping[str, str],
    ) -> None:
        """`environ` is for engines and loggers."""
        self.loop = loop
        self.reaper = reaper
        self.publish = publish
        self.namespace = namespace
        self.environ = environ


class Container:
    """Made by `create`; `init` is its first process, `execs` the others by id."""

    def __init__(self, host: Host, request: CreateTaskRequest, opts: Options) -> None:
        self._host = host
        self.id = request.id
        self.bundle = request.bundle
        self._options = opts
        self._spec = _read_spec(request.bundle)
        self._private_pids = specs.has_private_pid_namespace(self._spec)
        self.engine = Engine(
            host.loop,
            host.reaper,
            opts.binary_name,
            argv.root(opts.root, host.namespace),
            request.bundle,
            host.environ,
            systemd_cgroup=opts.systemd_cgroup or specs.wants_systemd_cgroup(self._spec),
        )
        names = (request.stdin, request.stdout, request.stderr)
        self.init = Process(
            request.id,
            plan(*names, request.terminal),
            names,
            request.terminal,
            is_init=True,
        )
        self.execs: dict[str, Process] = {}
        self.pausing = False
        self.init_reaped = False
        self.cgroup: cgroup.Cgroup | None = None
        self._rootfs = Rootfs(host.loop, host.reaper, request.bundle, request.rootfs)
        self._running_execs = 0
        self._no_execs: Future[None] | None = None

    # create

    async def create(self, request: CreateTaskRequest, context: Context) -> None:
        """Run the engine's create; on failure nothing is left behind. Raises ShimError."""
        host, init = self._host, self.init
        bundle.write(f"{self.bundle}/options.json", options.as_json(self._options))
        bundle.write(f"{self.bundle}/runtime", self._options.binary_name)
        mount = self._rootfs.mount_action()
        state_existed = os.path.exists(f"{self.engine.root}/{self.id}")
        pid_file = f"{self.bundle}/init.pid"
        init.announced = False
        created = False
        try:
            init.use(open_stdio(host.loop, init.plan, self._owner(), host.environ))
            with host.reaper.expecting():
                try:
                    await self.engine.run(
                        argv.create(
                            self.id,
                            self.bundle,
                            pid_file,
                            console_socket=init.stdio.console_path,
                            no_pivot=self._options.no_pivot_root,
                            no_new_keyring=self._options.no_new_keyring,
                        ),
                        "OCI runtime create failed",
                        seconds=context.remaining(CREATE_BOUND),
                        streams=init.stdio.streams,
                        prepare=mount,
                        spawned=init.stdio.spawned,
                    )
                except PrepareError as error:
                    raise ShimError(f"failed to mount rootfs component: {error}") from None
                created = True
                init.pid = bundle.read_pid(pid_file, "container")
                init.gone = host.reaper.adopt(init.pid)
            await init.stdio.attach(context.remaining(ATTACH_BOUND))
        except BaseException:
            await self._undo_create(created, state_existed)
            raise
        self.cgroup = _find_cgroup(init.pid)
        host.publish(topics.create(request, init.pid))
        self._announce(init)
        init.gone.then(lambda future: self._seen_exit(init, future.result()))

    async def _undo_create(self, created: bool, state_existed: bool) -> None:
        """Leave no container, process, mount or descriptor of a create that failed."""
        self.init.stdio.close()
        if created or (not state_existed and os.path.exists(f"{self.engine.root}/{self.id}")):
            try:
                await self.engine.run(argv.delete(self.id, force=True), "")
            except EngineError as error:
                log.warning("cleaning up a failed create", container=self.id, error=error)
            if self.init.gone is not None:
                await self._await_killed(self.init)
        try:
            await self._rootfs.unmount()
        except ShimError as error:
            log.warning("cleaning up a failed create", container=self.id, error=error)

    # start

    async def start(self, process: Process, context: Context) -> None:
        """Start the init process or an exec. Raises ShimError."""
        async with process.gate:
            if process.is_init:
                await self._start_init(process, context)
            else:
                await self._start_exec(process, context)

    async def _start_init(self, init: Process, context: Context) -> None:
        if self.init_reaped and init.state == states.CREATED:
            raise ShimError("cannot start a stopped process")
        after = init.move("start")
        init.announced = False
        try:
            await self.engine.run(
                argv.start(self.id),
                "OCI runtime start failed",
                seconds=context.remaining(BOUND),
            )
            init.state = after
            self._host.publish(topics.start(self.id, init.pid))
        finally:
            self._announce(init)

    async def _start_exec(self, process: Process, context: Context) -> None:
        if self.init_reaped:
            raise FailedPrecondition(f"container {self.id} init process is not running")
        after = process.move("start")
        host = self._host
        if process.exited.done():  # an earlier start failed
            process.exited = Future()
        process.announced = False
        self._running_execs += 1
        try:
            await self._run_exec(process, context)
        except BaseException:
            process.stdio.close()
            await self._await_killed(process)
            process.pid = 0
            process.gone = None
            process.early = None
            process.announced = True
            process.exited.settle(None)
            self._exec_ended()
            raise
        process.state = after
        host.publish(topics.exec_started(self.id, process.id, process.pid))
        self._announce(process)
        assert process.gone is not None
        process.gone.then(lambda future: self._seen_exit(process, future.result()))

    async def _run_exec(self, process: Process, context: Context) -> None:
        host = self._host
        process.use(open_stdio(host.loop, process.plan, self._owner(), host.environ))
        process_file = bundle.temporary_file(host.environ, process.spec)
        pid_file = f"{self.bundle}/{process.id}.pid"
        try:
            with host.reaper.expecting():
                await self.engine.run(
                    argv.execute(
                        self.id,
                        process_file,
                        pid_file,
                        console_socket=process.stdio.console_path,
                    ),
                    "OCI runtime exec failed",
                    seconds=context.remaining(BOUND),
                    streams=process.stdio.streams,
                    spawned=process.stdio.spawned,
                )
                process.pid = bundle.read_pid(pid_file, "exec")
                process.gone = host.reaper.adopt(process.pid)
        finally:
            bundle.remove(process_file)
        await process.stdio.attach(context.remaining(ATTACH_BOUND))

    # exits

    def _announce(self, process: Process) -> None:
        """The create or start of `process` is told; now its exit may be, if it came meanwhile."""
        process.announced = True
        early, process.early = process.early, None
        if early is not None:
            self._seen_exit(process, early)

    def _seen_exit(self, process: Process, how: Exit) -> None:
        if process.is_init:
            self.init_reaped = True
        if not process.announced:
            process.early = how
        elif process.is_init:
            self._host.loop.spawn(self._end_init(how), f"exit of {self.id}")
        else:
            self._end(process, how)
            self._exec_ended()

    def _end(self, process: Process, how: Exit) -> None:
        process.ended(how)
        self._host.publish(
            topics.exited(self.id, process.id, process.pid, how.status, process.exited_at())
        )

    def _exec_ended(self) -> None:
        self._running_execs -= 1
        if not self._running_execs and self._no_execs is not None:
            self._no_execs.settle(None)

    async def _end_init(self, how: Exit) -> None:
        """Kill what the kernel did not, let the execs go first, then tell of the init's exit."""
        if self.init.state == states.PAUSED:
            await self._try(argv.resume(self.id), "resuming exited container from paused state")
        if not self._private_pids:
            await self._try(
                argv.kill(self.id, _signal.SIGKILL, everyone=True), "failed to kill init's children"
            )
        if self._running_execs:
            self._no_execs = Future()
            try:
                await self._host.loop.within(self._no_execs, EXECS_BOUND)
            except TimeoutError:
                log.error("execs outlive their container", container=self.id)
        bundle.write_exit(self.bundle, self.init.pid, how)
        self._end(self.init, how)

    async def _try(self, arguments: list[str], complaint: str) -> None:
        try:
            await self.engine.run(arguments, "")
        except EngineError as error:
            log.warning(complaint, container=self.id, error=error)

    async def _await_killed(self, process: Process) -> None:
        """Make sure that a child which nobody will ever know of is gone."""
        if process.gone is None:
            return
        if not process.gone.done():
            try:
                os.kill(process.pid, _signal.SIGKILL)  # not waited for, so it cannot be another
            except ProcessLookupError:
                pass
        try:
            await self._host.loop.within(process.gone, KILLED_BOUND)
        except TimeoutError:
            log.error("process does not die", container=self.id, pid=process.pid)

    # other verbs

    def process(self, exec_id: str) -> Process:
        """The init process for "", else an exec; raises NotFound."""
        if not exec_id:
            return self.init
        found = self.execs.get(exec_id)
        if found is None:
            raise NotFound(f"process does not exist {exec_id}")
        return found

    def add_exec(self, request: ExecProcessRequest) -> None:
        """Remember an exec to be started later; nothing runs. Raises ShimError."""
        identifiers.check("exec id", request.exec_id)
        if not request.HasField("spec") or not request.spec.value:
            raise InvalidArgument(f"exec {request.exec_id} has no process spec")
        if request.exec_id in self.execs:
            raise AlreadyExists(f"id {request.exec_id}")
        self.init.move("exec")
        try:
            spec = specs.process_with_terminal(request.spec.value, request.terminal)
        except ValueError as error:
            text = f"process spec of exec {request.exec_id} is no JSON object: {error}"
            raise InvalidArgument(text) from None
        names = (request.stdin, request.stdout, request.stderr)
        self.execs[request.exec_id] = Process(
            request.exec_id,
            plan(*names, request.terminal),
            names,
            request.terminal,
            is_init=False,
            spec=spec,
        )
        self._host.publish(topics.exec_added(self.id, request.exec_id))

    async def kill(self, process: Process, signum: int, everyone: bool, context: Context) -> None:
        """Send a signal. NotFound when the process is dead already, which clients count on."""
        process.move("kill")
        if process.is_init:
            await self._kill_init(signum, everyone, context)
            return
        try:
            if process.gone is None or process.gone.done():
                raise ProcessLookupError
            os.kill(process.pid, signum)
        except ProcessLookupError:
            raise NotFound("exec kill error: process already finished") from None
        except OSError as error:
            text = f"exec kill error: unknown error after kill: {words(error)}"
            raise ShimError(text) from None

    async def _kill_init(self, signum: int, everyone: bool, context: Context) -> None:
        try:
            await self.engine.run(
                argv.kill(self.id, signum, everyone=everyone),
                "",
                seconds=context.remaining(BOUND),
            )
        except EngineError as error:
            text = str(error)
            if failure.says_finished(text):
                raise NotFound("process already finished") from None
            if failure.says_missing(text):
                raise NotFound("no such container") from None
            raise ShimError(f"unknown error after kill: {text}") from None

    def resize(self, process: Process, width: int, height: int) -> None:
        """Raises ShimError."""
        if not process.is_init:
            process.move("resize")
        try:
            process.stdio.resize(width, height)
        except OSError as error:
            raise ShimError(words(error)) from None

    async def pids(self) -> list[int]:
        """Every process of the container; [] once it has stopped (SEMANTICS 1.5)."""
        if self.cgroup is None and self.init.pid and not self.init_reaped:
            self.cgroup = _find_cgroup(self.init.pid)
        if self.cgroup is not None:
            return self.cgroup.pids()
        import json

        output = await self.engine.run(argv.ps(self.id), "")
        return json.loads(output or "null") or []

    # delete

    async def delete(self, process: Process, context: Context) -> None:
        """Forget a process that does not run; for the init, the container with it."""
        async with process.gate:
            if process.is_init:
                await self._delete_init(process, context)
            else:
                after = process.move("delete")
                await self._drain(process, context)
                process.stdio.close()
                process.state = after
                self.execs.pop(process.id, None)
                bundle.remove(f"{self.bundle}/{process.id}.pid")

    async def _delete_init(self, init: Process, context: Context) -> None:
        after = init.move("delete")
        await self._drain(init, context)
        problem: ShimError | None = None
        try:
            await self.engine.run(argv.delete(self.id), "failed to delete task")
        except EngineError as error:
            if not failure.says_missing(str(error)):
                problem = error
        init.stdio.close()
        if problem is None and not init.exited.done() and init.gone is not None:
            # Deleted before it was started: the engine has killed it.
            try:
                await self._host.loop.within(init.exited, KILLED_BOUND)
            except TimeoutError:
                problem = ShimError(f"failed to delete task: process {init.pid} does not die")
        try:
            await self._rootfs.unmount()
        except ShimError as error:
            problem = problem or error
        if problem is not None:
            raise problem
        init.state = after
        for process in self.execs.values():
            process.stdio.close()
        self._host.publish(topics.delete(self.id, init.pid, init.exit_status(), init.exited_at()))

    async def _drain(self, process: Process, context: Context) -> None:
        """Wait for the client to take the output, but leave the caller time for the rest."""
        most = min(
            DRAIN_BOUND, max(0.0, context.remaining(DRAIN_BOUND + AFTER_DRAIN) - AFTER_DRAIN)
        )
        try:
            await self._host.loop.within(process.stdio.drained, most)
        except TimeoutError:
            kind = "init" if process.is_init else "exec"
            log.warning(f"failed to drain {kind} process {process.id} io", container=self.id)

    def _owner(self) -> tuple[int, int]:
        return self._options.io_uid, self._options.io_gid


def _read_spec(path: str) -> dict[str, Any]:
    """The spec as far as it can be read; what is wrong with it, the engine will say."""
    try:
        return specs.read(path)
    except (OSError, ValueError):
        return {}


def _find_cgroup(pid: int) -> cgroup.Cgroup | None:
    try:
        return cgroup.of(pid)
    except OSError as error:
        log.warning(f"loading cgroup for {pid}", error=error)
        return None
