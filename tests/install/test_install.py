"""`pyrunc install` and the wheel: what containerd executes is there, complete, and goes again."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from shim_runc_py import __version__
from shim_runc_py.testing import launcher
from shim_runc_py.tools import cli, install

ROOT = Path(__file__).resolve().parents[2]
NAME = launcher.NAME


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    path = tmp_path_factory.mktemp("prefix")
    assert cli.main(["install", "--launcher-only", "--prefix", str(path)]) == 0
    return path


def run(*words, **options):
    return subprocess.run(words, capture_output=True, text=True, check=False, **options)


def test_the_installed_shim_needs_nothing_of_the_environment(prefix):
    for binary in (prefix / "bin" / NAME, prefix / "lib" / NAME / NAME):
        done = run(str(binary), "-v", env={}, cwd="/")
        assert done.returncode == 0, done.stderr
        assert f"Version:  {__version__}" in done.stdout
        assert done.stdout.startswith(f"{NAME}:\n")


def test_only_what_a_shim_needs_is_installed(prefix):
    package = prefix / "lib" / NAME / "shim_runc_py"
    rooms = {path.name for path in package.iterdir() if path.is_dir()}
    assert not rooms & {"testing", "tools", "cri"}
    assert {"task", "shim", "linux"} <= rooms


def test_every_module_is_compiled_and_its_source_is_not_looked_at_again(prefix):
    for path in (prefix / "lib" / NAME).rglob("*.py"):
        compiled = path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc"
        assert compiled.read_bytes()[4:8] == b"\1\0\0\0", path  # by hash, unchecked


def test_nobody_but_root_may_write_what_is_installed(prefix):
    for path in [prefix / "bin" / NAME, *(prefix / "lib" / NAME).rglob("*")]:
        assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH), path
    assert os.access(prefix / "bin" / NAME, os.X_OK)


def test_installing_again_replaces_and_leaves_nothing_behind(prefix):
    before = (prefix / "lib" / NAME).stat().st_ino
    (prefix / "lib" / NAME / "stale.py").touch()
    install.install(prefix)
    assert (prefix / "lib" / NAME).stat().st_ino != before
    assert not (prefix / "lib" / NAME / "stale.py").exists()
    assert [path.name for path in (prefix / "lib").iterdir()] == [NAME]
    assert [path.name for path in (prefix / "bin").iterdir()] == [NAME]


def test_without_a_compiler_the_python_launcher_is_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = install.install(tmp_path)
    assert "Python launcher" in said[-1]
    assert (tmp_path / "bin" / NAME).read_bytes().startswith(b"#!")


def test_uninstall_takes_everything_away_and_says_so(tmp_path, capsys):
    install.install(tmp_path, native_launcher=False)
    words = ["uninstall", "--prefix", str(tmp_path), "--config", str(tmp_path / "config.toml")]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.count("removed") == 2
    assert list((tmp_path / "bin").iterdir()) == list((tmp_path / "lib").iterdir()) == []
    assert cli.main(words) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_a_prefix_that_cannot_be_written_gets_one_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["install", "--launcher-only", "--prefix", str(tmp_path / "file")]) == 1
    assert "pyrunc install: " in capsys.readouterr().err


def test_the_native_launcher_is_small_and_has_no_dependency():
    lines = (ROOT / "packaging" / "launcher.c").read_text().splitlines()
    assert len(lines) <= 150
    included = [line.split("<")[1].rstrip(">") for line in lines if line.startswith("#include")]
    assert all(name.startswith("sys/") or name.count(".") == 1 for name in included)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_the_native_launcher_compiles_without_a_warning(tmp_path):
    words = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "launcher")]
    done = run(*words, str(ROOT / "packaging" / "launcher.c"))
    assert done.returncode == 0, done.stderr


def test_the_native_launcher_executes_the_python_one_when_there_is_no_zygote(prefix, tmp_path):
    environ = {"PYRUNC_ZYGOTE": str(tmp_path / "nowhere")}
    done = run(str(prefix / "bin" / NAME), "-namespace", "", "start", env=environ, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "io.containerd.pyrunc.v2: shim namespace cannot be empty"


def test_the_wheel_has_the_launchers_and_can_be_installed_from(tmp_path):
    done = run(
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"),
        *("--wheel-dir", str(tmp_path), str(ROOT)),
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith(f"scripts/{NAME}") for name in names)
    assert "shim_runc_py/testing/bundle_fixtures/sleep/config.json" in names
    for place in ("man/man1/pyrunc.1", f"man/man8/{NAME}.8", "bash-completion/completions/pyrunc"):
        assert any(name.endswith(f"data/share/{place}") for name in names), place
    if shutil.which("cc"):
        assert f"shim_runc_py/native/{NAME}" in names
        assert wheel.name.split("-")[-3:-1] == ["py3", "none"]
        assert not wheel.name.endswith("-any.whl")
