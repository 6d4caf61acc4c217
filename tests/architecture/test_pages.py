"""Pages that are made from the sources are what the sources say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shim_runc_py.shim import flags
from shim_runc_py.tools import handler, node

ROOT = Path(__file__).resolve().parents[2]
SHIM_PAGE = "packaging/man/containerd-shim-pyrunc-v2.8"


def test_the_page_of_states_is_what_the_tables_say():
    done = subprocess.run(
        [sys.executable, "scripts/states-page", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_of_the_task_api_has_every_row_and_every_test():
    """What it says of them is up to `make parity`, which asks the stock shims."""
    done = subprocess.run(
        [sys.executable, "scripts/parity", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_manual_and_the_completion_of_pyrunc_are_what_its_parser_says():
    done = subprocess.run(
        [sys.executable, "scripts/manual", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_manual_of_the_shim_has_every_flag_and_no_other():
    text = (ROOT / SHIM_PAGE).read_text().replace("\\-", "-")
    section = text.partition(".SH FLAGS")[2].partition(".SH ENVIRONMENT")[0].partition(".TP")[2]
    told = set(re.findall(r"^\.B[RI]? -([a-z-]+)", section, re.MULTILINE))
    told |= set(re.findall(r'" -([a-z-]+)', section))
    assert told == {*flags._TEXTS, *flags._SWITCHES}


def test_every_variable_of_the_shim_is_in_the_manual_and_for_operators_and_no_other():
    sources = [*(ROOT / "shim_runc_py").rglob("*.py"), ROOT / "packaging" / "launcher.c"]
    read = {
        name
        for path in sources
        if path.parent.name != "testing"
        for name in re.findall(r"PYRUNC_[A-Z_]+", path.read_text())
    }
    for page in (SHIM_PAGE, "docs/operating.md"):
        assert set(re.findall(r"PYRUNC_[A-Z_]+", (ROOT / page).read_text())) == read, page


@pytest.mark.parametrize("page", ["packaging/man/pyrunc.1", SHIM_PAGE])
def test_manual_pages_are_formatted_without_a_warning(page):
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("no groff here to format it with")
    done = subprocess.run(
        [groff, "-man", "-Tutf8", "-ww", "-z", str(ROOT / page)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""


def completed(*words):
    """What bash offers for the last of these words."""
    script = (
        f"source {ROOT}/packaging/completion/pyrunc.bash\n"
        'COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _pyrunc; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script, "-", *words], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes():
    assert completed("pyrunc", "veri") == ["verify"]
    assert completed("pyrunc", "verify", "-o", "j") == ["json"]
    assert completed("pyrunc", "install", "--laun") == ["--launcher-only"]
    assert completed("pyrunc", "node", "un") == ["uninstall"]
    assert completed("pyrunc", "install", "--prefix", "") == []


def test_pages_name_files_and_labels_that_there_are():
    for page in ("docs/kubernetes.md", "docs/operating.md", "docs/how-a-pod-starts.md"):
        text = (ROOT / page).read_text()
        for name in re.findall(r"packaging/[a-z/.0-9-]+|\]\(([a-z-]+\.md)\)", text):
            assert not name or (ROOT / "docs" / name).exists(), f"{page}: {name}"
        for name in re.findall(r"packaging/[a-zA-Z/.0-9-]*[a-zA-Z0-9]", text):
            assert (ROOT / name).exists(), f"{page}: {name}"
    operators = (ROOT / "docs" / "kubernetes.md").read_text()
    assert node.LABEL in operators
    assert handler.BEGIN in operators
    assert handler.END in operators
