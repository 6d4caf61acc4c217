"""What the zygote has done before it forks: imports, and the first run of what runs in every shim.

Whatever a fork does for the first time costs it time and private pages: module objects, caches of
the interpreter's specialised byte code, protobuf's lazily built tables. Here it is done once for
all of them. Nothing of it may leave a thread, a descriptor or a child behind.
"""

from __future__ import annotations

import _json  # noqa: F401
import os
import resource  # noqa: F401

from shim_runc_py.api import (  # noqa: F401
    legacy_options_pb2,
    metrics_v1_pb2,
    metrics_v2_pb2,
    runc_options_pb2,
    runtime_options_pb2,
    task_v3_pb2,
)
from shim_runc_py.linux import cgroup1, cgroup2, libc, mounts, pty, spawn  # noqa: F401
from shim_runc_py.shim import address, delete, serve, start, zygote  # noqa: F401
from shim_runc_py.stdio import logger, terminal  # noqa: F401
from shim_runc_py.task import checkpoint, metrics, oom  # noqa: F401


def up() -> None:
    """Exercise the paths that every shim takes."""
    for _ in range(3):
        zygote.take_over(os.getpid())
        address.socket_path("/run", "/run/c.sock", "n", "id")
        address.group(b'{"annotations": {"io.kubernetes.cri.sandbox-id": "x"}}')
