"""The table in docs/compatibility.md, written by the run that it tells of.

    python -m pytest tests/containerd --compatibility docs/compatibility.md

A row is a test: its name, since tests are named after what they promise. A column is a pairing.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest

from shim_runc_py import __version__
from tests.containerd.pairings import Pairing

INTRODUCTION = """# Compatibility

What was run against real containerds, and how it went. This page is written by
`make compatibility`; do not edit it.

- **containerd**: the packages of three Debian suites, each with its own `ctr` and its own stock
  shim; {built}
- **Answer and task API**: the plain address makes containerd use Task v2, a structured answer
  (JSON for containerd 2.0 - 2.2, protobuf from 2.3 on) Task v3. Ours answers with the plain address
  unless `PYRUNC_TASK_API=3` is in its environment (docs/decisions.md, 4).
- **Columns**: ours first, then the stock shims for the tests that have a control.
- **Cells**: `yes` passed; a letter failed or was skipped for the reason below the table; empty was
  not run, for a control or since that containerd does not have the feature.

This run: shim {version}, {engine}, Linux {kernel}, {cgroups}.
"""
BUILT = "those of 2.3 and later are built from source by `scripts/build-containerd`."
NOT_BUILT = "containerd 2.3 and later were not here (`scripts/build-containerd` builds them)."
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Row:
    """One test and its results by pairing."""

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name
        self.cells: dict[str, str] = {}


class Recorder:
    """A pytest plugin that notes results and writes the page at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, Row] = {}
        self._pairings: dict[str, Pairing] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        pairing = getattr(item, "callspec", None) and item.callspec.params.get("pairing")
        if not isinstance(pairing, Pairing):
            return report
        self._pairings[pairing.name] = pairing
        row = row_of(item.module, item.function)
        cells = self._rows.setdefault(f"{row.module}: {row.name}", row).cells
        result = _result(report)
        if result and cells.get(pairing.name, "yes") == "yes":
            cells[pairing.name] = result
        return report

    def pytest_sessionfinish(self) -> None:
        if self._rows:
            self._path.write_text(page(list(self._rows.values()), list(self._pairings.values())))


def row_of(module: object, function: object) -> Row:
    """The row of a test function."""
    title = (getattr(module, "__doc__", "") or "").strip().splitlines()[0].rstrip(".")
    name = getattr(function, "__name__", "").removeprefix("test_").replace("_", " ")
    return Row(title, name)


def _result(report: pytest.TestReport) -> str:
    reason = ""
    if isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
    if hasattr(report, "wasxfail"):
        return "yes" if report.passed else f"failed: {report.wasxfail}"
    if report.skipped:
        return f"skipped: {reason}"
    if report.failed:
        return f"failed in its {report.when}"
    return "yes" if report.when == "call" else ""


def page(rows: list[Row], pairings: list[Pairing]) -> str:
    """The page as Markdown."""
    pairings = sorted(pairings, key=lambda pairing: pairing.stock)
    newest = max((pairing.generation.major for pairing in pairings), default=(0, 0))
    text = INTRODUCTION.format(
        built=BUILT if newest >= (2, 3) else NOT_BUILT,
        version=__version__,
        engine=_first_line("runc", "--version").replace(" version", ""),
        kernel=platform.release().partition("-")[0],
        cgroups=_cgroups(),
    )
    notes: list[str] = []
    module = ""
    for row in rows:
        if row.module != module:
            module = row.module
            text += f"\n## {module}\n\n"
            text += "| | " + " | ".join(pairing.title for pairing in pairings) + " |\n"
            text += "|---" * (len(pairings) + 1) + "|\n"
        cells = []
        for pairing in pairings:
            result = row.cells.get(pairing.name, "")
            if result not in ("", "yes"):
                if result not in notes:
                    notes.append(result)
                result = _LETTERS[notes.index(result)]
            cells.append(result)
        text += f"| {row.name} | " + " | ".join(cells) + " |\n"
    if notes:
        text += "\n"
        text += "".join(f"- {_LETTERS[at]}: {note}\n" for at, note in enumerate(notes))
    return text


def _cgroups() -> str:
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return "cgroup v2"
    return "cgroup v1" + (" hybrid" if os.path.isdir("/sys/fs/cgroup/unified") else "")


def _first_line(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]
