"""The generated modules are those that the .proto files give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_regeneration_gives_the_committed_files(tmp_path):
    subprocess.run(
        [sys.executable, ROOT / "protos" / "regenerate.py", "--out", tmp_path],
        check=True,
        capture_output=True,
    )
    generated = {p.relative_to(tmp_path): p.read_text() for p in tmp_path.rglob("*_pb2.py*")}
    committed = {
        p.relative_to(ROOT): p.read_text()
        for p in (ROOT / "shim_runc_py").rglob("*_pb2.py*")
        if "__pycache__" not in p.parts
    }
    assert sorted(generated) == sorted(committed)
    for path, text in generated.items():
        assert committed[path] == text, f"{path}: run `make protos`"


def test_every_proto_stands_in_the_manifest():
    manifest = (ROOT / "protos" / "MANIFEST.md").read_text()
    for path in (ROOT / "protos").rglob("*.proto"):
        assert f"`{path.parent.name}/{path.name}`" in manifest
