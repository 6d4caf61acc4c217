"""reaper: every child's exit reaches the one who waits for it. Real forks."""

from __future__ import annotations

import os
import signal
from functools import partial

import prctl
import pytest

from shim_runc_py.linux import wait
from shim_runc_py.loop import Loop
from shim_runc_py.reaper import Exit, Reaper
from tests.unit.driving import BOUND, asleep, await_zombie, fork, in_fork, result, turn, until


@pytest.fixture
def sigchld():
    """SIGCHLD is after the test as it was."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.fixture
def reaper(loop, sigchld):
    """A reaper on the real `loop`."""
    return Reaper(loop)


def blocked_child(fds, status=0):
    """(pid, write end): a child that exits with `status` once something is written."""
    read_end, write_end = fds.pipe(0)

    def wait_for_it():
        os.close(write_end)  # or it would wait for ever when a test fails
        os.read(read_end, 1)
        return status

    return fork(wait_for_it), write_end


@pytest.mark.parametrize("status", [0, 1, 127, 255])
def test_an_exit_code_is_the_status(loop, reaper, status):
    assert result(loop, reaper.child(fork(lambda: status))).status == status
    assert reaper.watched() == 0


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_death_by_a_signal_is_its_number_and_128(loop, reaper, fds, signum):
    pid, _ = blocked_child(fds)
    future = reaper.child(pid)
    assert reaper.watched() == 1
    os.kill(pid, signum)
    assert result(loop, future).status == 128 + signum


def test_a_stopped_child_has_not_exited(loop, reaper, fds):
    pid, write_end = blocked_child(fds, 3)
    future = reaper.child(pid)
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    reaper.sweep()
    assert not future.done()
    os.kill(pid, signal.SIGCONT)
    os.write(write_end, b"x")
    assert result(loop, future).status == 3


def test_an_exit_has_the_time_at_which_it_was_taken(loop, sigchld):
    times = iter([5, 6])
    reaper = Reaper(loop, lambda: next(times))
    futures = [reaper.child(fork(lambda: 1)) for _ in range(2)]
    assert sorted(result(loop, future).at for future in futures) == [5, 6]


def test_an_exit_before_anybody_asked_is_not_lost(loop, reaper):
    pid = fork(lambda: 4)
    await_zombie(pid)
    assert result(loop, reaper.child(pid)).status == 4


def test_asking_twice_gives_the_same_future(loop, reaper):
    pid = fork(lambda: 2)
    first, second = reaper.child(pid), reaper.child(pid)
    assert first is second
    assert result(loop, first).status == 2


def test_one_signal_may_stand_for_many_children(loop, reaper):
    # While it is blocked, the kernel keeps one SIGCHLD for all of them.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    try:
        pids = [fork(partial(int, number)) for number in range(20)]
        for pid in pids:
            await_zombie(pid)
        futures = [reaper.child(pid) for pid in pids]
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    until(loop, lambda: all(future.done() for future in futures))
    assert [future.result().status for future in futures] == list(range(20))


def test_a_sweep_without_children_does_not_block(reaper):
    reaper.sweep()


def test_living_children_are_left_alone(loop, reaper, fds):
    pid, write_end = blocked_child(fds, 6)
    future = reaper.child(pid)
    reaper.sweep()
    assert not future.done()
    os.write(write_end, b"x")
    assert result(loop, future).status == 6


def test_a_child_that_nobody_knows_is_swept(loop, reaper):
    pid = fork(lambda: 1)
    await_zombie(pid)
    reaper.sweep()
    assert not wait.is_child(pid)
    assert reaper._parked == {}


# adopting


def test_an_exit_inside_the_window_is_parked_for_who_adopts(reaper):
    with reaper.expecting():
        pid = fork(lambda: 9)
        await_zombie(pid)
        reaper.sweep()
        future = reaper.adopt(pid)
        assert future.result().status == 9
    assert reaper.watched() == 0


def test_an_adopted_child_may_live_on_after_the_window(loop, reaper, fds):
    with reaper.expecting():
        pid, write_end = blocked_child(fds, 8)
        future = reaper.adopt(pid)
    assert not future.done()
    os.write(write_end, b"x")
    assert result(loop, future).status == 8


def test_a_child_adopted_as_a_zombie_is_reaped(loop, reaper):
    with reaper.expecting():
        pid = fork(lambda: 7)
        await_zombie(pid)
        future = reaper.adopt(pid)
    assert result(loop, future).status == 7


def test_leaving_the_window_takes_what_is_there(reaper):
    with reaper.expecting():
        pid = fork(lambda: 7)
        future = reaper.adopt(pid)
        await_zombie(pid)
    assert future.result().status == 7


def test_outside_a_window_nothing_is_parked(reaper):
    pid = fork(lambda: 1)
    await_zombie(pid)
    reaper.sweep()
    with reaper.expecting():
        assert not reaper.adopt(pid).done()


def test_what_nobody_adopts_is_forgotten_with_the_last_window(reaper):
    with reaper.expecting():
        with reaper.expecting():
            pid = fork(lambda: 5)
            await_zombie(pid)
        assert list(reaper._parked) == [pid]
        assert reaper.adopt(pid).result().status == 5
        with reaper.expecting():
            pid = fork(lambda: 5)
            await_zombie(pid)
        assert list(reaper._parked) == [pid]
    assert reaper._parked == {}


def test_the_window_closes_after_an_exception(reaper):
    with pytest.raises(ValueError, match="x"), reaper.expecting():
        raise ValueError("x")
    pid = fork(lambda: 5)
    await_zombie(pid)
    reaper.sweep()
    assert reaper._parked == {}


def test_a_parked_exit_of_an_earlier_owner_of_the_pid_does_not_count(
    loop, reaper, fds, monkeypatch
):
    pid, write_end = blocked_child(fds, 3)
    with reaper.expecting():
        # An orphan had the number before: the kernel gave it out again after the orphan was swept.
        earlier = iter([(pid, 99), None])
        with monkeypatch.context() as patch:
            patch.setattr(wait, "next_exit", lambda: next(earlier))
            reaper.sweep()
        future = reaper.adopt(pid)
        assert not future.done()
    os.write(write_end, b"x")
    assert result(loop, future).status == 3


def test_children_known_from_the_fork_are_not_parked(reaper):
    with reaper.expecting():
        pid = fork(lambda: 1)
        future = reaper.child(pid)
        await_zombie(pid)
        reaper.sweep()
        assert reaper._parked == {}
    assert future.result().status == 1


# orphans, as a container's init is one: its engine has exited


def with_an_orphan(then):
    """In a fork of its own that is a subreaper: `then(reaper, loop, orphan's pid, go)`.

    The orphan is adopted from a parent that is dead already, and exits with 41 when a byte is
    written to `go`. The pytest process must not become a subreaper: it could not stop being one.
    """

    def scene():
        prctl.set_child_subreaper(1)
        loop = Loop()
        reaper = Reaper(loop)
        hear, say = os.pipe()
        wait_end, go = os.pipe()

        def engine():
            os.close(go)  # or the orphan would wait for ever when the test fails
            orphan = fork(lambda: os.read(wait_end, 1) and 41)
            os.write(say, str(orphan).encode())

        with reaper.expecting():
            parent = reaper.child(fork(engine))
            assert result(loop, parent).status == 0
            then(reaper, loop, int(os.read(hear, 100)), go)

    in_fork(scene)


def test_an_orphan_is_adopted_with_its_status():
    def then(reaper, loop, orphan, go):
        future = reaper.adopt(orphan)
        assert not future.done()
        os.write(go, b"x")
        assert result(loop, future).status == 41

    with_an_orphan(then)


def test_an_orphan_that_dies_before_its_pid_is_known_is_matched():
    def then(reaper, loop, orphan, go):
        os.write(go, b"x")
        await_zombie(orphan)
        until(loop, lambda: not wait.is_child(orphan))
        assert reaper.adopt(orphan).result().status == 41

    with_an_orphan(then)


def test_orphans_that_nobody_adopts_leave_no_zombie():
    def then(reaper, loop, orphan, go):
        os.write(go, b"x")
        await_zombie(orphan)
        until(loop, lambda: not wait.is_child(orphan))
        assert reaper.watched() == 0
        assert asleep(loop)

    with_an_orphan(then)


# the calls below it


def test_a_bounded_wait_gives_up_and_leaves_the_child(fds):
    pid, write_end = blocked_child(fds, 2)
    assert wait.within(pid, 0) is None
    assert wait.is_child(pid)
    os.write(write_end, b"x")
    assert wait.within(pid, BOUND) == 2
    assert not wait.is_child(pid)


def test_a_bounded_wait_gives_the_status_of_a_signal(fds):
    pid, _ = blocked_child(fds)
    os.kill(pid, signal.SIGKILL)
    assert wait.within(pid, BOUND) == 137


def test_a_process_that_is_not_ours_is_no_child():
    assert not wait.is_child(os.getppid())
    assert not wait.is_child(os.getpid())


def test_the_next_exit_is_none_without_dead_children(fds):
    assert wait.next_exit() is None
    pid, write_end = blocked_child(fds)
    assert wait.next_exit() is None
    os.write(write_end, b"x")
    assert wait.within(pid, BOUND) == 0


def test_an_exit_can_be_shown():
    assert repr(Exit(137, 5)) == "Exit(status=137, at=5)"


def test_a_reaper_needs_no_turn_to_answer_who_asks_later(loop, reaper):
    pid = fork(lambda: 1)
    future = reaper.child(pid)
    await_zombie(pid)
    until(loop, future.done)
    turn(loop)
    assert future.result().status == 1
