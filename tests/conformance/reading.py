"""What several tests read: the metrics of a container, as the message that this host has."""

from __future__ import annotations

import os

from shim_runc_py.api import metrics_v1_pb2, metrics_v2_pb2
from shim_runc_py.linux import cgroup

unified = cgroup.is_unified()


def metrics(shim, id):
    """Stats, as a message of cgroup v1 or v2."""
    any_ = shim.task.call("Stats", id=id).stats
    module = metrics_v2_pb2 if unified else metrics_v1_pb2
    assert any_.type_url == module.Metrics.DESCRIPTOR.full_name
    return module.Metrics.FromString(any_.value)


def own_cgroups(pid, id):
    """Directories of the cgroups of container `id` in which its `pid` is, those inside first."""
    found = []
    for path in sorted(set(cgroup.of(pid).directories.values())):
        while id in path:
            found.append(path)
            path = os.path.dirname(path)
    return found


def removed(path):
    """Remove the cgroup, if nobody else has; False while something is in it."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True
