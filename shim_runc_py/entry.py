"""From the command line to one of the roles: start, delete, info, version, serving by hand.

containerd executes this two or three times for every container, so nothing is imported here that
the role does not need; tests/architecture holds each role to a list. Only this module and those in
`shim/` read argv, the environment and the working directory.
"""

import os
import sys

from shim_runc_py.shim import flags as command_line


def main() -> None:
    """Run the role that the command line asks for, and exit with its status."""
    sys.stdout = None  # bytes are written once, by os.write
    status, output = run(sys.argv)
    if output:
        os.write(1, output)
    if sys.stderr is not None:
        sys.stderr.flush()
    os._exit(status)


def run(argv: list[str]) -> tuple[int, bytes]:
    """(exit status, bytes for standard output). Errors are on standard error already."""
    try:
        flags = command_line.parse(argv[1:])
    except command_line.FlagError as error:
        sys.stderr.write(f"{error}\n{command_line.usage(argv[0])}")
        return 2, b""
    try:
        if flags.version:
            return 0, _version(argv[0].rpartition("/")[2])
        if flags.info:
            from shim_runc_py.shim import info

            return 0, info.run(info.read_input(), os.environ)
        if not flags.namespace:
            raise RoleError("shim namespace cannot be empty")
        if flags.action == "start":
            from shim_runc_py.shim import start

            return 0, start.run(flags, dict(os.environ))
        if flags.action == "delete":
            from shim_runc_py.shim import delete

            return 0, delete.run(flags, os.environ)
        if flags.action:
            raise RoleError(f"unknown action {flags.action}: use start or delete")
        return _serve_by_hand(flags), b""
    except Exception as error:
        sys.stderr.write(f"{command_line.RUNTIME_NAME}: {error}")
        return 1, b""


class RoleError(Exception):
    """The command line is well-formed and asks for nothing that can be done."""


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


def _serve_by_hand(flags: command_line.Flags) -> int:
    if not flags.socket:
        raise RoleError("nothing to do: use start, delete, -info, -v, or -socket to serve by hand")
    from shim_runc_py.linux import sock
    from shim_runc_py.shim import serve
    from shim_runc_py.shim.start import Daemon

    path = flags.socket.removeprefix("unix://")
    listener = sock.listen(path)
    if listener is None:
        raise RoleError(f"somebody serves on {path} already")
    ttrpc_address = os.environ.get("TTRPC_ADDRESS", "")
    daemon = Daemon(flags, listener, path, os.getcwd(), ttrpc_address, flags.debug)
    return serve.by_hand(daemon, dict(os.environ))
