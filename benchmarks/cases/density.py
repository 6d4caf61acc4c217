"""density: memory of idle shims.

Each container has a shim of its own; both sides are there at the same time, which does neither
any harm. `per shim` is the mean over the shims; `sum` is all of them and the zygote, with the pages
that the benchmark's own process shares with them counted as theirs (see `memory.borrowed`).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from benchmarks import memory
from benchmarks.processes import zygotes
from benchmarks.results import Point
from benchmarks.stage import Stage, execute
from shim_runc_py.testing.shims import Binary, Shim
from shim_runc_py.testing.sink import Sink

EVERY_LAUNCHER = False
EXECS, CALLS = 100, 1000


def run(stage: Stage) -> None:
    with stage.sink() as sink:
        idle(stage, sink)
        used(stage, sink)
        pods(stage, sink)


class Reading:
    """KiB: means per shim, and the sums that a node pays."""

    def __init__(self, shims: Iterable[Shim], stock: bool) -> None:
        pids = [shim.pid for shim in shims]
        found = memory.settled(pids)
        count = len(pids)
        self.private_dirty = sum(one.private_dirty for one in found) / count
        self.pss = sum(one.pss for one in found) / count
        self.rss = sum(one.rss for one in found) / count
        helpers = [] if stock else [pid for pid in zygotes() if pid not in pids]
        extra = [memory.read(pid) for pid in helpers]
        self.pss_sum = sum(one.pss for one in [*found, *extra]) + memory.borrowed([*pids, *helpers])
        self.private_dirty_sum = sum(one.private_dirty for one in [*found, *extra])


CURVES = {
    "private dirty per shim": "private_dirty",
    "PSS per shim": "pss",
    "RSS per shim": "rss",
    "PSS sum": "pss_sum",
    "private dirty sum": "private_dirty_sum",
}


def compare(stage: Stage, x: int, shims: dict[Binary, list[Shim]]) -> dict[str, Point]:
    """One point of each curve."""
    ours = Reading(shims[stage.ours], stock=False)
    stock = Reading(shims[stage.stock], stock=True)
    return {
        name: Point(x, getattr(ours, field), getattr(stock, field))
        for name, field in CURVES.items()
    }


def idle(stage: Stage, sink: Sink) -> None:
    """Containers that do nothing, more and more of them."""
    counts = (1, 10, 50) if stage.quick else (1, 10, 50, 100)
    points: list[dict[str, Point]] = []
    with ExitStack() as exits:
        shims: dict[Binary, list[Shim]] = {binary: [] for binary in stage.binaries}
        for count in counts:
            while len(shims[stage.stock]) < count:
                for binary in stage.binaries:
                    shim, _ = exits.enter_context(stage.container(binary, sink))
                    shims[binary].append(shim)
                stage.progress(f"{len(shims[stage.stock])}/{counts[-1]} containers")
            points.append(compare(stage, count, shims))
    for name in CURVES:
        stage.record_curve(name, "KiB", "containers", [point[name] for point in points])


def used(stage: Stage, sink: Sink) -> None:
    """The same after every shim has served execs and stats."""
    count = stage.scale(1, 10)
    with ExitStack() as exits:
        shims: dict[Binary, list[Shim]] = {binary: [] for binary in stage.binaries}
        for number in range(count):
            for binary in stage.binaries:
                shim, bundle = exits.enter_context(stage.container(binary, sink))
                shims[binary].append(shim)
                for turn in range(EXECS):
                    execute(shim.task, bundle.id, f"e{turn}", ["/bin/true"])
                for _ in range(CALLS):
                    shim.task.call("Stats", id=bundle.id)
            stage.progress(f"used {number + 1}/{count}")
        point = compare(stage, count, shims)
    for name in CURVES:
        pair = (point[name].ours, point[name].stock)
        setting = {"after": f"{EXECS} execs, {CALLS} stats each", "shims": str(count)}
        stage.record(name, "KiB", [pair], setting)


def pods(stage: Stage, sink: Sink) -> None:
    """Several containers in one shim."""
    pods_each = stage.scale(1, 3)
    points: list[dict[str, Point]] = []
    for size in (1, 3, 10):
        with ExitStack() as exits:
            shims: dict[Binary, list[Shim]] = {binary: [] for binary in stage.binaries}
            for _ in range(pods_each):
                for binary in stage.binaries:
                    shims[binary].append(pod(stage, sink, binary, size, exits))
            stage.progress(f"pods of {size}")
            points.append(compare(stage, size, shims))
    for name in CURVES:
        if "sum" not in name:
            curve = [point[name] for point in points]
            stage.record_curve(name, "KiB", "containers in the pod", curve)


def pod(stage: Stage, sink: Sink, binary: Binary, size: int, exits: ExitStack) -> Shim:
    """A shim with `size` containers; `exits` ends it before the bundles go."""
    group = stage.name()
    made = [
        exits.enter_context(stage.bundle(["/bin/sleep", "100000"], group=group))
        for _ in range(size)
    ]
    shim = exits.enter_context(stage.shim(binary, made[0], sink))
    for number, bundle in enumerate(made):
        if number:
            address = shim.join(bundle)
            assert address == shim.address, (address, shim.address)
        shim.task.create(bundle)
        shim.task.start(bundle.id)
    return shim
