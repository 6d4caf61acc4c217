"""Containers without ctr: what Docker does with containerd's API, over `client`."""

from __future__ import annotations

import copy
from pathlib import Path

import grpc

from shim_runc_py.testing import bundles
from tests.containerd import pairings
from tests.containerd.client import Client


class Docker:
    """Containers without ctr."""

    def __init__(self, client: Client, runtime: str, rootfs: Path) -> None:
        self.client = client
        self.runtime = runtime
        self.rootfs = rootfs

    def create(self, id, script, options=None, task_options=None, user=0, **streams):
        """Container and task, not started; returns the pid of its init."""
        spec = copy.deepcopy(bundles.spec("sleep", ["/bin/sh", "-c", script]))
        spec["root"]["path"] = str(self.rootfs)
        spec["process"]["user"] = {"uid": user, "gid": user}
        spec["linux"]["cgroupsPath"] = f"/{pairings.NAMESPACE}/{id}"
        self.client.create_container(id, self.runtime, spec, options)
        return self.client.task("Create", id, options=task_options, **streams).pid

    def run(self, id, script, **how):
        pid = self.create(id, script, **how)
        assert self.client.task("Start", id).pid == pid
        return pid

    def end(self, id):
        """Kill it if needed and remove it; returns what Delete said."""
        try:
            self.client.task("Kill", id, signal=9, all=True)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
        self.client.task("Wait", id)
        deleted = self.client.task("Delete", id)
        self.client.delete_container(id)
        return deleted
