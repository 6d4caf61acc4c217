"""The kernel of the machine: the distribution's newest, downloaded and unpacked into a cache.

Nothing is installed but QEMU and a static busybox, when missing. A cached kernel goes on being
used: a test environment that changes by itself is no good.

The bzImage is unpacked to the ELF image inside, which QEMU boots through its PVH entry point.
Without hardware virtualisation that saves several seconds, for QEMU need not interpret the
kernel's own decompressor.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

# Of the modules under kernel/drivers, those that are kept. The rest is for hardware that the
# machine does not have, and most of the 400 MB.
KEPT_DRIVERS = ("block", "char", "md", "net", "vhost", "virtio")
DROPPED = ("net/can", "net/ethernet", "net/phy", "net/usb", "net/wireless", "net/wwan")


class Unavailable(Exception):
    """The machine cannot be had here; the text says why."""


def apt(*words: str, cwd: Path | None = None) -> None:
    """Run apt-get, as root where it has to change the system. Raises Unavailable."""
    command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", *words]
    if words[0] in ("install", "update") and os.geteuid() != 0:
        command = ["sudo", "-n", *command]
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: {done.stdout[-2000:]}")


def tool(command: str, package: str) -> str:
    """The path of `command`, whose package is installed when it is missing."""
    if shutil.which(command) is None:
        install = ("install", "-y", "--no-install-recommends", package)
        try:
            apt(*install)
        except Unavailable:
            apt("update")
            apt(*install)
    found = shutil.which(command)
    if found is None:
        raise Unavailable(f"{command}: not in the package {package}")
    return found


def prepare(cache: Path) -> Path:
    """The directory of the kernel: vmlinux, version, modules/. The caller holds a lock."""
    for directory in sorted(cache.glob("linux-image-*")):
        if (directory / "complete").exists():
            return directory
    package = _package()
    with tempfile.TemporaryDirectory(dir=cache, prefix=".unpack-") as name:
        scratch = Path(name)
        scratch.chmod(0o755)
        try:
            apt("download", package, cwd=scratch)
        except Unavailable:
            apt("update")
            package = _package()
            apt("download", package, cwd=scratch)
        deb = next(scratch.glob("*.deb"))
        tree, made = scratch / "tree", scratch / "made"
        subprocess.run(["dpkg-deb", "-x", str(deb), str(tree)], check=True)
        (where,) = [*tree.glob("lib/modules"), *tree.glob("usr/lib/modules")][:1]
        (version,) = os.listdir(where)
        made.mkdir()
        image = unpack((tree / "boot" / f"vmlinuz-{version}").read_bytes())
        (made / "vmlinux").write_bytes(image)
        where.rename(made / "modules")
        _drop_drivers(made / "modules" / version / "kernel")
        (made / "lib").mkdir()  # depmod looks for modules there
        (made / "lib" / "modules").symlink_to("../modules")
        busybox = tool("busybox", "busybox-static")
        subprocess.run([busybox, "depmod", "-b", str(made), version], check=True)
        (made / "version").write_text(version)
        (made / "complete").touch()
        target = cache / package
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    return target


def _package() -> str:
    """What linux-image-amd64 stands for at present."""
    for attempt in (1, 2):
        shown = subprocess.run(
            ["apt-cache", "depends", "linux-image-amd64"],
            capture_output=True,
            text=True,
            check=False,
        )
        match = re.search(r"Depends: (linux-image-\S+)", shown.stdout)
        if match:
            return match[1]
        if attempt == 1:
            apt("update")
    raise Unavailable("apt knows no linux-image-amd64")


def _drop_drivers(kernel: Path) -> None:
    drivers = kernel / "drivers"
    doomed = [name for name in os.listdir(drivers) if name not in KEPT_DRIVERS]
    for name in (*doomed, *DROPPED):
        shutil.rmtree(drivers / name, ignore_errors=True)
    shutil.rmtree(kernel / "sound", ignore_errors=True)


def unpack(image: bytes) -> bytes:
    """The ELF image in a bzImage (layout: Documentation/arch/x86/boot.rst)."""
    if image[0x202:0x206] != b"HdrS":
        raise Unavailable("the kernel is no bzImage")
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    packed = image[start : start + length]
    if packed[:6] == b"\xfd7zXZ\0":
        data = lzma.LZMADecompressor().decompress(packed)
    elif packed[:2] == b"\x1f\x8b":
        data = zlib.decompressobj(31).decompress(packed)
    else:  # lz4 (legacy framing) and zstd are not in the standard library
        name = {b"\x02\x21\x4c\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}.get(packed[:4])
        if name is None:
            raise Unavailable("the kernel is compressed in an unknown way")
        words = [tool(name, name), "-dcq"]
        # What follows the stream makes them fail after they have written all of it.
        data = subprocess.run(words, input=packed, capture_output=True, check=False).stdout
    if data[:4] != b"\x7fELF":
        raise Unavailable("no ELF image in the kernel")
    return data


def modules(directory: Path, wanted: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """(name, content) of the wanted modules, each after all that it needs; built-in ones not."""
    files = {}
    for path in directory.rglob("*.ko*"):
        files[path.name.partition(".")[0].replace("-", "_")] = path
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in found or name not in files:
            return
        data = files[name].read_bytes()
        if files[name].suffix == ".xz":
            data = lzma.decompress(data)
        match = re.search(rb"(?:^|\0)depends=([^\0]*)\0", data)
        for other in match[1].decode().split(",") if match else ():
            add(other.replace("-", "_"))
        found[name] = data

    for name in wanted:
        add(name)
    return list(found.items())
