"""Promises that are seen best in the sources."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "shim_runc_py"
SHIM = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).parts[0] not in ("testing", "tools", "cri", "api")
]


def calls(path):
    """(name, line) of everything called by a plain or dotted name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", SHIM, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_that_was_received_becomes_code(path):
    """Musts 21 and 39: no unpickling, no evaluation, no import by a name from outside."""
    forbidden = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
    assert [found for found in calls(path) if found[0] in forbidden] == []
    modules = {"pickle", "marshal", "shelve", "importlib", "yaml", "code", "subprocess"}
    if path.name == "zygote.py":
        # Values, no code, and only from a process of our own user, which SO_PEERCRED has shown.
        modules -= {"marshal"}
    assert not {name.partition(".")[0] for name in imported(path)} & modules


# The zygote's rehearsal removes the directory that it has made itself a moment before.
WITHOUT_TREES = [path for path in SHIM if path.name != "rehearsal.py"]


@pytest.mark.parametrize("path", WITHOUT_TREES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_tree_is_removed(path):
    """Must 16."""
    forbidden = ("shutil.rmtree", "os.removedirs", "os.walk", "os.fwalk")
    assert [found for found in calls(path) if found[0] in forbidden] == []


def test_no_file_of_an_image_is_read():
    """Must 27: users and groups are looked up by the engine."""
    for path in SHIM:
        tree = ast.parse(path.read_text())
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
        plain = [text for text in texts if isinstance(text, str) and text.startswith("/etc")]
        assert plain == [], path
        names = {name for name, _ in calls(path)}
        assert not names & {"pwd.getpwnam", "grp.getgrnam", "pwd.getpwuid"}, path
