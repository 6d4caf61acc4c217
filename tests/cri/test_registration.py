"""`pyrunc install` on a node: containerd restarts with the handler, runs a pod, and forgets it."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading

import pytest

from shim_runc_py.cri.connection import Connection
from shim_runc_py.cri.failures import NotServed
from shim_runc_py.testing import generations
from shim_runc_py.testing.cri_daemon import TOOLS, CRIDaemon
from shim_runc_py.testing.daemon import Daemon
from shim_runc_py.tools import cli, handler
from tests.cri.conftest import make_daemon


class Bare(CRIDaemon):
    """A containerd whose configuration names no handler, as it is delivered."""

    def settings(self):
        self._handlers = {}
        return super().settings()


@pytest.fixture(params=generations.SUITES)
def bare(request, monkeypatch, nothing_is_left):
    monkeypatch.setattr("tests.cri.conftest.CRIDaemon", Bare)
    daemon = make_daemon(f"b{request.param[0]}", request.param)
    try:
        daemon.start()
        daemon.import_images()
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(daemon.directory, ignore_errors=True)


@contextlib.contextmanager
def restarts(daemon, start):
    """A program that restarts `daemon` by `start`, as `systemctl restart` does; counts them."""
    asked, done = daemon.directory / "asked", daemon.directory / "done"
    program = daemon.directory / "restart"
    program.write_text(f"#!/bin/sh\necho >{asked}\nread status <{done}\nexit $status\n")
    program.chmod(0o755)
    for path in (asked, done):
        os.mkfifo(path)
    count: list[str] = []

    def serve():
        while asked.read_text() == "\n":
            daemon.stop()
            try:
                start()
                count.append("up")
            except (TimeoutError, NotServed) as error:
                count.append(str(error))
            done.write_text("0\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield str(program), count
    finally:
        asked.write_text("end")
        thread.join()


def test_install_and_uninstall_on_a_node(bare, tmp_path, capsys):
    config = bare.directory / "config.toml"
    text = config.read_text()
    containerd = bare.generation.containerd
    words = ["--prefix", str(tmp_path), "--config", str(config), "--containerd", containerd]
    verify = ["verify", "--endpoint", bare.endpoint, "--image", TOOLS]
    with restarts(bare, bare.start) as (restart, count):
        assert cli.main(["install", *words, "--restart", restart]) == 0, capsys.readouterr()
        assert cli.main(["install", *words, "--restart", restart]) == 0
        assert cli.main(verify) == 0, capsys.readouterr()
        assert str(tmp_path) in config.read_text()
        assert cli.main([*verify, "--handler", "runc"]) == 0, capsys.readouterr()
        assert count == ["up"]
        assert cli.main(["uninstall", *words, "--restart", restart]) == 0
        assert count == ["up", "up"]
    assert config.read_text() == text
    assert not list((tmp_path / "bin").iterdir())
    capsys.readouterr()
    assert cli.main(verify) == 1
    assert 'no handler "pyrunc"' in capsys.readouterr().err


def test_a_containerd_1_with_a_foreign_handler_alone_serves_no_cri(bare):
    """Why the block has the default handler, too."""
    if bare.generation.major >= (2,):
        pytest.skip("containerd 2 keeps its default handlers")
    bare.stop()
    config = bare.directory / "config.toml"
    config.write_text(config.read_text() + handler.Handler().entry(2))
    Daemon.start(bare)
    with pytest.raises(NotServed), Connection(bare.endpoint):
        pass
    assert "no corresponding runtime configured in `containerd.runtimes`" in bare.log()


def test_a_containerd_that_comes_up_without_cri_gets_its_old_configuration_back(
    bare, tmp_path, capsys, monkeypatch
):
    """The dump is fine, the daemon is not: as with a handler alone on containerd 1.x."""
    if bare.generation.major >= (2,):
        pytest.skip("containerd 2 keeps its default handlers")
    monkeypatch.setattr("shim_runc_py.tools.handler.forgotten", lambda *_: {})
    monkeypatch.setattr("shim_runc_py.tools.handler.without_runtime", lambda *_: {})
    monkeypatch.setattr("shim_runc_py.tools.containerd.BOUND", 2.0)
    config = bare.directory / "config.toml"
    text = config.read_text()
    words = ["--prefix", str(tmp_path), "--config", str(config)]
    words += ["--containerd", bare.generation.containerd]
    with restarts(bare, lambda: Daemon.start(bare)) as (restart, count):
        assert cli.main(["install", *words, "--restart", restart]) == 1
    assert count == ["up", "up"]
    assert "the old files are back, and containerd serves CRI" in capsys.readouterr().err
    assert config.read_text() == text
    with Connection(bare.endpoint):
        pass
