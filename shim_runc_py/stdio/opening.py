"""Which kind of streams a plan becomes.

Rooms that few containers need (terminals, loggers) are entered late.
"""

from __future__ import annotations

import os
import stat

from shim_runc_py.errors import ShimError, words
from shim_runc_py.stdio import plan as plans
from shim_runc_py.stdio.streams import PipeStdio, Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from shim_runc_py.loop import Loop
    from shim_runc_py.reaper import Reaper
    from shim_runc_py.stdio.logger import Logger


class Owner:
    """Whose streams they are: what opening them needs to know besides the plan.

    `uid` and `gid` get the container's pipe ends, so that a container in a user namespace may open
    /dev/stdout again.
    """

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        environ: Mapping[str, str],
        namespace: str,
        process: str,
        ids: tuple[int, int],
    ) -> None:
        self.loop = loop
        self.reaper = reaper
        self.environ = environ
        self.namespace = namespace
        self.process = process
        self.ids = ids

    def start_logger(self, plan: plans.Plan) -> Logger:
        """Raises ShimError and OSError."""
        from shim_runc_py.stdio.logger import Logger

        allowed = self.environ.get("PYRUNC_LOGGERS", "")
        if self.environ.get("PYRUNC_STRICT") == "1":
            from shim_runc_py.linux import trust

            reason = trust.doubt(plan.command[0])
            if reason:
                raise ShimError(f"failed to start binary process: {reason}")
        return Logger(
            self.loop, self.reaper, plan.command, self.process, self.namespace, allowed, self.ids
        )


async def open_stdio(plan: plans.Plan, owner: Owner, seconds: float) -> Stdio:
    """The streams for a plan, waiting at most `seconds` for a logger. Raises ShimError."""
    try:
        if plan.kind == plans.NULL:
            return Stdio()
        if plan.kind == plans.TERMINAL:
            from shim_runc_py.stdio.terminal import TerminalStdio

            return TerminalStdio(owner.loop, plan, owner.environ)
        if plan.kind == plans.TERMINAL_LOGGER:
            from shim_runc_py.stdio.terminal import TerminalStdio

            logger = await _ready_logger(plan, owner, seconds)
            return TerminalStdio(owner.loop, plan, owner.environ, logger)
        if plan.kind == plans.LOGGER:
            from shim_runc_py.stdio.logger import LoggerStdio

            return LoggerStdio(owner.loop, plan, await _ready_logger(plan, owner, seconds))
        if plan.kind == plans.FILE:
            _make_file(plan.stdout)
        return PipeStdio(owner.loop, plan, owner.ids)
    except OSError as error:
        raise ShimError(f"failed to create init process I/O: {words(error)}") from None


async def _ready_logger(plan: plans.Plan, owner: Owner, seconds: float) -> Logger:
    terminal = plan.kind == plans.TERMINAL_LOGGER
    prefix = "failed to start console copy" if terminal else "failed to create init process I/O"
    name = "logging binary process" if terminal else "binary process"
    logger = owner.start_logger(plan)
    try:
        await logger.ready(plan.must_say_ready, seconds, name)
    except BaseException as error:
        logger.kill()
        logger.close()
        if isinstance(error, ShimError):
            raise ShimError(f"{prefix}: {error}", error.code) from None
        raise
    return logger


def _make_file(path: str) -> None:
    """An empty log file and the directories above it; raises OSError.

    Only a regular file, and not through a symlink: the path comes from a request (SECURITY 7).
    """
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(22, f"{path} is no regular file")
    finally:
        os.close(fd)
