"""A private containerd with its CRI plugin: handlers `pyrunc` and `runc`, pods on a bridge.

It runs in a network namespace of its own, which is its host network. Everything else is where
Daemon puts it; images come from archives that are made here. Its config is written in the dialect
of its generation: version 2 for containerd 1.x, version 3 for 2.x (CONTRACT 1.2).

The options of `pyrunc` arrive as runtimeoptions.v1 with the table as TOML; containerd 1.6 drops all
of them but ConfigPath, so there they are a file (CONTRACT 1.3).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from shim_runc_py.testing import cni, images
from shim_runc_py.testing.conditions import CGROUP_PREFIX
from shim_runc_py.testing.daemon import Daemon
from shim_runc_py.testing.generations import Generation
from shim_runc_py.testing.network import NetworkNamespace

NAMESPACE = "k8s.io"
RESULTS = Path("/var/lib/cni/results")
PAUSE = "pyrunc.test/pause:1"
TOOLS = "pyrunc.test/tools:1"
HANDLERS = {"pyrunc": "io.containerd.pyrunc.v2", "runc": "io.containerd.runc.v2"}
NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.88.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
    ],
}

Value = str | bool | int


class CRIDaemon(Daemon):
    """`start`, then `endpoint` serves CRI; `close` ends it and its network."""

    def __init__(
        self,
        directory: Path,
        generation: Generation,
        shim: Path,
        *,
        default_handler: str = "runc",
        options: Mapping[str, Value] | None = None,
        snapshotter: str = "overlayfs",
        more_handlers: Mapping[str, str] | None = None,
    ) -> None:
        """`shim` is our launcher, `options` are those of the handler pyrunc, `more_handlers` map
        names to runtime types. Raises Unavailable.
        """
        self.generation = generation
        self.default_handler = default_handler
        self._snapshotter = snapshotter
        self._plugins = cni.get()
        self._handlers = {**HANDLERS, **(more_handlers or {})}
        programs = directory / "bin"
        programs.mkdir(parents=True)
        (programs / shim.name).symlink_to(shim)
        (programs / "containerd-shim-runc-v2").symlink_to(generation.shim)
        engine = shutil.which("runc") or "runc"
        self._options: dict[str, Mapping[str, Value]] = {
            "runc": {"BinaryName": engine},
            "pyrunc": {"BinaryName": engine, **(options or {})},
        }
        if generation.major < (1, 7):
            path = directory / "pyrunc.toml"
            path.write_text("".join(_lines(self._options["pyrunc"])))
            self._options["pyrunc"] = {"ConfigPath": str(path)}
        network = directory / "cni"
        network.mkdir()
        NETWORK["plugins"][0]["ipam"]["dataDir"] = str(directory / "leases")  # type: ignore[index]
        (network / "10-pods.conflist").write_text(json.dumps(NETWORK))
        super().__init__(
            directory,
            containerd=generation.containerd,
            ctr=generation.ctr,
            shim_directories=[str(programs)],
            debug=True,
        )
        self.network = NetworkNamespace()

    @property
    def endpoint(self) -> str:
        return f"unix://{self.address}"

    def words(self) -> tuple[list[str], Sequence[int]]:
        words, descriptors = super().words()
        return [*self.network.words(), *words], [*descriptors, self.network.fd]

    def settings(self) -> str:
        new = self.generation.major >= (2, 0)
        cri = "io.containerd.cri.v1.runtime" if new else "io.containerd.grpc.v1.cri"
        runtime = f'plugins."{cri}"'
        text = f"""version = {3 if new else 2}
root = "{self.directory}/root"
state = "{self.directory}/state"
[grpc]
  address = "{self.address}"
[debug]
  level = "debug"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.directory}/opt"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
"""
        if new:
            text += f"""[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{self._snapshotter}"
  stats_collect_period = 1
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE}"
[{runtime}]
"""
        else:
            text += f'  sandbox_image = "{PAUSE}"\n  stats_collect_period = 1\n'
        # Since 2.1 there may be several; one is deprecated.
        several = self.generation.major >= (2, 1)
        plugins = f'bin_dirs = ["{self._plugins}"]' if several else f'bin_dir = "{self._plugins}"'
        # This machine's root may not be allowed to lower an oom score.
        text += f"""  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[{runtime}.cni]
  {plugins}
  conf_dir = "{self.directory}/cni"
[{runtime}.containerd]
  default_runtime_name = "{self.default_handler}"
"""
        if not new:
            text += f'  snapshotter = "{self._snapshotter}"\n'
        for handler, runtime_type in self._handlers.items():
            table = f"{runtime}.containerd.runtimes.{handler}"
            text += f'[{table}]\n  runtime_type = "{runtime_type}"\n'
            text += '  pod_annotations = ["pyrunc.test/*"]\n'
            if handler in self._options:
                text += f"[{table}.options]\n" + "".join(_lines(self._options[handler]))
        return text

    def start(self) -> None:
        """Start it and wait until CRI is served, and has found the pods of before."""
        super().start()
        from shim_runc_py.cri.connection import Connection
        from shim_runc_py.cri.failures import CRIError
        from shim_runc_py.cri.services import RuntimeService

        deadline = time.monotonic() + 30
        while True:
            try:
                with Connection(self.endpoint) as connection:
                    RuntimeService(connection).list_pod_sandbox()
                return
            except CRIError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def import_images(self) -> None:
        """Make the images PAUSE and TOOLS and give them to containerd."""
        work = self.directory / "images"
        work.mkdir()
        pause = images.Rootfs(work / "pause")
        pause.add_pause()
        if not (pause.path / "pause").read_bytes().startswith(b"\x7fELF"):
            pause.add_busybox()
        images.archive(work / "pause.tar", PAUSE, pause, entrypoint=["/pause"])
        tools = images.tools_rootfs(work / "tools")
        images.archive(work / "tools.tar", TOOLS, tools, command=["/bin/sh"])
        for name in ("pause", "tools"):
            words = ["images", "import", "--snapshotter", self._snapshotter]
            self.ctr("--namespace", NAMESPACE, *words, str(work / f"{name}.tar"))

    def close(self) -> None:
        """End it; pods that it has are left, see `remove_pods`."""
        self.stop()
        self.network.close()
        remove_pod_cgroups()
        self._forget_results()

    def _forget_results(self) -> None:
        """What libcni keeps of every network that it has made, in the one place that it knows."""
        for path in RESULTS.glob("*"):
            if str(self.directory) in path.read_text(errors="replace"):
                path.unlink()
        for directory in (RESULTS, RESULTS.parent):
            try:
                directory.rmdir()
            except OSError:
                return  # there is none, or somebody else's network is in it


def remove_pod_cgroups() -> None:
    """The directories of pods' cgroups, which their makers (kubelets) remove, not the engine."""
    for hierarchy in Path("/sys/fs/cgroup").glob(f"*{CGROUP_PREFIX}/pod*"):
        for directory, _, _ in os.walk(hierarchy, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                pass


def _lines(table: Mapping[str, Value]) -> list[str]:
    """A TOML table's lines; JSON's strings, numbers and booleans are TOML's, too."""
    return [f"  {key} = {json.dumps(value)}\n" for key, value in table.items()]
