"""Statistics of paired measurements. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

OURS, STOCK = 0, 1


class Summary(NamedTuple):
    """One side of a figure."""

    median: float
    min: float
    p90: float
    samples: int


class Spread(NamedTuple):
    """The paired ratios ours / stock: their median and quartiles."""

    median: float
    p25: float
    p75: float


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two nearest values; raises ValueError when there are none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent / 100
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def summarise(values: Sequence[float]) -> Summary:
    return Summary(percentile(values, 50), min(values), percentile(values, 90), len(values))


def ratios(pairs: Sequence[tuple[float, float]]) -> Spread | None:
    """Of pairs (ours, stock). Pairs whose stock value is 0 have none; None if no pair has one."""
    found = [ours / stock for ours, stock in pairs if stock]
    if not found:
        return None
    return Spread(*(percentile(found, percent) for percent in (50, 25, 75)))


def order(pair: int) -> tuple[int, int]:
    """Who is first in the pair of this number: ours and stock take turns, A B B A A B ..."""
    return (OURS, STOCK) if pair % 2 == 0 else (STOCK, OURS)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line that fits the points (x, y) best, in y per x; needs two different x."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    across = sum((x - mean_x) ** 2 for x, _ in points)
    if not across:
        raise ValueError("all points have the same x")
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / across


def tidy(value: float, digits: int = 4) -> float:
    """`value` with so many significant digits: what follows is noise."""
    return float(f"{value:.{digits}g}")
