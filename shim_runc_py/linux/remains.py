"""What is left of a container in its cgroup when its engine did not live to clean up (FAILURES 26).

An engine that is killed half-way through its create has made cgroups, and perhaps put a process
into them, but has not written down that it did: nothing that it is asked for later finds them.

Kernel facts
------------
* A cgroup's directory can be removed once no living process is in it or below.
* A frozen process of a v1 hierarchy does not die before it is thawed. In v2 cgroup.kill reaches
  frozen ones, and those that are just being forked.
"""

from __future__ import annotations

import os

from shim_runc_py.linux import cgroup, procfs


def directories(path: str) -> list[str]:
    """The directories of the absolute cgroup `path` in every hierarchy; [] when there are none."""
    mounts = cgroup.v1_mounts(procfs.read("/proc/self/mountinfo"))
    tops = {cgroup.ROOT, f"{cgroup.ROOT}/unified", *(point for point, _ in mounts.values())}
    return sorted(top + path for top in tops if os.path.isdir(top + path))


def sweep(tops: list[str]) -> bool:
    """One round: thaw, kill, remove. True when nothing is there any more; else come again soon."""
    for top in tops:
        tree = cgroup.tree(top)
        for directory in tree:
            for name, word in (("freezer.state", b"THAWED"), ("cgroup.kill", b"1")):
                try:
                    with open(f"{directory}/{name}", "r+b", buffering=0) as file:
                        file.write(word)
                except OSError:  # no such file in this hierarchy, or gone
                    continue
        kill(procfs.read_pids(f"{directory}/cgroup.procs" for directory in tree))
        for directory in reversed(tree):
            try:
                os.rmdir(directory)
            except OSError:
                continue
    return not any(os.path.isdir(top) for top in tops)


def kill(pids: list[int]) -> None:
    """SIGKILL to the processes of a cgroup, as far as they can be seen and are still there."""
    for pid in pids:
        if pid > 1:  # 0 is one outside our pid namespace
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
