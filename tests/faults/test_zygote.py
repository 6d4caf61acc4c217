"""The zygote: forks every shim, is missed by none (DESIGN section 5)."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from benchmarks import memory
from benchmarks.stage import execute
from shim_runc_py.api.runc_options_pb2 import Options
from shim_runc_py.api.runtime_options_pb2 import Options as RuntimeOptions
from shim_runc_py.api.task_pb2 import DeleteResponse
from shim_runc_py.linux import pages, procfs, sock
from shim_runc_py.testing import launcher, leaks
from shim_runc_py.testing.daemon import wait_until
from shim_runc_py.testing.shims import Binary, Shim, Task, parse_answer
from shim_runc_py.tools import install
from shim_runc_py.ttrpc.client import BlockingClient

pytestmark = pytest.mark.stock(skip="has no zygote")


@pytest.fixture
def zygotes(place, monkeypatch):
    """The directory of the zygotes of one test."""
    directory = place / "z"
    monkeypatch.setenv("PYRUNC_ZYGOTE", str(directory))
    yield directory
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.is_socket():
            _continue(path)
    launcher.end_zygotes(directory)


def _continue(path):
    try:
        os.kill(pid_of(path), signal.SIGCONT)
    except OSError:
        pass


def pid_of(path):
    connection = sock.connect(str(path))
    try:
        return sock.peer(connection)[0]
    finally:
        connection.close()


def listening(directory):
    """The sockets of zygotes; not the stage of a rehearsal that is going on."""
    found = sorted(directory.iterdir()) if directory.is_dir() else []
    return [path for path in found if not path.name.startswith(".")]


def the_zygote(directory):
    """The pid of the only zygote that listens."""
    (path,) = listening(directory)
    wait_until(lambda: b"zygote" in cmdline(pid_of(path)), "the zygote has its title")
    return pid_of(path)


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def parent(pid):
    return int(procfs.read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])


def kill(pid):
    """SIGKILL, and wait until it is dead."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 10)[0]
    finally:
        os.close(pidfd)


def begin(shim, bundle, **options):
    """A `start` in the background."""
    return subprocess.Popen(
        shim.argv(bundle, "start"),
        **{"cwd": bundle, "env": shim.environ, "stdin": subprocess.DEVNULL, **options},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_the_first_start_begins_a_zygote_and_every_shim_is_its_fork(
    make_bundle, start_shim, zygotes
):
    shims = [start_shim(make_bundle("sleep")) for _ in range(3)]
    pid = the_zygote(zygotes)
    assert [parent(shim.pid) for shim in shims] == [pid] * 3
    assert os.stat(zygotes).st_mode & 0o777 == 0o700
    (path,) = listening(zygotes)
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_zygote_is_a_process_without_threads_or_files_of_others(make_bundle, start_shim, zygotes):
    start_shim(make_bundle("sleep"))
    pid = the_zygote(zygotes)
    assert os.listdir(f"/proc/{pid}/task") == [str(pid)]

    def kinds():
        return sorted(text.partition(":")[0] for text in leaks.descriptors(pid).values())

    # What asks for the pid is a caller, too.
    wait_until(lambda: kinds() == ["/dev/null"] * 3 + ["socket"], f"only those: {kinds()}", 5)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert parent(pid) != os.getpid()


def test_twenty_cold_starts_at_once_leave_one_zygote(make_bundle, start_shim, zygotes):
    shim = start_shim(make_bundle("sleep"))
    kill(the_zygote(zygotes))
    group = {"io.containerd.runc.v2.group": "crowd"}
    bundles = [make_bundle("sleep", annotations=group) for _ in range(20)]
    running = [begin(shim, bundle) for bundle in bundles]
    addresses = {parse_answer(process.communicate(timeout=30)[0]) for process in running}
    assert len(addresses) == 1
    named = f"PYRUNC_ZYGOTE={zygotes}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and b" zygote" in cmdline(entry.name):
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if named in environ and b"TTRPC_ADDRESS" not in environ:
                found.append(int(entry.name))
    assert found == [the_zygote(zygotes)]
    address = addresses.pop().removeprefix("unix://")
    kill(pid_of_shim(shim, address))
    os.unlink(address)


def test_a_killed_zygote_is_missed_by_nobody(make_bundle, start_shim, zygotes):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    first = the_zygote(zygotes)
    kill(first)
    assert shim.task.state(bundle.id).status == 2
    other = start_shim(make_bundle("sleep"))
    second = the_zygote(zygotes)
    assert second != first
    assert parent(other.pid) == second
    shim.task.kill(bundle.id)
    assert shim.task.wait(bundle.id).exit_status == 137


@pytest.mark.parametrize("after", [0.0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08])
def test_a_zygote_may_be_killed_at_any_moment_of_a_start(make_bundle, start_shim, zygotes, after):
    """`after` is no synchronisation: it spreads the kill over the whole of a start."""
    shim = start_shim(make_bundle("sleep"))
    for cold in (False, True):
        pid = the_zygote(zygotes)
        if cold:
            kill(pid)
        bundle = make_bundle("sleep")
        process = begin(shim, bundle)
        time.sleep(after)
        for path in listening(zygotes):
            try:
                found = pid_of(path)
                if b"zygote" in cmdline(found):  # and not the one that begins it
                    os.kill(found, signal.SIGKILL)
            except OSError:
                continue
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0, output
        other = start_shim(bundle)
        assert other.address == parse_answer(output)
        assert other.task.call("Connect", id=bundle.id).shim_pid > 0


def test_a_hung_zygote_costs_two_seconds_and_no_container(make_bundle, start_shim, zygotes):
    start_shim(make_bundle("sleep"))
    pid = the_zygote(zygotes)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    other = start_shim(make_bundle("sleep"))
    assert time.monotonic() - began < 10
    assert parent(other.pid) != pid
    os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(
    "answer", [b"", b"-", b"+", b"+\0\4", b"no zygote at all", b"+\0\xff\xff\xff\xff"]
)
def test_an_answer_that_makes_no_sense_is_ignored(make_bundle, start_shim, zygotes, answer, place):
    shim = start_shim(make_bundle("sleep"))
    (path,) = listening(zygotes)
    pid = the_zygote(zygotes)
    kill(pid)
    listener = sock.listen(str(path))
    assert listener is not None
    listener.setblocking(True)
    process = begin(shim, make_bundle("sleep", id="other"))
    connection = sock.accept(listener)
    connection.sendall(answer)
    connection.close()
    listener.close()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    address = parse_answer(output).removeprefix("unix://")
    kill(pid_of_shim(shim, address))
    os.unlink(address)


def pid_of_shim(shim, address):
    from shim_runc_py.testing.shims import Task
    from shim_runc_py.ttrpc.client import BlockingClient

    client = BlockingClient(address)
    try:
        return Task(client, 2, "test").call("Connect", id="x").shim_pid
    finally:
        client.close()


def test_another_version_of_the_package_has_another_zygote(make_bundle, start_shim, zygotes):
    shim = start_shim(make_bundle("sleep"))
    path = Path(shim.binary.path)
    before = path.stat()
    try:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        start_shim(make_bundle("sleep"))
        assert len(listening(zygotes)) == 2
    finally:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_another_namespace_has_another_zygote(make_bundle, start_shim, zygotes):
    shim = start_shim(make_bundle("sleep"))
    bundle = make_bundle("sleep")
    words = ["unshare", "--uts", *shim.argv(bundle, "start")]
    done = subprocess.run(words, cwd=bundle, env=shim.environ, capture_output=True, check=True)
    found = sorted(os.readlink(f"/proc/{pid_of(path)}/ns/uts") for path in listening(zygotes))
    assert len(set(found)) == 2
    address = parse_answer(done.stdout).removeprefix("unix://")
    pid = pid_of_shim(shim, address)
    assert os.readlink(f"/proc/{pid}/ns/uts") != os.readlink("/proc/self/ns/uts")
    kill(pid)
    os.unlink(address)


@pytest.mark.parametrize(
    "words",
    [
        ["nice", "-n", "3"],
        ["setpriv", "--no-new-privs"],
        ["setpriv", "--bounding-set=-sys_chroot"],
        ["setpriv", "--groups=5", "--regid=0"],
        ["taskset", "1"],
    ],
    ids=lambda words: words[0] + words[1],
)
def test_a_caller_with_other_credentials_or_priority_is_served_directly(
    make_bundle, start_shim, zygotes, words
):
    if words[0] == "taskset" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one cpu")
    shim = start_shim(make_bundle("sleep"))
    bundle = make_bundle("sleep")
    done = subprocess.run(
        [*words, *shim.argv(bundle, "start")],
        cwd=bundle,
        env=shim.environ,
        stdout=subprocess.PIPE,
        check=True,
    )
    address = parse_answer(done.stdout).removeprefix("unix://")
    pid = pid_of_shim(shim, address)
    assert parent(pid) != the_zygote(zygotes)
    kill(pid)
    os.unlink(address)


def test_a_stranger_is_not_served(make_bundle, start_shim, zygotes):
    start_shim(make_bundle("sleep"))
    (path,) = listening(zygotes)
    place = path
    while place != Path("/tmp"):
        place.chmod(place.stat().st_mode | (0o666 if place == path else 0o755))
        place = place.parent
    code = f"""
import os, socket
os.setgroups([]); os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect({str(path)!r})
try:
    s.sendall(b"\\3"); s.shutdown(1)
    print(s.recv(10))
except (ConnectionResetError, BrokenPipeError):
    print(b"")
"""
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=False
    )
    zygotes.chmod(0o700)
    assert done.stdout == "b''\n", done.stderr


def test_a_directory_of_others_is_not_used(make_bundle, start_shim, zygotes):
    zygotes.mkdir()
    zygotes.chmod(0o755)
    shim = start_shim(make_bundle("sleep"))
    assert parent(shim.pid) == 1 or b"zygote" not in cmdline(parent(shim.pid))
    assert list(zygotes.iterdir()) == []


def test_what_an_executed_shim_inherits_a_forked_one_has(make_bundle, start_shim, zygotes, place):
    start_shim(make_bundle("sleep"))
    engine = place / "engine"
    engine.write_text(
        f"#!/bin/sh\nenv >{place}/env; umask >{place}/umask; ulimit -n >{place}/files\n"
        f'cat /proc/self/oom_score_adj >{place}/score\nexec runc "$@"\n'
    )
    engine.chmod(0o755)
    bundle = make_bundle("sleep")
    score = int(Path("/proc/self/oom_score_adj").read_text())
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    umask = os.umask(0o027)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (777, files[1]))
        shim = start_shim(bundle, environ={"CARRIED": "over = with spaces\n"})
    finally:
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
    assert parent(shim.pid) == the_zygote(zygotes)
    options = Any()
    options.Pack(Options(binary_name=str(engine)), type_url_prefix="")
    options.type_url = options.type_url.lstrip("/")
    shim.task.create(bundle, options=options)
    assert "CARRIED=over = with spaces\n" in (place / "env").read_text()
    assert (place / "umask").read_text().strip() == "0027"
    assert (place / "files").read_text().strip() == "777"
    assert int((place / "score").read_text()) == min(1000, score + 1)


def test_a_long_title_fits(make_bundle, start_shim, zygotes):
    shim = start_shim(make_bundle("sleep"), namespace="n" * 76)
    other = start_shim(make_bundle("sleep", id="i" * 70), namespace="m" * 76)
    for found in (shim, other):
        text = " ".join(part.decode() for part in cmdline(found.pid).split(b"\0") if part)
        assert text == (
            f"containerd-shim-pyrunc-v2 -namespace {found.namespace} "
            f"-id {found._bundles[0].id} -address {found.containerd}"
        )


def test_delete_goes_through_the_zygote_and_needs_none(make_bundle, start_shim, zygotes):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    through = shim.run_delete(bundle)
    kill(the_zygote(zygotes))
    without = shim.run_delete(bundle)
    assert (through.status, through.stderr) == (without.status, without.stderr) == (0, b"")
    first, second = (DeleteResponse.FromString(done.stdout) for done in (through, without))
    assert (first.pid, first.exit_status) == (second.pid, second.exit_status) == (0, 137)
    missing = shim.run_delete(bundle)
    assert missing.status == 0
    assert len(listening(zygotes)) == 1  # delete begins no zygote


def test_an_idle_zygote_ends_and_its_socket_goes(make_bundle, start_shim, zygotes, monkeypatch):
    monkeypatch.setenv("PYRUNC_ZYGOTE_IDLE", "0.2")
    shim = start_shim(make_bundle("sleep"))
    pid = the_zygote(zygotes)
    pidfd = os.pidfd_open(pid)
    try:
        shim.close()
        wait_until(lambda: not listening(zygotes), "the zygote has removed its socket")
    finally:
        os.close(pidfd)


def test_a_zygote_with_a_shim_does_not_end(make_bundle, start_shim, zygotes, monkeypatch):
    monkeypatch.setenv("PYRUNC_ZYGOTE_IDLE", "0.05")
    start_shim(make_bundle("sleep"))
    pid = the_zygote(zygotes)
    switches = Path(f"/proc/{pid}/status")

    def turns():
        return int(switches.read_text().rpartition("nonvoluntary_ctxt_switches")[0].split()[-1])

    before = turns()
    wait_until(lambda: turns() > before + 3, "it has looked whether it is idle")
    assert the_zygote(zygotes) == pid


def test_the_switch_turns_it_off(make_bundle, start_shim, zygotes):
    shim = start_shim(make_bundle("sleep"), environ={"PYRUNC_ZYGOTE": "off"})
    assert not zygotes.exists()
    assert b"zygote" not in cmdline(parent(shim.pid))


def test_errors_of_start_are_told_through_the_zygote(make_bundle, start_shim, zygotes):
    shim = start_shim(make_bundle("sleep"))
    the_zygote(zygotes)
    bundle = make_bundle("sleep")
    (bundle.path / "config.json").unlink()
    result = shim.run_start(bundle)
    assert result.status == 1
    assert result.stdout == b"io.containerd.pyrunc.v2: open config.json: no such file or directory"


def test_options_as_toml_cost_a_shim_next_to_nothing(zygotes, make_bundle, start_shim):
    """CRI sends them so to every handler that has any; the parser's modules were 2.3 MB a shim."""
    told = {}
    for form in ("none", "toml"):
        bundle = make_bundle("sleep")
        shim = start_shim(bundle)
        body = RuntimeOptions(config_body=b"BinaryName = 'runc'\n").SerializeToString()
        fields = {"options": Any(type_url="runtimeoptions.v1.Options", value=body)}
        shim.task.create(bundle, **(fields if form == "toml" else {}))
        told[form] = memory.settled([shim.pid])[0].private_dirty
        shim.task.kill(bundle.id, signal.SIGKILL)
        shim.task.wait(bundle.id)
        shim.task.delete(bundle.id)
        shim.task.shutdown(bundle.id)
    assert told["toml"] < told["none"] + 500, told


def running(make_bundle, start_shim, **options):
    bundle = make_bundle("sleep")
    shim = start_shim(bundle, **options)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    return shim


def own_memory(shim):
    """KiB of a shim at rest that it shares with nobody."""
    return memory.settled([shim.pid])[0].private_dirty


def has_image(pid):
    return "/memfd:zygote" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(not os.path.exists(pages.LIBRARY), reason="no C compiler")
def test_shims_at_rest_share_the_memory_of_a_model(make_bundle, start_shim, zygotes):
    alone = own_memory(running(make_bundle, start_shim, environ={"PYRUNC_ZYGOTE": "off"}))
    shims = [running(make_bundle, start_shim) for _ in range(3)]
    assert has_image(the_zygote(zygotes))

    def wait_until_small(shim):
        wait_until(lambda: own_memory(shim) < alone / 3, f"it has far less than {alone} KiB")

    for shim in shims:
        wait_until_small(shim)
    # And again, after they did what no model ever did.
    for shim in shims:
        for number in range(20):
            execute(shim.task, shim._bundles[0].id, f"e{number}", ["/bin/true"])
        wait_until_small(shim)


def test_the_model_leaves_nothing(make_bundle, start_shim, zygotes):
    shim = running(make_bundle, start_shim)
    pid = the_zygote(zygotes)
    children = Path(f"/proc/{pid}/task/{pid}/children")
    alone = [str(shim.pid)]
    wait_until(lambda: children.read_text().split() == alone, "the shim is its only child")
    assert [path.name for path in zygotes.iterdir() if "model" in path.name] == []

    def files():
        return sorted(text.partition(":")[0] for text in leaks.descriptors(pid).values())

    # A connection of `the_zygote`, which asked for nothing, may still be there.
    wait_until(lambda: files() == ["/dev/null"] * 3 + ["socket"], "it has its listener alone open")


def test_a_zygote_without_the_library_forks_larger_shims(make_bundle, zygotes, place):
    prefix = place / "prefix"
    install.install(prefix, native_launcher=False)
    package = prefix / "lib" / launcher.NAME / "shim_runc_py"
    shutil.rmtree(package / "native", ignore_errors=True)
    bundle = make_bundle("sleep")
    binary = Binary("pyrunc", str(prefix / "bin" / launcher.NAME))
    shim = Shim(binary, bundle, str(place / "c.sock"), "")
    try:
        assert not has_image(the_zygote(zygotes))
        assert parent(shim.pid) == the_zygote(zygotes)
    finally:
        shim.close()


def cookie(pid):
    """The core scheduling cookie of a process (prctl PR_SCHED_CORE_GET), 0 for none."""
    found = ctypes.c_uint64()
    assert ctypes.CDLL(None).prctl(62, 0, pid, 0, ctypes.byref(found)) == 0
    return found.value


@pytest.mark.parametrize("through", ["zygote", "off"])
def test_core_scheduling_is_asked_for_and_refused_where_it_is_not_possible(
    make_bundle, start_shim, zygotes, through
):
    off = {} if through == "zygote" else {"PYRUNC_ZYGOTE": "off"}
    shim = start_shim(make_bundle("sleep"), environ=off)
    shim.environ["SCHED_CORE"] = "1"
    bundle = make_bundle("sleep")
    result = shim.run_start(bundle)
    if result.status:
        assert b"enable sched core support" in result.stdout
        return
    client = BlockingClient(parse_answer(result.stdout).removeprefix("unix://"))
    other = Task(client, shim.binary.task_version, shim.namespace)
    try:
        assert cookie(other.call("Connect", id=bundle.id).shim_pid)
    finally:
        other.shutdown(bundle.id)
        client.close()
