"""What each role may import. A budget is a list of names, so that growth is a decision.

containerd executes the binary two or three times for each container; a bare interpreter costs 6 ms
and a careless import list 40. In the serving shim every module costs memory for days.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shim_runc_py.testing import launcher

ROOT = Path(__file__).resolve().parents[2]

# With a zygote there is nothing else.
OURS_AT_ALL = {"shim_runc_py", "shim_runc_py.entry"}
SYSTEM_AT_ALL = {"_socket"}

OURS_AT_START = {
    "shim_runc_py", "shim_runc_py.entry", "shim_runc_py.shim", "shim_runc_py.shim.roles",
    "shim_runc_py.shim.flags",
    "shim_runc_py.shim.start", "shim_runc_py.shim.address", "shim_runc_py.shim.bootstrap",
    "shim_runc_py.shim.wire", "shim_runc_py.linux", "shim_runc_py.linux.sock",
    "shim_runc_py.task", "shim_runc_py.task.identifiers", "shim_runc_py.errors",
}  # fmt: skip
SYSTEM_AT_START = {
    "os", "os.path", "posixpath", "genericpath", "stat", "_stat", "_collections_abc", "__future__",
    "_socket", "fcntl", "struct", "_struct", "time", "_json", "_sha2", "_sha256",
}  # fmt: skip

OURS_AT_DELETE = {
    "shim_runc_py", "shim_runc_py.entry", "shim_runc_py.shim", "shim_runc_py.shim.roles",
    "shim_runc_py.shim.flags", "shim_runc_py.shim.delete", "shim_runc_py.shim.wire",
    "shim_runc_py.runc", "shim_runc_py.runc.argv",
    "shim_runc_py.linux", "shim_runc_py.linux.procfs",
    "shim_runc_py.task", "shim_runc_py.task.identifiers", "shim_runc_py.errors",
}  # fmt: skip
SYSTEM_AT_DELETE = {
    "os", "os.path", "posixpath", "genericpath", "stat", "_stat", "_collections_abc", "__future__",
    "time",
}  # fmt: skip

# Nothing that nobody would expect in a shim; what protobuf itself brings is its own affair.
NEVER_IN_A_SHIM = {
    "argparse", "asyncio", "concurrent", "contextlib2", "ctypes.util", "dataclasses", "email",
    "html", "http", "inspect", "logging", "multiprocessing", "pathlib", "queue", "random",
    "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile", "unittest",
    "urllib", "uuid", "zipfile",
}  # fmt: skip


def loaded(code: str) -> set[str]:
    """The modules that are loaded when `code` has run in an interpreter like the launcher's."""
    text = f"import sys\nsys.path[:0] = {launcher.places()!r}\nbefore = set(sys.modules)\n{code}\n"
    text += "print(*sorted(set(sys.modules) - before))\n"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", text], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


HANDED_OVER = """
import posix, sys
from shim_runc_py import entry
entry.read_input = lambda: b""
def connect(place, given):
    entry.name({launcher!r})
    import _socket
    return 0, b"", b""
entry.ask = connect
posix._exit = lambda status: None
sys.argv = ["shim", "start"]
entry.main()
"""
START = """
import os
from shim_runc_py import entry
from shim_runc_py.shim import roles, start
start._listen = lambda directory, path: None
start._write_address = lambda bundle, path: None
os.chdir({bundle!r})
words = ["shim", "-namespace", "n", "-id", "x", "-address", "a", "start"]
assert roles.main(words, b"")[0] == 0
"""
DELETE = """
import os
from shim_runc_py import entry
from shim_runc_py.shim import roles
os.chdir({bundle!r})
words = ["shim", "-namespace", "n", "-id", "x", "-address", "a", "delete"]
assert roles.main(words, b"")[0] == 0
"""


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "x"
    path.mkdir()
    (path / "config.json").write_text('{"annotations": {"io.kubernetes.cri.sandbox-id": "p"}}')
    return str(path)


def test_a_launcher_that_has_a_zygote_imports_one_module():
    found = loaded(HANDED_OVER.format(launcher=__file__))
    assert found <= OURS_AT_ALL | SYSTEM_AT_ALL


def test_start_imports_almost_nothing(bundle):
    assert loaded(START.format(bundle=bundle)) <= OURS_AT_START | SYSTEM_AT_START


def test_delete_imports_almost_nothing(bundle):
    assert loaded(DELETE.format(bundle=bundle)) <= OURS_AT_DELETE | SYSTEM_AT_DELETE


def test_a_serving_shim_imports_nothing_unexpected():
    found = loaded("from shim_runc_py.shim import serve")
    assert not found & NEVER_IN_A_SHIM
    ours = {name for name in found if name.startswith("shim_runc_py")}
    assert not [name for name in ours if name.split(".")[1:2] in (["tools"], ["testing"], ["cri"])]
    # Rooms that most containers never need are entered late.
    for late in ("linux.mounts", "linux.libc", "api.legacy_options_pb2", "api.metrics_v1_pb2"):
        assert f"shim_runc_py.{late}" not in ours


def test_the_package_itself_imports_nothing():
    assert loaded("import shim_runc_py") == {"shim_runc_py"}
