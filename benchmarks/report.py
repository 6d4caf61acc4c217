"""Results to words."""

from __future__ import annotations

from pathlib import Path

from benchmarks.results import Curve, Figure, Missing, from_json


def describe(item: Figure | Curve | Missing) -> list[str]:
    """For a terminal: a line for a figure, one a point for a curve."""
    shown = {k: v for k, v in item.setting.items() if k not in ("containerd", "launcher")}
    more = "".join(f", {key} {value}" for key, value in shown.items())
    if isinstance(item, Missing):
        return [f"{'FAILED' if item.failed else 'missing'}{more}: {item.reason}"]
    head = f"{item.name}{more}"
    if isinstance(item, Curve):
        return [
            f"{head}, {point.x:g} {item.x}: {comparison(point.ours, point.stock, point.ratio)}"
            f" {item.unit}"
            for point in item.points
        ]
    ratio = item.ratio.median if item.ratio else None
    text = comparison(item.ours.median, item.stock.median, ratio)
    return [f"{head}: {text} {item.unit} ({item.ours.samples})"]


def comparison(ours: float, stock: float, ratio: float | None) -> str:
    tail = f" = {ratio:.2f}" if ratio is not None else ""
    return f"{number(ours)} / {number(stock)}{tail}"


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def main(path: Path) -> int:
    """Print what a results file has in it."""
    run = from_json(path.read_text())
    items: list[Figure | Curve | Missing] = [*run.figures, *run.curves, *run.missing]
    for item in items:
        for line in describe(item):
            print(f"{item.case}: {line}")
    return 0
