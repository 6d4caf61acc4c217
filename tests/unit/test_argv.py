"""runc.argv: the command lines of the stock shim, word for word (SEMANTICS 12, CONTRACT B)."""

from __future__ import annotations

import pytest

from shim_runc_py.runc import argv

B, ROOT, LOG = "/run/b/c1", "/run/containerd/runc/k8s.io", "/run/b/c1/log.json"
PID = f"{B}/init.pid"
EXEC_PID = f"{B}/e1.pid"


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (
            argv.common("", ROOT, LOG),
            f"runc --root {ROOT} --log {LOG} --log-format json",
        ),
        (
            argv.common("/usr/bin/crun", ROOT, LOG, systemd_cgroup=True),
            f"/usr/bin/crun --root {ROOT} --log {LOG} --log-format json --systemd-cgroup",
        ),
        (argv.create("c1", B, PID), f"create --bundle {B} --pid-file {PID} c1"),
        (
            argv.create("c1", B, PID, console_socket="/tmp/pty/pty.sock"),
            f"create --bundle {B} --pid-file {PID} --console-socket /tmp/pty/pty.sock c1",
        ),
        (
            argv.create("c1", B, PID, console_socket="/s", no_pivot=True, no_new_keyring=True),
            (
                f"create --bundle {B} --pid-file {PID} --console-socket /s --no-pivot "
                "--no-new-keyring c1"
            ),
        ),
        (
            argv.create("c1", B, PID, no_new_keyring=True),
            f"create --bundle {B} --pid-file {PID} --no-new-keyring c1",
        ),
        (argv.start("c1"), "start c1"),
        (
            argv.execute("c1", "/tmp/p.json", EXEC_PID),
            f"exec --process /tmp/p.json --detach --pid-file {EXEC_PID} c1",
        ),
        (
            argv.execute("c1", "/tmp/p.json", EXEC_PID, console_socket="/s"),
            f"exec --process /tmp/p.json --console-socket /s --detach --pid-file {EXEC_PID} c1",
        ),
        (argv.kill("c1", 15), "kill c1 15"),
        (argv.kill("c1", 9, everyone=True), "kill --all c1 9"),
        (argv.delete("c1"), "delete c1"),
        (argv.delete("c1", force=True), "delete --force c1"),
        (argv.pause("c1"), "pause c1"),
        (argv.resume("c1"), "resume c1"),
        (argv.ps("c1"), "ps --format json c1"),
        (argv.update("c1"), "update --resources=- c1"),
        (
            argv.checkpoint("c1", "/i", "/w"),
            "checkpoint --image-path /i --work-path /w c1",
        ),
        (
            argv.checkpoint("c1", "/i", "/w", leave_running=True),
            "checkpoint --image-path /i --work-path /w --leave-running c1",
        ),
        (
            argv.checkpoint(
                "c1",
                "/i",
                "/w",
                parent_path="/p",
                tcp_established=True,
                external_unix_sockets=True,
                shell_job=True,
                file_locks=True,
                empty_namespaces=["network", "ipc"],
                leave_running=True,
            ),
            (
                "checkpoint --image-path /i --work-path /w --parent-path /p --tcp-established "
                "--ext-unix-sk --shell-job --file-locks --empty-ns network --empty-ns ipc "
                "--leave-running c1"
            ),
        ),
        (
            argv.restore("c1", B, PID, "/i", "/w"),
            (
                f"restore --image-path /i --work-path /w --detach --pid-file {PID} -no-subreaper "
                f"--bundle {B} c1"
            ),
        ),
        (
            argv.restore("c1", B, PID, "/i", "/w", console_socket="/s", no_pivot=True),
            (
                f"restore --image-path /i --work-path /w --detach --pid-file {PID} "
                f"--console-socket /s --no-pivot -no-subreaper --bundle {B} c1"
            ),
        ),
        (argv.features(), "features"),
    ],
)
def test_a_command_line(made, line):
    assert made == line.split()


def test_a_word_stays_one_word():
    assert argv.create("c1", "/run/a b", "/run/a b/init.pid")[2] == "/run/a b"
    assert argv.checkpoint("c", "i", "w", empty_namespaces=["a b"])[-2] == "a b"


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("", "/run/containerd/runc/ns"),
        ("/run/x", "/run/x/ns"),
        ("/run/x/", "/run/x/ns"),
        ("/", "/ns"),
    ],
)
def test_the_root_is_that_of_the_namespace(base, expected):
    assert argv.root(base, "ns") == expected


def test_the_environment_of_an_engine_is_without_what_is_ours():
    environ = {
        "PATH": "/bin",
        "HOME": "/root",
        "XDG_RUNTIME_DIR": "/run/user/0",
        "GOMAXPROCS": "2",
        "NOTIFY_SOCKET": "/run/systemd/notify",
        "PYTHONPATH": "/x",
        "PYTHONHOME": "/x",
        "LD_PRELOAD": "/x.so",
        "LD_LIBRARY_PATH": "/x",
        "LISTEN_FDS": "1",
        "LISTEN_PID": "1",
        "OLDPWD": "/",
    }
    kept = argv.environment(environ)
    assert sorted(kept) == ["GOMAXPROCS", "HOME", "OLDPWD", "PATH", "XDG_RUNTIME_DIR"]
    assert all(environ[key] == value for key, value in kept.items())
