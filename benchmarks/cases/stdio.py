"""stdio: how fast output goes to a client's FIFO, and what that costs the shim.

The client moves its bytes to /dev/null with splice(2), so that it is not what is measured; every
byte is counted. The rate is that from the first byte to the last one, of eight containers from the
first byte of any to the last one of all. Processor time is the shim's own, per 10^9 bytes.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks.processes import cpu_seconds
from benchmarks.stage import Stage
from benchmarks.summary import percentile
from shim_runc_py.testing.bundles import Bundle
from shim_runc_py.testing.shims import Binary, Shim
from shim_runc_py.testing.sink import Sink

EVERY_LAUNCHER = False
BOUND = 120.0
BLOCK = 65536
SEVERAL = 8


class Drain:
    """Takes everything out of a FIFO until its writers are gone, in a thread."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o700)
        self.path = path
        self.first = self.last = 0.0
        self.count = 0
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._null = os.open("/dev/null", os.O_WRONLY)
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while poll.poll(BOUND * 1000):  # a hang-up is told only after there was a writer
            try:
                moved = os.splice(self._fd, self._null, 1 << 20)
            except BlockingIOError:
                continue
            if not moved:
                return
            self.last = time.perf_counter()
            self.first = self.first or self.last
            self.count += moved

    def finish(self) -> None:
        """Wait for the end; raises TimeoutError."""
        self._thread.join(BOUND)
        if self._thread.is_alive():
            raise TimeoutError(f"no end of file on {self.path} after {self.count} bytes")

    def close(self) -> None:
        """After a failure the thread is left to its bound, with its descriptors."""
        if not self._thread.is_alive():
            os.close(self._fd)
            os.close(self._null)
        self.path.unlink()


class Flood:
    """A container that is about to write `count` bytes, and the readers of its streams."""

    def __init__(
        self, stage: Stage, sink: Sink, binary: Binary, count: int, terminal: bool, exits: ExitStack
    ) -> None:
        assert count % BLOCK == 0
        script = f"exec dd if=/dev/zero bs={BLOCK} count={count // BLOCK} 2>/dev/null"
        fixture = "tty" if terminal else "sleep"
        bundle = stage.bundle(["/bin/sh", "-c", script], fixture=fixture)
        self.bundle: Bundle = exits.enter_context(bundle)
        self.shim: Shim = exits.enter_context(stage.shim(binary, self.bundle, sink))
        self.output = self._drain("out", exits)
        streams = {"stdout": str(self.output.path), "terminal": terminal}
        if not terminal:
            streams["stderr"] = str(self._drain("err", exits).path)
        self.shim.task.create(self.bundle, **streams)

    def _drain(self, name: str, exits: ExitStack) -> Drain:
        drain = Drain(self.bundle.path / name)
        exits.callback(drain.close)
        return drain


def run(stage: Stage) -> None:
    million = 1 << 20
    with stage.sink() as sink:
        one = stage.scale(512, 4096) * million
        measure(stage, sink, "one container", one, 1, False, stage.scale(4, 12))
        each = stage.scale(64, 512) * million
        measure(stage, sink, f"{SEVERAL} containers", each, SEVERAL, False, stage.scale(3, 6))
        measure(stage, sink, "terminal", stage.scale(16, 64) * million, 1, True, stage.scale(3, 8))


def measure(
    stage: Stage, sink: Sink, name: str, count: int, containers: int, terminal: bool, pairs: int
) -> None:
    """Figures `name: rate` and `name: CPU` of so many containers that write `count` bytes each."""

    def flood(binary: Binary) -> Mapping[str, float]:
        with ExitStack() as exits:
            floods = [Flood(stage, sink, binary, count, terminal, exits) for _ in range(containers)]
            before = sum(cpu_seconds(flood.shim.pid) for flood in floods)
            for flood in floods:
                flood.shim.task.start(flood.bundle.id)
            for flood in floods:
                flood.output.finish()
                status = flood.shim.task.wait(flood.bundle.id).exit_status
                assert (status, flood.output.count) == (0, count), (status, flood.output.count)
            spent = sum(cpu_seconds(flood.shim.pid) for flood in floods) - before
            first = min(flood.output.first for flood in floods)
            last = max(flood.output.last for flood in floods)
        total = count * containers
        return {
            f"{name}: rate": total / (last - first) / 1e6,
            f"{name}: CPU": spent / (total / 1e9),
        }

    units = {f"{name}: rate": "MB/s", f"{name}: CPU": "s/GB"}
    bare = bare_rate(stage, count) if containers == 1 and not terminal else 0.0
    found = stage.measure(units, flood, pairs=pairs, warm=1, seconds=90)
    if bare:
        shares = [tuple(side[f"{name}: rate"] / bare for side in pair) for pair in found]
        stage.record(f"{name}: part of a bare pipe", "", [(ours, stock) for ours, stock in shares])


def bare_rate(stage: Stage, count: int) -> float:
    """What the same writer and the same reader reach with nothing between them, in MB/s."""
    rates = []
    for _ in range(3):
        with stage.bundle([]) as bundle:
            drain = Drain(bundle.path / "out")
            try:
                with drain.path.open("wb") as output:
                    words = ["busybox", "dd", "if=/dev/zero", f"bs={BLOCK}"]
                    subprocess.run(
                        [*words, f"count={count // BLOCK}"],
                        stdout=output,
                        stderr=subprocess.DEVNULL,
                        check=True,
                        timeout=BOUND,
                    )
                drain.finish()
            finally:
                drain.close()
            rates.append(count / (drain.last - drain.first) / 1e6)
    return percentile(rates, 50)
