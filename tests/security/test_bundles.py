"""The bundle: what we write there, what we read there, and what we leave alone."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import time

import pytest

from shim_runc_py.api.task_pb2 import DeleteResponse
from shim_runc_py.testing.shims import refused

OURS = ("options.json", "runtime", "address", "init.exit")


def run(shim, bundle, **fields):
    shim.task.create(bundle, **fields)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)


def test_files_have_modes_of_their_own_whatever_the_umask(make_bundle, start_shim):
    """Must 3."""
    bundle = make_bundle("hello")
    before = {path.name for path in bundle.path.iterdir()}
    umask = os.umask(0)
    try:
        shim = start_shim(bundle)
    finally:
        os.umask(umask)
    run(shim, bundle)
    modes = {
        path.name: stat.S_IMODE(path.lstat().st_mode)
        for path in bundle.path.iterdir()
        if path.name not in before and path.name in OURS
    }
    assert modes == {
        "options.json": 0o600, "runtime": 0o600, "init.exit": 0o600, "address": 0o644,
    }  # fmt: skip
    assert stat.S_IMODE(os.stat(shim.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(shim.path)).st_mode) & 0o077 == 0


def test_no_mode_is_widened_and_nobody_else_gets_in(make_bundle, start_shim):
    """Must 4."""
    bundle = make_bundle("hello")
    shim = start_shim(bundle)
    run(shim, bundle)
    assert stat.S_IMODE(bundle.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((bundle.path / "rootfs").stat().st_mode) == 0o711
    for argument in (str(bundle), os.path.dirname(shim.path)):
        done = subprocess.run(["ls", argument], user=65534, capture_output=True, check=False)
        assert done.returncode
        assert b"Permission denied" in done.stderr


def test_the_spec_is_passed_on_byte_for_byte(make_bundle, start_shim, fake_engine, with_engine):
    """Must 38."""
    bundle = make_bundle("hello")
    config = bundle.path / "config.json"
    config.write_text(config.read_text().replace("{", "{ ", 1) + "\n\n")
    before = hashlib.sha256(config.read_bytes()).hexdigest(), config.stat().st_mtime_ns
    fake_engine.on("create", f"sha256sum {config} >{bundle}/seen")
    shim = start_shim(bundle)
    run(shim, bundle, options=with_engine(fake_engine.path))
    assert (bundle.path / "seen").read_text().split()[0] == before[0]
    shim.task.delete(bundle.id)
    shim.run_delete(bundle)
    assert before == (hashlib.sha256(config.read_bytes()).hexdigest(), config.stat().st_mtime_ns)


@pytest.mark.parametrize("user", [{"uid": 2**31, "gid": 2**32 - 2}, {"uid": 2**32, "gid": -1}])
def test_users_are_the_engines_affair(make_bundle, start_shim, fake_engine, with_engine, user):
    """Must 26: no number is looked at, changed or cut off on the way."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=with_engine(fake_engine.path))
    shim.task.start(bundle.id)
    script = (
        f'for w in "$@"; do case $w in */runc-process*) cp $w {bundle}/seen;; esac; done; exit 3'
    )
    fake_engine.on("exec", f"{script}; exit 3")
    shim.task.exec(bundle.id, "e1", {"args": ["/bin/true"], "user": user})
    with refused(2, "OCI runtime exec failed"):
        shim.task.start(bundle.id, "e1")
    text = (bundle.path / "seen").read_text()
    for name, number in user.items():
        assert f'"{name}":{number}' in text


def test_a_rewritten_pid_file_ends_nobody(make_bundle, start_shim):
    """Must 18: `delete` tells a pid and never signals one that it has read."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    bystander = subprocess.Popen(["sleep", "100"])
    try:
        for text, pid in (
            (str(bystander.pid), bystander.pid), (str(shim.pid), shim.pid), ("1", 1), ("-1", 0),
            ("0", 0), ("x", 0), ("", 0), ("9" * 30, 0),
        ):  # fmt: skip
            (bundle.path / "init.pid").write_text(text)
            result = shim.run_delete(bundle)
            assert result.status == 0, result.stderr
            assert DeleteResponse.FromString(result.stdout).pid == pid
        assert bystander.poll() is None
        assert shim.alive()
    finally:
        bystander.kill()
        bystander.wait()


PLANTED = ("options.json", "runtime", "init.pid", "init.exit")


def plant(path, kind, secret):
    path.unlink(missing_ok=True)
    if kind == "symlink":
        path.symlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    elif kind == "huge":
        with path.open("w") as file:
            file.truncate(1 << 40)
    else:
        path.write_text("x")
        os.chown(path, 65534, 65534)


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "device", "huge", "stranger's"])
def test_delete_is_not_led_astray_by_what_lies_in_the_bundle(
    make_bundle, start_shim, place, fake_engine, kind
):
    """Must 19."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    secret = place / "secret"
    secret.write_text(str(fake_engine.path))
    for name in PLANTED:
        plant(bundle.path / name, kind, secret)
    began = time.monotonic()
    result = shim.run_delete(bundle)
    assert time.monotonic() - began < 3
    assert result.status == 0, result.stderr
    answer = DeleteResponse.FromString(result.stdout)
    assert (answer.pid, answer.exit_status) == (0, 137)
    assert fake_engine.calls() == []
    assert secret.read_text() == str(fake_engine.path)


def test_nothing_outside_is_touched_when_rootfs_became_a_link(make_bundle, start_shim, place):
    """Must 15."""
    outside = place / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    bundle = make_bundle("hello")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(outside)], check=True)
    try:
        (outside / "inner").write_text("x")
        shim = start_shim(bundle)
        run(shim, bundle)
        (bundle.path / "rootfs").rmdir()
        (bundle.path / "rootfs").symlink_to(outside)
        shim.task.delete(bundle.id)
        assert shim.run_delete(bundle).status == 0
        assert (outside / "inner").read_text() == "x"
    finally:
        subprocess.run(["umount", str(outside)], check=True)


@pytest.mark.parametrize("name", ["", ".", "..", "a/../..", "../other", "/etc", "a\nb", "x" * 300])
def test_hostile_names_on_the_command_line_are_refused(make_bundle, start_shim, name):
    """Musts 16 and 17: they become paths."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    for flag in ("-id", "-namespace"):
        for action in ("start", "delete"):
            words = shim.argv(bundle, action)
            words[words.index(flag) + 1] = name
            done = subprocess.run(
                words, cwd=bundle, env=shim.environ, stdin=subprocess.DEVNULL,
                capture_output=True, check=False, timeout=20,
            )  # fmt: skip
            assert done.returncode == 1, (flag, action, done)
            assert done.stdout == b""
            assert flag[1:].encode() in done.stderr


def test_files_of_a_checkpoint_are_not_followed(
    make_bundle, start_shim, place, fake_engine, with_engine
):
    """Must 28: a work directory and a log that are links."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, options=with_engine(fake_engine.path))
    shim.task.start(bundle.id)
    fake_engine.on("checkpoint", "exit 3")
    victim = place / "victim"
    victim.mkdir()
    (victim / "dump.log").write_text("a secret")
    (bundle.path / "work" / "criu-work").symlink_to(victim)
    with refused(2, "criu-dump.log"):
        shim.task.call("Checkpoint", id=bundle.id, path=str(place / "image"))
    assert (victim / "dump.log").read_text() == "a secret"
    (bundle.path / "work" / "criu-work").unlink()
    (bundle.path / "criu-dump.log").unlink(missing_ok=True)
    fake_engine.on(
        "checkpoint", f"ln -s {victim}/dump.log {bundle}/work/criu-work/dump.log; exit 3"
    )
    with refused(2, "criu-dump.log"):
        shim.task.call("Checkpoint", id=bundle.id, path=str(place / "image"))
    assert not (bundle.path / "criu-dump.log").exists()
    assert (victim / "dump.log").read_text() == "a secret"
    assert not (bundle.path / "work" / "criu-work").exists()
