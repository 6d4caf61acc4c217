"""rpc: calls that need no engine, one caller and sixteen of them on one connection.

The client must cost little, or it would be what is measured: requests are made beforehand, and an
answer is only cut out of the stream by its header.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.stage import Stage
from benchmarks.summary import percentile
from shim_runc_py.api import task_pb2 as m
from shim_runc_py.testing.shims import Binary, Shim
from shim_runc_py.ttrpc import frame
from shim_runc_py.ttrpc.connection import ClientConnection

EVERY_LAUNCHER = False
METHODS: dict[str, Callable[..., Any]] = {
    "State": m.StateRequest,
    "Stats": m.StatsRequest,
    "Pids": m.PidsRequest,
    "Connect": m.ConnectRequest,
}
CALLERS = 16
_HEADER = struct.Struct(">IIBB")


class Caller:
    """One connection to a shim."""

    def __init__(self, shim: Shim, id: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(shim.path)
        self._wire = ClientConnection()
        self._service = shim.task.service
        self._id = id
        self._buffer = b""

    def close(self) -> None:
        self._socket.close()

    def _requests(self, method: str, count: int) -> list[bytes]:
        payload = METHODS[method](id=self._id).SerializeToString()
        made = []
        for _ in range(count):
            self._wire.call(
                self._service, method, payload, metadata={"containerd-namespace-ttrpc": "test"}
            )
            outgoing = self._wire.outgoing()
            made.append(bytes(outgoing))
            del outgoing[:]
        return made

    def _answer(self) -> int:
        """Take one answer off the stream; returns its stream id."""
        buffer = self._buffer
        while True:
            if len(buffer) >= frame.HEADER_LENGTH:
                length, stream, kind, _ = _HEADER.unpack_from(buffer)
                end = frame.HEADER_LENGTH + length
                if len(buffer) >= end:
                    assert kind == frame.RESPONSE, kind
                    # A status other than OK comes first and has a length (field 1).
                    assert buffer[frame.HEADER_LENGTH :][:1] != b"\n" or not buffer[11], buffer
                    self._buffer = buffer[end:]
                    return int(stream)
            part = self._socket.recv(65536)
            assert part, "the shim closed the connection"
            buffer += part

    def one_by_one(self, method: str, count: int) -> list[float]:
        """Seconds of each call."""
        clock, send = time.perf_counter, self._socket.sendall
        found = []
        for request in self._requests(method, count):
            began = clock()
            send(request)
            self._answer()
            found.append(clock() - began)
        return found

    def together(self, method: str, count: int, callers: int) -> tuple[list[float], float]:
        """The same with always `callers` calls under way; also the seconds of all together."""
        clock, send = time.perf_counter, self._socket.sendall
        requests = self._requests(method, count)
        began: dict[int, float] = {}
        found = []

        def begin() -> None:
            request = requests.pop()
            (stream,) = struct.unpack_from(">4xI", request)
            began[stream] = clock()
            send(request)

        requests.reverse()
        whole = clock()
        for _ in range(callers):
            begin()
        while began:
            stream = self._answer()
            found.append(clock() - began.pop(stream))
            if requests:
                begin()
        return found, clock() - whole


def run(stage: Stage) -> None:
    with (
        stage.sink() as sink,
        stage.container(stage.ours, sink) as (ours, ours_bundle),
        stage.container(stage.stock, sink) as (stock, stock_bundle),
    ):
        callers = {
            stage.ours: Caller(ours, ours_bundle.id),
            stage.stock: Caller(stock, stock_bundle.id),
        }
        try:
            for method in METHODS:
                measure(stage, method, callers)
        finally:
            for caller in callers.values():
                caller.close()


def measure(stage: Stage, method: str, callers: Mapping[Binary, Caller]) -> None:
    count = stage.scale(150, 1000)

    def alone(binary: Binary) -> Mapping[str, float]:
        found = [seconds * 1e6 for seconds in callers[binary].one_by_one(method, count)]
        return {f"{method} p50": percentile(found, 50), f"{method} p99": percentile(found, 99)}

    def together(binary: Binary) -> Mapping[str, float]:
        times, whole = callers[binary].together(method, count, CALLERS)
        found = [seconds * 1e6 for seconds in times]
        return {
            f"{method} p50": percentile(found, 50),
            f"{method} p99": percentile(found, 99),
            f"{method} throughput": count / whole,
        }

    latency = {f"{method} p50": "µs", f"{method} p99": "µs"}
    pairs = stage.scale(4, 20)
    stage.measure(latency, alone, pairs=pairs, warm=1, seconds=20, callers="1")
    units = {**latency, f"{method} throughput": "calls/s"}
    stage.measure(units, together, pairs=pairs, warm=1, seconds=20, callers=str(CALLERS))
