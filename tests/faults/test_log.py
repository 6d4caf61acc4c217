"""The log: nobody has to read it, and it says why a shim died (FAILURES 61, 81)."""

from __future__ import annotations

import os
import stat

import pytest

from shim_runc_py.linux import sock
from shim_runc_py.shim import serve
from shim_runc_py.shim.flags import Flags
from shim_runc_py.shim.start import Daemon
from shim_runc_py.testing.shims import Shim


class Unread(Shim):
    """A shim whose log has no reader, or (`there` is False) is not there at all."""

    there = True

    def run_start(self, bundle, stdin=None, debug=False):
        os.close(self._log)
        self._log = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        if not self.there:
            (bundle.path / "log").unlink()
        return super().run_start(bundle, stdin, debug=True)


class Missing(Unread):
    there = False


@pytest.mark.parametrize("kind", [Unread, Missing])
def test_a_shim_serves_without_a_reader_of_its_log(binary, make_bundle, place, sink, kind):
    if binary.stock:
        pytest.skip("stock shim: does not start without one, or waits for it")
    bundle = make_bundle("sleep")
    shim = kind(binary, bundle, str(place / "c.sock"), str(sink.path))
    try:
        shim.task.create(bundle)
        shim.task.start(bundle.id)
        shim.task.kill(bundle.id)
        assert shim.task.wait(bundle.id).exit_status == 137
        shim.task.delete(bundle.id)
    finally:
        shim.close()


def test_a_shim_that_dies_of_an_error_of_its_own_says_of_which(tmp_path, monkeypatch):
    """In its log, and in a file of the bundle for the time after the log."""
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    flags = Flags()
    flags.namespace, flags.id, flags.address = "test", "x", str(tmp_path / "c")
    listener = sock.listen(str(tmp_path / "s"))
    assert listener is not None
    daemon = Daemon(flags, listener, str(tmp_path / "s"), str(tmp_path), "", debug=False)

    class Broken:
        def __init__(self, *_):
            raise RuntimeError("broken in two")

    monkeypatch.setattr(serve, "Shim", Broken)
    pid = os.fork()
    if not pid:
        os._exit(serve.run(daemon, {}))
    _, status = os.waitpid(pid, 0)
    listener.close()
    log = os.read(reader, 65536).decode()
    os.close(reader)
    assert os.waitstatus_to_exitcode(status) == 1
    assert "shim ends after an error of its own" in log
    crash = tmp_path / "shim.crash"
    assert stat.S_IMODE(crash.stat().st_mode) == 0o600
    for text in (log, crash.read_text()):
        assert "RuntimeError: broken in two" in text
