"""Further processes in a container (SEMANTICS 1.3, 1.9, 2.2, 4.8).

Exec only remembers; Start runs the engine. A start that fails leaves the exec as it was and nothing
of it running, and lets those go who wait for its exit.
"""

from __future__ import annotations

from shim_runc_py.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from shim_runc_py.events import topics
from shim_runc_py.loop import Future
from shim_runc_py.runc import argv
from shim_runc_py.runc import spec as specs
from shim_runc_py.runc.engine import BOUND
from shim_runc_py.task import bundle, identifiers
from shim_runc_py.task.container import ATTACH_BOUND
from shim_runc_py.task.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim_runc_py.api.task_pb2 import ExecProcessRequest
    from shim_runc_py.task.container import Container
    from shim_runc_py.ttrpc.server import Context


def add(container: Container, request: ExecProcessRequest) -> None:
    """Remember an exec to be started later; nothing runs. Raises ShimError."""
    identifiers.check("exec id", request.exec_id)
    if not request.HasField("spec") or not request.spec.value:
        raise InvalidArgument(f"exec {request.exec_id} has no process spec")
    if request.exec_id in container.execs:
        raise AlreadyExists(f"id {request.exec_id}")
    container.init.move("exec")
    try:
        spec = specs.process_with_terminal(request.spec.value, request.terminal)
    except specs.UnsafeCwd as error:
        raise InvalidArgument(f"exec {request.exec_id}: {error}") from None
    except ValueError as error:
        text = f"process spec of exec {request.exec_id} is no JSON object: {error}"
        raise InvalidArgument(text) from None
    names = (request.stdin, request.stdout, request.stderr)
    container.execs[request.exec_id] = Process(
        request.exec_id, names, request.terminal, is_init=False, spec=spec
    )
    container.host.publish(topics.exec_added(container.id, request.exec_id))


async def start(container: Container, exec_id: str, context: Context) -> Process:
    """Start an exec that was added. Raises ShimError."""
    _check_init(container)  # before the exec is looked up, as clients of the stock shim see it
    process = container.process(exec_id)
    async with process.gate:
        _check_init(container)
        after = process.move("start")
        if process.exited.done():  # an earlier start failed
            process.exited = Future()
        container.exits.begin(process)
        try:
            await _run(container, process, context)
        except BaseException:
            process.stdio.close()
            await container.await_killed(process)
            process.pid = 0
            process.gone = None
            process.exited.settle(None)
            container.exits.exec_failed(process)
            raise
        process.state = after
        container.host.publish(topics.exec_started(container.id, process.id, process.pid))
        container.exits.watch(process)
        container.exits.announce(process)
    return process


def _check_init(container: Container) -> None:
    if container.exits.init_reaped:
        raise FailedPrecondition(f"container {container.id} init process is not running")


async def _run(container: Container, process: Process, context: Context) -> None:
    await container.open_stdio(process, context)
    process_file = bundle.temporary_file(container.host.environ, process.spec)
    pid_file = f"{container.bundle}/{process.id}.pid"
    try:
        with container.host.reaper.expecting():
            await container.engine.run(
                argv.execute(
                    container.id,
                    process_file,
                    pid_file,
                    console_socket=process.stdio.console_path,
                ),
                "OCI runtime exec failed",
                seconds=context.remaining(BOUND),
                streams=process.stdio.streams,
                spawned=process.stdio.spawned,
            )
            container.adopt(process, pid_file)
    finally:
        bundle.remove(process_file)
    await process.stdio.attach(context.remaining(ATTACH_BOUND))
