"""The rooms and who may enter which (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "shim_runc_py"

# Imports go from a higher number to a lower one, or stay in the room (the first part of the name).
# Rooms of one level do not know each other, except in the levels named in NEIGHBOURS.
LEVELS = {
    "tools": 6, "cri": 6, "testing": 6, "entry": 6,
    "shim": 5,
    "task": 4,
    "runc": 3, "stdio": 3, "events": 3,
    "loop": 2, "reaper": 2, "ttrpc.server": 2, "ttrpc.client": 2,
    "api": 1, "ttrpc": 1, "ttrpc.messages": 0,
    "linux": 0, "log": 0, "errors": 0,
}  # fmt: skip
NEIGHBOURS = {0, 2, 6}
# These fork themselves; no program is started by it.
FORKS = {"shim.start", "shim.zygote", "shim.model"}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        name = name.removesuffix(".__init__").removesuffix("__init__")
        if name and not name.endswith("_pb2"):
            yield name, path


def room(name):
    """The room of a module, relative to the package."""
    if name in LEVELS:
        return name
    first = name.partition(".")[0]
    assert first in LEVELS, f"{name} is in no room"
    return first


def imports(path):
    """(module of ours, line) for every import in a file, late ones and those for types included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names] + [base]
        else:
            continue
        for name in names:
            if name.startswith("shim_runc_py."):
                inner = name.removeprefix("shim_runc_py.")
                if known(inner):
                    yield inner, node.lineno


def known(name):
    path = PACKAGE / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: str(value)[-30:])
def test_imports_go_downward(name, path):
    ours = room(name)
    for imported, line in imports(path):
        theirs = room(imported)
        if theirs.partition(".")[0] == ours.partition(".")[0] and ours != theirs:
            # Inside ttrpc: the outer half may use the pure one.
            assert LEVELS[ours] >= LEVELS[theirs] or ours == "ttrpc", f"{path}:{line}: {imported}"
            continue
        if ours == theirs:
            continue
        below = LEVELS[theirs] < LEVELS[ours]
        beside = LEVELS[theirs] == LEVELS[ours] and LEVELS[ours] in NEIGHBOURS
        assert below or beside, f"{path}:{line}: {name} must not know {imported}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "ttrpc").glob("*.py")), ids=lambda p: p.name)
def test_ttrpc_imports_nothing_else_of_ours(path):
    for imported, line in imports(path):
        assert imported.startswith("ttrpc"), f"{path}:{line}: {imported}"


@pytest.mark.parametrize("name", ["frame", "connection", "status"])
def test_the_pure_half_of_ttrpc_knows_no_system(name):
    tree = ast.parse((PACKAGE / "ttrpc" / f"{name}.py").read_text())
    found = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert not found & {"os", "time", "_socket", "socket", "select"}


def uses(path, *names):
    """Lines on which `module.attribute` is used."""
    wanted = [tuple(name.split(".")) for name in names]
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and (node.value.id, node.attr) in wanted
        ):
            yield node.lineno


def test_only_the_top_reads_argv_environ_and_cwd():
    for name, path in modules():
        if LEVELS[room(name)] < 5:
            lines = list(uses(path, "os.environ", "os.getenv", "os.getcwd", "sys.argv"))
            assert not lines, f"{path}: {lines}"


def test_only_linux_wait_waits_and_only_the_reaper_uses_it_in_a_serving_shim():
    for name, path in modules():
        if name == "linux.wait" or room(name) == "testing" or room(name) == "tools":
            continue
        lines = list(uses(path, "os.waitid", "os.waitpid", "os.wait", "os.wait3", "os.wait4"))
        assert not lines, f"{path}: {lines}"
        for imported, line in imports(path):
            if imported == "linux.wait":
                # Mounting is done in a child, which has children of its own and no reaper.
                assert name in (
                    "reaper",
                    "shim.delete",
                    "shim.info",
                    "shim.start",
                    "shim.zygote",
                    "shim.model",
                    "linux.mounts",
                    "linux.idmap",
                ), f"{path}:{line}"


def test_only_linux_spawn_starts_processes():
    starters = ["os.fork", "os.forkpty", "os.posix_spawn", "os.execv", "os.execve", "os.system"]
    for name, path in modules():
        if name == "linux.spawn" or room(name) in ("testing", "tools", "cri"):
            continue
        lines = list(uses(path, *starters))
        assert not lines or name in FORKS, f"{path}: {lines}"


def test_only_linux_knows_the_c_library():
    for name, path in modules():
        if room(name) not in ("linux", "testing", "tools"):
            assert "ctypes" not in path.read_text(), path


def test_no_module_is_called_after_nothing_in_particular():
    for name, _ in modules():
        last = name.rpartition(".")[2]
        assert last not in ("utils", "util", "helpers", "helper", "common", "manager", "misc")


def test_every_module_says_what_it_is_for():
    for _, path in modules():
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert text, path
        assert len(text) > 20, path


def test_no_module_is_too_long_to_be_read_in_one_go():
    # 400 lines are the aim; see CONTRIBUTING.md.
    long = {name: count for name, path in modules() if (count := lines_of(path)) > 500}
    assert not long


def lines_of(path):
    return len(path.read_text().splitlines())


def test_the_whole_shim_can_be_read_in_an_afternoon():
    count = sum(
        lines_of(path) for name, path in modules() if room(name) not in ("testing", "tools", "cri")
    )
    assert count < 10_500
