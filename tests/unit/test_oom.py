"""task.oom: no OOM kill is missed, and nothing else is taken for one (SEMANTICS 7).

The eventfd of cgroup v1 is signalled by the test, as the kernel would; the rest are files.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable

import pytest

from shim_runc_py.linux.cgroup import Cgroup
from shim_runc_py.loop import Loop
from shim_runc_py.task import oom
from tests.unit.driving import run, turn

CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
EVENTS = "low 0\nhigh 0\nmax 9\noom 9\noom_kill {}\noom_group_kill 0\n"


class Told:
    """Counts reports."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1


@pytest.fixture
def told():
    return Told()


class Legacy:
    """A cgroup v1 of plain files, and the kernel's part in it."""

    def __init__(self, directory):
        self.path = directory / "memory" / "c1"
        self.path.mkdir(parents=True)
        (self.path / "cgroup.event_control").touch()
        self.kills(0)
        self.cgroup = Cgroup(False, {"memory": str(self.path)})

    def kills(self, number):
        (self.path / "memory.oom_control").write_text(CONTROL.format(number))

    def signal(self, times=1):
        """What the kernel does to the registered eventfd."""
        fd, _ = (self.path / "cgroup.event_control").read_text().split()
        self._fd = int(fd)
        os.eventfd_write(self._fd, times)

    def signal_again(self):
        os.eventfd_write(self._fd, 1)

    def remove(self):
        for path in self.path.iterdir():
            path.unlink()
        self.path.rmdir()


@pytest.fixture
def legacy(directory):
    return Legacy(directory)


def test_without_a_cgroup_nothing_is_watched(loop, told):
    for found in (None, Cgroup(False, {"cpu": "/nowhere"})):
        watch = oom.watch(loop, found, told)
        watch.look()
        run(loop, watch.settle(True))
        watch.close()
    assert told.times == 0


@pytest.mark.parametrize("unified", [True, False])
def test_a_cgroup_that_cannot_be_watched_is_logged(loop, told, unified, capfd):
    found = Cgroup(unified, {"": "/nowhere", "memory": "/nowhere"})
    watch = oom.watch(loop, found, told)
    assert type(watch) is oom.Watch
    assert "add cg to OOM monitor" in capfd.readouterr().err


def test_v1_the_registration_names_the_eventfd_and_the_file(loop, told, legacy):
    watch = oom.watch(loop, legacy.cgroup, told)
    words = (legacy.path / "cgroup.event_control").read_text().split()
    assert [word.isdigit() for word in words] == [True, True]
    watch.close()
    watch.close()


def test_v1_every_signal_is_told(loop, told, legacy):
    watch = oom.watch(loop, legacy.cgroup, told)
    legacy.signal()
    turn(loop, 2)
    assert told.times == 1
    legacy.signal()
    turn(loop, 2)
    assert told.times == 2
    watch.look()
    assert told.times == 2
    watch.close()


def test_v1_a_signal_that_the_loop_has_not_come_to_is_found_by_looking(loop, told, legacy):
    watch = oom.watch(loop, legacy.cgroup, told)
    legacy.signal()
    watch.look()
    assert told.times == 1
    watch.close()


def test_v1_a_kill_without_a_signal_is_found_by_looking(loop, told, legacy):
    watch = oom.watch(loop, legacy.cgroup, told)
    legacy.kills(1)
    watch.look()
    assert told.times == 1
    watch.close()


def test_v1_kills_from_before_are_nobodys_news(loop, told, legacy):
    legacy.kills(3)
    watch = oom.watch(loop, legacy.cgroup, told)
    watch.look()
    run(loop, watch.settle(True))
    watch.close()
    assert told.times == 0


@pytest.mark.parametrize("killed", [True, False])
def test_v1_the_signal_of_the_removal_is_no_kill(loop, told, legacy, killed, monkeypatch):
    monkeypatch.setattr(oom, "REMOVAL_BOUND", 0.01)
    watch = oom.watch(loop, legacy.cgroup, told)
    legacy.signal()
    legacy.remove()
    run(loop, watch.settle(killed))
    watch.close()
    assert told.times == 0


def test_v1_two_signals_of_a_cgroup_that_has_gone_are_a_kill(loop, told, legacy):
    watch = oom.watch(loop, legacy.cgroup, told)
    legacy.signal(2)
    legacy.remove()
    turn(loop, 2)
    assert told.times == 1
    run(loop, watch.settle(True))
    assert told.times == 1


def test_v1_a_signal_that_another_one_follows_was_a_kill(loop, told, legacy):
    """The cgroup has gone, but its removal is signalled later: settle waits for that."""
    watch = oom.watch(loop, legacy.cgroup, told)
    legacy.signal()
    legacy.remove()
    loop.after(0.02, legacy.signal_again)
    run(loop, watch.settle(True))
    assert told.times == 1
    watch.close()


def test_v1_closing_lets_go_who_waits(loop, told, legacy):
    watch = oom.watch(loop, legacy.cgroup, told)
    legacy.signal()
    legacy.remove()
    loop.after(0.0, watch.close)
    run(loop, watch.settle(True))
    assert told.times == 0


class Files(Loop):
    """A loop that takes plain files for watched: epoll refuses them."""

    def __init__(self):
        self.watched: dict[int, Callable[[int], object]] = {}

    def watch(self, fd, events, callback):
        assert events == select.EPOLLPRI
        self.watched[fd] = callback

    def forget(self, fd):
        self.watched.pop(fd, None)

    def changed(self):
        for callback in list(self.watched.values()):
            callback(select.EPOLLPRI | select.EPOLLERR)


class Unified:
    """A cgroup v2 of plain files; `gone` makes them say ENODEV, as those of a removed one do."""

    def __init__(self, directory, monkeypatch):
        self.above = directory / "pod"
        self.path = self.above / "c1"
        self.path.mkdir(parents=True)
        self.kills(0)
        self.kills_above(0)
        self.cgroup = Cgroup(True, {"": str(self.path)})
        self._monkeypatch = monkeypatch

    def kills(self, number):
        (self.path / "memory.events").write_text(EVENTS.format(number))

    def kills_above(self, number):
        (self.above / "memory.events").write_text(EVENTS.format(number))

    def gone(self):
        def fails(*_):
            raise OSError(19, "No such device")

        self._monkeypatch.setattr(os, "pread", fails)


@pytest.fixture
def unified(directory, monkeypatch):
    return Unified(directory, monkeypatch)


def test_v2_a_kill_is_told_once(told, unified):
    files = Files()
    watch = oom.watch(files, unified.cgroup, told)
    files.changed()
    assert told.times == 0
    unified.kills(2)
    files.changed()
    files.changed()
    watch.look()
    assert told.times == 1
    unified.kills(3)
    watch.look()
    assert told.times == 2
    watch.close()
    watch.close()
    assert not files.watched


def test_v2_oom_without_a_kill_is_none(told, unified):
    files = Files()
    watch = oom.watch(files, unified.cgroup, told)
    (unified.path / "memory.events").write_text("oom 5\noom_kill 0\n")
    files.changed()
    assert told.times == 0
    watch.close()


def test_v2_kills_from_before_are_nobodys_news(told, unified):
    unified.kills(7)
    files = Files()
    watch = oom.watch(files, unified.cgroup, told)
    watch.look()
    assert told.times == 0
    watch.close()


def test_v2_a_cgroup_that_has_gone_is_watched_no_longer(told, unified):
    files = Files()
    watch = oom.watch(files, unified.cgroup, told)
    unified.gone()
    files.changed()
    assert not files.watched
    assert told.times == 0
    watch.look()
    watch.close()


@pytest.mark.parametrize(("above", "killed", "times"), [(1, True, 1), (0, True, 0), (1, False, 0)])
def test_v2_a_kill_in_a_cgroup_that_has_gone_is_seen_above(
    loop, told, unified, above, killed, times
):
    watch = oom.watch(Files(), unified.cgroup, told)
    unified.kills_above(above)
    unified.gone()
    run(loop, watch.settle(killed))
    assert told.times == times


def test_v2_a_kill_in_a_scope_that_has_gone_is_seen_in_the_slice(loop, told, unified):
    """crun has a cgroup of its own inside the scope that systemd removes."""
    inner = unified.path / "container"
    inner.mkdir()
    (inner / "memory.events").write_text(EVENTS.format(0))
    watch = oom.watch(Files(), Cgroup(True, {"": str(inner)}), told)
    unified.kills_above(1)
    (unified.path / "memory.events").unlink()
    unified.gone()
    run(loop, watch.settle(True))
    assert told.times == 1


def test_v2_the_nearest_cgroup_that_is_left_decides(loop, told, unified):
    inner = unified.path / "container"
    inner.mkdir()
    (inner / "memory.events").write_text(EVENTS.format(0))
    watch = oom.watch(Files(), Cgroup(True, {"": str(inner)}), told)
    unified.kills_above(1)
    unified.gone()
    run(loop, watch.settle(True))
    assert told.times == 0


def test_v2_a_kill_in_a_neighbour_that_was_seen_before_is_not_ours(loop, told, unified):
    files = Files()
    watch = oom.watch(files, unified.cgroup, told)
    unified.kills_above(1)
    files.changed()
    unified.gone()
    run(loop, watch.settle(True))
    assert told.times == 0


def test_v2_a_cgroup_below_the_root_has_no_counters_above(loop, told, unified):
    (unified.above / "memory.events").unlink()
    watch = oom.watch(Files(), unified.cgroup, told)
    unified.gone()
    run(loop, watch.settle(True))
    assert told.times == 0
