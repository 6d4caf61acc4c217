"""start: from the execution of the binary to the address on its stdout and its end.

`zygote=off` is a cold start. With `on`, the warm-up leaves a zygote, as the first container of a
node does; when there is none after it, the figure is reported as missing.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.processes import zygotes
from benchmarks.stage import Stage
from shim_runc_py.testing.shims import Binary

EVERY_LAUNCHER = True


def run(stage: Stage) -> None:
    with stage.sink() as sink:
        for zygote in ("off", "on"):
            environ = {"PYRUNC_ZYGOTE": "off"} if zygote == "off" else {}

            def start(binary: Binary, environ: Mapping[str, str] = environ) -> Mapping[str, float]:
                with (
                    stage.bundle(["/bin/true"]) as bundle,
                    stage.shim(binary, bundle, sink, environ) as shim,
                ):
                    return {"wall": shim.start_seconds * 1000}

            if zygote == "on":
                for _ in range(2):
                    start(stage.ours)
                if not zygotes():
                    stage.missing("no zygote after two starts", zygote=zygote)
                    continue
            pairs = stage.scale(12, 60)
            stage.measure({"wall": "ms"}, start, pairs=pairs, seconds=60, zygote=zygote)
