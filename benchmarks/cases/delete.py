"""delete: the command that containerd runs when a shim is gone, to its end.

`clean`: the task was deleted and the shim told to end, as always. `crash`: the shim was killed, and
the command has to end and remove the container.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from benchmarks.stage import Stage
from shim_runc_py.testing.shims import Binary

EVERY_LAUNCHER = True


def run(stage: Stage) -> None:
    with stage.sink() as sink:

        def clean(binary: Binary) -> Mapping[str, float]:
            with stage.bundle(["/bin/true"]) as bundle, stage.shim(binary, bundle, sink) as shim:
                shim.task.create(bundle)
                shim.task.start(bundle.id)
                shim.task.wait(bundle.id)
                shim.task.delete(bundle.id)
                shim.task.shutdown(bundle.id)
                shim.wait_gone()
                done = shim.run_delete(bundle)
                assert done.status == 0, done.stderr
                return {"clean": done.seconds * 1000}

        def crash(binary: Binary) -> Mapping[str, float]:
            with stage.container(binary, sink) as (shim, bundle):
                os.kill(shim.pid, 9)
                shim.wait_gone()
                done = shim.run_delete(bundle)
                assert done.status == 0, done.stderr
                return {"crash": done.seconds * 1000}

        stage.measure({"clean": "ms"}, clean, pairs=stage.scale(6, 40))
        stage.measure({"crash": "ms"}, crash, pairs=stage.scale(3, 20), warm=1)
