"""`pyrunc node`: from inside a container onto the node, and a label on the node's object."""

from __future__ import annotations

import http.server
import json
import shutil
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from shim_runc_py.testing import launcher
from shim_runc_py.tools import cli, node
from shim_runc_py.tools.node import Node, NodeError

BASE = (getattr(sys, "_base_executable", None) or sys.executable, *sys.version_info[:2])


@pytest.fixture
def elsewhere(tmp_path):
    """A process in a mount namespace of its own, where /usr/local and /etc/containerd are empty."""
    script = (
        "mount --make-rprivate / && mount -t tmpfs none /usr/local && mkdir -p /etc/containerd"
        " && mount -t tmpfs none /etc/containerd"
        " && printf 'version = 2\\n' >/etc/containerd/config.toml"
        f" && touch {tmp_path}/ready && exec sleep 1000"
    )
    process = subprocess.Popen(["unshare", "-m", "sh", "-c", script])
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "ready").exists():
            assert process.poll() is None, "no mount namespace"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def on(pid, *words):
    done = subprocess.run(
        ["nsenter", "--target", str(pid), "--mount", "--", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def same_python():
    """Is python3 in PATH, the node's, of our version?"""
    done = subprocess.run(["python3", "-IS", "-c", node._VERSION], capture_output=True, check=False)
    return done.stdout.decode().split() == ["{}.{}".format(*sys.version_info[:2])]


@pytest.mark.skipif(not same_python(), reason="python3 in PATH has another version than the tests")
def test_installs_on_the_node_and_takes_it_away_again(elsewhere, capfd):
    assert cli.main(["node", "install", "--pid", str(elsewhere)]) == 0, capfd.readouterr()
    binary = f"/usr/local/bin/{launcher.NAME}"
    assert "Version:" in on(elsewhere, binary, "-v")
    assert "runtimes.pyrunc]" in on(elsewhere, "cat", "/etc/containerd/config.toml")
    assert on(elsewhere, "ls", "/usr/local/lib").split() == [launcher.NAME]
    assert f"launcher {binary}" in capfd.readouterr().out
    words = ["node", "uninstall", "--pid", str(elsewhere), "--address", "/no/such/containerd"]
    assert cli.main(words) == 0, capfd.readouterr()
    assert on(elsewhere, "cat", "/etc/containerd/config.toml") == "version = 2\n"
    assert on(elsewhere, "find", "/usr/local", "-type", "f") == ""


@pytest.mark.skipif(not same_python(), reason="python3 in PATH has another version than the tests")
def test_what_fails_on_the_node_fails_here(elsewhere, capfd):
    on(elsewhere, "sh", "-c", "echo nonsense >/etc/containerd/config.toml")
    assert cli.main(["node", "install", "--pid", str(elsewhere)]) == 1
    said = capfd.readouterr().err.splitlines()
    assert "is no TOML" in said[0]
    assert said[1] == "pyrunc node install: pyrunc install on the node: exit status 1"


def test_a_node_with_another_python_is_told(elsewhere, tmp_path):
    other = tmp_path / "python3"
    other.write_text("#!/bin/sh\necho 3.6\n")
    other.chmod(0o755)
    with pytest.raises(NodeError, match=r"this node has Python 3\.6, and this image is for 3\."):
        Node(elsewhere, "/usr/local", str(other)).check_python()


def test_a_node_without_python_is_told(elsewhere, tmp_path):
    with pytest.raises(NodeError, match=r"no Python on this node: .*No such file"):
        Node(elsewhere, "/usr/local", str(tmp_path / "none")).check_python()


def test_the_payload_has_what_install_needs_and_belongs_to_root(tmp_path):
    archive = tmp_path / "payload.tar"
    archive.write_bytes(node.payload())
    shutil.unpack_archive(archive, tmp_path / "there")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from shim_runc_py.tools import install\n"
        "[print(path) for path, _ in install.sources()]"
    )
    done = subprocess.run(
        [BASE[0], "-IS", "-c", program, str(tmp_path / "there")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(str(tmp_path / "there")) for line in done.stdout.splitlines())
    listing = subprocess.run(["tar", "tvf", archive], capture_output=True, text=True, check=True)
    assert all(" root/root " in line for line in listing.stdout.splitlines())
    assert "__pycache__" not in listing.stdout


@pytest.fixture
def api(tmp_path):
    """A Kubernetes API server as far as a node's label goes: (address, account, requests)."""
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("secret\n")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", tmp_path / "key", "-out", account / "ca.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PATCH(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, dict(self.headers), json.loads(body)))
            answer = b"{}" if "node1" in self.path else b'{"message": "nodes \\"x\\" not found"}'
            self.send_response(200 if "node1" in self.path else 404)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(account / "ca.crt", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}", account, requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")


@needs_openssl
def test_the_label_is_patched_with_the_token_of_the_account(api):
    address, account, requests = api
    node.label("node1", "true", address, account)
    node.label("node1", None, address, account)
    (path, headers, first), (_, _, second) = requests
    assert path == "/api/v1/nodes/node1"
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Content-Type"] == "application/merge-patch+json"
    assert first == {"metadata": {"labels": {"pyrunc/ready": "true"}}}
    assert second == {"metadata": {"labels": {"pyrunc/ready": None}}}


@needs_openssl
def test_a_refused_label_is_told_with_the_servers_words(api):
    address, account, _ = api
    with pytest.raises(
        NodeError, match=r'label of node x: 404 Not Found: .*nodes \\"x\\" not found'
    ):
        node.label("x", "true", address, account)


def test_outside_of_a_pod_there_is_no_label():
    with pytest.raises(NodeError, match="this is no pod"):
        node.api_server({})
    found = node.api_server(
        {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    )
    assert found == "https://[fd00::1]:443"


def words_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_uninstall_waits_for_the_last_shim(tmp_path, capsys):
    program = tmp_path / launcher.NAME
    program.write_text("#!/bin/sh\nread x\n")
    program.chmod(0o755)
    address = f"{tmp_path}/c.sock"
    words = [program, "-namespace", "k8s.io", "-address", address, "-id", "x"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as shim:
        timer = threading.Timer(0.3, shim.communicate)
        timer.start()
        node.await_end_of_shims(address, interval=0.02)
        assert words_of(shim.pid) == b""
        timer.join()
    assert capsys.readouterr().out.startswith("1 pods or containers still run with pyrunc")
