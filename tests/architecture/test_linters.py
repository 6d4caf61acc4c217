"""The linters are tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*words):
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing():
    run(sys.executable, "-m", "ruff", "check", ".")


def test_ruff_would_format_nothing():
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_mypy_finds_nothing():
    run(sys.executable, "-m", "mypy")


GUEST = [f"tests/vm/guest/{name}" for name in ("init", "system", "relay", "systemd")]


@pytest.mark.parametrize("script", ["scripts/prepare", ".ci/run", *GUEST])
def test_shell_scripts_can_be_parsed(script):
    run("sh", "-n", script)


def tracked():
    done = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:  # an unpacked archive
        return [p for p in ROOT.rglob("*") if p.is_file() and ".venv" not in str(p)]
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_file_names_a_place_of_one_machine():
    forbidden = ["/root/.", "/home/" + "u", "/work/" + "main", "deb." + "debian.org"]
    for path in tracked():
        if path.name == Path(__file__).name or path.suffix in (".png", ".svg"):
            continue
        text = path.read_text(errors="replace")
        for words in forbidden:
            assert words not in text, f"{path} has {words}"


def test_scripts_are_executable():
    for path in tracked():
        if path.read_bytes()[:2] == b"#!":
            assert os.access(path, os.X_OK), path
