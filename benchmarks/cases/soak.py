"""soak: does a shim grow with what it has done, and does it sleep when there is nothing to do?

The growth is the slope of private dirty memory, after a warm-up in which caches fill, in KiB for
each 1,000 execs, and for each 1,000 containers that came and went in one pod. Wake-ups are counted
for a shim with an idle container and a connected client, as under containerd.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks import memory
from benchmarks.processes import wake_ups, zygotes
from benchmarks.results import Point
from benchmarks.stage import Stage, execute
from benchmarks.summary import order, slope
from shim_runc_py.testing.bundles import Bundle
from shim_runc_py.testing.shims import Shim
from shim_runc_py.testing.sink import Sink

EVERY_LAUNCHER = False
Running = tuple[Shim, Bundle]


def run(stage: Stage) -> None:
    with (
        stage.sink() as sink,
        stage.container(stage.ours, sink) as ours,
        stage.container(stage.stock, sink) as stock,
    ):
        idle(stage, (ours, stock))
        growth(stage, "execs", stage.scale(120, 2000), (ours, stock), one_exec)
    with stage.sink() as sink:
        pods(stage, sink)


def idle(stage: Stage, running: tuple[Running, Running]) -> None:
    """Wake-ups per minute; what follows a start has its time to end (a minute in a full run)."""
    seconds = stage.scale(10, 120)
    stage.progress(f"idle for {seconds} s")
    time.sleep(stage.scale(3, 70))
    pids = [shim.pid for shim, _ in running]
    helpers = zygotes()
    began = time.monotonic()
    before = [wake_ups(pid) for pid in (*pids, *helpers)]
    time.sleep(seconds)
    after = [wake_ups(pid) for pid in (*pids, *helpers)]
    minutes = (time.monotonic() - began) / 60
    ours, stock, *rest = ((b - a) / minutes for a, b in zip(before, after, strict=True))
    unit = "per minute"
    stage.record("idle wake-ups", unit, [(ours, stock)], with_ratio=False)
    stage.record("idle wake-ups and zygote", unit, [(ours + sum(rest), stock)], with_ratio=False)


def growth(
    stage: Stage,
    what: str,
    count: int,
    running: tuple[Running, Running],
    work: Callable[[Stage, Running], None],
) -> None:
    """The curve and the slope of memory over `count` turns of `work`."""
    step = max(count // 40, 5)
    points: list[Point] = []
    for turn in range(0, count + 1, step):
        sizes = [float(memory.read(shim.pid).private_dirty) for shim, _ in running]
        points.append(Point(turn, *sizes))
        for side in order(turn // step):
            for _ in range(step):
                work(stage, running[side])
        stage.progress(f"{what} {turn}/{count}")
    stage.record_curve(f"private dirty over {what}", "KiB", what, points)
    late = [point for point in points if point.x >= count / 2]
    slopes = [
        1000 * slope([(point.x, getattr(point, side)) for point in late])
        for side in ("ours", "stock")
    ]
    name = f"growth per 1,000 {what}"
    stage.record(name, "KiB", [(slopes[0], slopes[1])], with_ratio=False)


def one_exec(stage: Stage, running: Running) -> None:
    shim, bundle = running
    execute(shim.task, bundle.id, stage.name(), ["/bin/true"])


def one_container(stage: Stage, running: Running) -> None:
    shim, _ = running
    with stage.bundle(["/bin/true"]) as bundle:
        shim.task.create(bundle)
        shim.task.start(bundle.id)
        shim.task.wait(bundle.id)
        shim.task.delete(bundle.id)


def pods(stage: Stage, sink: Sink) -> None:
    with (
        stage.container(stage.ours, sink) as ours,
        stage.container(stage.stock, sink) as stock,
    ):
        growth(stage, "containers", stage.scale(60, 1000), (ours, stock), one_container)
