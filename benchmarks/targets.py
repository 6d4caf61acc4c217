"""What has to be reached, and what of it was. Pure.

A target is met or not by the median of the paired ratios, ours / stock, or where a ratio says
nothing by our own number. None of them may be met by giving up a guarantee.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.results import Run

AIM, MUST, MISSED = "aim", "must", "missed"


class Target(NamedTuple):
    """`where` is the part of a setting that matters; one with a dot at its end is a beginning.

    `at` is the x of a curve. `aim` is None where it is not a number.
    """

    label: str
    case: str
    name: str
    must: float
    aim: float | None
    where: Mapping[str, str] = {}
    at: float | None = None
    ours: bool = False
    at_least: bool = False
    unit: str = ""


class Outcome(NamedTuple):
    target: Target
    setting: dict[str, str]
    value: float
    verdict: str


PYTHON, NATIVE = {"launcher": "python"}, {"launcher": "native"}
OLD, NEW = {"containerd": "1.6."}, {"containerd": "2."}
ZYGOTE = {"zygote": "on"}
LIFECYCLE = "lifecycle through containerd"

TARGETS = (
    Target(LIFECYCLE, "lifecycle", "containerd", 1.00, 0.95, OLD | PYTHON),
    Target(LIFECYCLE, "lifecycle", "containerd", 0.90, 0.75, OLD | NATIVE),
    Target(LIFECYCLE, "lifecycle", "containerd", 0.95, 0.85, NEW | PYTHON),
    Target(LIFECYCLE, "lifecycle", "containerd", 0.80, 0.65, NEW | NATIVE),
    Target("start with zygote", "start", "wall", 1.30, 1.00, PYTHON | ZYGOTE),
    Target("start with zygote", "start", "wall", 0.70, 0.40, NATIVE | ZYGOTE),
    Target("delete command, wall", "delete", "clean", 1.00, 0.70),
    Target("exec", "exec", "total", 1.00, 0.90),
    Target("kill to exit", "kill", "to exit", 0.60, 0.40),
    Target("private dirty per shim at 50", "density", "private dirty per shim", 0.80, 0.50, at=50),
    Target("PSS sum with the zygote at 50", "density", "PSS sum", 0.90, 0.60, at=50),
    Target(
        "memory slope per 1,000 execs", "soak", "growth per 1,000 execs", 64, 0,
        ours=True, unit="KiB",
    ),
    Target("rpc State p50", "rpc", "State p50", 1.50, 1.00, {"callers": "1"}),
    Target("stdio bytes per second", "stdio", "one container: rate", 2.0, None, at_least=True),
    Target("stdio shim CPU per GB", "stdio", "one container: CPU", 0.25, 0.02),
    Target("50 in parallel, total time", "parallel", "total", 1.00, 0.85),
    Target("idle wake-ups per minute", "soak", "idle wake-ups", 1, 0, ours=True),
)  # fmt: skip


def matches(target: Target, case: str, name: str, setting: Mapping[str, str]) -> bool:
    def fits(found: str, wanted: str) -> bool:
        return found.startswith(wanted) if wanted.endswith(".") else found == wanted

    return (case, name) == (target.case, target.name) and all(
        fits(setting.get(key, ""), value) for key, value in target.where.items()
    )


def verdict(target: Target, value: float) -> str:
    """AIM, MUST or MISSED, for the value as it is told: with two digits."""
    told = round(value, 2)

    def reached(bound: float | None) -> bool:
        if bound is None:
            return False
        return told >= bound if target.at_least else told <= bound

    return AIM if reached(target.aim) else MUST if reached(target.must) else MISSED


def measured(run: Run, target: Target) -> list[tuple[dict[str, str], float]]:
    """What a run has of a target: setting and value."""
    found = []
    if target.at is None:
        for figure in run.figures:
            if matches(target, figure.case, figure.name, figure.setting):
                ratio = figure.ratio.median if figure.ratio else None
                value = figure.ours.median if target.ours else ratio
                if value is not None:
                    found.append((figure.setting, value))
        return found
    for curve in run.curves:
        if matches(target, curve.case, curve.name, curve.setting) and curve.x == "containers":
            for point in curve.points:
                value = point.ours if target.ours else point.ratio
                if point.x == target.at and value is not None:
                    found.append((curve.setting, value))
    return found


def outcomes(run: Run) -> list[Outcome]:
    """Everything that was measured of the targets, in their order."""
    return [
        Outcome(target, setting, value, verdict(target, value))
        for target in TARGETS
        for setting, value in measured(run, target)
    ]


def unmeasured(run: Run) -> list[Target]:
    """Targets of which a run has nothing."""
    return [target for target in TARGETS if not measured(run, target)]
