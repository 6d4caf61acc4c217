"""Where the cases play: bundles, shims and daemons of one containerd generation and one launcher.

A stage owns what it makes and takes it away again. `measure` runs an action with
both binaries in turns and records what came out.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.containerd import Containerd
from benchmarks.pairing import paired
from benchmarks.processes import end_zygotes
from benchmarks.results import Curve, Missing, Point, Run, figure
from shim_runc_py.testing import bundles
from shim_runc_py.testing.bundles import Bundle
from shim_runc_py.testing.conditions import CGROUP_PREFIX
from shim_runc_py.testing.daemon import Daemon
from shim_runc_py.testing.generations import Generation
from shim_runc_py.testing.shims import Binary, Shim, Task
from shim_runc_py.testing.sink import Sink

RUNTIMES = {False: "io.containerd.pyrunc.v2", True: "io.containerd.runc.v2"}
_numbers = itertools.count()


class NotHere(Exception):
    """A case cannot be measured here; the text says why."""


class Stage:
    """One generation of containerd, and one way to launch our shim."""

    def __init__(
        self,
        place: Path,
        run: Run,
        generation: Generation,
        launcher: str,
        ours: str,
        *,
        quick: bool,
        say: Callable[[str], None],
    ) -> None:
        """`place`: a directory with a short path. `ours`: our binary. `say` takes progress."""
        version = tuple(int(part) for part in generation.version.split("."))
        self.ours = Binary("ours", ours)
        self.stock = Binary("stock", generation.shim, version)
        self.binaries = (self.ours, self.stock)
        self.generation = generation
        self.setting = {"containerd": generation.version, "launcher": launcher}
        self.quick = quick
        self.run = run
        self.rootfs = place / "rootfs"
        self.case = ""
        self._place = place
        self._say = say
        self._daemon: Daemon | None = None
        self._containerd: Containerd | None = None
        self._exits = ExitStack()

    def close(self) -> None:
        """End the daemon and our zygotes."""
        self._exits.close()
        end_zygotes()

    # Measuring

    def scale(self, quick: int, full: int) -> int:
        """How many, by the kind of run."""
        return quick if self.quick else full

    def measure(
        self,
        units: Mapping[str, str],
        action: Callable[[Binary], Mapping[str, float]],
        *,
        pairs: int,
        warm: int = 2,
        seconds: float = 60.0,
        **setting: str,
    ) -> list[tuple[Mapping[str, float], Mapping[str, float]]]:
        """Record the figures of `units` (name to unit) that `action` returns for a binary.

        `warm` pairs are thrown away. Ends early after `seconds` (a quick run after 10), but not
        before three pairs. Returns the pairs.
        """
        found = paired(
            action,
            self.binaries,
            pairs,
            warm=warm,
            seconds=min(seconds, 10) if self.quick else seconds,
            say=lambda done: self._say(f"{self.case} {done}/{pairs}"),
        )
        for name, unit in units.items():
            values = [(ours[name], stock[name]) for ours, stock in found]
            self.record(name, unit, values, setting)
        return found

    def record(
        self,
        name: str,
        unit: str,
        pairs: list[tuple[float, float]],
        setting: Mapping[str, str] | None = None,
        with_ratio: bool = True,
    ) -> None:
        """Record a figure from pairs (ours, stock)."""
        all_settings = {**self.setting, **(setting or {})}
        self.run.figures.append(
            figure(self.case, name, all_settings, unit, pairs, with_ratio=with_ratio)
        )

    def record_curve(
        self, name: str, unit: str, x: str, points: list[Point], **setting: str
    ) -> None:
        self.run.curves.append(Curve(self.case, name, {**self.setting, **setting}, unit, x, points))

    def missing(self, reason: str, failed: bool = False, **setting: str) -> None:
        """Say that something was not measured: it is not here, or went wrong."""
        self.run.missing.append(Missing(self.case, {**self.setting, **setting}, reason, failed))

    def progress(self, text: str) -> None:
        self._say(f"{self.case} {text}")

    # Bundles and shims

    @contextmanager
    def bundle(self, args: list[str], fixture: str = "sleep", group: str = "") -> Iterator[Bundle]:
        """A bundle that runs `args`; `group` makes it one of a pod."""
        config = bundles.spec(fixture, args)
        if group:
            config["annotations"] = {"io.kubernetes.cri.sandbox-id": group}
        made = Bundle(self._place / "b" / f"b{next(_numbers)}", config, self.rootfs)
        try:
            yield made
        finally:
            shutil.rmtree(made.path, ignore_errors=True)
            shutil.rmtree(made.path.parent / f".work-{made.id}", ignore_errors=True)

    @contextmanager
    def sink(self) -> Iterator[Sink]:
        """Where shims without a containerd send their events."""
        sink = Sink(self._place / f"s{next(_numbers)}")
        try:
            yield sink
        finally:
            sink.stop()

    @contextmanager
    def shim(
        self,
        binary: Binary,
        bundle: Bundle,
        sink: Sink,
        environ: Mapping[str, str] | None = None,
    ) -> Iterator[Shim]:
        """A running shim for `bundle`, in which nothing has been created."""
        shim = Shim(binary, bundle, str(self._place / "c.sock"), str(sink.path), environ=environ)
        try:
            yield shim
        finally:
            shim.close()

    @contextmanager
    def container(
        self, binary: Binary, sink: Sink, args: list[str] | None = None
    ) -> Iterator[tuple[Shim, Bundle]]:
        """A shim with a running container, by default an idle one."""
        with (
            self.bundle(args or ["/bin/sleep", "100000"]) as bundle,
            self.shim(binary, bundle, sink) as shim,
        ):
            shim.task.create(bundle)
            shim.task.start(bundle.id)
            yield shim, bundle

    # A real containerd

    def daemon(self) -> Daemon:
        """A containerd of this generation that finds both shims."""
        if self._daemon is None:
            directory = self._place / f"d{next(_numbers)}"
            directory.mkdir()
            daemon = Daemon(
                directory,
                containerd=self.generation.containerd,
                ctr=self.generation.ctr,
                shim_directories=[os.path.dirname(self.ours.path), str(self._stock_directory())],
            )
            self._exits.callback(shutil.rmtree, directory, ignore_errors=True)
            self._exits.callback(daemon.stop)
            daemon.start()
            self._exits.callback(daemon.clean_up)
            self._daemon = daemon
        return self._daemon

    def _stock_directory(self) -> Path:
        """With nothing but the stock shim: its own one may have an engine that is not ours."""
        directory = self._place / f"stock-{self.generation.version}"
        directory.mkdir(exist_ok=True)
        link = directory / os.path.basename(self.stock.path)
        if not link.is_symlink():
            link.symlink_to(self.stock.path)
        return directory

    def containerd(self) -> Containerd:
        """A connection to it."""
        if self._containerd is None:
            client = Containerd(self.daemon().address)
            self._exits.callback(client.close)
            self._containerd = client
        return self._containerd

    def spec(self, id: str, args: list[str]) -> dict[str, Any]:
        """A container's spec for a real containerd."""
        spec = bundles.spec("sleep", args)
        spec["root"]["path"] = str(self.rootfs)
        spec["linux"]["cgroupsPath"] = f"{CGROUP_PREFIX}/{id}"
        return spec

    def name(self) -> str:
        """A container's name that was not used before."""
        return f"n{next(_numbers)}"


def runtime(binary: Binary) -> str:
    """What containerd calls it."""
    return RUNTIMES[binary.stock]


def execute(task: Task, id: str, exec_id: str, args: list[str]) -> int:
    """One exec from its beginning to its deletion; returns its status."""
    task.exec(id, exec_id, {"args": args})
    task.start(id, exec_id)
    status = int(task.wait(id, exec_id).exit_status)
    task.delete(id, exec_id)
    return status


def milliseconds(began: float) -> float:
    """Since `began`, a time.perf_counter()."""
    return (time.perf_counter() - began) * 1000
