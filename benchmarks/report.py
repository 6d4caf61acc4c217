"""Results to words: lines for a terminal, and the tables of docs/performance.md. Pure but `main`.

What stands between the two markers in the page is written here and by nobody else; what is around
them is written by people.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks import targets
from benchmarks.results import Curve, Figure, Missing, Run, from_json

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
IMAGES = PAGE.parent / "images"
BEGIN, END = "<!-- begin: made by `python -m benchmarks report` -->", "<!-- end -->"
NOTHING = "No results yet: `make bench` makes them."
_ALWAYS = ("containerd", "launcher")
_FIGURE_HEAD = ("", "containerd", "launcher", "ours", "stock", "min", "p90", "ours / stock")
_CURVE_HEAD = ("", "containerd", "", "ours", "stock", "ours / stock")
_SHOWN_POINTS = 5
T = TypeVar("T")
_VERDICTS = {targets.AIM: "met, and the aim", targets.MUST: "met", targets.MISSED: "**missed**"}


def describe(item: Figure | Curve | Missing) -> list[str]:
    """For a terminal: a line for a figure, some for a curve."""
    more = "".join(f", {words}" for words in others(item.setting))
    if isinstance(item, Missing):
        return [f"{'FAILED' if item.failed else 'missing'}{more}: {item.reason}"]
    head = f"{item.name}{more}"
    if isinstance(item, Curve):
        return [
            f"{head}, {point.x:g} {item.x}: {number(point.ours)} / {number(point.stock)}"
            f" {item.unit}{equals(point.ratio)}"
            for point in some(item.points)
        ]
    ratio = item.ratio.median if item.ratio else None
    pair = f"{number(item.ours.median)} / {number(item.stock.median)}"
    return [f"{head}: {pair} {item.unit}{equals(ratio)} ({item.ours.samples} pairs)"]


def others(setting: Mapping[str, str]) -> list[str]:
    """The settings that are not in every figure, in words."""
    return [f"{key} {value}" for key, value in setting.items() if key not in _ALWAYS]


def some(items: Sequence[T]) -> list[T]:
    """At most so many, evenly spread, with the first and the last."""
    if len(items) <= _SHOWN_POINTS:
        return list(items)
    last = len(items) - 1
    return [items[round(n * last / (_SHOWN_POINTS - 1))] for n in range(_SHOWN_POINTS)]


def equals(ratio: float | None) -> str:
    return f" = {ratio:.2f}" if ratio is not None else ""


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if round(abs(value), 1) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if value else "0"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def generated(run: Run | None, images: Sequence[str] = ()) -> str:
    """The part of the page between the markers."""
    if run is None:
        return NOTHING
    parts = [
        _about(run),
        "### Targets",
        _targets(run),
        *_cases(run),
        *(["### Plots", *(f"![{alt(name)}](images/{name})" for name in images)] if images else []),
        *_missing(run),
    ]
    return "\n\n".join(parts)


def alt(name: str) -> str:
    return name.rpartition(".")[0].replace("-", " ")


def _about(run: Run) -> str:
    kind = {"full": "A full run", "quick": "A quick run, which is for orientation only"}
    facts = {**run.machine, **run.versions}
    return (
        f"{kind.get(run.mode, run.mode)} of {run.started}, {run.seconds / 60:.0f} minutes.\n\n"
        + table(("machine and versions", ""), facts.items())
    )


def _targets(run: Run) -> str:
    rows: list[Sequence[str]] = []
    for outcome in targets.outcomes(run):
        target = outcome.target
        unit = f" {target.unit}" if target.unit else ""
        rows.append(
            (
                target.label,
                outcome.setting["containerd"],
                outcome.setting["launcher"],
                f"{outcome.value:.2f}{unit}",
                bound(target, target.must),
                bound(target, target.aim),
                _VERDICTS[outcome.verdict],
            )
        )
    for target in targets.unmeasured(run):
        where = [target.where.get(key, "") for key in _ALWAYS]
        bounds = (bound(target, target.must), bound(target, target.aim))
        rows.append((target.label, *where, "", *bounds, "not measured"))
    head = ("target", "containerd", "launcher", "ours / stock", "must", "aim", "")
    return table(head, rows)


def bound(target: targets.Target, value: float | None) -> str:
    """`≤ 0.9`; what is no number is what a bare pipe does."""
    if value is None:
        return "as a pipe"
    unit = f" {target.unit}" if target.unit else ""
    return f"{'≥' if target.at_least else '≤'} {value:g}{unit}"


def _cases(run: Run) -> list[str]:
    """A table for each case, in the order of the run."""
    parts = []
    items: list[Figure | Curve] = [*run.figures, *run.curves]
    for case in dict.fromkeys(item.case for item in items):
        parts.append(f"### {case}")
        figures = [figure for figure in run.figures if figure.case == case]
        if figures:
            parts.append(table(_FIGURE_HEAD, map(_row, figures)))
        curves = [curve for curve in run.curves if curve.case == case]
        if curves:
            rows = [row for curve in curves for row in _points(curve)]
            parts.append(table(_CURVE_HEAD, rows))
    return parts


def _row(figure: Figure) -> tuple[str, ...]:
    ours, stock = figure.ours, figure.stock
    ratio = ""
    if figure.ratio is not None:
        ratio = f"{figure.ratio.median:.2f}"
        if ours.samples > 2:
            ratio += f" ({figure.ratio.p25:.2f} – {figure.ratio.p75:.2f})"
    return (
        ", ".join([figure.name, *others(figure.setting)]),
        figure.setting["containerd"],
        figure.setting["launcher"],
        f"{number(ours.median)} {figure.unit}",
        f"{number(stock.median)} {figure.unit}",
        f"{number(ours.min)} / {number(stock.min)}",
        f"{number(ours.p90)} / {number(stock.p90)}",
        ratio,
    )


def _points(curve: Curve) -> list[tuple[str, ...]]:
    return [
        (
            curve.name,
            curve.setting["containerd"],
            f"{point.x:g} {curve.x}",
            f"{number(point.ours)} {curve.unit}",
            f"{number(point.stock)} {curve.unit}",
            f"{point.ratio:.2f}" if point.ratio is not None else "",
        )
        for point in some(curve.points)
    ]


def _missing(run: Run) -> list[str]:
    if not run.missing:
        return []
    rows = [
        (
            ", ".join([item.case, *others(item.setting)]),
            item.setting["containerd"],
            item.setting["launcher"],
            ("failed: " if item.failed else "") + " ".join(item.reason.split()),
        )
        for item in run.missing
    ]
    return ["### Not measured", table(("case", "containerd", "launcher", "why"), rows)]


def replaced(page: str, text: str) -> str:
    """`page` with `text` between its markers; raises ValueError when it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def main(path: Path) -> int:
    """Write the plots and the page of a results file."""
    from benchmarks import plots

    if not path.exists():
        print(f"benchmarks: {path} is not there; `make bench` makes it", file=sys.stderr)
        return 1
    run = from_json(path.read_text())
    images = plots.write(run, IMAGES)
    PAGE.write_text(replaced(PAGE.read_text(), generated(run, images)))
    for outcome in targets.outcomes(run):
        setting = ", ".join([*(outcome.setting[key] for key in _ALWAYS)])
        print(f"{outcome.verdict:7} {outcome.value:6.2f}  {outcome.target.label} ({setting})")
    print(f"{PAGE} and {len(images)} plots in {IMAGES}")
    return 0
