"""Which errors are worth logging again.

A client that polls sees the same error of the same container every second. Like the kubelet, we log
an error of a container when it is new, when it changes, and once a minute while it stays.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

INTERVAL = 60.0


class Repetition:
    """The last error that was logged for each container, and when."""

    def __init__(
        self, interval: float = INTERVAL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval = interval
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, tuple[str, float]] = {}

    def worth_saying(self, id: str, text: str) -> bool:
        """Whether the error `text` of `id` is to be logged now; remembers that it was."""
        with self._lock:
            now = self._clock()
            said, at = self._last.get(id, ("", 0.0))
            if said == text and now - at < self._interval:
                return False
            self._last[id] = (text, now)
            return True

    def forget(self, id: str) -> None:
        """`id` works again, or is gone."""
        with self._lock:
            self._last.pop(id, None)
