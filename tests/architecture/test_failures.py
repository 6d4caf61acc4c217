"""docs/failures.md names a test for a row only if there is one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROWS = 82


def rows():
    for line in (ROOT / "docs/failures.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].isdigit():
            yield cells


def test_every_row_is_there_once():
    assert [int(cells[0]) for cells in rows()] == list(range(1, ROWS + 1))


def test_every_row_says_what_happens_and_names_tests_or_none():
    for number, wrong, here, tests in rows():
        assert wrong, number
        assert here, number
        assert tests == "-" or re.fullmatch(r"`\w+`(, `\w+`)*", tests), number


def test_every_named_test_exists():
    texts = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for text in texts for name in re.findall(r"def test_(\w+)\(", text)}
    missing = [
        (c[0], name) for c in rows() for name in re.findall(r"`(\w+)`", c[3]) if name not in there
    ]
    assert missing == []
