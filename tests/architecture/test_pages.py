"""Pages that are made from the sources are what the sources say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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
