"""Idmapped mounts: files of an image seen with the ids of a user namespace (SEMANTICS 3.4).

For a child process (`linux.mounts`), since it changes namespaces and waits.

An overlay cannot be idmapped itself, its lower layers can. The stock shim attaches an idmapped copy
of them at a temporary directory of the host, which leaks when the shim is killed in between, and
which once took image data with it when it was removed. Here the copy is attached in a mount
namespace that only this process has; the finished overlay is carried back from there by descriptor.
Nothing temporary is ever visible, and nothing has to be cleaned up (regressions R63 - R66).

Kernel facts
------------
* mount_setattr(2) takes the id map of a user namespace, which is there as long as somebody holds a
  descriptor of it; no process has to stay in it.
* Only a detached mount can be idmapped, once.
* An overlay keeps private copies of its layers' mounts and outlives their namespace.
* A detached mount may be attached in another mount namespace than the one it was made in.
"""

from __future__ import annotations

import errno
import os

from shim_runc_py.linux import libc, spawn, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_BOUND = 10.0  # seconds for a process that only has to call unshare(2)
_NOT_HERE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def user_namespace(uids: str, gids: str) -> int:
    """A descriptor of a new user namespace with these maps. Raises OSError.

    `uids` and `gids` are the lines of uid_map and gid_map (user_namespaces(7)).
    """
    ready, say_ready = os.pipe()
    stay, let_go = os.pipe()
    child = None
    try:

        def hold() -> None:
            libc.new_user_namespace()
            os.write(say_ready, b"x")
            os.close(let_go)
            os.read(stay, 1)  # ends when the parent closes its end

        child = spawn.call(hold)
        os.close(say_ready)
        say_ready = -1
        if not os.read(ready, 1):
            wait.within(child.pid, _BOUND)
            trouble = child.failure()
            why = trouble.words if trouble else "it was killed"
            raise OSError(
                (trouble.errno if trouble else 0) or errno.EPERM, f"no user namespace: {why}"
            )
        try:
            for name, text in (("uid_map", uids), ("gid_map", gids)):
                _write(f"/proc/{child.pid}/{name}", text)
            return os.open(f"/proc/{child.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(let_go)
            let_go = -1
            wait.within(child.pid, _BOUND)
    finally:
        for fd in (ready, say_ready, stay, let_go):
            if fd >= 0:
                os.close(fd)
        if child is not None:
            child.close()


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"{text.split()} cannot be mapped: {error.strerror}") from None
    finally:
        os.close(fd)


def copy(path: str, namespace: int, *, read_only: bool = False) -> int:
    """A detached, idmapped copy of the mounts from `path` downwards, as a descriptor.

    Raises OSError, with the reason for a kernel or a file system that cannot do it.
    """
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    tree = -1
    try:
        tree = libc.open_tree(place, recursive=True)
        libc.map_ids(tree, namespace, read_only=read_only)
    except OSError as error:
        if tree >= 0:
            os.close(tree)
        if error.errno not in _NOT_HERE:
            raise
        text = f"idmapped mount of {path}: neither this kernel nor every file system can do that"
        raise OSError(error.errno, text) from None
    finally:
        os.close(place)
    return tree


def in_private_namespace(action: Callable[[], int]) -> int:
    """Run `action` in a mount namespace of its own; the descriptor it returns is returned.

    The working directory is afterwards what it was. So is the root: one that is not that of the
    namespace keeps a process from making a user namespace, and so from getting here. Raises what
    `action` raises.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC
    home = os.open("/proc/self/ns/mnt", flags)
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        libc.new_mount_namespace()
        try:
            libc.mount("none", "/", "", _REC_PRIVATE, "")
            return action()
        finally:
            libc.enter_mount_namespace(home)
            os.fchdir(here)
    finally:
        for fd in (home, here):
            os.close(fd)


_REC_PRIVATE = (1 << 14) | (1 << 18)
