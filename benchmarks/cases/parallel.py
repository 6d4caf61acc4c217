"""parallel: the whole lifecycle of 50 containers at once, through containerd.

`total` is the time until the last one is deleted, `p99` that of one container.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from benchmarks.stage import Stage, milliseconds, runtime
from benchmarks.summary import percentile
from shim_runc_py.testing.shims import Binary

EVERY_LAUNCHER = True
COUNT = 50


def run(stage: Stage) -> None:
    containerd = stage.containerd()

    def lifecycle(name: str) -> float:
        began = time.perf_counter()
        containerd.create(name)
        wait = containerd.waiting(name)
        containerd.start(name)
        status = wait()
        containerd.delete(name)
        assert status == 0, status
        return milliseconds(began)

    with ThreadPoolExecutor(COUNT) as threads:

        def together(binary: Binary) -> Mapping[str, float]:
            names = [stage.name() for _ in range(COUNT)]
            for name in names:
                containerd.add(name, runtime(binary), stage.spec(name, ["/bin/true"]))
            began = time.perf_counter()
            times = list(threads.map(lifecycle, names))
            total = milliseconds(began)
            for name in names:
                containerd.remove(name)
            return {"total": total, "p99": percentile(times, 99)}

        units = {"total": "ms", "p99": "ms"}
        stage.measure(units, together, pairs=stage.scale(2, 12), warm=stage.scale(0, 1))
