"""Every test runs with the fixtures that the package ships for its users."""

import os
from pathlib import Path

os.environ.setdefault("PYRUNC_CACHE", str(Path(__file__).resolve().parents[1] / ".cache"))

pytest_plugins = ["shim_runc_py.testing.plugin"]
