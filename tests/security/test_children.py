"""What runs as root because of us: which program, and what it inherits."""

from __future__ import annotations

import os
import re

import pytest

from shim_runc_py.testing.shims import refused

INVALID, UNKNOWN = 3, 2
# Descriptors are listed by the shell itself, so that none of another program is among them.
SAY_WHAT_IS_OPEN = 'for fd in /proc/$$/fd/*; do echo "${fd##*/} $(readlink $fd)"; done'


def descriptors(text):
    found = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    # The shell has its script open, and a pipe of the substitution.
    return {int(n): what for n, what in found.items() if "/engine" not in what}


def test_an_engine_gets_three_descriptors_and_no_more(
    make_bundle, start_shim, fake_engine, with_engine
):
    """Musts 9 and 30: CVE-2024-21626 began with one that was too many."""
    bundle = make_bundle("sleep")
    for verb in ("create", "start", "exec", "kill", "delete"):
        fake_engine.on(verb, f"({SAY_WHAT_IS_OPEN}) >{bundle}/fds-{verb} 9>&-")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=with_engine(fake_engine.path))
    shim.task.start(bundle.id)
    shim.task.exec(bundle.id, "e1", {"args": ["/bin/true"]})
    shim.task.start(bundle.id, "e1")
    shim.task.wait(bundle.id, "e1")
    shim.task.kill(bundle.id, 9)
    shim.task.wait(bundle.id)
    shim.task.delete(bundle.id)
    for verb in ("create", "start", "exec", "kill", "delete"):
        found = descriptors((bundle.path / f"fds-{verb}").read_text())
        assert set(found) <= {0, 1, 2}, (verb, found)


HOSTILE_CWD = [
    "/proc/self/fd/7", "/proc/self/fd/8/", "/proc/self/fd", "//proc//self/./fd/9",
    "/proc/thread-self/fd/7", "/proc/1/fd/3", "/proc/self/task/1/fd/7", "/x/../proc/self/fd/7",
    "/proc/self/fd/7/../../..", "/proc/self/fd/7/etc",
]  # fmt: skip


@pytest.mark.parametrize("cwd", HOSTILE_CWD)
def test_a_working_directory_behind_a_descriptor_is_refused(make_bundle, start_shim, cwd):
    """Must 9, in depth: runc before 1.1.12 took it."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    with refused(INVALID, "is a descriptor of a process"):
        shim.task.exec(bundle.id, "e1", {"args": ["/bin/true"], "cwd": cwd})
    hostile = make_bundle("sleep")
    hostile.config["process"]["cwd"] = cwd
    hostile.save()
    with refused(INVALID, "is a descriptor of a process"):
        shim.task.create(hostile)


@pytest.mark.parametrize("cwd", ["/", "/proc/self", "/proc/fd", "/srv/fd/7", "/fd"])
def test_another_working_directory_is_the_engines_affair(
    make_bundle, start_shim, fake_engine, with_engine, cwd
):
    bundle = make_bundle("sleep")
    bundle.config["process"]["cwd"] = cwd
    bundle.save()
    fake_engine.on("create", "exit 3")
    shim = start_shim(bundle)
    with refused(UNKNOWN, "OCI runtime create failed"):
        shim.task.create(bundle, options=with_engine(fake_engine.path))


def test_an_engine_is_never_found_by_a_relative_path(
    make_bundle, start_shim, fake_engine, with_engine, place
):
    """Must 10: neither in the bundle nor in a relative directory of PATH."""
    bundle = make_bundle("sleep")
    for name in ("runc", "evil"):
        (bundle.path / name).write_text(f"#!/bin/sh\ntouch {place}/ran\n")
        (bundle.path / name).chmod(0o755)
    shim = start_shim(bundle, environ={"PATH": f".::{bundle.id}:{os.environ['PATH']}"})
    for name in ("evil", "./evil", f"../{bundle.id}/evil", "bin/../evil"):
        with refused(UNKNOWN, "executable file not found in $PATH"):
            shim.task.create(bundle, options=with_engine(name))
    shim.task.create(bundle)
    assert not (place / "ran").exists()


def test_strict_mode_runs_no_engine_that_others_may_change(
    make_bundle, start_shim, fake_engine, with_engine, place
):
    """Must 20. Without it such an engine is run, as the stock shim does."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle, environ={"PYRUNC_STRICT": "1"})
    # The tests' own directory hangs below /tmp, which is sticky, and is root's.
    fake_engine.path.chmod(0o777)
    with refused(UNKNOWN, f"{fake_engine.path} can be changed by others"):
        shim.task.create(bundle, options=with_engine(fake_engine.path))
    fake_engine.path.chmod(0o755)
    os.chown(fake_engine.path, 1000, 0)
    with refused(UNKNOWN, f"{fake_engine.path} belongs to user 1000"):
        shim.task.create(bundle, options=with_engine(fake_engine.path))
    os.chown(fake_engine.path, 0, 0)
    fake_engine.path.parent.chmod(0o777)
    with refused(UNKNOWN, f"{fake_engine.path.parent} can be changed by others"):
        shim.task.create(bundle, options=with_engine(fake_engine.path))
    fake_engine.path.parent.chmod(0o755)
    assert fake_engine.calls() == []
    shim.task.create(bundle, options=with_engine(fake_engine.path))


def logger(place, script):
    path = place / "logger"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_logger_gets_its_contract_and_nothing_of_ours(make_bundle, start_shim, place):
    """Must 6."""
    path = logger(
        place,
        f"({SAY_WHAT_IS_OPEN}) >{place}/fds; env >{place}/env; "
        f"cut -d' ' -f5 /proc/$$/stat >{place}/group; echo $$ >{place}/pid; "
        'printf "%s\\n" "$@" >' + f"{place}/args; exec 5>&-; cat <&3 >/dev/null",
    )
    bundle = make_bundle("hello")
    shim = start_shim(bundle, environ={"PLANTED": "token"})
    uri = f"binary://{path}?a=%24%28touch+{place}%2Fran%29&b=;x"
    shim.task.create(bundle, stdout=uri)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    shim.task.delete(bundle.id)
    found = descriptors((place / "fds").read_text())
    found = {n: what for n, what in found.items() if not what.endswith("/logger")}
    assert set(found) <= {0, 1, 2, 3, 4, 5}, found
    assert found[0] == "/dev/null"
    names = {line.partition("=")[0] for line in (place / "env").read_text().splitlines()}
    assert names <= {"CONTAINER_ID", "CONTAINER_NAMESPACE", "PWD", "SHLVL", "_", "OLDPWD"}
    assert (place / "group").read_text() == (place / "pid").read_text()
    assert (place / "args").read_text() == f"a\n$(touch {place}/ran)\nb\n;x\n"
    assert not (place / "ran").exists()


def test_a_log_uri_in_an_annotation_or_label_starts_nothing(make_bundle, start_shim, place):
    """Must 5: CVE-2026-53488."""
    path = logger(place, f"touch {place}/ran")
    uri = f"binary://{path}"
    annotations = {
        "io.containerd.log.uri": uri, "containerd.io/restart.loguri": uri,
        "io.kubernetes.cri.log-uri": uri, "log-uri": uri, "stdout": uri,
    }  # fmt: skip
    bundle = make_bundle("hello", annotations=annotations)
    bundle.config["process"]["env"].append(f"STDOUT={uri}")
    bundle.save()
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    assert not (place / "ran").exists()


def test_a_log_file_that_becomes_a_link_is_not_followed(
    make_bundle, start_shim, fake_engine, with_engine, place
):
    """Must 7: between the making of the file and its use."""
    log, victim = place / "out.log", place / "victim"
    victim.write_text("a secret")
    fake_engine.on("create", f"rm {log}; ln -s {victim} {log}")
    bundle = make_bundle("hello")
    shim = start_shim(bundle)
    with refused(UNKNOWN, f"open {log}: "):
        shim.task.create(bundle, stdout=f"file://{log}", options=with_engine(fake_engine.path))
    assert victim.read_text() == "a secret"


def test_the_variables_of_the_shim_reach_neither_engine_nor_container(
    make_bundle, start_shim, fake_engine, with_engine, outputs
):
    """Must 29."""
    bundle = make_bundle("hello", ["/bin/env"])
    fake_engine.on("create", f"env >{bundle}/env")
    shim = start_shim(
        bundle,
        environ={
            "PYTHONPATH": "/x", "LISTEN_FDS": "1", "LISTEN_PID": "1", "NOTIFY_SOCKET": "/x",
            "LD_PRELOAD": "", "PLANTED": "token",
        },
    )  # fmt: skip
    out = outputs()
    shim.task.create(bundle, stdout=str(out), options=with_engine(fake_engine.path))
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    engines = (bundle.path / "env").read_text()
    assert not re.search("^(PYTHON|LISTEN_|NOTIFY_|LD_)", engines, re.MULTILINE)
    assert "PLANTED=token" in engines  # what an operator sets for engines gets there
    assert b"PLANTED" not in out.read()
