"""How often each CRI operation was called, how it ended, and how long it took.

The kubelet exports the same as kubelet_runtime_operations_total, _errors_total and
_duration_seconds. Streams count until they are open: how long they stay is not the daemon's doing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shim_runc_py.cri.failures import CRIError

OK = "ok"


@dataclass
class Tally:
    """Of the calls of one operation with one result."""

    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0


class Meter:
    """Counts and times operations; may be shared by several services and threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tallies: dict[tuple[str, str], Tally] = {}

    @contextmanager
    def measure(self, operation: str) -> Iterator[None]:
        """Count what happens inside: as `ok`, by the gRPC code of a CRIError, else as `error`."""
        began = self._clock()
        result = OK
        try:
            yield
        except CRIError as error:
            result = error.code.name.lower()
            raise
        except BaseException:
            result = "error"
            raise
        finally:
            took = self._clock() - began
            with self._lock:
                tally = self._tallies.setdefault((operation, result), Tally())
                tally.count += 1
                tally.seconds += took
                tally.longest = max(tally.longest, took)

    def tallies(self) -> dict[tuple[str, str], Tally]:
        """(operation, result) to its tally, a copy."""
        with self._lock:
            return {key: Tally(**vars(tally)) for key, tally in sorted(self._tallies.items())}

    def count(self, operation: str, result: str = OK) -> int:
        with self._lock:
            tally = self._tallies.get((operation, result))
            return tally.count if tally is not None else 0
