"""Containers with ctr.

ctr, containerd, the shim and runc, all real: what a user does.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import signal
import struct
import termios
import time

import pytest

from shim_runc_py.testing.daemon import wait_until, without_warnings
from tests.containerd.pairings import LOST_EVENTS
from tests.containerd.user import LINGER, Terminal


@pytest.mark.control
def test_output_and_exit_code(user):
    done = user.shell("c1", "echo out; exit 7", check=False)
    assert (done.stdout, done.returncode) == ("out\n", 7), done.stderr


def test_standard_error_stays_apart(user):
    done = user.shell("c1", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_directory_environment_and_annotations_are_what_was_asked_for(user):
    options = ["--rm", "--cwd", "/tmp", "--env", "A=b c", "--annotation", "example.test/x=y"]
    done = user.shell("c1", 'echo $(pwd) "$A"', options=options)
    assert done.stdout == "/tmp b c\n"


@pytest.mark.control
def test_stdin_that_is_piped_in_arrives_and_ends(user):
    # ctr notices the end only of a stdin that outlasts the creation of the task.
    process = user.popen(*user.words("c1", "/bin/cat", options=["--rm"]))
    wait_until(lambda: user.tasks().get("c1", (0, ""))[1] == "RUNNING", "the task runs")
    out, err = process.communicate(b"piped in\n" * 10000, timeout=30)
    assert (process.returncode, without_warnings(err.decode())) == (0, "")
    assert out == b"piped in\n" * 10000


def test_ten_megabytes_of_output_before_a_quick_end_are_complete(user):
    script = "for i in 0 1 2 3 4 5 6 7 8 9; do head -c 1048576 /dev/zero | tr '\\0' $i; done"
    process = user.popen(*user.words("c1", "/bin/sh", "-c", script, options=["--rm"]))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, without_warnings(err.decode())) == (0, "")
    expected = b"".join(b"%d" % digit * 1048576 for digit in range(10))
    assert hashlib.sha256(out).digest() == hashlib.sha256(expected).digest(), len(out)


def test_no_stdio_at_all(user):
    done = user.shell("c1", "echo nobody reads this; exit 3", options=["--rm", "--null-io"],
                      check=False)  # fmt: skip
    assert (done.stdout, done.returncode) == ("", 3)


@pytest.mark.control
def test_a_terminal_with_resize(user):
    terminal = Terminal(user.daemon, user.words("c1", "/bin/sh", options=["--rm", "-t"]))
    try:
        terminal.wait_for(rb"[#$] ")
        terminal.type(b"test -t 0 && echo is-a-$((1))tty\n")
        terminal.wait_for(rb"is-a-1tty")
        fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
        deadline = time.monotonic() + 20
        while b"33 111" not in terminal.seen and time.monotonic() < deadline:
            os.kill(terminal.process.pid, signal.SIGWINCH)  # ctr may not have listened before
            terminal.type(b"stty size; echo ask$((1))ed\n")
            terminal.seen = terminal.seen.replace(b"ask1ed", b"")
            terminal.wait_for(rb"ask1ed")
        assert b"33 111" in terminal.seen
        terminal.type(b"exit 4\n")
        assert terminal.process.wait(20) == 4
    finally:
        terminal.close()


def test_a_terminal_of_an_exec(user):
    user.detach("c1", "/bin/sleep", "1000")
    words = ["tasks", "exec", "-t", "--exec-id", "e1", "c1", "/bin/sh"]
    terminal = Terminal(user.daemon, words)
    try:
        terminal.wait_for(rb"[#$] ")
        terminal.type(b"test -t 0 && echo is-a-$((1))tty; exit 6\n")
        terminal.wait_for(rb"is-a-1tty")
        assert terminal.process.wait(20) == 6
    finally:
        terminal.close()
    user.remove("c1")


@pytest.mark.control
def test_detach_exec_kill_remove(user):
    pid = user.detach("c1", "/bin/sleep", "1000")
    wait_until(lambda: os.readlink(f"/proc/{pid}/exe").endswith("/busybox"), "it executes")
    done = user.exec("c1", "e1", "echo in; exit 3")
    assert (done.stdout, done.returncode) == ("in\n", 3), done.stderr
    user.kill("c1")
    user.until("c1", "STOPPED")
    done = user.daemon.ctr("tasks", "rm", "c1", check=False)
    assert (done.returncode, "exit with non-zero exit code 137" in done.stderr) == (0, True)
    user.daemon.ctr("containers", "rm", "c1")
    wait_until(lambda: not user.shims(), "its shim is gone", 10)


def test_a_detached_container_can_be_attached_to(user):
    user.detach("c1", "/bin/sh", "-c", "read line; echo got $line; exit 5")
    process = user.popen("tasks", "attach", "c1")
    process.stdin.write(b"something\n")
    process.stdin.flush()
    process.stdin.close()
    process.stdin = None
    out, err = process.communicate(timeout=30)
    assert (out, process.returncode) == (b"got something\n", 5), err
    if "c1" in user.tasks():
        user.remove("c1")
    else:
        user.daemon.ctr("containers", "rm", "c1")


@pytest.mark.control
def test_a_missing_executable_is_told_by_runc_and_leaves_nothing(user):
    done = user.run("c1", "/nosuch", check=False)
    assert done.returncode == 1
    assert (
        "OCI runtime create failed: runc create failed: unable to start container process: "
        'exec: "/nosuch": stat /nosuch: no such file or directory'
    ) in done.stderr
    assert user.tasks() == {}
    assert user.daemon.ctr("containers", "ls", "-q").stdout == ""
    assert not user.bundle("c1").exists()


def test_a_missing_executable_of_an_exec_leaves_the_container_alone(user):
    user.detach("c1", "/bin/sleep", "1000")
    words = ["tasks", "exec", "--exec-id", "e1", "c1", "/nosuch"]
    done = user.daemon.ctr(*words, check=False)
    assert done.returncode == 1
    complaint = "OCI runtime exec failed: exec failed: unable to start container process: exec:"
    assert f'{complaint} "/nosuch"' in done.stderr, done.stderr
    assert user.exec("c1", "e2", "exit 0").returncode == 0
    user.remove("c1")


def test_an_id_can_be_used_again_at_once(user):
    for status in range(5):
        assert user.shell("again", f"exit {status}", check=False).returncode == status


def test_fifty_containers_in_parallel(user):
    processes = {}
    for number in range(50):
        script = f"{LINGER}echo number {number}; exit {number}"
        words = user.words(f"p{number}", "/bin/sh", "-c", script, options=["--rm"])
        processes[number] = user.popen(*words)
    for number, process in processes.items():
        out, err = process.communicate(timeout=120)
        assert (out.decode(), process.returncode) == (f"number {number}\n", number), err
    wait_until(lambda: not user.shims(), "all shims are gone", 10)


@pytest.mark.control(varies=LOST_EVENTS)
def test_events_come_in_order_and_once(user, events):
    user.detach("c1", "/bin/sleep", "1000")
    assert user.exec("c1", "e1", "exit 3").returncode == 3
    user.kill("c1")
    user.until("c1", "STOPPED")
    user.remove("c1")
    told = events.until("delete")
    topics = [topic for topic, _ in told]
    assert topics == ["create", "start", "exec-added", "exec-started", "exit", "exit", "delete"]
    of_exec, of_init = (body for topic, body in told if topic == "exit")
    assert re.search(r'"id":"e1".*"exit_status":3\b', of_exec), of_exec
    assert re.search(r'"id":"c1".*"exit_status":137\b', of_init), of_init


def test_events_of_pause_and_resume(user, events):
    user.detach("c1", "/bin/sleep", "1000")
    user.daemon.ctr("tasks", "pause", "c1")
    user.daemon.ctr("tasks", "resume", "c1")
    user.remove("c1")
    topics = [topic for topic, _ in events.until("delete")]
    assert topics == ["create", "start", "paused", "resumed", "exit", "delete"]


@pytest.mark.control(varies=LOST_EVENTS)
def test_a_container_out_of_memory_is_told_before_its_exit(user, events):
    script = "x=a; while :; do x=$x$x; done"
    options = ["--rm", "--memory-limit", str(16 << 20)]
    assert user.shell("c1", script, options=options, check=False).returncode != 0
    topics = [topic for topic, _ in events.until("delete")]
    assert sorted(topics) == ["create", "delete", "exit", "oom", "start"]
    assert topics[-2:] == ["exit", "delete"]
