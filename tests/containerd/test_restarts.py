"""containerd and the shim going away.

Stopped, killed and started again, with containers that live on, die meanwhile, or lose their shim.
"""

from __future__ import annotations

import os
import signal

import pytest

from shim_runc_py.testing.daemon import wait_until


def gone(pid):
    return not os.path.exists(f"/proc/{pid}/exe") and not os.path.exists(f"/proc/{pid}/cwd")


@pytest.mark.control
@pytest.mark.parametrize("signum", ["TERM", "KILL"])
def test_containerd_is_restarted_while_containers_run(owner, signum):
    pids = {
        "stays": owner.detach("stays", "/bin/sleep", "1000"),
        "ends": owner.detach("ends", "/bin/sh", "-c", "sleep 1000 & wait; exit 9"),
    }
    owner.daemon.stop(getattr(signal, f"SIG{signum}"))
    owner.daemon.start()
    assert owner.tasks() == {name: (pid, "RUNNING") for name, pid in pids.items()}
    done = owner.exec("stays", "e1", "echo back; exit 3")
    assert (done.stdout, done.returncode) == ("back\n", 3), done.stderr
    assert str(pids["stays"]) in owner.daemon.ctr("tasks", "ps", "stays").stdout
    assert "stays" in owner.daemon.ctr("tasks", "metrics", "stays").stdout
    for name in pids:
        done = owner.remove(name)
        assert "exit with non-zero exit code 137" in done.stderr
    wait_until(lambda: not owner.shims(), "their shims are gone", 10)


def test_paused_and_executing_containers_survive_a_restart(owner):
    owner.detach("paused", "/bin/sleep", "1000")
    owner.daemon.ctr("tasks", "pause", "paused")
    owner.detach("busy", "/bin/sleep", "1000")
    words = ["tasks", "exec", "-d", "--exec-id", "e1", "busy", "/bin/sleep", "1000"]
    owner.daemon.ctr(*words)
    owner.daemon.stop(signal.SIGKILL)
    owner.daemon.start()
    assert owner.tasks()["paused"][1] == "PAUSED"
    owner.daemon.ctr("tasks", "resume", "paused")
    assert owner.tasks()["paused"][1] == "RUNNING"
    assert "e1" in owner.daemon.ctr("tasks", "ps", "busy").stdout
    owner.remove_exec("busy", "e1")
    for name in ("paused", "busy"):
        owner.remove(name)


@pytest.mark.control
def test_an_exit_while_containerd_was_down_is_found_out_at_its_start(owner):
    """containerd 1.7 and later take a shim without processes for a leak, and delete its task
    (CONTRACT 4.4); 1.6 shows it as stopped.
    """
    script = "trap 'exit 42' TERM; touch /tmp/ready; while :; do sleep 0.01; done"
    ready = owner.rootfs / "tmp/ready"
    try:
        pid = owner.detach("c1", "/bin/sh", "-c", script)
        wait_until(ready.exists, "the trap is set")
    finally:
        ready.unlink(missing_ok=True)
    owner.daemon.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: gone(pid), "init is gone")
    owner.daemon.start()
    if owner.pairing.generation.major < (1, 7):
        assert owner.tasks()["c1"][1] == "STOPPED"
        done = owner.remove("c1")
        assert "exit with non-zero exit code 42" in done.stderr, done.stderr
    else:
        assert owner.tasks() == {}
        owner.daemon.ctr("containers", "rm", "c1")
    wait_until(lambda: not owner.shims(), "its shim is gone", 10)
    assert owner.shell("c1", "exit 7", check=False).returncode == 7


@pytest.mark.control
def test_a_shim_that_is_killed_is_cleaned_up_and_told_as_137(user, events):
    pid = user.detach("c1", "/bin/sleep", "1000")
    os.kill(user.shim_of("c1"), signal.SIGKILL)
    told = events.until("delete")
    assert [topic for topic, _ in told] == ["create", "start", "exit", "delete"]
    assert '"exit_status":137' in told[2][1]
    wait_until(lambda: gone(pid), "its process is gone")
    wait_until(lambda: not user.bundle("c1").exists(), "its bundle is gone")
    assert user.tasks() == {}
    user.daemon.ctr("containers", "rm", "c1")
    assert user.shell("c1", "exit 7", check=False).returncode == 7  # the stale socket is no trouble


def test_a_shim_that_is_killed_after_the_exit_is_told_with_the_real_status(user, events):
    user.detach("c1", "/bin/sh", "-c", "exit 42")
    user.until("c1", "STOPPED")
    os.kill(user.shim_of("c1"), signal.SIGKILL)
    told = events.until("delete")
    assert '"exit_status":42' in told[-1][1], told
    wait_until(lambda: not user.bundle("c1").exists(), "its bundle is gone")
    user.daemon.ctr("containers", "rm", "c1")
    assert user.shell("c1", "exit 7", check=False).returncode == 7


@pytest.mark.control
def test_a_shim_that_is_killed_while_containerd_is_down_is_cleaned_up_at_its_start(owner):
    pids = [owner.detach(name, "/bin/sleep", "1000") for name in ("c1", "c2")]
    shim = owner.shim_of("c1")
    owner.daemon.stop()
    os.kill(shim, signal.SIGKILL)
    owner.daemon.start()
    wait_until(lambda: gone(pids[0]), "the process of c1 is gone")
    wait_until(lambda: not owner.bundle("c1").exists(), "the bundle of c1 is gone")
    assert owner.tasks() == {"c2": (pids[1], "RUNNING")}
    owner.daemon.ctr("containers", "rm", "c1")
    assert owner.shell("c1", "exit 7", check=False).returncode == 7
    owner.remove("c2")


def test_three_restarts_in_a_row(owner):
    pid = owner.detach("c1", "/bin/sleep", "1000")
    shim = owner.shim_of("c1")
    for signum in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        owner.daemon.stop(signum)
        owner.daemon.start()
        assert owner.tasks() == {"c1": (pid, "RUNNING")}
    assert owner.shim_of("c1") == shim
    owner.remove("c1")
