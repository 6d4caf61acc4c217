"""linux.spawn: what a program gets, and what is said when there is none. Real fork and exec."""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import shutil
import signal
import sys

import prctl
import pytest

from shim_runc_py.linux import spawn, wait
from shim_runc_py.linux.spawn import NOT_STARTED, Streams
from tests.unit.driving import BOUND, fork, in_fork

PYTHON = sys.executable
CAT = shutil.which("cat") or "/bin/cat"
SH = shutil.which("sh") or "/bin/sh"

# Says what it was given: descriptors (without the one for the directory) and the like.
SHOW = """
import json, os
fds = {}
for name in os.listdir("/proc/self/fd"):
    try:
        fds[name] = os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        pass
print(json.dumps({"fds": fds, "cwd": os.getcwd(), "group": os.getpgid(0), "pid": os.getpid(),
                  "inheritable": [int(n) for n in fds if os.get_inheritable(int(n))]}))
"""


@pytest.fixture
def output(nothing_is_left):
    """A file for what a child writes."""
    fd = os.memfd_create("output", os.MFD_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.fixture
def nothing_inherited():
    """A shim has no descriptors of its caller; a test runner may have some."""
    found = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]
    changed = []
    for fd in found:
        try:
            if os.get_inheritable(fd):
                os.set_inheritable(fd, False)
                changed.append(fd)
        except OSError:  # that of the directory
            continue
    yield
    for fd in changed:
        os.set_inheritable(fd, True)


def said(fd):
    return os.pread(fd, 1 << 20, 0).decode()


def ended(child):
    """The status of `child`, and why there was no program."""
    try:
        return wait.within(child.pid, BOUND), child.failure()
    finally:
        child.close()


def show(output, *, script=SHOW, **options):
    """What a program says of itself."""
    argv = [PYTHON, "-IS", "-c", script]
    child = spawn.spawn(argv, PYTHON, {}, Streams(-1, output, -1), **options)
    status, failure = ended(child)
    assert (status, failure) == (0, None)
    return json.loads(said(output))


def status_of(output, **options):
    """/proc/self/status of a program that has changed nothing about itself."""
    child = spawn.spawn([CAT, "/proc/self/status"], CAT, {}, Streams(-1, output, -1), **options)
    assert ended(child) == (0, None)
    return dict(line.split(":\t", 1) for line in said(output).splitlines() if ":\t" in line)


def signals(mask):
    bits = int(mask, 16)
    return {number for number in range(1, 65) if bits >> number - 1 & 1}


# what a program gets


def test_arguments_are_those_given(output):
    # The second command keeps the shell from becoming the first.
    argv = ["another name", "-c", "cat /proc/$$/cmdline; :", "a b", "", "ä\n"]
    child = spawn.spawn(argv, SH, {"PATH": os.defpath}, Streams(-1, output, -1))
    assert ended(child) == (0, None)
    assert said(output).split("\0")[:-1] == argv


def test_the_environment_is_the_one_given(output):
    environ = {"A": "1", "EMPTY": "", "UTF": "ä\n"}
    child = spawn.spawn([CAT, "/proc/self/environ"], CAT, environ, Streams(-1, output, -1))
    assert ended(child) == (0, None)
    assert said(output).split("\0")[:-1] == [f"{key}={value}" for key, value in environ.items()]


def test_a_program_has_its_three_streams_and_nothing_else(output, fds, nothing_inherited):
    fds.pipe()  # one of ours, which is not inherited
    found = show(output)
    assert set(found["fds"]) == {"0", "1", "2"}
    assert found["fds"]["0"] == found["fds"]["2"] == "/dev/null"
    assert "output" in found["fds"]["1"]
    assert sorted(found["inheritable"]) == [0, 1, 2]


def test_each_stream_goes_where_it_was_told(fds):
    stdin, write_end = fds.pipe(0)
    outputs = [fds.keep(os.memfd_create(name)) for name in ("out", "err")]
    os.write(write_end, b"given")
    fds.close(write_end)
    script = "import sys; sys.stderr.write('err'); sys.stdout.write(sys.stdin.read())"
    argv = [PYTHON, "-IS", "-c", script]
    assert ended(spawn.spawn(argv, PYTHON, {}, Streams(stdin, *outputs))) == (0, None)
    assert [said(fd) for fd in outputs] == ["given", "err"]


def test_one_descriptor_may_be_two_streams(output):
    script = "import os; os.write(1, b'out'); os.write(2, b'err')"
    argv = [PYTHON, "-IS", "-c", script]
    assert ended(spawn.spawn(argv, PYTHON, {}, Streams(-1, output, output))) == (0, None)
    assert said(output) == "outerr"


def test_null_can_be_read_and_written(output):
    script = "import os; assert not os.read(0, 1); os.write(2, b'x'); os.write(1, b'fine')"
    argv = [PYTHON, "-IS", "-c", script]
    assert ended(spawn.spawn(argv, PYTHON, {}, Streams(-1, output, -1))) == (0, None)
    assert said(output) == "fine"


def test_further_descriptors_have_the_numbers_asked_for(output, fds, nothing_inherited):
    first, second = (fds.keep(os.memfd_create(name)) for name in ("first", "second"))
    found = show(output, others={3: first, 5: second, 6: first})
    assert set(found["fds"]) == {"0", "1", "2", "3", "5", "6"}
    for number, name in (("3", "first"), ("5", "second"), ("6", "first")):
        assert name in found["fds"][number]


def test_descriptors_may_change_places(output, fds):
    low, high = (fds.keep(os.memfd_create(name)) for name in ("low", "high"))
    found = show(output, others={low: high, high: low})
    assert "high" in found["fds"][str(low)]
    assert "low" in found["fds"][str(high)]


def test_streams_may_change_places_with_ours(output):
    # What is 0 here becomes 1 there and so on, whatever 0, 1 and 2 are at the moment.
    script = "import json, os; print(json.dumps([os.readlink('/proc/self/fd/3')]))"
    expected = os.readlink("/proc/self/fd/0")
    assert show(output, script=script, others={3: 0}) == [expected]
    child = spawn.spawn(
        [PYTHON, "-IS", "-c", "import os; os.write(5, os.readlink('/proc/self/fd/1').encode())"],
        PYTHON,
        {},
        Streams(1, 0, 2),
        others={5: output},
    )
    assert ended(child) == (0, None)
    assert said(output).endswith(expected)


def test_our_own_descriptors_stay_as_they_are(output, fds):
    read_end, write_end = fds.pipe()
    before = {name: os.readlink(f"/proc/self/fd/{name}") for name in (0, 1, 2, read_end, write_end)}
    show(output, others={3: read_end})
    assert {name: os.readlink(f"/proc/self/fd/{name}") for name in before} == before
    assert not os.get_inheritable(read_end)


def test_the_signal_mask_is_empty(output):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])
    try:
        status = status_of(output)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert signals(status["SigBlk"]) == set()


def test_signals_that_the_interpreter_ignores_are_given_back(output):
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    ignored = signals(status_of(output)["SigIgn"])
    assert not ignored & {signal.SIGPIPE, signal.SIGXFSZ}


def test_a_program_dies_of_a_broken_pipe(fds):
    read_end, write_end = fds.pipe(0)
    fds.close(read_end)
    child = spawn.spawn([CAT, "/proc/self/status"], CAT, {}, Streams(-1, write_end, -1))
    assert ended(child) == (128 + signal.SIGPIPE, None)


def test_handlers_of_ours_are_not_inherited(output):
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        status = status_of(output)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert signals(status["SigCgt"]) == set()


def test_a_program_has_a_process_group_of_its_own(output):
    found = show(output)
    assert found["group"] == found["pid"]


def test_a_program_may_stay_in_our_process_group(output):
    assert show(output, own_group=False)["group"] == os.getpgid(0)


def test_the_working_directory(output, directory):
    assert show(output)["cwd"] == os.getcwd()


def test_the_working_directory_asked_for(output, directory):
    assert show(output, cwd=str(directory))["cwd"] == os.path.realpath(directory)
    assert os.getcwd() != str(directory)


# the death signal


def spawned_by_a_dying_parent(fds, dies_with_parent):
    """(pidfd, hear, ask) of a program whose parent was killed: it answers a byte, if it lives."""
    hear, say = fds.pipe(0)
    blocked, ask = fds.pipe(0)
    script = "import os; os.write(1, b'%d' % os.getpid()); os.read(0, 1); os.write(1, b'alive')"
    argv = [PYTHON, "-IS", "-c", script]

    def parent():
        os.close(ask)
        spawn.spawn(argv, PYTHON, {}, Streams(blocked, say, -1), dies_with_parent=dies_with_parent)
        signal.pause()

    pid = fork(parent)
    fds.close(say, blocked)
    try:
        pidfd = fds.keep(os.pidfd_open(int(os.read(hear, 100))))
    finally:
        os.kill(pid, signal.SIGKILL)
    assert wait.within(pid, BOUND) == 137
    return pidfd, hear, ask


def test_a_program_dies_with_its_parent(fds):
    pidfd, hear, _ = spawned_by_a_dying_parent(fds, True)
    assert select.select([pidfd], [], [], BOUND)[0]
    assert os.read(hear, 100) == b""


def test_a_program_may_outlive_its_parent(fds):
    pidfd, hear, ask = spawned_by_a_dying_parent(fds, False)
    os.write(ask, b"x")
    assert os.read(hear, 100) == b"alive"
    assert select.select([pidfd], [], [], BOUND)[0]


def test_a_child_whose_parent_is_gone_already_starts_nothing(output):
    def orphan():
        # As if the parent had died between fork and prctl: another one is there by now.
        spawn._become_plain(os.getppid() + 1, False, True)
        os.write(output, b"went on")

    assert wait.within(fork(orphan), BOUND) == 137
    assert said(output) == ""


# no program


def no_program(executable="/no/such/engine", **options):
    status, failure = ended(spawn.spawn(["x"], executable, {}, Streams(), **options))
    assert status == NOT_STARTED
    assert failure is not None
    return failure.preparing, failure.errno, failure.words


def test_a_program_that_is_not_there():
    assert no_program() == (False, errno.ENOENT, "No such file or directory")


def test_a_program_that_cannot_be_executed(directory):
    path = directory / "engine"
    path.write_text("#!/bin/sh\n")
    assert no_program(str(path)) == (False, errno.EACCES, "Permission denied")
    path.chmod(0o755)
    path.write_bytes(b"\x7fELF nonsense")
    assert no_program(str(path)) == (False, errno.ENOEXEC, "Exec format error")


def test_a_working_directory_that_is_not_there():
    expected = (False, errno.ENOENT, "No such file or directory")
    assert no_program(CAT, cwd="/no/such/directory") == expected


def test_a_failure_to_prepare_is_told_apart(directory):
    def fail():
        raise OSError(errno.EBUSY, "mount source: x, err: device or resource busy")

    expected = (True, errno.EBUSY, "mount source: x, err: device or resource busy")
    assert no_program(CAT, prepare=fail) == expected


@pytest.mark.parametrize(
    ("error", "number", "words"),
    [
        (ValueError("no such option"), 0, "no such option"),
        (ValueError(), 0, ""),
        (ValueError("two\nlines and  blanks "), 0, "two\nlines and  blanks "),
        (ValueError("ä \udcff"), 0, "ä ?"),
        (OSError("bare"), 0, "bare"),
        (KeyboardInterrupt("any"), 0, "any"),
        (SystemExit(3), 0, "3"),
    ],
)
def test_any_exception_of_the_preparation_is_told(error, number, words):
    def fail():
        raise error

    assert no_program(CAT, prepare=fail) == (True, number, words)


def test_long_words_of_a_failure_are_told():
    words = "x" * 10_000

    def fail():
        raise ValueError(words)

    assert no_program(CAT, prepare=fail) == (True, 0, words)


def test_preparation_happens_in_the_child_and_before_the_program(output):
    pids: list[int] = []

    def prepare():
        pids.append(os.getpid())
        os.write(output, b"prepared ")

    argv = [PYTHON, "-IS", "-c", "import os; os.write(1, b'ran')"]
    child = spawn.spawn(argv, PYTHON, {}, Streams(-1, output, -1), prepare=prepare)
    assert ended(child) == (0, None)
    assert said(output) == "prepared ran"
    assert pids == []


def test_a_status_of_127_alone_is_no_failure():
    argv = [PYTHON, "-IS", "-c", "import os; os._exit(127)"]
    assert ended(spawn.spawn(argv, PYTHON, {}, Streams())) == (127, None)


def test_a_program_that_was_killed_is_no_failure():
    argv = [PYTHON, "-IS", "-c", "import os; os.kill(os.getpid(), 9)"]
    assert ended(spawn.spawn(argv, PYTHON, {}, Streams())) == (137, None)


def test_without_room_for_a_descriptor_nothing_is_forked(fds):
    lowest = os.dup(0)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(OSError) as caught:
            spawn.spawn([CAT], CAT, {}, Streams())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE


def test_without_room_for_a_process_nothing_is_left_open(monkeypatch):
    def full():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", full)
        with pytest.raises(BlockingIOError):
            spawn.spawn([CAT], CAT, {}, Streams())


def test_closing_a_child_twice_does_no_harm():
    child = spawn.spawn([CAT], CAT, {}, Streams())
    assert wait.within(child.pid, BOUND) == 0
    child.close()
    child.close()


# calls


def test_a_call_runs_in_a_child(output):
    def action():
        os.write(output, str(os.getpid()).encode())

    child = spawn.call(action)
    assert ended(child) == (0, None)
    assert said(output) == str(child.pid)


def test_a_call_that_fails_says_why():
    def action():
        raise OSError(errno.EBUSY, "Device or resource busy")

    status, failure = ended(spawn.call(action))
    assert status == NOT_STARTED
    assert (failure.preparing, failure.errno) == (True, errno.EBUSY)
    assert failure.words == "Device or resource busy"


def test_a_call_is_a_plain_child(output):
    def action():
        os.write(output, json.dumps([os.getpgid(0), prctl.get_pdeathsig()]).encode())

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        child = spawn.call(action)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert ended(child) == (0, None)
    assert json.loads(said(output)) == [child.pid, signal.SIGKILL]


def test_a_signal_in_a_call_does_not_wake_our_loop(fds):
    hear, say = fds.pipe()
    handler = signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.set_wakeup_fd(say)
    try:
        status = ended(spawn.call(lambda: os.kill(os.getpid(), signal.SIGUSR1)))
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGUSR1, handler)
    assert status == (0, None)
    with pytest.raises(BlockingIOError):
        os.read(hear, 1)


# finding


def executable(path, mode=0o755):
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    path.chmod(mode)
    return str(path)


def test_the_first_directory_of_the_path_counts(directory):
    first, second = executable(directory / "a" / "x"), executable(directory / "b" / "x")
    only = executable(directory / "b" / "only")
    path = f"/no/such:{directory}/a:{directory}/b"
    assert spawn.find("x", path) == first
    assert spawn.find("x", f"{directory}/b:{directory}/a") == second
    assert spawn.find("only", path) == only
    assert spawn.find("none", path) is None
    assert spawn.find("x", "") is None


def test_what_cannot_be_executed_is_passed_over(directory):
    executable(directory / "a" / "x", 0o644)
    (directory / "b" / "x").mkdir(parents=True)
    last = executable(directory / "c" / "x")
    assert spawn.find("x", f"{directory}/a:{directory}/b:{directory}/c") == last
    assert spawn.find("x", f"{directory}/a:{directory}/b") is None


def test_directories_that_are_not_absolute_are_passed_over(directory):
    executable(directory / "x")

    def look():
        os.chdir(directory)
        for path in ("", ".", ":", "./", "../x", "::."):
            assert spawn.find("x", path) is None

    in_fork(look)


def test_an_absolute_path_is_taken_as_it_is():
    assert spawn.find("/opt/engine", "/bin") == "/opt/engine"


@pytest.mark.parametrize("name", ["./engine", "a/b", "../engine", "bin/../engine"])
def test_a_relative_path_is_none(name):
    assert spawn.find(name, "/bin") is None


def test_no_name_is_not_found():
    assert spawn.find("", "/bin:/usr/bin") is None


# without a fork


def plain(code, output, **streams):
    words = [PYTHON, "-IS", "-c", code]
    return spawn.spawn_plain(words, PYTHON, {"A": "b"}, Streams(stdout=output, **streams))


def test_a_plain_program_has_its_own_group_streams_and_environment(fds):
    output = fds.keep(os.memfd_create("output"))
    code = (
        "import os; print(os.getpgid(0) == os.getpid(), os.environ['A'],"
        f" os.readlink('/proc/self/fd/0'), os.path.exists('/proc/self/fd/{output}'))"
    )
    child = plain(code, output)
    assert os.waitpid(child.pid, 0)[1] == 0
    assert os.pread(output, 1000, 0) == b"True b /dev/null False\n"
    assert child.failure() is None
    child.close()


def test_a_plain_program_blocks_no_signal(fds):
    output = fds.keep(os.memfd_create("output"))
    child = plain("print(open('/proc/self/status').read())", output)
    os.waitpid(child.pid, 0)
    (line,) = [x for x in os.pread(output, 65536, 0).split(b"\n") if x.startswith(b"SigBlk")]
    assert int(line.split()[1], 16) == 0


def test_a_plain_program_that_cannot_be_executed_is_an_error_at_once(fds):
    with pytest.raises(FileNotFoundError):
        spawn.spawn_plain(["nothing"], "/nothing/here", {}, Streams())
