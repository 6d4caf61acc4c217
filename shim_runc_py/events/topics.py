"""Topic and message of every task event (CONTRACT 9.1, SEMANTICS 5.5).

Pure. Each function gives (topic, message). Every event is made here and nowhere else.
"""

from __future__ import annotations

from shim_runc_py.api import events_pb2 as messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

    from shim_runc_py.api.task_pb2 import CreateTaskRequest

    Event = tuple[str, Message]

EXIT = "/tasks/exit"


def create(request: CreateTaskRequest, pid: int) -> Event:
    message = messages.TaskCreate(
        container_id=request.id,
        bundle=request.bundle,
        rootfs=request.rootfs,
        io=messages.TaskIO(
            stdin=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            terminal=request.terminal,
        ),
        checkpoint=request.checkpoint,
        pid=pid,
    )
    return "/tasks/create", message


def start(container: str, pid: int) -> Event:
    return "/tasks/start", messages.TaskStart(container_id=container, pid=pid)


def exec_added(container: str, exec_id: str) -> Event:
    message = messages.TaskExecAdded(container_id=container, exec_id=exec_id)
    return "/tasks/exec-added", message


def exec_started(container: str, exec_id: str, pid: int) -> Event:
    message = messages.TaskExecStarted(container_id=container, exec_id=exec_id, pid=pid)
    return "/tasks/exec-started", message


def exited(container: str, process: str, pid: int, status: int, at: Timestamp) -> Event:
    """`process` is the container's id for the init process, the exec's id for an exec."""
    message = messages.TaskExit(
        container_id=container, id=process, pid=pid, exit_status=status, exited_at=at
    )
    return EXIT, message


def delete(container: str, pid: int, status: int, at: Timestamp) -> Event:
    """For the init process; deleting an exec publishes nothing."""
    message = messages.TaskDelete(container_id=container, pid=pid, exit_status=status, exited_at=at)
    return "/tasks/delete", message


def paused(container: str) -> Event:
    return "/tasks/paused", messages.TaskPaused(container_id=container)


def resumed(container: str) -> Event:
    return "/tasks/resumed", messages.TaskResumed(container_id=container)


def oom(container: str) -> Event:
    return "/tasks/oom", messages.TaskOOM(container_id=container)
