"""Collects what a run of the conformance suite found out, shim by shim, in a file.

    pytest -p tests.parity --found FILE tests/conformance

For `make parity` (scripts/parity) and for the recorder of the matrix. A test that takes the fixture
`binary` runs once for every shim; rows of the matrix come as properties of its tests. The file is
JSON:

    results   a list of {test, variant, binary, outcome, reason}; `test` is path::name, `variant`
              what it was parametrised with besides the shim, `binary` "" for a test that has none,
              `outcome` one of passed, failed, skipped, differs
    rows      a list of [state, call, binary, answer, reason]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--found", help="write what each shim did into this file")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--found")
    if path:
        config.pluginmanager.register(Collector(Path(path)))


class Collector:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: list[dict[str, str]] = []
        self._rows: list[list[str]] = []
        self._given: dict[str, tuple[str, str]] = {}  # node id: (binary, variant)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            callspec: Any = getattr(item, "callspec", None)
            binary = callspec.params.get("binary") if callspec is not None else None
            name = binary.name if binary is not None else ""
            variant = callspec.id if callspec is not None else ""
            if name:
                variant = "-".join(part for part in variant.split(name) if part).strip("-")
                variant = variant.replace("--", "-")
            self._given[item.nodeid] = (name, variant)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        binary, variant = self._given[report.nodeid]
        if report.when == "call":
            properties: list[tuple[str, Any]] = list(report.user_properties)
            for name, (state, call, answer, reason) in properties:
                assert name == "row"
                self._rows.append([state, call, binary, answer, reason])
        outcome = _outcome(report)
        if outcome:
            self._results.append(
                {
                    "test": report.nodeid.partition("[")[0],
                    "variant": variant,
                    "binary": binary,
                    "outcome": outcome,
                    "reason": _reason(report),
                }
            )

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json.dumps({"results": self._results, "rows": self._rows}))


def _outcome(report: pytest.TestReport) -> str:
    """Nothing for a phase that has no news."""
    if hasattr(report, "wasxfail"):
        return "differs" if report.skipped else "passed"
    if report.failed:
        return "failed"
    if report.skipped:
        return "skipped"
    return "passed" if report.when == "call" else ""


def _reason(report: pytest.TestReport) -> str:
    found = str(getattr(report, "wasxfail", ""))
    if not found and report.skipped and isinstance(report.longrepr, tuple):
        found = report.longrepr[2].removeprefix("Skipped: ")
    for prefix in ("reason: ", "stock shim: ", "stock shim, "):
        found = found.removeprefix(prefix)
    return found
