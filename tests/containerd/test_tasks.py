"""Control of running tasks.

pause, resume, metrics, ps, checkpoint, kill and remove, as ctr asks containerd for them.
"""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest

from shim_runc_py.testing.daemon import wait_until, without_warnings


@pytest.mark.control
def test_pause_and_resume(user):
    user.detach("c1", "/bin/sleep", "1000")
    user.daemon.ctr("tasks", "pause", "c1")
    assert user.tasks()["c1"][1] == "PAUSED"
    done = user.exec("c1", "e1", "exit 0")
    assert done.returncode == 1
    assert "cannot exec in a paused state" in done.stderr, done.stderr
    user.daemon.ctr("tasks", "resume", "c1")
    assert user.tasks()["c1"][1] == "RUNNING"
    assert user.exec("c1", "e2", "exit 9").returncode == 9
    user.remove("c1")


def test_pause_of_a_paused_and_resume_of_a_running_container_are_refused(user):
    user.detach("c1", "/bin/sleep", "1000")
    assert user.daemon.ctr("tasks", "resume", "c1", check=False).returncode == 1
    user.daemon.ctr("tasks", "pause", "c1")
    assert user.daemon.ctr("tasks", "pause", "c1", check=False).returncode == 1
    user.daemon.ctr("tasks", "resume", "c1")
    user.remove("c1")


@pytest.mark.control
def test_metrics_are_those_of_the_cgroup(user):
    options = ["--memory-limit", str(64 << 20)]
    user.detach("c1", "/bin/sleep", "1000", options=options)
    table = user.daemon.ctr("tasks", "metrics", "c1").stdout
    assert re.search(r"^c1 ", table, re.MULTILINE), table
    found = json.loads(user.daemon.ctr("tasks", "metrics", "--format", "json", "c1").stdout)
    assert found["pids"]["current"] == 1, found
    memory = found["memory"]
    assert 64 << 20 in (memory.get("usage_limit"), memory.get("usage", {}).get("limit")), memory
    user.remove("c1")


@pytest.mark.control
def test_ps_names_the_processes_and_their_execs(user):
    pid = user.detach("c1", "/bin/sleep", "1000")
    words = ["tasks", "exec", "-d", "--exec-id", "e1", "c1", "/bin/sleep", "1000"]
    user.daemon.ctr(*words)
    wait_until(lambda: "e1" in user.daemon.ctr("tasks", "ps", "c1").stdout, "the exec is listed")
    rows = [line.split() for line in user.daemon.ctr("tasks", "ps", "c1").stdout.splitlines()[1:]]
    assert [str(pid), "-"] in rows, rows
    assert any("e1" in "".join(row[1:]) for row in rows), rows
    assert len(rows) == 2, rows
    user.remove_exec("c1", "e1")
    assert len(user.daemon.ctr("tasks", "ps", "c1").stdout.splitlines()) == 2
    user.remove("c1")


@pytest.mark.control
def test_a_checkpoint_without_criu_is_refused_and_the_container_runs_on(user, tmp_path):
    if shutil.which("criu"):
        pytest.skip("criu is installed")
    pid = user.detach("c1", "/bin/sleep", "1000")
    words = ["tasks", "checkpoint", "--image-path", str(tmp_path / "image"), "c1"]
    done = user.daemon.ctr(*words, check=False)
    assert done.returncode == 1
    assert "criu" in done.stderr, done.stderr
    assert user.tasks()["c1"] == (pid, "RUNNING")
    user.remove("c1")


@pytest.mark.control
def test_signals_by_name_reach_init(user):
    script = "trap 'exit 21' USR1; echo ready; while :; do sleep 0.01; done"
    process = user.popen(*user.words("c1", "/bin/sh", "-c", script, options=["--rm"]))
    assert process.stdout.readline() == b"ready\n"
    user.kill("c1", "SIGUSR1")
    out, err = process.communicate(timeout=20)
    assert (out, without_warnings(err.decode()), process.returncode) == (b"", "", 21)


def test_kill_of_all_reaches_every_process(user):
    user.detach("c1", "/bin/sh", "-c", "sleep 1000 & sleep 1000 & trap '' TERM; wait; sleep 1000")
    wait_until(
        lambda: len(user.daemon.ctr("tasks", "ps", "c1").stdout.splitlines()) == 4, "3 processes"
    )
    user.daemon.ctr("tasks", "kill", "-a", "-s", "KILL", "c1")
    user.until("c1", "STOPPED")
    user.remove("c1")


@pytest.mark.control
def test_a_running_task_is_not_removed_without_force(user):
    pid = user.detach("c1", "/bin/sleep", "1000")
    done = user.daemon.ctr("tasks", "rm", "c1", check=False)
    assert done.returncode == 1
    assert os.path.exists(f"/proc/{pid}")
    done = user.daemon.ctr("tasks", "rm", "-f", "c1", check=False)
    assert user.tasks() == {}, done
    assert not os.path.exists(f"/proc/{pid}")
    user.daemon.ctr("containers", "rm", "c1")


@pytest.mark.control
def test_what_has_ended_cannot_be_killed_again(user):
    user.detach("c1", "/bin/true")
    user.until("c1", "STOPPED")
    done = user.daemon.ctr("tasks", "kill", "-s", "TERM", "c1", check=False)
    assert done.returncode == 1
    assert "process already finished: not found" in done.stderr, done.stderr
    done = user.exec("c1", "e1", "exit 0")
    assert done.returncode == 1
    user.remove("c1")
