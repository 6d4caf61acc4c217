"""A network namespace for tests: a daemon that thinks it is alone on its host, and a way in.

A namespace without a name lives as long as somebody holds it; here that is a descriptor. Network
namespaces belong to threads (setns(2)), and a socket stays in the one it was made in, so a
connection into the namespace is made by a thread that enters it and ends.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading

_CLONE_NEWNET = 0x40000000


class NetworkNamespace:
    """A new one with its loopback up. To be closed."""

    def __init__(self) -> None:
        # The holder says when it is ready by ending its standard output.
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up; exec >&-; read -r _"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            holder.stdout.read()
            self.fd = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            holder.stdin.close()
            holder.stdout.close()
            holder.wait()

    def close(self) -> None:
        """Let go; it ends with the last process in it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def words(self) -> list[str]:
        """What runs a command in it, if the command inherits `fd`."""
        return ["nsenter", f"--net=/proc/self/fd/{self.fd}"]

    def connect(self, host: str, port: int, timeout: float = 10.0) -> socket.socket:
        """A TCP connection made inside. Raises OSError."""
        made: list[socket.socket] = []
        failed: list[OSError] = []

        def work() -> None:
            library = ctypes.CDLL(None, use_errno=True)
            if library.setns(self.fd, _CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                failed.append(OSError(number, f"setns: {os.strerror(number)}"))
                return
            try:
                made.append(socket.create_connection((host, port), timeout))
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        made[0].settimeout(None)
        return made[0]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        return subprocess.run(
            [*self.words(), *words],
            pass_fds=[self.fd],
            capture_output=True,
            text=True,
            check=False,
        )
