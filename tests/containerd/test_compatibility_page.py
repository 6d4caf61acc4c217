"""docs/compatibility.md is the work of a run of the tests that are here."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from tests.containerd.compatibility import Row, page, row_of
from tests.containerd.pairings import Pairing

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"


def promised():
    """(module title, test name) of each test that runs against pairings, without the long runs."""
    found = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        if path.stem in ("test_soak", "test_compatibility_page"):
            continue
        module = importlib.import_module(f"tests.containerd.{path.stem}")
        for name, function in vars(module).items():
            if name.startswith("test_") and callable(function):
                row = row_of(module, function)
                found.add((row.module, row.name))
    return found


def written():
    found, title = set(), ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
        elif match := re.match(r"\| (\w[^|]*) \|", line):
            found.add((title, match[1]))
    return found


def test_every_test_has_its_row_and_every_row_its_test():
    missing = promised() - written()
    stale = written() - promised()
    assert (missing, stale) == (set(), set()), "`make compatibility` writes the page again"


def test_no_row_tells_of_a_failure_of_ours_without_a_reason():
    assert "failed in its" not in PAGE.read_text()


class Generation:
    def __init__(self, version: str, *major: int) -> None:
        self.version = version
        self.major = major


def test_a_page_has_a_column_for_each_pairing_and_notes_below():
    pairings = [
        Pairing(Generation("2.1.9", 2, 1), "runc", "json", 3),  # type: ignore[arg-type]
        Pairing(Generation("1.6.20", 1, 6), "pyrunc", "plain", 2),  # type: ignore[arg-type]
    ]
    row = Row("Things", "it works")
    row.cells = {pairings[0].name: "skipped: no room", pairings[1].name: "yes"}
    text = page([row, Row("Things", "another")], pairings)
    assert "| | 1.6.20, plain address, Task v2 | stock: 2.1.9, JSON, Task v3 |" in text
    assert "| it works | yes | a |" in text
    assert "| another |  |  |" in text
    assert "- a: skipped: no room" in text
