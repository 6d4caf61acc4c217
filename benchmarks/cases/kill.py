"""kill: from Kill(SIGKILL) to the arrival of the TaskExit event, and to the answer to Delete."""

from __future__ import annotations

import time
from collections.abc import Mapping

from benchmarks.stage import Stage
from shim_runc_py.testing.shims import Binary

EVERY_LAUNCHER = False


def run(stage: Stage) -> None:
    with stage.sink() as sink:

        def kill(binary: Binary) -> Mapping[str, float]:
            with stage.container(binary, sink) as (shim, bundle):
                sink.wait_for("/tasks/start", container_id=bundle.id)
                began = time.monotonic()
                shim.task.kill(bundle.id, 9)
                exited = sink.wait_for("/tasks/exit", container_id=bundle.id)
                shim.task.delete(bundle.id)
                deleted = time.monotonic()
                assert exited.message.exit_status == 137, exited
            return {
                "to exit": (exited.at - began) * 1000,
                "to deleted": (deleted - began) * 1000,
            }

        units = {"to exit": "ms", "to deleted": "ms"}
        stage.measure(units, kill, pairs=stage.scale(10, 60), seconds=60)
