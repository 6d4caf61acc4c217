"""OCI images made on the spot: no registry, no network, no builder.

An image's layers are made from files of this machine, in an OCI image layout packed as a tar
archive (image-spec, image-layout.md), which `ctr images import` takes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
TIME = "2020-01-01T00:00:00Z"

PAUSE = """
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, NULL, WNOHANG) > 0) {} }
int main(void)
{
    signal(SIGINT, end);
    signal(SIGTERM, end);
    signal(SIGCHLD, reap);
    for (;;)
        pause();
}
"""


class Rootfs:
    """A directory that becomes an image's lowest layer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root"):
            (path / name).mkdir(parents=True, exist_ok=True)
        (path / "tmp").chmod(0o1777)
        (path / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000::/:\n")
        (path / "etc" / "group").write_text("root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")

    def add_busybox(self) -> bool:
        """Static busybox with a link for each of its commands; False if there is none."""
        busybox = shutil.which("busybox")
        if busybox is None or _libraries(busybox):
            return False
        shutil.copy2(busybox, self.path / "bin" / "busybox")
        listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
        for command in listed.stdout.split():
            link = self.path / "bin" / command
            if not link.exists():
                link.symlink_to("busybox")
        return True

    def add_programs(self, *names: str) -> None:
        """Programs of this machine with the libraries they are linked to.

        Raises FileNotFoundError for one that is not here.
        """
        for name in names:
            found = shutil.which(name)
            if found is None:
                raise FileNotFoundError(f"{name}: not on this machine")
            shutil.copy2(os.path.realpath(found), self.path / "bin" / name)
            for library in _libraries(found):
                target = self.path / library.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(os.path.realpath(library), target)

    def add_pause(self) -> None:
        """/pause: waits for a signal and reaps what it inherits; a C program if there is a
        compiler, else a shell loop of `add_busybox` or `add_programs`.
        """
        compiler = shutil.which("cc") or shutil.which("gcc")
        target = self.path / "pause"
        if compiler is not None:
            done = subprocess.run(
                [compiler, "-static", "-Os", "-x", "c", "-o", str(target), "-"],
                input=PAUSE.encode(),
                capture_output=True,
                check=False,
            )
            if done.returncode == 0:
                return
        target.write_text(
            "#!/bin/sh\ntrap 'exit 0' TERM INT\nwhile :; do sleep 3600 & wait; done\n"
        )
        target.chmod(0o755)


def _libraries(program: str) -> list[str]:
    """Shared libraries and the dynamic loader, as ldd tells them; none for a static program."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return re.findall(r"(?:^|\s)(/\S+)\s+\(0x", done.stdout) if done.returncode == 0 else []


def tools_rootfs(path: Path) -> Rootfs:
    """What a small multi-tool image holds: busybox, else the shell and a few programs of here."""
    rootfs = Rootfs(path)
    if not rootfs.add_busybox():
        rootfs.add_programs("sh", "cat", "sleep", "id", "ls", "stty", "head")
    return rootfs


def archive(
    path: Path,
    name: str,
    rootfs: Rootfs,
    *,
    entrypoint: Sequence[str] = (),
    command: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    user: str = "",
    above: Sequence[Path] = (),
) -> str:
    """Write the image `name` (`host/repository:tag`) as an OCI archive; returns its id (digest of
    the config). The same files give the same bytes. `above` are directories, a further layer each.
    """
    layers = [_layer(path) for path in (rootfs.path, *above)]
    blobs: dict[str, bytes] = {}
    settings: dict[str, Any] = {
        "Env": [f"{key}={value}" for key, value in {"PATH": "/bin", **(environ or {})}.items()]
    }
    if entrypoint:
        settings["Entrypoint"] = list(entrypoint)
    if command:
        settings["Cmd"] = list(command)
    if user:
        settings["User"] = user
    machine = platform.machine()
    config = {
        "created": TIME,
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]},
        "history": [{"created": TIME, "created_by": "pyrunc"} for _ in layers],
    }
    packed = [gzip.compress(layer, compresslevel=1, mtime=0) for layer in layers]
    config_descriptor = _store(blobs, _CONFIG, _json(config))
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": config_descriptor,
        "layers": [_store(blobs, _LAYER, layer) for layer in packed],
    }
    descriptor = _store(blobs, _MANIFEST, _json(manifest))
    descriptor["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name,
    }
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [descriptor]}
    with tarfile.open(path, "w") as tar:
        _add_file(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        for digest, blob in blobs.items():
            _add_file(tar, f"blobs/sha256/{digest.removeprefix('sha256:')}", blob)
        _add_file(tar, "index.json", _json(index))
    return str(config_descriptor["digest"])


def _layer(root: Path) -> bytes:
    """A tar of a directory, owned by root, without times."""
    buffer = io.BytesIO()

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = "root"
        return info

    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for found in sorted(root.rglob("*")):
            tar.add(found, str(found.relative_to(root)), recursive=False, filter=plain)
    return buffer.getvalue()


def _store(blobs: dict[str, bytes], media_type: str, blob: bytes) -> dict[str, Any]:
    digest = _digest(blob)
    blobs[digest] = blob
    return {"mediaType": media_type, "digest": digest, "size": len(blob)}


def _add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(content))


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
