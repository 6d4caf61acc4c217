"""A container: its engine, its processes, and the verbs that containerd calls on it.

Verbs that change one process hold that process's gate while the engine runs. State, Wait, Connect,
Pids, Stats and Kill do not; they only look at attributes and files, or run an engine command of
their own. When exits become known is the affair of `exits`.
"""

from __future__ import annotations

import os

from shim_runc_py import log
from shim_runc_py.errors import NOT_FOUND, UNKNOWN, InvalidArgument, NotFound, ShimError, words
from shim_runc_py.events import topics
from shim_runc_py.linux import cgroup, remains
from shim_runc_py.loop import Future
from shim_runc_py.runc import argv, failure
from shim_runc_py.runc import spec as specs
from shim_runc_py.runc.engine import BOUND, CREATE_BOUND, Engine, EngineError, PrepareError
from shim_runc_py.stdio.opening import Owner, open_stdio
from shim_runc_py.stdio.plan import plan
from shim_runc_py.task import bundle, oom, options, states
from shim_runc_py.task.exits import ExitOrder
from shim_runc_py.task.process import Process
from shim_runc_py.task.rootfs import Rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Mapping
    from typing import Any

    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.protobuf.message import Message

    from shim_runc_py.api.runc_options_pb2 import Options
    from shim_runc_py.api.task_pb2 import CreateTaskRequest
    from shim_runc_py.loop import Loop
    from shim_runc_py.reaper import Exit, Reaper
    from shim_runc_py.ttrpc.server import Context
else:
    import _signal

ATTACH_BOUND = 30.0  # seconds that a client has to open its FIFOs
DRAIN_BOUND = 10.0  # seconds that Delete waits for output to be taken
AFTER_DRAIN = 3.0  # seconds of the caller's time that Delete keeps for the engine
_LAST_SIGNAL = 64
ENDING_BOUND = 3.0  # seconds for engines to end what init has left, or an exec begun in it
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
        self.host = host
        self.id = request.id
        self.bundle = request.bundle
        self.options = opts
        self.checkpoint_path = request.checkpoint
        spec = _read_spec(request.bundle)
        try:
            specs.check_cwd(spec.get("process"))
        except specs.UnsafeCwd as error:
            raise InvalidArgument(f"container {request.id}: {error}") from None
        self._private_pids = specs.has_private_pid_namespace(spec)
        self._own_cgroup = specs.own_cgroup(spec, request.id)
        self.engine = Engine(
            host.loop,
            host.reaper,
            opts.binary_name,
            argv.root(opts.root, host.namespace),
            request.bundle,
            host.environ,
            systemd_cgroup=opts.systemd_cgroup or specs.wants_systemd_cgroup(spec),
        )
        names = (request.stdin, request.stdout, request.stderr)
        self.init = Process(request.id, names, request.terminal, is_init=True)
        self.execs: dict[str, Process] = {}
        self.exits = ExitOrder(host.loop, self._init_gone, self._tell_exit)
        self.pausing = False
        self._kills: list[Future[None]] = []  # each until it is answered
        self._cgroup: cgroup.Cgroup | None = None
        self._oom = oom.Watch()
        self._rootfs = Rootfs(host.loop, host.reaper, request.bundle, request.rootfs, host.environ)

    # create and start

    async def create(self, request: CreateTaskRequest, context: Context) -> None:
        """Run the engine's create; on failure nothing is left behind. Raises ShimError."""
        init = self.init
        for name in ("init.pid", "init.exit"):  # of an earlier life of the bundle
            bundle.remove(f"{self.bundle}/{name}")
        bundle.write(f"{self.bundle}/options.json", options.as_json(self.options))
        bundle.write(f"{self.bundle}/runtime", self.options.binary_name)
        state_existed = os.path.exists(f"{self.engine.root}/{self.id}")
        created = False
        self.exits.begin(init)
        try:
            await self.open_stdio(init, context)
            if self.checkpoint_path:
                # The engine runs in Start; what is restored into must be there before.
                await self._rootfs.mount()
                init.state = states.RESTORING
            else:
                with self.host.reaper.expecting():
                    await self._run_create(context)
                    created = True
                    self.adopt(init, f"{self.bundle}/init.pid")
                await init.stdio.attach(context.remaining(ATTACH_BOUND))
        except BaseException:
            await self._undo_create(created, state_existed)
            raise
        self.host.publish(topics.create(request, init.pid))
        self.supervise()
        self.exits.announce(init)

    async def _run_create(self, context: Context) -> None:
        init = self.init
        try:
            await self.engine.run(
                argv.create(
                    self.id,
                    self.bundle,
                    f"{self.bundle}/init.pid",
                    console_socket=init.stdio.console_path,
                    no_pivot=self.options.no_pivot_root,
                    no_new_keyring=self.options.no_new_keyring,
                ),
                "OCI runtime create failed",
                seconds=context.remaining(CREATE_BOUND),
                streams=init.stdio.streams,
                prepare=self._rootfs.mount_action(),
                spawned=init.stdio.spawned,
            )
        except PrepareError as error:
            raise ShimError(f"failed to mount rootfs component: {error}") from None

    async def _undo_create(self, created: bool, state_existed: bool) -> None:
        """Leave no container, process, mount or descriptor of a create that failed."""
        self.init.stdio.close()
        if created or (not state_existed and os.path.exists(f"{self.engine.root}/{self.id}")):
            await self._try(argv.delete(self.id, force=True), "cleaning up a failed create", BOUND)
            await self.await_killed(self.init)
            await self._sweep()
        try:
            await self._rootfs.unmount()
        except ShimError as error:
            log.warning("cleaning up a failed create", container=self.id, error=error)

    async def _sweep(self) -> None:
        """An engine that died half-way has not written down which cgroups it made."""
        tops = remains.directories(self._own_cgroup) if self._own_cgroup else []
        for _ in range(200):
            if remains.sweep(tops):
                return
            await self.host.loop.sleep(0.01)
        log.error("cgroup is left behind", container=self.id, path=self._own_cgroup)

    async def open_stdio(self, process: Process, context: Context) -> None:
        """New streams for the engine command that brings `process`. Raises ShimError."""
        host = self.host
        ids = (self.options.io_uid, self.options.io_gid)
        owner = Owner(host.loop, host.reaper, host.environ, host.namespace, process.id, ids)
        names = (process.stdin, process.stdout, process.stderr)
        wanted = plan(*names, process.terminal)
        process.use(await open_stdio(wanted, owner, context.remaining(ATTACH_BOUND)))

    def adopt(self, process: Process, pid_file: str) -> None:
        """The engine has brought `process`: know it from now on. Raises ShimError."""
        kind = "container" if process.is_init else "exec"
        process.pid = bundle.read_pid(pid_file, kind)
        process.gone = self.host.reaper.adopt(process.pid)

    def supervise(self) -> None:
        """Watch init, and its cgroup for OOM kills; nothing to do while there is no init."""
        if self.init.gone is None:
            return
        found = self.cgroup()
        if found is not None:
            cgroup.enable_controllers(found)
        self._oom = oom.watch(self.host.loop, found, lambda: self.host.publish(topics.oom(self.id)))
        self.exits.watch(self.init)

    async def start_init(self, context: Context) -> None:
        """Start the init process, or restore it. Raises ShimError."""
        init = self.init
        async with init.gate:
            if self.exits.init_reaped and init.state == states.CREATED:
                raise ShimError("cannot start a stopped process")
            after = init.move("start")
            self.exits.begin(init)
            try:
                if init.state == states.RESTORING:
                    from shim_runc_py.task import checkpoint

                    await checkpoint.restore(self, context)
                else:
                    await self.engine.run(
                        argv.start(self.id),
                        "OCI runtime start failed",
                        seconds=context.remaining(BOUND),
                    )
                init.state = after
                self.host.publish(topics.start(self.id, init.pid))
            finally:
                self.exits.announce(init)

    # exits

    async def _init_gone(self, how: Exit) -> None:
        """Before the init's exit is told: end what the kernel did not end with it."""
        await self._oom.settle(how.status == 128 + _signal.SIGKILL)
        bundle.write_exit(self.bundle, self.init.pid, how)
        self.host.loop.after(ENDING_BOUND, self.engine.end_execs)
        if self.init.state == states.PAUSED:
            await self._try(argv.resume(self.id), "resuming exited container from paused state")
        if not self._private_pids:
            await self._try(
                argv.kill(self.id, _signal.SIGKILL, everyone=True), "failed to kill init's children"
            )
            if self._cgroup is not None and self._own_cgroup:  # the engine may have failed
                remains.kill(self._cgroup.pids())

    def _tell_exit(self, process: Process, how: Exit) -> None:
        self._oom.look()
        if process.is_init:
            self._oom.close()
        process.ended(how)
        self.host.publish(
            topics.exited(self.id, process.id, process.pid, how.status, process.exited_at())
        )

    async def _try(
        self, arguments: list[str], complaint: str, seconds: float = ENDING_BOUND
    ) -> None:
        try:
            await self.engine.run(arguments, "", seconds=seconds)
        except EngineError as error:
            log.warning(complaint, container=self.id, error=error)

    async def await_killed(self, process: Process) -> None:
        """Make sure that a child which nobody will ever know of is gone."""
        if process.gone is None:
            return
        if not process.gone.done():
            try:
                os.kill(process.pid, _signal.SIGKILL)  # not waited for, so it cannot be another
            except ProcessLookupError:
                pass
        try:
            await self.host.loop.within(process.gone, KILLED_BOUND)
        except TimeoutError:
            log.error("process does not die", container=self.id, pid=process.pid)

    # what is there

    def process(self, exec_id: str) -> Process:
        """The init process for "", else an exec; raises NotFound."""
        if not exec_id:
            return self.init
        found = self.execs.get(exec_id)
        if found is None:
            raise NotFound(f"process does not exist {exec_id}")
        return found

    def cgroup(self) -> cgroup.Cgroup | None:
        """Looked up once there is an init; kept when it has gone."""
        if self._cgroup is None and self.init.pid and not self.exits.init_reaped:
            try:
                self._cgroup = cgroup.of(self.init.pid)
            except OSError as error:
                log.warning(f"loading cgroup for {self.init.pid}", error=error)
        return self._cgroup

    async def pids(self) -> list[int]:
        """Every process of the container; [] once it has stopped (SEMANTICS 1.5)."""
        found = self.cgroup()
        if found is not None:
            return found.pids()
        import json

        output = await self.engine.run(argv.ps(self.id), "")
        return json.loads(output or "null") or []

    def stats(self) -> AnyMessage:
        """The metrics of the cgroup. Raises ShimError."""
        found = self.cgroup()
        if found is None:
            raise NotFound("cgroup does not exist")
        from shim_runc_py.task import metrics

        try:
            return metrics.stats(found)
        except OSError as error:
            code = NOT_FOUND if isinstance(error, FileNotFoundError) else UNKNOWN
            raise ShimError(f"open {error.filename}: {words(error)}", code) from None

    # verbs on the running container

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
        if not everyone and self._signals_itself(signum):
            return
        answered: Future[None] = Future()
        self._kills.append(answered)
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
        finally:
            self._kills.remove(answered)
            answered.settle(None)

    def _signals_itself(self, signum: int) -> bool:
        """Send `signum` to a running init as its engine would, without the engine; False if not.

        runc and crun do the same one system call, if it is not SIGKILL to a shared pid namespace
        or to a frozen container. Whatever else there is to a signal, and every error, is left to
        the engine (docs/decisions.md). Init was not waited for, so its pid is nobody else's.
        """
        init = self.init
        known = self.engine.binary.rpartition("/")[2] in argv.KNOWN_ENGINES
        alive = init.gone is not None and not init.gone.done()
        plain = known and alive and self._private_pids and init.state == states.RUNNING
        if not plain or self.pausing or not 1 <= signum <= _LAST_SIGNAL:
            return False
        try:
            os.kill(init.pid, signum)
        except OSError:
            return False
        return True

    async def pause(self, context: Context) -> None:
        """Freeze every process. Raises ShimError."""
        async with self.init.gate:
            after = self.init.move("pause")
            self.pausing = True
            try:
                await self.engine.run(
                    argv.pause(self.id),
                    "OCI runtime pause failed",
                    seconds=context.remaining(BOUND),
                )
                self._changed_to(after)
            finally:
                self.pausing = False
            self.host.publish(topics.paused(self.id))

    async def resume(self, context: Context) -> None:
        """Thaw what was paused. Raises ShimError."""
        async with self.init.gate:
            after = self.init.move("resume")
            await self.engine.run(
                argv.resume(self.id),
                "OCI runtime resume failed",
                seconds=context.remaining(BOUND),
            )
            self._changed_to(after)
            self.host.publish(topics.resumed(self.id))

    def _changed_to(self, state: str) -> None:
        """The engine is done; unless init has ended meanwhile, this is the state."""
        if self.init.state != states.STOPPED:
            self.init.state = state

    async def update(self, resources: bytes, context: Context) -> None:
        """Change limits; `resources` is the JSON of OCI linux resources. Raises ShimError."""
        async with self.init.gate:
            self.init.move("update")
            if not resources:
                raise InvalidArgument(f"update of container {self.id} has no resources")
            try:
                specs.check_object(resources)
            except ValueError as error:
                text = f"resources for container {self.id} are no JSON object: {error}"
                raise InvalidArgument(text) from None
            await self.engine.run(
                argv.update(self.id), "", seconds=context.remaining(BOUND), stdin=resources
            )

    def resize(self, process: Process, width: int, height: int) -> None:
        """Raises ShimError."""
        if not process.is_init:
            process.move("resize")
        try:
            process.stdio.resize(width, height)
        except OSError as error:
            raise ShimError(words(error)) from None

    # delete

    async def delete(self, process: Process, context: Context) -> None:
        """Forget a process that does not run; for the init, the container with it."""
        async with process.gate:
            if process.is_init:
                await self._delete_init(process, context)
            else:
                after = process.move("delete")
                await self._drain(process, context)
                await process.stdio.finish()
                process.stdio.close()
                process.state = after
                self.execs.pop(process.id, None)
                bundle.remove(f"{self.bundle}/{process.id}.pid")

    async def _delete_init(self, init: Process, context: Context) -> None:
        after = init.move("delete")
        if init.state == states.STOPPED:  # else there is no output yet, and no end of it
            await self._drain(init, context)
        # After the answer containerd closes the connection: a Kill that is not answered by then has
        # failed for its caller, although it has done what it should.
        for answered in tuple(self._kills):
            await answered
        problem: ShimError | None = None
        try:
            await self.engine.run(argv.delete(self.id), "failed to delete task")
        except EngineError as error:
            if not failure.says_missing(str(error)):
                problem = error
        await init.stdio.finish()
        init.stdio.close()
        if problem is None and not init.exited.done() and init.gone is not None:
            # Deleted before it was started: the engine has killed it.
            try:
                await self.host.loop.within(init.exited, KILLED_BOUND)
            except TimeoutError:
                problem = ShimError(f"failed to delete task: process {init.pid} does not die")
        try:
            await self._rootfs.unmount()
        except ShimError as error:
            problem = problem or error
        if problem is not None:
            raise problem
        init.state = after
        init.exited.settle(None)  # restored in vain: whoever still waits is let go
        self._oom.close()
        for process in self.execs.values():
            process.stdio.close()
        self.host.publish(topics.delete(self.id, init.pid, init.exit_status(), init.exited_at()))

    async def _drain(self, process: Process, context: Context) -> None:
        """Wait for the client to take the output, but leave the caller time for the rest."""
        most = max(0.0, context.remaining(DRAIN_BOUND + AFTER_DRAIN) - AFTER_DRAIN)
        try:
            await self.host.loop.within(process.stdio.drained, most)
        except TimeoutError:
            kind = "init" if process.is_init else "exec"
            log.warning(f"failed to drain {kind} process {process.id} io", container=self.id)


def _read_spec(path: str) -> dict[str, Any]:
    """The spec as far as it can be read; what is wrong with it, the engine will say."""
    try:
        return specs.read(path)
    except (OSError, ValueError):
        return {}
