"""`pyrunc check` finds what is wrong with a node, and says so when nothing is."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from shim_runc_py.testing.bundles import Bundle
from shim_runc_py.tools import check, cli


@pytest.mark.parametrize(
    ("said", "old"),
    [
        ("runc version 1.1.5+ds1", True),
        ("runc version 1.1.15", True),
        ("runc version 1.2.9", True),
        ("runc version 1.3.5", True),
        ("runc version 1.3.6", False),
        ("runc version 1.3.10+ds1", False),
        ("runc version 1.4.2", True),
        ("runc version 1.4.3", False),
        ("runc version 1.5.0", False),
        ("runc version 1.10.0", False),
        ("runc version 2.0.0", False),
        ("crun version 1.8.1", False),
        ("", False),
    ],
)
def test_an_engine_with_known_holes_is_named(said, old):
    """Musts 10 - 12."""
    assert bool(check.version_trouble(said)) == old


@pytest.fixture
def engine(place):
    path = place / "runc"
    path.write_text("#!/bin/sh\necho runc version 1.5.0\n")
    path.chmod(0o755)
    return path


def trouble(found, what):
    return next(finding for finding in found if finding.what == what).trouble


def test_an_engine_and_a_logger_that_others_may_change_are_named(engine, place):
    """Must 20."""
    environ = {"PATH": "/usr/bin", "PYRUNC_LOGGERS": f"{place}/logger"}
    (place / "logger").write_text("x")
    found = check.findings(str(engine), environ)
    assert trouble(found, "engine") == trouble(found, "engine's version") == ""
    assert trouble(found, "logger") == ""
    engine.chmod(0o777)
    (place / "logger").chmod(0o666)
    found = check.findings(str(engine), environ)
    assert trouble(found, "engine") == f"{engine} can be changed by others"
    assert trouble(found, "logger") == f"{place}/logger can be changed by others"


def test_a_package_that_others_may_change_is_named(place):
    """Must 33."""
    package = place / "package"
    (package / "inner").mkdir(parents=True)
    (package / "inner" / "module.py").write_text("x")
    assert check._tree_doubt(str(package)) == ""
    (package / "inner" / "module.py").chmod(0o646)
    assert check._tree_doubt(str(package)) == f"{package}/inner/module.py can be changed by others"


def test_an_engine_that_is_missing_is_told():
    found = check.findings("no-such-engine", {"PATH": "/usr/bin"})
    assert "not in PATH" in trouble(found, "engine")


def test_the_command_prints_a_line_for_each_and_fails_when_one_is_wrong(engine, capsys):
    engine.write_text("#!/bin/sh\necho runc version 1.1.0\n")
    assert cli.main(["check", "--engine", str(engine)]) == 1
    said = capsys.readouterr().out
    assert f"ok    engine: {engine}\nLOOK  engine's version: runc version 1.1.0\n" in said


def test_strict_mode_starts_no_shim_out_of_files_of_others(binary, make_bundle, place):
    """Must 33: the launcher's package, copied to where anybody may write."""
    bundle: Bundle = make_bundle("sleep")
    copy = place / "copy"
    subprocess.run(["cp", "-r", os.path.dirname(check.__file__) + "/..", str(copy)], check=True)
    package = place / "lib"
    package.mkdir()
    copy.rename(package / "shim_runc_py")
    text = Path(binary.path).read_text()
    launcher = place / "launcher"
    at = text.index("sys.path[:0] = [") + len("sys.path[:0] = [")
    launcher.write_text(text[:at] + f"{str(package)!r}, " + text[at:])
    launcher.chmod(0o755)
    words = [str(launcher), "-namespace", "test", "-id", bundle.id, "-address", f"{place}/c.sock"]
    environ = {**os.environ, "PYRUNC_STRICT": "1", "PYRUNC_ZYGOTE": "off"}

    def start():
        return subprocess.run(
            [*words, "start"], cwd=bundle, env=environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip

    mode = stat.S_IMODE((package / "shim_runc_py").stat().st_mode)
    (package / "shim_runc_py").chmod(0o777)
    done = start()
    assert done.returncode == 1
    assert f"strict mode: {package}/shim_runc_py can be changed by others" in done.stderr
    (package / "shim_runc_py").chmod(mode)
