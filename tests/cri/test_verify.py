"""`pyrunc verify`: what an operator runs on a node before the first pod."""

from __future__ import annotations

import json
import shutil
import socket

import pytest

from shim_runc_py.testing.cri_daemon import TOOLS
from shim_runc_py.testing.daemon import Daemon
from shim_runc_py.tools import cli
from tests.cri.conftest import make_daemon
from tests.cri.node import Node

STEPS = [
    "connect", "handler", "image", "sandbox", "create", "start", "logs", "exec", "stats", "stop",
    "remove", "cleanup",
]  # fmt: skip


@pytest.fixture
def verify(capsys, monkeypatch, tmp_path):
    """`verify(endpoint, *words)`: exit status, stdout and stderr."""

    def run(endpoint, *words, ctr="ctr"):
        programs = tmp_path / "bin"
        programs.mkdir(exist_ok=True)
        found = shutil.which(ctr)
        if found and not (programs / "ctr").exists():
            (programs / "ctr").symlink_to(found)
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
        status = cli.main(["verify", "--endpoint", endpoint, *words])
        return status, *capsys.readouterr()

    return run


def test_a_node_that_runs_pods_passes_and_keeps_nothing(node, handler, verify):
    before = sorted(image.id for image in node.images.list())
    status, out, err = verify(
        node.daemon.endpoint, "--handler", handler, ctr=node.daemon.generation.ctr
    )
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["ok", name] for name in STEPS]
    assert f"containerd-shim-{handler}-v2" in out
    assert lines[-1].startswith(f"OK: handler {handler}")
    node.await_no_shims()
    assert sorted(image.id for image in node.images.list()) == before


def test_the_report_as_json(node, verify):
    status, out, err = verify(node.daemon.endpoint, "-o", "json", "--image", TOOLS)
    told = json.loads(out)
    assert (status, err, told["ok"], told["handler"]) == (0, "", True, "pyrunc")
    assert [step["name"] for step in told["steps"]] == STEPS
    assert all(step["ok"] and step["milliseconds"] >= 0 for step in told["steps"])
    assert "reason" not in told


def refused(answer, reason, hint):
    """One sentence, one hint, exit status 1."""
    status, out, err = answer
    lines = err.splitlines()
    assert status == 1, out + err
    assert len(lines) == 2, err
    assert lines[0].startswith("pyrunc verify: ")
    assert reason in lines[0]
    assert lines[1].startswith("hint: ")
    assert hint in lines[1]


def test_a_handler_that_is_not_registered(node, verify):
    refused(
        verify(node.daemon.endpoint, "--handler", "kata"),
        'containerd has no handler "kata"; it has ghost, pyrunc, runc',
        "add runtimes.kata",
    )


def test_a_handler_whose_binary_is_not_installed(node, verify):
    refused(
        verify(node.daemon.endpoint, "--handler", "ghost", "--image", TOOLS),
        "sandbox: RunPodSandbox: failed to",
        "into containerd's own PATH",
    )


def test_an_image_that_is_missing(node, verify):
    refused(
        verify(node.daemon.endpoint, "--image", "pyrunc.test/none:1"),
        'the image "pyrunc.test/none:1" is not on this node',
        "pull it",
    )


def test_without_ctr_an_image_has_to_be_named(node, verify, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name, **_: None if name == "ctr" else f"/bin/{name}")
    refused(verify(node.daemon.endpoint), "ctr, which comes with containerd", "--image")


def test_an_image_without_a_shell_fails_and_is_cleaned_up(node, verify):
    status, out, err = verify(node.daemon.endpoint, "--image", "pyrunc.test/pause:1")
    assert status == 1
    assert 'exec: "sh": executable file not found' in err
    assert out.splitlines()[-1].split()[:2] == ["ok", "cleanup"]
    assert node.sandboxes() == []
    node.await_no_shims()


def test_a_failure_in_json(node, verify):
    status, out, err = verify(node.daemon.endpoint, "--handler", "kata", "-o", "json")
    told = json.loads(out)
    assert (status, err, told["ok"]) == (1, "", False)
    assert "no handler" in told["reason"]
    assert "runtimes.kata" in told["hint"]


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:1", "http://localhost", "", "unix://x"])
def test_an_endpoint_that_is_none(verify, endpoint):
    refused(verify(endpoint), "CRI endpoint", "--endpoint unix:///path")


def test_an_endpoint_where_nothing_is(verify, tmp_path):
    refused(verify(f"unix://{tmp_path}/c.sock"), "there is no socket", "is containerd running?")


def test_an_endpoint_that_is_a_file(verify, tmp_path):
    (tmp_path / "c.sock").touch()
    refused(verify(f"unix://{tmp_path}/c.sock"), "is not a socket", "where containerd listens")


def test_an_endpoint_that_is_not_cri(verify, tmp_path, monkeypatch):
    monkeypatch.setattr("shim_runc_py.cri.connection.CONNECT_TIMEOUT", 0.3)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "c.sock"))
        other.listen(8)
        refused(verify(f"unix://{tmp_path}/c.sock"), "nobody speaks gRPC", "gRPC socket is wanted")


def test_the_ttrpc_socket_is_not_cri(node, verify, monkeypatch):
    monkeypatch.setattr("shim_runc_py.cri.connection.CONNECT_TIMEOUT", 0.3)
    refused(verify(f"{node.daemon.endpoint}.ttrpc"), "nobody speaks gRPC", "not its ttrpc")


def test_a_daemon_without_cri(session_daemon, place, verify):
    (place / "d").mkdir()
    daemon = Daemon(place / "d", containerd=session_daemon.generation.containerd)
    daemon.start()
    try:
        refused(
            verify(f"unix://{daemon.address}"),
            "serves neither CRI v1 nor v1alpha2",
            "disabled_plug",
        )
    finally:
        daemon.stop()


def test_a_fresh_node_without_the_pause_image_is_lent_one(session_daemon, nothing_is_left, verify):
    daemon = make_daemon("fresh", session_daemon.generation.suite)
    try:
        daemon.start()
        status, out, err = verify(daemon.endpoint, ctr=daemon.generation.ctr)
        assert (status, err) == (0, "")
        assert "pyrunc.test/pause:1 is missing, lent one" in out
        node = Node(daemon)
        assert node.images.list() == []
        node.close()
    finally:
        daemon.close()
        shutil.rmtree(daemon.directory)
