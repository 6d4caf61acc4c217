"""`pyrunc node`: what the installer's DaemonSet runs on each node, from inside its container.

    container                                   node, in the namespaces of its process 1
    ---------                                   ------------------------------------------
    which Python has the node?     nsenter -->  python3 of the node
    this package and what it needs   tar  -->  PREFIX/lib/pyrunc-node-*, removed afterwards
                                                pyrunc install --restart, as by hand
    label the node (Kubernetes' API)

So the shim runs on the node's own interpreter and needs nothing of the image. The image's Python
has to be of the node's version, because python-prctl is compiled for one.

It needs a privileged container in the node's pid namespace, and a service account that may patch
nodes. Nothing else of Kubernetes is known here.
"""

from __future__ import annotations

import io
import json
import os
import ssl
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from shim_runc_py.testing import leaks
from shim_runc_py.tools import install

LABEL = "pyrunc/ready"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")
_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"
# On the node: unpack, run `pyrunc` with the arguments behind the prefix, remove.
_RUN = """
import os, shutil, sys, tarfile, tempfile
library = os.path.join(sys.argv[1], "lib")
os.makedirs(library, exist_ok=True)
place = tempfile.mkdtemp(prefix="pyrunc-node-", dir=library)
try:
    archive = tarfile.open(fileobj=sys.stdin.buffer, mode="r|")
    archive.extraction_filter = lambda member, path: member
    archive.extractall(place)
    sys.path.insert(0, place)
    from shim_runc_py.tools import cli
    status = cli.main(sys.argv[2:])
finally:
    shutil.rmtree(place, ignore_errors=True)
sys.exit(status)
"""


class NodeError(Exception):
    """The node is not as it was asked to be; the text says why."""


class Node:
    """The node around this container; `pid` is a process in its namespaces."""

    def __init__(self, pid: int, prefix: str, python: str = "python3") -> None:
        self._prefix = prefix
        self._enter = ["nsenter", "--target", str(pid), *_NAMESPACES, "--", python, "-IS", "-c"]

    def check_python(self) -> None:
        """Raises NodeError unless its Python can run what this image has."""
        wanted = "{}.{}".format(*sys.version_info[:2])
        done = self._python(_VERSION)
        found = done.stdout.decode().strip()
        if done.returncode:
            raise NodeError(f"no Python on this node: {_last(done.stderr)}; it needs {wanted}")
        if found != wanted:
            raise NodeError(
                f"this node has Python {found}, and this image is for {wanted}: "
                "build it from the distribution that the nodes have (packaging/kubernetes)"
            )

    def pyrunc(self, *words: str) -> None:
        """Run a `pyrunc` command on the node; its output is ours. Raises NodeError."""
        done = self._python(_RUN, self._prefix, *words, data=payload(), quiet=False)
        if done.returncode:
            raise NodeError(f"pyrunc {words[0]} on the node: exit status {done.returncode}")

    def _python(
        self, program: str, *words: str, data: bytes = b"", quiet: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                [*self._enter, program, *words], input=data, capture_output=quiet, check=False
            )
        except OSError as error:
            raise NodeError(f"{self._enter[0]}: {error.strerror}") from None


def payload() -> bytes:
    """This package, and what it imports, as a tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, name in install.sources():
            archive.add(path, name, filter=_owned_by_root)
    return out.getvalue()


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "__pycache__" in member.name:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def label(name: str, value: str | None, server: str, account: Path = ACCOUNT) -> None:
    """Set the label of node `name`, or remove it with None. Raises NodeError."""
    patch = {"metadata": {"labels": {LABEL: value}}}
    request = urllib.request.Request(
        f"{server}/api/v1/nodes/{name}",
        json.dumps(patch).encode(),
        {
            "Content-Type": "application/merge-patch+json",
            "Authorization": f"Bearer {(account / 'token').read_text().strip()}",
        },
        method="PATCH",
    )
    trust = ssl.create_default_context(cafile=str(account / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=30, context=trust) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        with error:
            words = error.read(2000).decode("utf-8", "replace")
        raise NodeError(f"label of node {name}: {error.code} {error.reason}: {words}") from None
    except OSError as error:
        raise NodeError(f"label of node {name}: {server}: {error}") from None


def api_server(environ: dict[str, str]) -> str:
    """Where a pod finds Kubernetes. Raises NodeError outside of one."""
    try:
        host, port = environ["KUBERNETES_SERVICE_HOST"], environ["KUBERNETES_SERVICE_PORT"]
    except KeyError:
        raise NodeError("this is no pod: KUBERNETES_SERVICE_HOST is not set") from None
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def await_end_of_shims(address: str, interval: float = 30.0) -> None:
    """Until no shim of the containerd at `address` runs: its `delete` is still needed."""
    while left := [
        line
        for line in leaks.shims(f"-address {address} ")
        if install.NAME in line and "zygote" not in line
    ]:
        _say(f"{len(left)} pods or containers still run with pyrunc: waiting for their end")
        time.sleep(interval)


def run(action: str, words: list[str], node: Node, name: str, address: str) -> int:
    """Install on the node, or uninstall; `words` are the options. Returns the exit status."""
    try:
        server = api_server(dict(os.environ)) if name else ""
        node.check_python()
        if action == "install":
            node.pyrunc("install", *words)
            if name:
                label(name, "true", server)
        else:
            if name:
                label(name, None, server)  # first: no new pods
            await_end_of_shims(address)
            node.pyrunc("uninstall", *words)
        if name:
            _say(f"node {name}: label {LABEL} {'set' if action == 'install' else 'removed'}")
    except (NodeError, install.InstallError) as error:
        print(f"pyrunc node {action}: {error}", file=sys.stderr)
        return 1
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _last(text: bytes) -> str:
    return (text.decode("utf-8", "replace").strip() or "no message").splitlines()[-1]
