"""Where the cgroup of a process lies, on a v1, hybrid or v2 host (SEMANTICS 3.10).

Kernel facts
------------
* /sys/fs/cgroup is a cgroup2 mount on a unified host, and a tmpfs with one mount for each v1
  controller otherwise; a hybrid host has /sys/fs/cgroup/unified in addition and is treated as v1.
* /proc/PID/cgroup gives paths from the root of each hierarchy. A mount may show only a part of its
  hierarchy (the root field of mountinfo); paths are made relative to that.
* A cgroup's directory may vanish at any time once its last process is gone.
"""

from __future__ import annotations

import os
import time

from shim_runc_py.linux import procfs
from shim_runc_py.linux.files import read_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = "/sys/fs/cgroup"


class Cgroup:
    """Directories by v1 controller, or the one of the unified hierarchy under the name ""."""

    __slots__ = ("directories", "unified")

    def __init__(self, unified: bool, directories: dict[str, str]) -> None:
        self.unified = unified
        self.directories = directories

    def pids(self) -> list[int]:
        """Every process in it and below, as `runc ps` finds them; [] when it is gone."""
        for controller in ("", "devices", "pids", "memory", "cpu"):
            top = self.directories.get(controller)
            if top is not None and os.path.isdir(top):
                return procfs.read_pids(f"{path}/cgroup.procs" for path in tree(top))
        return []


def is_unified(root: str = ROOT) -> bool:
    """Is this a cgroup v2 host?"""
    return os.path.exists(f"{root}/cgroup.controllers")


def of(pid: int) -> Cgroup:
    """The cgroup of `pid`. Raises OSError when the process or the hierarchy is not there."""
    paths = procfs.cgroup_paths(pid)
    if is_unified():
        path = paths.get("")
        if path is None:
            raise FileNotFoundError(2, "no unified cgroup", f"/proc/{pid}/cgroup")
        return Cgroup(True, {"": ROOT + path.rstrip("/")})
    mounts = v1_mounts(procfs.read("/proc/self/mountinfo"))
    directories = {}
    for controller, (point, root) in mounts.items():
        path = paths.get(controller)
        if path is not None:
            directory = point + localize(path, root)
            if os.path.isdir(directory):
                directories[controller] = directory
    if not directories:
        raise FileNotFoundError(2, "cgroup deleted", f"/proc/{pid}/cgroup")
    return Cgroup(False, directories)


def enable_controllers(cgroup: Cgroup) -> None:
    """On a unified host, enable every controller in all ancestors, so that its files are there.

    A host without systemd may have left them off (SEMANTICS 3.10). What cannot be enabled stays
    off: with processes in an ancestor the kernel refuses, and that is nobody's mistake.
    """
    if not cgroup.unified:
        return
    available = (read_bytes(f"{ROOT}/cgroup.controllers") or b"").split()
    directory = ROOT
    for name in cgroup.directories[""].removeprefix(ROOT).split("/")[:-1]:
        directory = f"{directory}/{name}" if name else directory
        path = f"{directory}/cgroup.subtree_control"
        missing = set(available) - set((read_bytes(path) or b"").split())
        if not missing:
            continue
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b" ".join(b"+" + controller for controller in sorted(missing)))
            finally:
                os.close(fd)
        except OSError:
            continue


def join(pid: int, path: str) -> None:
    """Move `pid` into the existing cgroup `path`. Raises OSError (SEMANTICS 11, ShimCgroup)."""
    if is_unified():
        targets: Iterable[str] = (ROOT + path,)
    else:
        mounts = v1_mounts(procfs.read("/proc/self/mountinfo"))
        found = {point + path for point, _ in mounts.values()}
        targets = sorted(target for target in found if os.path.isdir(target))
    if not targets or not all(os.path.isdir(target) for target in targets):
        raise FileNotFoundError(2, "No such file or directory", path)
    for target in targets:
        fd = os.open(f"{target}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            _write_pid(fd, pid)
        finally:
            os.close(fd)


def _write_pid(fd: int, pid: int) -> None:
    """EINVAL is what the kernel says of a process that is still being made (SEMANTICS 13, R112)."""
    for _ in range(4):
        try:
            os.write(fd, str(pid).encode())
            return
        except OSError as error:
            if error.errno != 22:
                raise
        time.sleep(0.03)
    os.write(fd, str(pid).encode())


def v1_mounts(mountinfo: str) -> dict[str, tuple[str, str]]:
    """Controller (or `name=x`) to (mount point, root within the hierarchy); the first counts."""
    found: dict[str, tuple[str, str]] = {}
    for line in mountinfo.split("\n"):
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not separator or kind[0] != "cgroup" or len(fields) < 5 or len(kind) < 3:
            continue
        point, root = procfs.unescape(fields[4]), procfs.unescape(fields[3])
        for option in kind[2].split(","):
            if option not in ("rw", "ro", "xattr") and option not in found:
                found[option] = (point, root)
    return found


def localize(path: str, root: str) -> str:
    """A hierarchy's `path` as seen below a mount that shows the hierarchy from `root`."""
    if root != "/" and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return "" if path == "/" else path


def tree(top: str) -> list[str]:
    """`top` and every directory below it, parents first; what is gone is left out."""
    directories = [top]
    for directory in directories:
        try:
            with os.scandir(directory) as entries:
                directories += sorted(e.path for e in entries if e.is_dir(follow_symlinks=False))
        except OSError:
            continue
    return directories
