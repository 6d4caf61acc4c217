"""What a test session runs with, told by the environment: engine, cgroup driver, patience.

    PYRUNC_ENGINE     the OCI engine's binary, `runc` when not set
    PYRUNC_SYSTEMD    not empty: cgroups are made by systemd
    PYRUNC_SLOW       by how much every bound is longer than on a real machine (emulators: 4)

containerd's clients put the first two into the options of Create, and so does `shims.Task`.
"""

from __future__ import annotations

import os

from google.protobuf.any_pb2 import Any

from shim_runc_py.api.runc_options_pb2 import Options

ENGINE = os.environ.get("PYRUNC_ENGINE") or "runc"
SYSTEMD = bool(os.environ.get("PYRUNC_SYSTEMD"))
SLOW = float(os.environ.get("PYRUNC_SLOW") or 1)

# Cgroup names are global on a machine: each test session has a parent of its own. systemd makes
# and removes slices by itself; a dash in their names would nest them.
CGROUP_PREFIX = f"/pyrunctest{os.getpid()}.slice" if SYSTEMD else f"/pyrunc-test-{os.getpid()}"


def cgroups_path(id: str) -> str:
    """What `linux.cgroupsPath` of a container says: a path, or slice:prefix:name for systemd."""
    prefix = CGROUP_PREFIX.strip("/")
    return f"{prefix}:pyrunc:{id}" if SYSTEMD else f"{CGROUP_PREFIX}/{id}"


def cgroup_name(id: str) -> str:
    """The container's cgroup, as a path in each hierarchy."""
    return f"{CGROUP_PREFIX}/pyrunc-{id}.scope" if SYSTEMD else f"{CGROUP_PREFIX}/{id}"


def options(engine: str = ENGINE) -> Any | None:
    """The options of Create that select engine and driver; None when they are the usual ones."""
    if engine == "runc" and not SYSTEMD:
        return None
    found = Options(binary_name="" if engine == "runc" else engine, systemd_cgroup=SYSTEMD)
    return Any(type_url="containerd.runc.v1.Options", value=found.SerializeToString())
