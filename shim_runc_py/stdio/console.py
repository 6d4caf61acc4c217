"""A terminal's master side, as the engine hands it over (SEMANTICS 3.8, 4.6).

The engine creates the pty inside the container, connects to a socket whose path it was given, and
sends the master as SCM_RIGHTS. The socket lies in a directory of its own, mode 0700, for the time
of the one command.
"""

from __future__ import annotations

import os

from shim_runc_py.errors import DeadlineExceeded, ShimError, words
from shim_runc_py.linux import pty, sock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from shim_runc_py.loop import Loop

_STICKY = 0o1000


class ConsoleSocket:
    """A listening socket for one master; `close` removes it and its directory."""

    def __init__(self, loop: Loop, environ: Mapping[str, str]) -> None:
        """Raises OSError."""
        self._loop = loop
        runtime_dir = environ.get("XDG_RUNTIME_DIR", "")
        self._directory = f"{runtime_dir or '/tmp'}/pty{os.urandom(5).hex()}"
        os.mkdir(self._directory, 0o700)
        self.path = f"{self._directory}/pty.sock"
        self._listener = sock.unix()
        try:
            self._listener.bind(self.path)
            os.chmod(self.path, 0o755 | _STICKY if runtime_dir else 0o600)
            self._listener.listen(1)
        except BaseException:
            self.close()
            raise

    async def receive(self, seconds: float) -> int:
        """The master, non-blocking. Raises ShimError."""
        prefix = "failed to retrieve console master"
        waiting = self._loop.spawn(self._loop.readable(self._listener.fileno()), "console")
        try:
            await self._loop.within(waiting, seconds)
        except TimeoutError:
            waiting.cancel()
            raise DeadlineExceeded(prefix) from None
        try:
            connection = sock.accept(self._listener)
            try:
                connection.settimeout(1.0)
                _, master = sock.receive_fd(connection)
            finally:
                connection.close()
            try:
                pty.check(master)
                os.set_blocking(master, False)
            except OSError:
                os.close(master)
                raise
        except OSError as error:
            raise ShimError(f"{prefix}: {words(error)}") from None
        return master

    def close(self) -> None:
        self._listener.close()
        for remove, path in ((os.unlink, self.path), (os.rmdir, self._directory)):
            try:
                remove(path)
            except OSError:
                pass
