"""The shim's files in a bundle (SEMANTICS 3.2, SECURITY 3, 19).

All of them are private to the shim, mode 0600, never opened through a symlink. `options.json` and
`runtime` are what the `delete` command finds when the serving shim is gone; `init.exit` lets it
tell the real exit status.
"""

from __future__ import annotations

import os

from shim_runc_py import log
from shim_runc_py.errors import NOT_FOUND, PERMISSION_DENIED, ShimError, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from shim_runc_py.reaper import Exit

_CODES = {2: NOT_FOUND, 13: PERMISSION_DENIED, 1: PERMISSION_DENIED}


def write(path: str, text: str) -> None:
    """Replace a small file; raises ShimError of the class that the stock shim answers with."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise ShimError(f"open {path}: {words(error)}", _CODES.get(error.errno or 0)) from None


def write_exit(bundle: str, pid: int, how: Exit) -> None:
    """Record how the init process ended. A full disk does not keep the exit from being told."""
    try:
        write(f"{bundle}/init.exit", f"{how.status} {how.at} {pid}")
    except ShimError as error:
        log.warning("exit is not recorded", bundle=bundle, error=error)


def read_pid(path: str, what: str) -> int:
    """The pid in an engine's pid file; raises ShimError for anything that cannot be one."""
    prefix = f"failed to retrieve OCI runtime {what} pid"
    try:
        with open(path, "rb") as file:
            pid = int(file.read(32))
    except (OSError, ValueError) as error:
        raise ShimError(f"{prefix}: {error}") from None
    if pid <= 1 or pid == os.getpid():
        raise ShimError(f"{prefix}: {path} says {pid}")
    return pid


def temporary_file(environ: Mapping[str, str], data: bytes) -> str:
    """The path of a new file with `data` for one engine command; the caller removes it."""
    directory = environ.get("XDG_RUNTIME_DIR") or "/tmp"
    path = f"{directory}/runc-process{os.urandom(6).hex()}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    return path


def remove(path: str) -> None:
    """Remove a file that may not be there."""
    try:
        os.unlink(path)
    except OSError:
        pass
