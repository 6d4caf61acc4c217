"""`pyrunc install` registers the handler: in every dialect, once, and never at the cost of more."""

from __future__ import annotations

import re
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

from shim_runc_py.testing import generations
from shim_runc_py.tools import cli, handler, registration
from shim_runc_py.tools.containerd import Containerd
from shim_runc_py.tools.handler import Handler, Refused

ROOT = Path(__file__).resolve().parents[2]
V2 = """# Ours since 2019.
version = 2
root = "/srv/containerd"   # a disk of its own

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    enable_selinux = true
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gvisor]
      runtime_type = "io.containerd.runsc.v1"
"""
V3 = """version = 3
[plugins.'io.containerd.cri.v1.runtime']
  enable_selinux = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'a/b:1' # pinned
"""
NOBODY = Containerd("no-such-containerd")


@pytest.fixture
def config(tmp_path):
    return tmp_path / "containerd" / "config.toml"


@pytest.fixture(params=generations.SUITES)
def generation(request):
    try:
        return generations.get(request.param)
    except generations.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def daemon(generation):
    return Containerd(generation.containerd)


def write(config, text):
    config.parent.mkdir(exist_ok=True)
    config.write_text(text)


def texts_for(generation):
    return [V2, V3] if generation.major >= (2,) else [V2]


def test_containerd_sees_the_handler_and_nothing_else_changed(config, generation, daemon):
    for text in texts_for(generation):
        write(config, text)
        before = daemon.dump(config)
        said = registration.register(config, Handler(), daemon)
        assert said == [
            f"{config}: handler added",
            "restart containerd now: systemctl restart containerd",
        ]
        after = daemon.dump(config)
        assert handler.runtimes(after)["pyrunc"]["runtime_type"] == "io.containerd.pyrunc.v2"
        assert handler.without_runtime(after, "pyrunc") == handler.without_runtime(before, "")
        assert config.read_text().startswith(text)
        registration.unregister(config, "pyrunc", daemon)
        assert config.read_text() == text
        assert [path.name for path in config.parent.iterdir()] == ["config.toml"]


@pytest.mark.parametrize("text", [None, "", "# nothing here yet\n", "# no end of line"])
def test_without_a_configuration_there_is_one_then(config, generation, daemon, text):
    if text is not None:
        write(config, text)
    registration.register(config, Handler(), daemon)
    assert "pyrunc" in handler.runtimes(daemon.dump(config))
    registration.unregister(config, "pyrunc", daemon)
    assert config.read_text() == text if text else not config.exists()


def test_the_default_handler_is_not_forgotten(config, generation, daemon):
    """containerd 1.x drops its default handlers when the file names one."""
    write(config, "version = 2\n")
    before = handler.runtimes(daemon.dump(config))
    for asked in (daemon, NOBODY):
        registration.register(config, Handler(), asked)
        found = handler.runtimes(daemon.dump(config))
        assert found.keys() == {"runc", "pyrunc"}
        assert found["runc"]["runtime_type"] == before["runc"]["runtime_type"]
        registration.unregister(config, "pyrunc", asked)


def test_a_drop_in_where_containerd_merges_it(config, generation, daemon):
    if generation.major < (2,):
        pytest.skip("containerd 1.x replaces the whole table of CRI by an imported one")
    write(config, f'imports = ["{config.parent}/conf.d/*.toml"]\n{V3}')
    text = config.read_text()
    before = daemon.dump(config)
    assert registration.register(config, Handler(), daemon)[0].startswith("wrote ")
    assert config.read_text() == text
    assert "pyrunc" in handler.runtimes(after := daemon.dump(config))
    assert handler.without_runtime(after, "pyrunc") == handler.without_runtime(before, "")
    assert registration.register(config, Handler(), daemon)[0].endswith("already")
    registration.unregister(config, "pyrunc", daemon)
    assert config.read_text() == text
    assert list((config.parent / "conf.d").iterdir()) == []


def test_no_drop_in_where_it_would_replace_all_of_cri(config, generation, daemon):
    write(config, f'imports = ["{config.parent}/conf.d/*.toml"]\n{V2}')
    registration.register(config, Handler(), daemon)
    assert not (config.parent / "conf.d").exists()
    cri = daemon.dump(config)["plugins"]
    assert [t["enable_selinux"] for t in cri.values() if "enable_selinux" in t] == [True]


def test_again_changes_nothing(config):
    write(config, V2)
    registration.register(config, Handler(), NOBODY)
    first = config.stat().st_ino, config.read_text()
    said = registration.register(config, Handler(), NOBODY, "false")  # it would fail
    assert said == [f"handler pyrunc is in {config.parent} already"]
    assert (config.stat().st_ino, config.read_text()) == first


def test_another_place_replaces_the_block_in_the_file(config):
    write(config, V2)
    registration.register(config, Handler(), NOBODY)
    registration.register(config, Handler("pyrunc", "/opt/x/bin/shim"), NOBODY)
    assert config.read_text().count(handler.BEGIN) == 1
    entry = handler.runtimes(tomllib.loads(config.read_text()))["pyrunc"]
    assert entry["runtime_path"] == "/opt/x/bin/shim"


def test_mode_and_backup(config):
    write(config, V2)
    config.chmod(0o600)
    registration.register(config, Handler(), NOBODY)
    backup = config.with_name("config.toml.before-pyrunc")
    assert backup.read_text() == V2
    assert {stat.S_IMODE(path.stat().st_mode) for path in (config, backup)} == {0o600}


def test_a_link_stays_a_link(config, tmp_path):
    real = tmp_path / "real.toml"
    real.write_text(V2)
    config.parent.mkdir()
    config.symlink_to(real)
    registration.register(config, Handler(), NOBODY)
    assert config.is_symlink()
    assert handler.BEGIN in real.read_text()


def test_options_that_an_operator_adds_below_the_block_stay(config, generation, daemon):
    write(config, V2)
    registration.register(config, Handler(), daemon)
    options = '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.pyrunc.options]\n'
    config.write_text(config.read_text() + options + '  ConfigPath = "/etc/pyrunc.toml"\n')
    registration.register(config, Handler("pyrunc", "/opt/shim"), daemon)
    entry = handler.runtimes(daemon.dump(config))["pyrunc"]
    assert (entry["runtime_path"], entry["options"]["ConfigPath"]) == (
        "/opt/shim",
        "/etc/pyrunc.toml",
    )
    with pytest.raises(Refused, match="outside of the block: remove them"):
        registration.unregister(config, "pyrunc", daemon)


THEIRS = '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.pyrunc]\n'
REFUSED = {
    "by other hands": (
        f'version = 2\n{THEIRS}runtime_type = "theirs"\n',
        'has a handler "pyrunc" already, of type theirs',
    ),
    "version 1": ('[plugins.cri]\nsandbox_image = "x"\n', "is of version 1"),
    "CRI is off": ('version = 2\ndisabled_plugins = ["cri"]\n', "turns CRI off"),
    "no TOML": ("version = 2\nwhat is this\n", "is no TOML"),
    "half a block": (f"version = 2\n{handler.BEGIN}\n", "marks of pyrunc's block"),
    "an inline table": (
        'version = 2\nplugins = {"io.containerd.grpc.v1.cri" = {enable_selinux = true}}\n',
        "as [tables]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_and_nothing_is_touched(config, tmp_path, name, capsys):
    text, reason = REFUSED[name]
    write(config, text)
    words = ["--prefix", str(tmp_path / "prefix"), "--config", str(config)]
    assert cli.main(["install", *words, "--containerd", "no-such-containerd"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("pyrunc install: ")
    assert reason in said
    assert len(said.splitlines()) == 1
    assert config.read_text() == text
    assert [path.name for path in config.parent.iterdir()] == ["config.toml"]


def test_what_containerd_cannot_read_is_refused(config, daemon):
    text = "version = 2\noom_score = 'high'\n"
    write(config, text)
    with pytest.raises(Refused, match=r"containerd cannot read it: .*; nothing was changed"):
        registration.register(config, Handler(), daemon)
    assert config.read_text() == text
    assert [path.name for path in config.parent.iterdir()] == ["config.toml"]


def test_a_handler_in_a_drop_in_of_others(config):
    write(config, f'imports = ["{config.parent}/conf.d/*.toml"]\n{V3}')
    theirs = config.parent / "conf.d" / "a.toml"
    theirs.parent.mkdir()
    theirs.write_text(handler.drop_in(Handler(), 3).split(f"{handler.BEGIN}\n")[1])
    with pytest.raises(Refused, match=re.escape(str(theirs))):
        registration.register(config, Handler(), NOBODY)
    assert not (theirs.parent / "pyrunc.toml").exists()


@pytest.mark.parametrize("name", ["", "Py", "a b", 'a"]', "-a", "x" * 64])
def test_names_that_no_runtime_class_could_have(name):
    with pytest.raises(Refused, match="cannot be the handler of a RuntimeClass"):
        Handler(name)


def test_no_containerd_and_no_configuration(config):
    assert "no containerd and no" in registration.register(config, Handler(), NOBODY)[0]
    assert not config.parent.exists()
    assert registration.unregister(config, "pyrunc", NOBODY) == []


def test_uninstall_leaves_the_handler_of_others(config):
    text = f'version = 2\n{THEIRS}runtime_type = "theirs"\n'
    write(config, text)
    assert registration.unregister(config, "pyrunc", NOBODY) == []
    assert config.read_text() == text


@pytest.mark.parametrize("version", [2, 3])
def test_the_snippets_are_what_install_writes(version):
    text = (ROOT / "packaging" / "containerd" / f"pyrunc-v{version}.toml").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    kept = handler.entry("runc", handler.DEFAULT["runc"], 2) if version == 2 else ""
    assert "\n".join(lines) + "\n" == f"version = {version}\n{Handler().entry(version)}{kept}"


def test_containerd_reads_the_snippets(generation, daemon, tmp_path):
    for version in (2, 3) if generation.major >= (2,) else (2,):
        text = (ROOT / "packaging" / "containerd" / f"pyrunc-v{version}.toml").read_text()
        for changed in (text, re.sub(r"^#   (?=[\[ ])", "", text, flags=re.MULTILINE, count=2)):
            config = tmp_path / "config.toml"
            config.write_text(changed)
            assert "pyrunc" in handler.runtimes(daemon.dump(config))


class Scripted(Containerd):
    """A containerd whose restarts go as the script says."""

    def __init__(self, config, *outcomes):
        super().__init__("no-such-containerd", bound=0.3)
        self.config = config
        self.outcomes = list(outcomes)
        self.seen: list[bool] = []

    def serves(self, address):
        return self.outcomes[0] if self.outcomes else True

    def restart(self, command, address):
        self.outcomes.pop(0)
        self.seen.append(handler.BEGIN in self.config.read_text())
        super().restart(command, address)


def test_a_containerd_that_does_not_come_up_gets_its_old_configuration_back(config):
    write(config, V2)
    daemon = Scripted(config, True, False, True)
    with pytest.raises(Refused, match="the old files are back, and containerd serves CRI") as told:
        registration.register(config, Handler(), daemon, "true")
    assert "no CRI at /run/containerd/containerd.sock within 0.3 s" in str(told.value)
    assert daemon.seen == [True, False]
    assert config.read_text() == V2


def test_a_restart_that_fails_is_told_with_its_own_words(config):
    write(config, V2)
    daemon = Scripted(config, True, True, True)
    command = "sh -c 'echo no such unit >&2; exit 5'"
    with pytest.raises(Refused, match="status 5: no such unit"):
        registration.register(config, Handler(), daemon, command)
    assert config.read_text() == V2


def test_a_containerd_that_does_not_run_is_not_started(config):
    write(config, V2)
    said = registration.register(config, Handler(), Scripted(config, False), "false")
    assert said[-1] == "containerd did not serve CRI before, so it is not restarted"
    assert handler.BEGIN in config.read_text()


def test_the_command_line(config, tmp_path, generation):
    write(config, V2)
    prefix = tmp_path / "prefix"
    words = ["--prefix", str(prefix), "--config", str(config), "--containerd"]
    pyrunc = str(ROOT / ".venv/bin/pyrunc")
    for command, count in (("install", 4), ("uninstall", 4)):
        done = subprocess.run(
            [pyrunc, command, *words, generation.containerd],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == count, done.stdout
    assert config.read_text() == V2
