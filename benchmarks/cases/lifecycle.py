"""lifecycle: create, start, wait and delete of `/bin/true`.

`containerd`: the four calls to containerd, which starts the shim and runs its delete command.
`ctr run`: the same by containerd's own command, whose start-up is a third of the time.
`harness`: without a containerd, from the start of the binary to the end of its delete command, and
each step of it.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.stage import Stage, milliseconds, runtime
from shim_runc_py.testing.shims import Binary

EVERY_LAUNCHER = True
# The steps, as figures of their own.
CALLS = ("containerd: create", "containerd: start", "containerd: wait", "containerd: delete")
COMMANDS = ("harness: start command", "harness: delete command")
RPCS = (
    "harness: create", "harness: start", "harness: wait", "harness: delete", "harness: shutdown",
)  # fmt: skip


def run(stage: Stage) -> None:
    through_containerd(stage)
    through_ctr(stage)
    through_harness(stage)


@contextmanager
def open_fifos(directory: Path) -> Iterator[tuple[str, str]]:
    """Two FIFOs for stdout and stderr, held open for reading."""
    paths = [directory / "stdout", directory / "stderr"]
    held = []
    for path in paths:
        os.mkfifo(path, 0o700)
        held.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    try:
        yield str(paths[0]), str(paths[1])
    finally:
        for fd in held:
            os.close(fd)
        for path in paths:
            path.unlink()


def through_containerd(stage: Stage) -> None:
    containerd = stage.containerd()
    with open_fifos(stage.daemon().directory) as (stdout, stderr):

        def lifecycle(binary: Binary) -> Mapping[str, float]:
            name = stage.name()
            containerd.add(name, runtime(binary), stage.spec(name, ["/bin/true"]))
            times = [time.perf_counter()]
            containerd.create(name, stdout, stderr)
            times.append(time.perf_counter())
            wait = containerd.waiting(name)
            containerd.start(name)
            times.append(time.perf_counter())
            status = wait()
            times.append(time.perf_counter())
            containerd.delete(name)
            times.append(time.perf_counter())
            containerd.remove(name)
            assert status == 0, status
            return {"containerd": (times[-1] - times[0]) * 1000, **named(CALLS, times)}

        units = dict.fromkeys(("containerd", *CALLS), "ms")
        stage.measure(units, lifecycle, pairs=stage.scale(15, 100), warm=3)


def named(names: Sequence[str], times: Sequence[float]) -> dict[str, float]:
    """Milliseconds between the moments, by the names of what happened between them."""
    between = (after - before for before, after in itertools.pairwise(times))
    return dict(zip(names, (seconds * 1000 for seconds in between), strict=True))


def through_ctr(stage: Stage) -> None:
    daemon = stage.daemon()

    def lifecycle(binary: Binary) -> Mapping[str, float]:
        words = ["run", "--rm", "--runtime", runtime(binary), "--rootfs", str(stage.rootfs)]
        began = time.perf_counter()
        daemon.ctr(*words, stage.name(), "/bin/true")
        return {"ctr run": milliseconds(began)}

    stage.measure({"ctr run": "ms"}, lifecycle, pairs=stage.scale(8, 60), warm=1)


def through_harness(stage: Stage) -> None:
    with stage.sink() as sink:

        def lifecycle(binary: Binary) -> Mapping[str, float]:
            with stage.bundle(["/bin/true"]) as bundle, stage.shim(binary, bundle, sink) as shim:
                times = [time.perf_counter()]
                shim.task.create(bundle)
                times.append(time.perf_counter())
                shim.task.start(bundle.id)
                times.append(time.perf_counter())
                shim.task.wait(bundle.id)
                times.append(time.perf_counter())
                shim.task.delete(bundle.id)
                times.append(time.perf_counter())
                shim.task.shutdown(bundle.id)
                shim.wait_gone()
                times.append(time.perf_counter())
                deleted = shim.run_delete(bundle).seconds
            commands = (shim.start_seconds * 1000, deleted * 1000)
            steps = {**named(RPCS, times), **dict(zip(COMMANDS, commands, strict=True))}
            return {"harness": sum(steps.values()), **steps}

        units = dict.fromkeys(("harness", *COMMANDS, *RPCS), "ms")
        stage.measure(units, lifecycle, pairs=stage.scale(10, 60), seconds=90)
