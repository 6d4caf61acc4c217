"""Pages that name tests for things that went wrong elsewhere name none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [("docs/failures.md", 82), ("docs/regressions.md", 167)]
pages = pytest.mark.parametrize(("page", "last"), PAGES, ids=[page for page, _ in PAGES])


def rows(page):
    for line in (ROOT / page).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].isdigit():
            yield cells


@pages
def test_every_row_is_there_once(page, last):
    assert [int(cells[0]) for cells in rows(page)] == list(range(1, last + 1))


@pages
def test_every_row_says_what_happens_and_names_tests_or_none(page, last):
    for number, wrong, here, tests in rows(page):
        assert wrong, number
        assert here, number
        assert tests == "-" or re.fullmatch(r"`\w+`(, `\w+`)*", tests), number


@pages
def test_every_named_test_exists(page, last):
    texts = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for text in texts for name in re.findall(r"def test_(\w+)\(", text)}
    missing = [
        (cells[0], name)
        for cells in rows(page)
        for name in re.findall(r"`(\w+)`", cells[3])
        if name not in there
    ]
    assert missing == []
