"""One plot for each growth curve, as SVG and PNG.

The files are the same for the same results: no date, no random identifiers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import Curve, Run

OURS, STOCK = "#1668a8", "#c2571a"
STYLES = ("-", "--", ":")


def file_name(curve: Curve) -> str:
    """What all generations share, without an ending: `density-pss-sum-containers`."""
    words = f"{curve.case} {curve.name}"
    if curve.x not in curve.name:
        words += f" {curve.x}"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def grouped(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """By plot: the same curve of several containerds is one plot."""
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        found.setdefault(file_name(curve), []).append(curve)
    return found


def write(run: Run, directory: Path) -> list[str]:
    """Write the plots into `directory`; returns the names of the SVG files."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "benchmarks"
    directory.mkdir(parents=True, exist_ok=True)
    names = []
    for name, curves in grouped(run.curves).items():
        figure = draw(curves)
        figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
        figure.savefig(directory / f"{name}.png", dpi=120, metadata={"Software": None})
        names.append(f"{name}.svg")
    return names


def draw(curves: Sequence[Curve]) -> Any:
    """A matplotlib figure with both shims of each containerd."""
    from matplotlib.figure import Figure

    first = curves[0]
    scale, unit = (1024, "MiB") if first.unit == "KiB" else (1, first.unit)
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for curve, style in zip(curves, STYLES, strict=False):
        across = [point.x for point in curve.points]
        version = curve.setting["containerd"]
        for side, colour, label in (("ours", OURS, "ours"), ("stock", STOCK, f"stock {version}")):
            up = [getattr(point, side) / scale for point in curve.points]
            shown = f"{label}, with containerd {version}" if side == "ours" else label
            axes.plot(across, up, style, color=colour, marker=".", markersize=5, label=shown)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(first.x)
    axes.set_ylabel(unit)
    axes.set_title(first.name)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    return figure
