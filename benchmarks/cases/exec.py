"""exec: exec, start, wait and delete of `/bin/true` in a running container."""

from __future__ import annotations

import time
from collections.abc import Mapping

from benchmarks.stage import Stage, execute, milliseconds
from shim_runc_py.testing.shims import Binary

EVERY_LAUNCHER = False


def run(stage: Stage) -> None:
    with (
        stage.sink() as sink,
        stage.container(stage.ours, sink) as ours,
        stage.container(stage.stock, sink) as stock,
    ):
        running = {stage.ours: ours, stage.stock: stock}

        def one(binary: Binary) -> Mapping[str, float]:
            shim, bundle = running[binary]
            began = time.perf_counter()
            status = execute(shim.task, bundle.id, stage.name(), ["/bin/true"])
            took = milliseconds(began)
            assert status == 0, status
            return {"total": took}

        stage.measure({"total": "ms"}, one, pairs=stage.scale(20, 150), warm=3, seconds=60)
