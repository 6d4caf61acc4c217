"""From the command line to one of the roles: start, delete, info, version, serving by hand.

Runs in the process that containerd executed or, through the zygote, in a fork that stands in for
it; hence arguments, environment and input are parameters. Nothing is imported here that the role
does not need; tests/architecture holds each role to a list.
"""

import os
import sys

from shim_runc_py.shim import flags as command_line
from shim_runc_py.task import identifiers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim_runc_py.shim.start import Daemon


ZYGOTE = "-zygote"  # how `shim/zygote.py` executes itself


class RoleError(Exception):
    """The command line is well-formed and asks for nothing that can be done."""


class Caller:
    """The process that containerd executed, and how it leaves a daemon behind."""

    def __init__(self, given: bytes, parent: int) -> None:
        """`given` on standard input; `parent` is the pid of containerd."""
        self.given = given
        self.parent = parent

    def detach(
        self, daemon: "Daemon", environ: dict[str, str], introduce: "Callable[[int], bytes]"
    ) -> None:
        """Make a process that serves; `introduce(its pid)` gives the answer for containerd.

        Raises what `introduce` raises; then nobody serves.
        """
        from shim_runc_py.shim import start

        start.fork(daemon, environ, introduce)


def main(argv: list[str], given: bytes) -> tuple[int, bytes, bytes]:
    """Run a command in the process that containerd executed: (status, output, complaint)."""
    if argv[1:2] == [ZYGOTE]:
        from shim_runc_py.shim import zygote

        return zygote.serve(argv[2]), b"", b""
    return run(argv, dict(os.environ), Caller(given, os.getppid()))


def run(argv: list[str], environ: dict[str, str], caller: Caller) -> tuple[int, bytes, bytes]:
    """(exit status, bytes for standard output, bytes for standard error)."""
    try:
        flags = command_line.parse(argv[1:])
    except command_line.FlagError as error:
        return 2, b"", f"{error}\n{command_line.usage(argv[0])}".encode()
    try:
        if flags.version:
            return 0, _version(argv[0].rpartition("/")[2]), b""
        if flags.info:
            from shim_runc_py.shim import info

            return 0, info.run(info.read_input(), environ), b""
        if not flags.namespace:
            raise RoleError("shim namespace cannot be empty")
        # They become parts of paths, and containerd has checked them by the same rule.
        identifiers.check("namespace", flags.namespace)
        if flags.action in ("start", "delete"):
            identifiers.check("container id", flags.id)
        if flags.action == "start":
            from shim_runc_py.shim import start

            return 0, start.run(flags, environ, caller), b""
        if flags.action == "delete":
            from shim_runc_py.shim import delete

            return 0, *delete.run(flags, environ)
        if flags.action:
            raise RoleError(f"unknown action {flags.action}: use start or delete")
        return _serve_by_hand(flags, environ), b"", b""
    except Exception as error:
        return 1, b"", f"{command_line.RUNTIME_NAME}: {error}".encode("utf-8", "replace")


def _version(program: str) -> bytes:
    from shim_runc_py import __version__

    python = ".".join(str(part) for part in sys.version_info[:3])
    lines = [
        f"{program}:",
        f"  Version:  {__version__}",
        "  Revision: ",
        f"  Python version: {python}",
    ]
    return ("\n".join(lines) + "\n\n").encode()


def _serve_by_hand(flags: command_line.Flags, environ: dict[str, str]) -> int:
    if not flags.socket:
        raise RoleError("nothing to do: use start, delete, -info, -v, or -socket to serve by hand")
    from shim_runc_py.linux import sock
    from shim_runc_py.shim import serve
    from shim_runc_py.shim.start import Daemon

    path = flags.socket.removeprefix("unix://")
    listener = sock.listen(path)
    if listener is None:
        raise RoleError(f"somebody serves on {path} already")
    daemon = Daemon(
        flags, listener, path, os.getcwd(), environ.get("TTRPC_ADDRESS", ""), flags.debug
    )
    return serve.by_hand(daemon, environ)
