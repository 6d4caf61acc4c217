"""The task service: one handler for each RPC, named like it (SEMANTICS 1, CONTRACT 8.2).

containerd.task.v2.Task and containerd.task.v3.Task are the same table (CONTRACT 2.7): messages are
identical on the wire, and a containerd that guessed the wrong version gets its answer all the same.
Handlers look the container up, hand over to it, and build the answer; what is legal is decided in
`states`, what happens in `container`.
"""

from __future__ import annotations

import os

from shim_runc_py import log
from shim_runc_py.api import task_pb2 as m
from shim_runc_py.api.runc_options_pb2 import ProcessDetails
from shim_runc_py.api.task_types_pb2 import ProcessInfo
from shim_runc_py.errors import AlreadyExists, InvalidArgument, NotFound, ShimError
from shim_runc_py.task import execs, identifiers, options, states
from shim_runc_py.task.container import Container, Host
from shim_runc_py.ttrpc.server import Method
from shim_runc_py.ttrpc.wellknown_pb2 import Any, Empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim_runc_py.ttrpc.server import Context, StreamMethod

NAMES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
_EMPTY = Empty()


class TaskService:
    """All containers of a shim."""

    def __init__(self, host: Host, shutdown: Callable[[], object]) -> None:
        """`shutdown` is called when a Shutdown finds no container."""
        self._host = host
        self._shutdown = shutdown
        self.containers: dict[str, Container] = {}
        self.creating: set[str] = set()

    def services(self) -> dict[str, dict[str, Method | StreamMethod]]:
        """For `ttrpc.server.Server`."""
        table: dict[str, Method | StreamMethod] = {
            "State": Method(m.StateRequest, self.State),
            "Create": Method(m.CreateTaskRequest, self.Create),
            "Start": Method(m.StartRequest, self.Start),
            "Delete": Method(m.DeleteRequest, self.Delete),
            "Pids": Method(m.PidsRequest, self.Pids),
            "Pause": Method(m.PauseRequest, self.Pause),
            "Resume": Method(m.ResumeRequest, self.Resume),
            "Checkpoint": Method(m.CheckpointTaskRequest, self.Checkpoint),
            "Kill": Method(m.KillRequest, self.Kill),
            "Exec": Method(m.ExecProcessRequest, self.Exec),
            "ResizePty": Method(m.ResizePtyRequest, self.ResizePty),
            "CloseIO": Method(m.CloseIORequest, self.CloseIO),
            "Update": Method(m.UpdateTaskRequest, self.Update),
            "Wait": Method(m.WaitRequest, self.Wait, waits=True),
            "Stats": Method(m.StatsRequest, self.Stats),
            "Connect": Method(m.ConnectRequest, self.Connect),
            "Shutdown": Method(m.ShutdownRequest, self.Shutdown),
        }
        return dict.fromkeys(NAMES, table)

    def idle(self) -> bool:
        """Is there no container, and none in the making?"""
        return not self.containers and not self.creating

    def running(self) -> bool:
        """Is there a container, and does every one run?"""
        return not self.creating and {
            container.init.state for container in self.containers.values()
        } == {"running"}

    def _container(self, id: str) -> Container:
        found = self.containers.get(id)
        if found is None:
            raise NotFound("container not created")
        return found

    async def Create(self, request: m.CreateTaskRequest, context: Context) -> m.CreateTaskResponse:
        identifiers.check("container id", request.id)
        if not request.bundle.startswith("/"):
            raise InvalidArgument(f"bundle {request.bundle!r} must be an absolute path")
        if request.id in self.containers or request.id in self.creating:
            raise AlreadyExists(f"container {request.id}")
        self.creating.add(request.id)
        try:
            ignored: list[str] = []
            opts = options.decode(request.options if request.HasField("options") else None, ignored)
            if ignored:
                text = "runtime options have keys that mean nothing here"
                log.warning(text, container=request.id, keys=" ".join(ignored))
            container = Container(self._host, request, opts)
            await container.create(request, context)
            self.containers[request.id] = container
        finally:
            self.creating.discard(request.id)
        return m.CreateTaskResponse(pid=container.init.pid)

    async def Start(self, request: m.StartRequest, context: Context) -> m.StartResponse:
        container = self._container(request.id)
        process = container.init
        if request.exec_id:
            process = await execs.start(container, request.exec_id, context)
        else:
            await container.start_init(context)
        return m.StartResponse(pid=process.pid)

    async def Delete(self, request: m.DeleteRequest, context: Context) -> m.DeleteResponse:
        container = self._container(request.id)
        process = container.process(request.exec_id)
        await container.delete(process, context)
        if process.is_init:
            self.containers.pop(request.id, None)
        return m.DeleteResponse(
            pid=process.pid, exit_status=process.exit_status(), exited_at=process.exited_at()
        )

    async def State(self, request: m.StateRequest, _: Context) -> m.StateResponse:
        container = self._container(request.id)
        process = container.process(request.exec_id)
        status = states.STATUS[process.state]
        if container.pausing:
            status = states.PAUSING_STATUS
        elif container.init.state == states.PAUSED:
            status = states.PAUSED_STATUS
        return m.StateResponse(
            id=process.id,
            bundle=container.bundle,
            pid=process.pid,
            status=status,  # type: ignore[arg-type]
            stdin=process.stdin,
            stdout=process.stdout,
            stderr=process.stderr,
            terminal=process.terminal,
            exit_status=process.exit_status(),
            exited_at=process.exited_at(),
        )

    async def Pids(self, request: m.PidsRequest, _: Context) -> m.PidsResponse:
        container = self._container(request.id)
        running = {
            process.pid: process.id
            for process in container.execs.values()
            if process.state == states.RUNNING
        }
        response = m.PidsResponse()
        for pid in await container.pids():
            info = None
            if pid in running:
                details = ProcessDetails(exec_id=running[pid])
                info = Any(type_url=details.DESCRIPTOR.full_name, value=details.SerializeToString())
            response.processes.append(ProcessInfo(pid=pid, info=info))
        return response

    async def Pause(self, request: m.PauseRequest, context: Context) -> Empty:
        await self._container(request.id).pause(context)
        return _EMPTY

    async def Resume(self, request: m.ResumeRequest, context: Context) -> Empty:
        await self._container(request.id).resume(context)
        return _EMPTY

    async def Checkpoint(self, request: m.CheckpointTaskRequest, context: Context) -> Empty:
        container = self._container(request.id)
        from shim_runc_py.task import checkpoint

        given = checkpoint.decode(request.options if request.HasField("options") else None)
        await checkpoint.checkpoint(container, request.path, given, context)
        return _EMPTY

    async def Kill(self, request: m.KillRequest, context: Context) -> Empty:
        container = self._container(request.id)
        process = container.process(request.exec_id)
        await container.kill(process, request.signal, request.all, context)
        return _EMPTY

    async def Exec(self, request: m.ExecProcessRequest, _: Context) -> Empty:
        execs.add(self._container(request.id), request)
        return _EMPTY

    async def ResizePty(self, request: m.ResizePtyRequest, _: Context) -> Empty:
        container = self._container(request.id)
        container.resize(container.process(request.exec_id), request.width, request.height)
        return _EMPTY

    async def CloseIO(self, request: m.CloseIORequest, _: Context) -> Empty:
        container = self._container(request.id)
        try:
            process = container.process(request.exec_id)
        except NotFound as error:
            raise ShimError(str(error)) from None  # this one RPC answers Unknown (SEMANTICS 1.0)
        process.close_stdin()
        return _EMPTY

    async def Update(self, request: m.UpdateTaskRequest, context: Context) -> Empty:
        resources = request.resources.value if request.HasField("resources") else b""
        await self._container(request.id).update(resources, context)
        return _EMPTY

    async def Stats(self, request: m.StatsRequest, _: Context) -> m.StatsResponse:
        return m.StatsResponse(stats=self._container(request.id).stats())

    async def Wait(self, request: m.WaitRequest, _: Context) -> m.WaitResponse:
        process = self._container(request.id).process(request.exec_id)
        await process.exited
        return m.WaitResponse(exit_status=process.exit_status(), exited_at=process.exited_at())

    async def Connect(self, request: m.ConnectRequest, _: Context) -> m.ConnectResponse:
        container = self.containers.get(request.id)
        task_pid = container.init.pid if container is not None else 0
        return m.ConnectResponse(shim_pid=os.getpid(), task_pid=task_pid)

    async def Shutdown(self, _request: m.ShutdownRequest, _: Context) -> Empty:
        if self.idle():
            self._shutdown()
        return _EMPTY
