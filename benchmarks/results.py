"""What a run has found, and its JSON. Pure.

    {"machine": {...}, "versions": {...}, "mode": "full", "started": ..., "seconds": ...,
     "figures": [{"case": "exec", "name": "total", "setting": {"containerd": "1.6.20", ...},
                  "unit": "ms", "ours": {"median", "min", "p90", "samples"}, "stock": {...},
                  "ratio": {"median", "p25", "p75"}}],
     "curves":  [{..., "x": "containers", "points": [{"x": 10, "ours": 1.2, "stock": 2.5}]}],
     "missing": [{"case", "setting", "reason", "failed"}]}

`ratio` is null where it says nothing, as for slopes around 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.summary import Spread, Summary, ratios, summarise, tidy


@dataclass(frozen=True)
class Figure:
    """A number that was taken several times on both sides."""

    case: str
    name: str
    setting: dict[str, str]
    unit: str
    ours: Summary
    stock: Summary
    ratio: Spread | None


@dataclass(frozen=True)
class Point:
    x: float
    ours: float
    stock: float

    @property
    def ratio(self) -> float | None:
        return self.ours / self.stock if self.stock else None


@dataclass(frozen=True)
class Curve:
    """A number that grows with something, `x`."""

    case: str
    name: str
    setting: dict[str, str]
    unit: str
    x: str
    points: list[Point]


@dataclass(frozen=True)
class Missing:
    """What was not measured: something is not here, or (`failed`) went wrong."""

    case: str
    setting: dict[str, str]
    reason: str
    failed: bool = False


@dataclass
class Run:
    mode: str = "full"
    started: str = ""
    seconds: float = 0.0
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)


def figure(
    case: str,
    name: str,
    setting: Mapping[str, str],
    unit: str,
    pairs: Sequence[tuple[float, float]],
    *,
    with_ratio: bool = True,
) -> Figure:
    """Of pairs (ours, stock); raises ValueError when there are none."""
    ours = summarise([pair[0] for pair in pairs])
    stock = summarise([pair[1] for pair in pairs])
    return Figure(
        case, name, dict(setting), unit, ours, stock, ratios(pairs) if with_ratio else None
    )


def to_json(run: Run) -> str:
    """One figure a line, so that two runs can be compared with diff."""
    document = asdict(run)
    parts = [
        f"  {json.dumps(key)}: {json.dumps(document[key])}"
        for key in ("mode", "started", "seconds", "machine", "versions")
    ]
    for key in ("figures", "curves", "missing"):
        lines = ",\n    ".join(json.dumps(_plain(item)) for item in getattr(run, key))
        parts.append(f"  {json.dumps(key)}: [\n    {lines}\n  ]" if lines else f'  "{key}": []')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _plain(value: Any) -> Any:
    """Named tuples and data classes as objects, numbers without their noise."""
    if isinstance(value, float):
        return tidy(value, 5)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {key: _plain(item) for key, item in value._asdict().items()}
    if hasattr(value, "__dataclass_fields__"):
        return {key: _plain(getattr(value, key)) for key in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def from_json(text: str) -> Run:
    document = json.loads(text)
    figures = [
        Figure(
            **{
                **item,
                "ours": Summary(**item["ours"]),
                "stock": Summary(**item["stock"]),
                "ratio": Spread(**item["ratio"]) if item["ratio"] else None,
            }
        )
        for item in document.pop("figures")
    ]
    curves = [
        Curve(**{**item, "points": [Point(**point) for point in item["points"]]})
        for item in document.pop("curves")
    ]
    missing = [Missing(**item) for item in document.pop("missing")]
    return Run(**document, figures=figures, curves=curves, missing=missing)
