"""Runtime options.

As the clients of each generation send them to a runtime of another name than runc's.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shim_runc_py.testing.engines import FakeEngine
from tests.containerd.pairings import NAMESPACE


@pytest.fixture
def engine(tmp_path: Path) -> FakeEngine:
    return FakeEngine(tmp_path / "engine")


def options_of(user, id):
    """What the shim took from what it was sent."""
    return json.loads((user.bundle(id) / "options.json").read_text())


def test_a_config_file_names_engine_and_root(user, engine, tmp_path):
    """`ctr --runtime-config-path`: runtimeoptions.v1 with a path."""
    config = tmp_path / "pyrunc.toml"
    config.write_text(f'BinaryName = "{engine.path}"\nRoot = "{tmp_path}/root"\n')
    options = ["--runtime-config-path", str(config)]
    user.detach("c1", "/bin/sleep", "1000", options=options)
    assert (tmp_path / "root" / NAMESPACE / "c1").is_dir()
    assert user.exec("c1", "e1", "exit 3").returncode == 3
    user.remove("c1")
    assert set(engine.verbs()) == {"create", "start", "exec", "kill", "delete"}
    assert not (tmp_path / "root" / NAMESPACE / "c1").exists()


def test_a_config_file_that_is_missing_or_wrong_is_named(user, tmp_path):
    config = tmp_path / "pyrunc.toml"
    for text, complaint in ((None, "o such file"), ("BinaryName =", "no TOML")):
        if text is not None:
            config.write_text(text)
        options = ["--rm", "--runtime-config-path", str(config)]
        done = user.run("c1", "/bin/true", options=options, check=False)
        assert done.returncode == 1
        assert str(config) in done.stderr, done.stderr
        assert complaint in done.stderr, done.stderr
    assert user.tasks() == {}


def test_no_pivot_arrives_from_every_client(user):
    """Of 1.6 and 1.7 as containerd.linux.runc.CreateOptions, which the stock shim refuses."""
    user.detach("c1", "/bin/sleep", "1000", options=["--no-pivot"])
    assert options_of(user, "c1") == {"no_pivot_root": True}
    user.remove("c1")


def test_an_absolute_path_as_the_runtime(user):
    """Since 1.6 a client may name the binary itself."""
    path = str(Path(user.daemon.environ["PATH"].partition(":")[0]) / "containerd-shim-pyrunc-v2")
    words = ["run", "--rm", "--runtime", path, "--rootfs", str(user.rootfs), "c1"]
    done = user.daemon.ctr(*words, "/bin/sh", "-c", "exit 7", check=False)
    assert done.returncode == 7, done.stderr


@pytest.mark.control
@pytest.mark.generations(since=(2, 0))
def test_inspect_runtime_tells_version_options_and_features(user, tmp_path):
    words = ["plugins", "inspect-runtime", "--runtime", user.pairing.runtime]
    told = json.loads(user.daemon.ctr(*words).stdout)
    assert told["Name"] == user.pairing.runtime.replace("pyrunctask3", "pyrunc")
    assert told["Version"]["Version"]
    assert "pid" in told["Features"]["linux"]["namespaces"]
    assert "rbind" in told["Features"]["mountOptions"]


@pytest.mark.generations(since=(2, 0))
def test_inspect_runtime_asks_the_engine_of_the_options(user, engine, tmp_path):
    config = tmp_path / "pyrunc.toml"
    config.write_text(f'BinaryName = "{engine.path}"\n')
    words = ["plugins", "inspect-runtime", "--runtime", user.pairing.runtime]
    told = json.loads(user.daemon.ctr(*words, "--runtime-config-path", str(config)).stdout)
    assert told["Options"] == {"config_path": str(config)}
    assert told["Features"]["ociVersionMin"]
    assert engine.calls() == ["features"]
