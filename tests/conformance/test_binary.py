"""The binary as containerd executes it: start, delete, -info, -v (CONTRACT 2 - 5)."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from shim_runc_py.api.bootstrap_pb2 import BootstrapParams, Extension, LogLevel
from shim_runc_py.api.introspection_pb2 import RuntimeInfo
from shim_runc_py.api.runc_options_pb2 import Options
from shim_runc_py.api.task_pb2 import DeleteResponse
from shim_runc_py.linux import sock
from shim_runc_py.testing import leaks
from shim_runc_py.testing.shims import parse_answer, refused

pytestmark = pytest.mark.launchers


def ours_only(reason):
    return pytest.mark.stock(skip=reason)


def test_start_prints_the_address_of_a_socket_that_is_private(make_bundle, start_shim, place):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    name = hashlib.sha256(f"{place}/c.sock/test/{bundle.id}".encode()).hexdigest()
    assert shim.address == f"unix:///run/containerd/s/{name}"
    found = os.stat(shim.path)
    assert stat.S_IMODE(found.st_mode) == 0o600
    if shim.binary.version >= (2,):
        return  # containerd writes it
    assert (bundle.path / "address").read_text() == shim.address
    assert stat.S_IMODE((bundle.path / "address").stat().st_mode) == 0o644


def test_the_daemon_is_detached_as_the_stock_one(make_bundle, start_shim):
    shim = start_shim(make_bundle("sleep"))
    fields = Path(f"/proc/{shim.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[2]) == shim.pid  # a process group of its own
    assert Path(f"/proc/{shim.pid}/comm").read_text() == "containerd-shim\n"
    words = Path(f"/proc/{shim.pid}/cmdline").read_bytes().split(b"\0")
    line = " ".join(word.decode() for word in words if word)
    assert line.endswith(f"-namespace test -id {shim._bundles[0].id} -address {shim.containerd}")
    ours = int(Path("/proc/self/oom_score_adj").read_text())
    assert int(Path(f"/proc/{shim.pid}/oom_score_adj").read_text()) == min(1000, ours + 1)


@ours_only("keeps its working directory in the bundle")
def test_the_daemon_holds_nothing_but_what_it_needs(make_bundle, start_shim, place):
    bundle = make_bundle("sleep")
    extra = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    shim = start_shim(bundle)
    for fd in extra:
        os.close(fd)
    found = leaks.descriptors(shim.pid)
    assert found["0"] == found["1"] == "/dev/null"
    assert found["2"] == str(bundle.path / "log")
    assert os.readlink(f"/proc/{shim.pid}/cwd") == "/"
    others = {text.partition(":")[0] for number, text in found.items() if int(number) > 2}
    assert others <= {"socket", "anon_inode", "pipe"}, found


def test_a_second_start_of_a_group_joins_the_first(make_bundle, start_shim):
    annotations = {"io.kubernetes.cri.sandbox-id": "pod1"}
    first, second = (make_bundle("sleep", annotations=annotations) for _ in range(2))
    shim = start_shim(first)
    assert shim.join(second) == shim.address
    if shim.binary.version < (2,):
        assert (second.path / "address").read_text() == shim.address
    name = hashlib.sha256(f"{shim.containerd}/test/pod1".encode()).hexdigest()
    assert shim.path.endswith(name)
    for bundle in (first, second):
        shim.task.create(bundle)
        shim.task.start(bundle.id)
    # The first one goes first: the shim stays for the second.
    shim.task.kill(first.id)
    shim.task.wait(first.id)
    shim.task.delete(first.id)
    shim.task.shutdown(first.id)
    assert shim.run_delete(first).status == 0
    assert shim.task.state(second.id).status == 2
    assert shim.alive()


def test_the_runc_group_comes_before_the_sandbox(make_bundle, start_shim):
    annotations = {
        "io.kubernetes.cri.sandbox-id": "pod2",
        "io.containerd.runc.v2.group": "mine",
    }
    shim = start_shim(make_bundle("sleep", annotations=annotations))
    name = hashlib.sha256(f"{shim.containerd}/test/mine".encode()).hexdigest()
    assert shim.path.endswith(name)


def test_a_stale_socket_is_replaced(make_bundle, start_shim, binary, place, sink):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    os.kill(shim.pid, signal.SIGKILL)
    shim.wait_gone()
    assert Path(shim.path).exists()
    again = start_shim(bundle)
    assert again.address == shim.address
    assert again.pid != shim.pid


@ours_only("leaves shims behind: two may win, and the loser is never told")
def test_twenty_starts_of_one_group_give_one_shim(make_bundle, start_shim):
    annotations = {"io.containerd.runc.v2.group": "crowd"}
    bundles = [make_bundle("sleep", annotations=annotations) for _ in range(20)]
    shim = start_shim(bundles[0])
    os.kill(shim.pid, signal.SIGKILL)
    shim.wait_gone()
    running = [
        subprocess.Popen(
            shim.argv(bundle, "start"),
            cwd=bundle,
            env=shim.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for bundle in bundles
    ]
    answers = {process.communicate(timeout=30)[0] for process in running}
    assert answers == {shim.address.encode()} or {parse_answer(a) for a in answers} == {
        shim.address
    }
    pids = {int(shim.connect().call("Connect", id="x").shim_pid) for _ in range(3)}
    try:
        assert len(pids) == 1
        assert len(leaks.shims(shim.containerd)) == 1
    finally:
        shim.connect().shutdown()


def test_start_without_a_config_says_so(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    other = make_bundle("sleep")
    (other.path / "config.json").unlink()
    result = shim.run_start(other)
    assert result.status == 1
    text = f"io.containerd.{'runc' if shim.binary.stock else 'pyrunc'}.v2: open config.json: "
    assert result.stdout.decode() == f"{text}no such file or directory"


def test_start_without_a_namespace_says_so(binary, make_bundle):
    done = subprocess.run(
        [binary.path, "-id", "x", "start"], capture_output=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr.decode().endswith(".v2: shim namespace cannot be empty")


def test_an_unknown_flag_is_status_2(binary):
    done = subprocess.run([binary.path, "-nosuch"], capture_output=True, check=False, timeout=30)
    assert done.returncode == 2
    assert b"flag provided but not defined: -nosuch" in done.stderr


@pytest.mark.parametrize("form", ["-id {id}", "-id={id}", "--id {id}", "--id={id}"])
def test_flags_are_those_of_go(make_bundle, start_shim, form):
    bundle = make_bundle("sleep")
    (bundle.path / "runtime").write_text("runc")
    shim = start_shim(bundle)
    words = [shim.binary.path, "--namespace=test", f"-address={shim.containerd}", "-debug=false"]
    words += [*form.format(id=bundle.id).split(), "-bundle", str(bundle), "delete"]
    done = subprocess.run(
        words, cwd=bundle, env=shim.environ, capture_output=True, check=False, timeout=30
    )
    assert done.returncode == 0
    assert DeleteResponse.FromString(done.stdout).exit_status == 137


@pytest.mark.stock(fails="prints its whole path", before=(1, 7))
def test_version_needs_nothing(binary):
    done = subprocess.run([binary.path, "-v"], capture_output=True, check=False, timeout=30)
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0] == f"{Path(binary.path).name}:"
    assert lines[1].startswith("  Version:  ")


@pytest.mark.stock(fails="wants the file `runtime`", before=(2, 1))
def test_delete_without_anything_is_fine_and_can_be_repeated(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    for _ in range(2):
        result = shim.run_delete(bundle)
        assert result.status == 0
        assert shim.binary.stock or result.stderr == b""
        assert DeleteResponse.FromString(result.stdout).exit_status == 137


@pytest.mark.cgroup
def test_delete_after_the_shim_was_killed_ends_the_container(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    pid = shim.task.create(bundle).pid
    shim.task.start(bundle.id)
    os.kill(shim.pid, signal.SIGKILL)
    shim.wait_gone()
    assert Path(f"/proc/{pid}").exists()
    result = shim.run_delete(bundle)
    assert result.status == 0
    answer = DeleteResponse.FromString(result.stdout)
    assert (answer.pid, answer.exit_status) == (pid, 137)
    assert answer.exited_at.seconds > 1_600_000_000
    assert not leaks.contained()
    assert not Path(f"/run/containerd/runc/test/{bundle.id}").exists()


@ours_only("always says 137")
def test_delete_tells_the_real_exit_status_when_the_shim_recorded_it(make_bundle, start_shim):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    pid = shim.task.create(bundle).pid
    shim.task.start(bundle.id)
    at = shim.task.wait(bundle.id).exited_at
    os.kill(shim.pid, signal.SIGKILL)
    shim.wait_gone()
    answer = DeleteResponse.FromString(shim.run_delete(bundle).stdout)
    assert (answer.pid, answer.exit_status, answer.exited_at) == (pid, 7, at)


def test_delete_finds_an_engine_root_that_the_options_chose(make_bundle, start_shim, place):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    options = Any(
        type_url="containerd.runc.v1.Options",
        value=Options(root=str(place / "state")).SerializeToString(),
    )
    shim.task.create(bundle, options=options)
    assert (place / "state" / "test" / bundle.id).exists()
    os.kill(shim.pid, signal.SIGKILL)
    shim.wait_gone()
    assert shim.run_delete(bundle).status == 0
    assert not (place / "state" / "test" / bundle.id).exists()


def test_delete_reads_the_bundle_beside_the_working_directory(make_bundle, start_shim):
    first, second = make_bundle("sleep"), make_bundle("sleep")
    shim = start_shim(first)
    pid = shim.task.create(first).pid
    done = subprocess.run(
        shim.argv(first, "delete"),
        cwd=second,
        env=shim.environ,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert DeleteResponse.FromString(done.stdout).pid == pid


def test_sigterm_ends_the_shim_and_not_the_container(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    pid = shim.task.create(bundle).pid
    shim.task.start(bundle.id)
    os.kill(shim.pid, signal.SIGTERM)
    shim.wait_gone(10)
    assert Path(f"/proc/{pid}").exists()
    assert not Path(shim.path).exists()


def test_sigusr1_dumps_what_goes_on_into_the_log(make_bundle, start_shim):
    shim = start_shim(make_bundle("sleep"))
    os.kill(shim.pid, signal.SIGUSR1)
    for _ in range(200):
        shim.task.call("Connect", id="x")
        if "=== END goroutine stack dump ===" in shim.log():
            break
    assert "=== BEGIN goroutine stack dump ===" in shim.log()


def test_the_socket_is_gone_after_shutdown(make_bundle, start_shim):
    shim = start_shim(make_bundle("sleep"))
    shim.task.shutdown()
    shim.wait_gone(10)
    assert not Path(shim.path).exists()


def test_a_probe_that_says_nothing_does_no_harm(make_bundle, start_shim):
    shim = start_shim(make_bundle("sleep"))
    for _ in range(50):
        sock.connect(shim.path).close()
    assert shim.task.call("Connect", id="x").shim_pid == shim.pid


def any_options(**fields):
    value = Options(**fields).SerializeToString()
    return Any(type_url="containerd.runc.v1.Options", value=value)


def test_start_takes_options_as_an_any(make_bundle, start_shim):
    given = any_options(binary_name="/usr/bin/crun").SerializeToString()
    start_shim(make_bundle("sleep"), stdin=given)


@ours_only("only 2.3 and later read BootstrapParams")
def test_start_takes_bootstrap_params(make_bundle, start_shim, place, sink):
    bundle = make_bundle("exit-7")
    params = BootstrapParams(
        instance_id=bundle.id,
        namespace="test",
        log_level=LogLevel.DEBUG,
        containerd_version="v2.3.4",
        containerd_ttrpc_address=str(sink.path),
        containerd_grpc_address=str(place / "c.sock"),
        extensions=[Extension(value=any_options(no_pivot_root=True))],
        socket_dir=str(place / "s"),
    )
    shim = start_shim(
        bundle, stdin=params.SerializeToString(), environ={"TTRPC_ADDRESS": "/nowhere"}
    )
    assert shim.path.startswith(str(place / "s"))
    assert stat.S_IMODE((place / "s").stat().st_mode) == 0o700
    shim.task.create(bundle)
    sink.wait_for("/tasks/create")


@ours_only("fixed by its version")
@pytest.mark.parametrize("modern", [False, True])
def test_task_v3_can_be_asked_for(make_bundle, start_shim, modern, place):
    bundle = make_bundle("sleep")
    stdin = None
    if modern:
        params = BootstrapParams(instance_id=bundle.id, namespace="test")
        stdin = params.SerializeToString()
    shim = start_shim(bundle, stdin=stdin, environ={"PYRUNC_TASK_API": "3"})
    result = shim.run_start(bundle, stdin)
    if modern:
        assert result.stdout[:2] == b"\x08\x03"
        assert result.stdout.endswith(b"ttrpc")
    else:
        answer = {"version": 3, "address": shim.address, "protocol": "ttrpc"}
        assert json.loads(result.stdout) == answer
    shim.task.service = "containerd.task.v3.Task"
    assert shim.task.call("Connect", id=bundle.id).shim_pid == shim.pid


@pytest.mark.cgroup
def test_the_daemon_moves_into_the_cgroup_that_the_options_name(make_bundle, start_shim, place):
    name = f"/pyrunc-shim-{place.name}"
    paths = [path / name[1:] for path in Path("/sys/fs/cgroup").glob("*/") if own(path)]
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        paths = [Path("/sys/fs/cgroup") / name[1:]]
    for path in paths:
        path.mkdir(exist_ok=True)
    try:
        given = any_options(shim_cgroup=name).SerializeToString()
        shim = start_shim(make_bundle("sleep"), stdin=given)
        assert f":{name}\n" in Path(f"/proc/{shim.pid}/cgroup").read_text()
        shim.close()
    finally:
        for path in paths:
            path.rmdir()


def own(path):
    """A v1 hierarchy in which a process may be put into a new group at once."""
    return path.name in ("memory", "pids", "freezer") and (path / "cgroup.procs").exists()


@pytest.mark.cgroup
def test_a_cgroup_that_is_not_there_fails_start_and_leaves_no_daemon(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    other = make_bundle("sleep")
    given = any_options(shim_cgroup="/pyrunc-not-there").SerializeToString()
    result = shim.run_start(other, given)
    assert result.status == 1
    assert b"/pyrunc-not-there" in result.stdout
    assert len([line for line in leaks.shims(shim.containerd) if other.id in line]) == 0


@pytest.mark.stock(skip="there is no -info", before=(2,))
def test_info_tells_what_the_engine_can_do(binary):
    done = subprocess.run(
        [binary.path, "-info"], stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    info = RuntimeInfo.FromString(done.stdout)
    assert info.name == f"io.containerd.{'runc' if binary.stock else 'pyrunc'}.v2"
    assert info.version.version
    features = json.loads(info.features.value)
    assert "user" in features["linux"]["namespaces"]
    given = any_options(binary_name="runc")
    done = subprocess.run(
        [binary.path, "-info"], input=given.SerializeToString(), capture_output=True, check=True
    )
    assert RuntimeInfo.FromString(done.stdout).options == given


@pytest.mark.stock(skip="there is no -info", before=(2,))
def test_info_names_an_engine_that_is_missing(binary):
    given = any_options(binary_name="no-runc").SerializeToString()
    done = subprocess.run([binary.path, "-info"], input=given, capture_output=True, check=False)
    assert done.returncode == 1
    assert b'failed to look up the path of "no-runc"' in done.stderr


@ours_only("takes modules from nowhere, being Go")
def test_the_bundle_cannot_bring_modules_of_its_own(make_bundle, start_shim):
    bundle = make_bundle("hello")
    for name in ("json", "socket", "prctl", "shim_runc_py"):
        (bundle.path / f"{name}.py").write_text("raise SystemExit(99)\n")
    shim = start_shim(bundle, environ={"PYTHONPATH": str(bundle), "PYTHONSTARTUP": "x.py"})
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    assert shim.task.wait(bundle.id).exit_status == 0
    assert shim.run_delete(bundle).status == 0


@ours_only("ends only when told to")
def test_an_address_too_long_for_a_socket_is_refused(make_bundle, start_shim, place):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    other = make_bundle("sleep")
    params = BootstrapParams(instance_id=other.id, namespace="test", socket_dir="/tmp/" + "x" * 60)
    result = shim.run_start(other, params.SerializeToString())
    assert result.status == 1
    assert b"unix socket path too long" in result.stdout


def test_one_lost_connection_is_no_end(make_bundle, start_shim):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    shim.task.client.close()
    shim.task = shim.connect()
    assert shim.task.state(bundle.id).status == 2


def test_task_v2_and_v3_unknown_services_and_methods(make_bundle, start_shim):
    from google.protobuf.empty_pb2 import Empty

    shim = start_shim(make_bundle("sleep"))
    with refused(12, "service containerd.task.v9.Task"):
        shim.task.client.call("containerd.task.v9.Task", "State", Empty(), Empty)
    with refused(12, "method Dance"):
        shim.task.client.call(shim.task.service, "Dance", Empty(), Empty)
