"""Checkpoint and restore, which few containers ever see (SEMANTICS 3.9, 9.3).

Checkpoint hands over to the engine and keeps criu's log when that fails. Restore is the Start of a
container that was created from a checkpoint. Image directories come from whoever made the
checkpoint: nothing in them is read or followed here (SECURITY 28).
"""

from __future__ import annotations

import os

from google.protobuf.message import DecodeError

from shim_runc_py.api.runc_options_pb2 import CheckpointOptions
from shim_runc_py.errors import InvalidArgument, ShimError, words
from shim_runc_py.runc import argv
from shim_runc_py.runc.engine import CHECKPOINT_BOUND, EngineError
from shim_runc_py.task.container import ATTACH_BOUND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any

    from shim_runc_py.task.container import Container
    from shim_runc_py.ttrpc.server import Context

_MOST_LOG = 4 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def decode(any_: Any | None) -> CheckpointOptions:
    """The options of a Checkpoint; none gives the defaults. Raises InvalidArgument."""
    if any_ is None or not any_.value:
        return CheckpointOptions()
    name = any_.type_url.rpartition("/")[2]
    try:
        if name == "containerd.runc.v1.CheckpointOptions":
            return CheckpointOptions.FromString(any_.value)
        if name == "containerd.linux.runc.CheckpointOptions":
            from shim_runc_py.api.legacy_options_pb2 import CheckpointOptions as Legacy

            given = Legacy.FromString(any_.value)
            return CheckpointOptions(**{field.name: value for field, value in given.ListFields()})
    except DecodeError as error:
        raise InvalidArgument(f"checkpoint options are no {name}: {error}") from None
    raise InvalidArgument(
        f'checkpoint options of type "{any_.type_url}": a runc shim takes '
        "containerd.runc.v1.CheckpointOptions or containerd.linux.runc.CheckpointOptions"
    )


async def checkpoint(
    container: Container, path: str, options: CheckpointOptions, context: Context
) -> None:
    """Write an image of the container into `path`. Raises ShimError."""
    async with container.init.gate:
        container.init.move("checkpoint")
        log = f"{container.bundle}/criu-dump.log"
        work = options.work_path or f"{container.bundle}/work/criu-work"
        if not options.work_path:
            try:
                _make_empty(work)
            except OSError as error:
                raise ShimError(f"mkdir {work}: {words(error)} path= {log}") from None
        arguments = argv.checkpoint(
            container.id,
            path,
            work,
            parent_path=options.parent_path,
            tcp_established=options.open_tcp,
            external_unix_sockets=options.external_unix_sockets,
            shell_job=options.terminal,
            file_locks=options.file_locks,
            empty_namespaces=options.empty_namespaces,
            leave_running=not options.exit,
        )
        try:
            await container.engine.run(arguments, "", seconds=context.remaining(CHECKPOINT_BOUND))
        except EngineError as error:
            _keep_log(f"{work}/dump.log", log)
            first = (str(error).splitlines() or [""])[0]
            raise ShimError(f"{first} path= {log}") from None
        finally:
            if not options.work_path:
                _remove_flat(work)


async def restore(container: Container, context: Context) -> None:
    """The engine's restore in place of its start. Raises ShimError."""
    try:
        await _run_restore(container, context)
    except BaseException:
        await container.await_killed(container.init)
        container.init.pid = 0
        container.init.gone = None
        raise
    container.supervise()


async def _run_restore(container: Container, context: Context) -> None:
    init = container.init
    pid_file = f"{container.bundle}/init.pid"
    with container.host.reaper.expecting():
        await container.engine.run(
            argv.restore(
                container.id,
                container.bundle,
                pid_file,
                container.checkpoint_path,
                container.options.criu_work_path or f"{container.bundle}/work",
                console_socket=init.stdio.console_path,
                no_pivot=container.options.no_pivot_root,
            ),
            "OCI runtime restore failed",
            seconds=context.remaining(CHECKPOINT_BOUND),
            streams=init.stdio.streams,
            spawned=init.stdio.spawned,
        )
        container.adopt(init, pid_file)
    await init.stdio.attach(context.remaining(ATTACH_BOUND))


def _keep_log(source: str, target: str) -> None:
    """criu's log goes with its work directory; what it says is wanted afterwards."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        given = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        kept = os.open(target, flags, 0o600)
        try:
            os.write(kept, os.read(given, _MOST_LOG))
        finally:
            os.close(kept)
    except OSError:
        pass
    finally:
        os.close(given)


def _make_empty(directory: str) -> None:
    """A new directory; a symlink that has its name is no directory (SECURITY 28). OSError."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        os.close(os.open(directory, _DIRECTORY))


def _remove_flat(directory: str) -> None:
    """Remove a directory that only has files, as criu's work directory does."""
    try:
        fd = os.open(directory, _DIRECTORY)
    except OSError:
        return
    try:
        for name in os.listdir(fd):
            os.unlink(name, dir_fd=fd)
        os.rmdir(directory)
    except OSError:
        pass
    finally:
        os.close(fd)
