"""Both shims in turns. Pure but for the clock, which a test may bring along."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from benchmarks.summary import OURS, STOCK, order

A = TypeVar("A")
B = TypeVar("B")
AT_LEAST = 3


def paired(
    action: Callable[[B], A],
    binaries: tuple[B, B],
    pairs: int,
    *,
    warm: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[int], None] = lambda _: None,
) -> list[tuple[A, A]]:
    """What `action` gives for (ours, stock), in so many pairs.

    `warm` pairs come before them and are thrown away. Ends early once `seconds` are over, but not
    before AT_LEAST pairs. `say` is told how many pairs there are.
    """
    for number in range(warm):
        for side in order(number):
            action(binaries[side])
    found: list[tuple[A, A]] = []
    deadline = clock() + seconds
    for number in range(pairs):
        pair = {side: action(binaries[side]) for side in order(number)}
        found.append((pair[OURS], pair[STOCK]))
        say(len(found))
        if len(found) >= AT_LEAST and clock() > deadline:
            break
    return found
