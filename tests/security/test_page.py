"""docs/security.md has all musts, and each names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MUSTS = 44


def rows():
    """number: (what we do, tests) of every row."""
    found = {}
    for line in (ROOT / "docs" / "security.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].isdigit():
            assert int(cells[0]) not in found, line
            found[int(cells[0])] = cells[1], re.findall(r"`(tests/[^`]+)`", cells[2])
    return found


def functions(path):
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_must_is_on_the_page():
    assert sorted(rows()) == list(range(1, MUSTS + 1))


@pytest.mark.parametrize("must", range(1, MUSTS + 1))
def test_a_must_has_tests_that_exist_or_a_reason(must):
    text, tests = rows()[must]
    assert tests or text.startswith("Reason: "), must
    for test in tests:
        path, _, name = test.partition("::")
        assert name in functions(path), test


def test_every_test_that_says_its_must_is_on_the_page():
    """`Must 5:` in a docstring here, and the row of must 5, name each other."""
    table = rows()
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            said = re.match(r"Musts? ([\d, and-]+)", ast.get_docstring(node) or "")
            for number in re.findall(r"\d+", said[1] if said else ""):
                name = f"{path.relative_to(ROOT)}::{node.name}"
                assert name in table[int(number)][1], (number, name)
