"""What the machine boots into: a cpio archive with busybox, a few modules and guest/init.

The part that is the same for every run is kept beside the kernel; a second, tiny archive with the
command is appended for each run. The kernel unpacks both.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
from pathlib import Path

from tests.vm import kernel

GUEST = Path(__file__).resolve().parent / "guest"
# To be loaded before the root can be mounted, with everything they depend on.
BOOT_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")


class Archive:
    """A cpio archive in the "newc" format, the only one that the kernel reads."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._directories: set[str] = set()
        self._count = 0

    def file(self, name: str, content: str | bytes, mode: int = 0o644) -> None:
        """A file, and the directories above it."""
        parts = name.split("/")[:-1]
        for number in range(len(parts)):
            directory = "/".join(parts[: number + 1])
            if directory not in self._directories:
                self._directories.add(directory)
                self._entry(directory, stat.S_IFDIR | 0o755)
        data = content.encode() if isinstance(content, str) else content
        self._entry(name, stat.S_IFREG | mode, data)

    def device(self, name: str, major: int, minor: int) -> None:
        """A character device."""
        self._entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def finish(self) -> bytes:
        """The whole archive."""
        self._entry("TRAILER!!!", 0)
        self._data += b"\0" * (-len(self._data) % 512)
        return bytes(self._data)

    def _entry(
        self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._count += 1
        raw = name.encode() + b"\0"
        fields = (self._count, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(raw), 0)
        self._padded(b"070701" + b"".join(b"%08X" % field for field in fields) + raw)
        self._padded(content)

    def _padded(self, data: bytes) -> None:
        self._data += data
        self._data += b"\0" * (-len(self._data) % 4)


def base(directory: Path, busybox: str) -> Path:
    """The constant part; made again when anything in it has changed."""
    program = Path(busybox).read_bytes()
    digest = hashlib.sha256(program + repr(BOOT_MODULES).encode())
    scripts = {path.name: path.read_bytes() for path in sorted(GUEST.iterdir())}
    for name, content in scripts.items():
        digest.update(name.encode() + content)
    path = directory / f"initrd-{digest.hexdigest()[:16]}"
    if path.exists():
        return path
    archive = Archive()
    archive.file("bin/busybox", program, 0o755)
    archive.file("dev/.keep", b"")
    archive.device("dev/console", 5, 1)
    for name, content in scripts.items():
        archive.file("init" if name == "init" else f"guest/{name}", content, 0o755)
    found = kernel.modules(directory / "modules", BOOT_MODULES)
    for name, content in found:
        archive.file(f"modules/{name}", content)
    archive.file("modules/order", "".join(f"{name}\n" for name, _ in found))
    new = path.with_suffix(f".new{os.getpid()}")
    new.write_bytes(archive.finish())
    new.rename(path)
    return path


def job(
    words: list[str],
    environ: dict[str, str],
    *,
    cwd: str,
    systemd: bool,
    modules: str,
    shares: list[tuple[str, str]],
) -> bytes:
    """What is to be run, and with what: `shares` are (tag, path) of directories to write to."""
    assignments = " ".join(shlex.quote(f"{name}={value}") for name, value in environ.items())
    # The host's own programs from here on: busybox prefers its applets to files.
    lines = [
        "#!/bin/sh",
        f"cd {shlex.quote(cwd)} || exit 125",
        f"exec /usr/bin/env -i {assignments} {shlex.join(words)}",
    ]
    settings = {
        "MODULES": modules,
        "SYSTEMD": "yes" if systemd else "",
        "REAL_INIT": "/run/vm/systemd" if systemd else "/run/vm/system",
    }
    archive = Archive()
    archive.file("job/run", "\n".join(lines) + "\n", 0o755)
    archive.file(
        "job/settings", "".join(f"{name}={shlex.quote(text)}\n" for name, text in settings.items())
    )
    archive.file("job/shares", "".join(f"{tag} {path}\n" for tag, path in shares))
    return archive.finish()
