"""loop: futures, tasks, timers, descriptors, signals and gates, on a clock of our own."""

from __future__ import annotations

import os
import select
import signal

import pytest

from shim_runc_py.loop import EDGE, HANGUP, READ, WRITE, Cancelled, Future, Gate, Loop, Task
from tests.unit.driving import asleep, run, turn, until


class Broken(Exception):
    pass


def later(loop, clock, seconds):
    """Let time pass, and the loop notice."""
    clock.now += seconds
    turn(loop)


# futures


def test_a_future_is_settled_once_and_the_first_reason_counts():
    for first, second in (("settle", "fail"), ("settle", "settle")):
        future = Future[object]()
        assert not future.done()
        getattr(future, first)(1)
        getattr(future, second)(Broken())
        assert future.done()
        assert future.result() == 1
    failed = Future[int]()
    failed.fail(Broken("first"))
    failed.settle(1)
    failed.fail(Broken("second"))
    with pytest.raises(Broken, match=r"^first$"):
        failed.result()


def test_a_future_that_is_not_settled_has_no_result():
    with pytest.raises(RuntimeError, match="not settled yet"):
        Future[int]().result()


def test_callbacks_are_called_once_in_order_with_the_future():
    future = Future[int]()
    called: list[object] = []
    future.then(lambda given: called.append(("first", given)))
    future.then(lambda given: called.append(("second", given)))
    assert called == []
    future.settle(1)
    future.settle(2)
    assert called == [("first", future), ("second", future)]
    future.then(lambda given: called.append(given.result()))
    assert called[2:] == [1]


def test_a_callback_taken_back_is_not_called():
    future = Future[int]()
    called: list[object] = []
    future.then(called.append)
    future.unthen(called.append)
    future.unthen(called.append)
    future.settle(1)
    future.unthen(called.append)
    assert called == []


def test_a_callback_may_add_another():
    future = Future[int]()
    called: list[str] = []

    def outer(_):
        future.then(lambda _: called.append("inner"))
        called.append("outer")

    future.then(outer)
    future.settle(1)
    assert called == ["inner", "outer"]


# tasks


def test_a_task_gives_what_its_coroutine_returns(loop):
    async def work():
        return 5

    assert run(loop, work()) == 5


def test_a_task_begins_in_a_turn_and_not_at_once(fake_loop):
    ran: list[int] = []

    async def work():
        ran.append(1)

    task = fake_loop.spawn(work())
    assert ran == []
    assert not task.done()
    turn(fake_loop)
    assert ran == [1]
    assert task.done()


def test_tasks_wake_in_the_order_in_which_they_were_settled(fake_loop):
    futures = [Future[int]() for _ in range(3)]
    woken: list[int] = []

    async def work(future):
        woken.append(await future)

    for future in futures:
        fake_loop.spawn(work(future))
    turn(fake_loop)
    for number in (2, 0, 1):
        futures[number].settle(number)
    turn(fake_loop)
    assert woken == [2, 0, 1]


def test_many_may_wait_for_one_future(fake_loop):
    future = Future[int]()
    woken: list[int] = []

    async def work():
        woken.append(await future)

    for _ in range(3):
        fake_loop.spawn(work())
    turn(fake_loop)
    future.settle(7)
    turn(fake_loop)
    assert woken == [7, 7, 7]


def test_awaiting_a_settled_future_does_not_wait(fake_loop):
    future = Future[int]()
    future.settle(1)

    async def work():
        return await future + await future

    task = fake_loop.spawn(work())
    turn(fake_loop)
    assert task.result() == 2


def test_an_exception_travels_to_whoever_awaits(loop):
    async def inner():
        raise Broken("inside")

    async def outer():
        try:
            await loop.spawn(inner())
        except Broken as error:
            return str(error)

    failures: list[object] = []
    loop.on_failure = lambda *given: failures.append(given)
    assert run(loop, outer()) == "inside"


def test_a_failure_that_nobody_awaits_is_reported(fake_loop):
    failures: list[tuple[str, BaseException]] = []
    fake_loop.on_failure = lambda name, error: failures.append((name, error))

    async def work():
        raise Broken("lost")

    task = fake_loop.spawn(work(), "my task")
    turn(fake_loop)
    ((name, error),) = failures
    assert (name, str(error)) == ("my task", "lost")
    with pytest.raises(Broken):
        task.result()


def test_a_failure_that_somebody_awaits_is_not_reported(fake_loop):
    failures: list[object] = []
    fake_loop.on_failure = lambda *given: failures.append(given)
    future = Future[int]()

    async def inner():
        await future
        raise Broken("seen")

    async def outer(task):
        with pytest.raises(Broken):
            await task

    task = fake_loop.spawn(inner())
    watching = fake_loop.spawn(outer(task))
    turn(fake_loop)
    future.settle(1)
    turn(fake_loop, 2)
    assert watching.done()
    assert failures == []


def test_without_a_report_a_failure_ends_the_turn(fake_loop):
    fake_loop.soon(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fake_loop.turn()


def test_a_failing_callback_does_not_stop_the_others(fake_loop, clock):
    failures: list[str] = []
    fake_loop.on_failure = lambda name, _: failures.append(name)
    called: list[str] = []

    def broken():
        raise Broken

    fake_loop.soon(broken)
    fake_loop.soon(called.append, "soon")
    fake_loop.after(1, broken)
    fake_loop.after(1, lambda: called.append("after"))
    later(fake_loop, clock, 1)
    assert sorted(called) == ["after", "soon"]
    assert len(failures) == 2
    assert all("broken" in name for name in failures)


def test_a_task_says_where_it_waits(fake_loop):
    future = Future[int]()

    async def inner():
        await future

    async def outer():
        await inner()

    task = fake_loop.spawn(outer(), "named")
    assert task.name == "named"
    turn(fake_loop)
    outer_place, inner_place = task.where().split(" > ")
    assert ".outer:" in outer_place
    assert ".inner:" in inner_place
    assert fake_loop.spawn(inner()).name.endswith("inner")
    future.settle(1)
    turn(fake_loop)
    assert task.where() == "its beginning"


# cancelling


def waiting(loop, future, log):
    async def work():
        try:
            return await future
        except Cancelled:
            log.append("cancelled")
            raise
        finally:
            log.append("finally")

    task = loop.spawn(work())
    turn(loop)
    return task


def test_cancelled_is_thrown_where_the_task_waits(fake_loop):
    log: list[str] = []
    task = waiting(fake_loop, Future[int](), log)
    task.cancel()
    assert log == []
    turn(fake_loop)
    assert log == ["cancelled", "finally"]
    with pytest.raises(Cancelled):
        task.result()


def test_a_cancelled_task_is_no_failure(fake_loop):
    failures: list[object] = []
    fake_loop.on_failure = lambda *given: failures.append(given)
    waiting(fake_loop, Future[int](), []).cancel()
    turn(fake_loop)
    assert failures == []


def test_cancelled_is_not_swallowed_by_except_exception(fake_loop):
    async def work():
        try:
            await Future[int]()
        except Exception:
            return "swallowed"

    task = fake_loop.spawn(work())
    turn(fake_loop)
    task.cancel()
    turn(fake_loop)
    with pytest.raises(Cancelled):
        task.result()


def test_the_future_of_a_cancelled_task_may_settle_later(fake_loop):
    future = Future[int]()
    log: list[str] = []
    waiting(fake_loop, future, log).cancel()
    turn(fake_loop)
    future.settle(1)
    turn(fake_loop)
    assert log == ["cancelled", "finally"]


def test_cancelling_a_task_that_has_ended_changes_nothing(fake_loop):
    future = Future[int]()
    task = waiting(fake_loop, future, [])
    future.settle(1)
    turn(fake_loop)
    task.cancel()
    turn(fake_loop)
    assert task.result() == 1


def test_a_task_may_end_before_its_cancelling_arrives(fake_loop):
    future = Future[int]()
    log: list[str] = []
    task = waiting(fake_loop, future, log)
    future.settle(1)
    task.cancel()
    turn(fake_loop)
    assert task.result() == 1
    assert log == ["finally"]


def test_a_task_cancelled_before_it_begins_has_begun(fake_loop):
    log: list[str] = []

    async def work():
        log.append("began")
        try:
            await Future[int]()
        finally:
            log.append("finally")

    task = fake_loop.spawn(work())
    task.cancel()
    turn(fake_loop)
    assert log == ["began", "finally"]
    assert task.done()


def test_a_task_may_refuse_to_be_cancelled(fake_loop):
    async def work():
        try:
            await Future[int]()
        except Cancelled:
            return "went on"

    task = fake_loop.spawn(work())
    turn(fake_loop)
    task.cancel()
    turn(fake_loop)
    assert task.result() == "went on"


def test_what_a_cancelled_task_waits_for_meanwhile_is_waited_for(fake_loop):
    first, second = Future[int](), Future[str]()

    async def work():
        try:
            await first
        except Cancelled:
            return await second

    task = fake_loop.spawn(work())
    turn(fake_loop)
    task.cancel()
    turn(fake_loop)
    first.settle(1)
    turn(fake_loop)
    assert not task.done()
    second.settle("tidied up")
    turn(fake_loop)
    assert task.result() == "tidied up"


def test_a_wake_up_that_comes_with_the_cancelling_is_not_taken_for_another(fake_loop):
    first, second = Future[int](), Future[str]()

    async def work():
        try:
            await first
        except Cancelled:
            return await second

    task = fake_loop.spawn(work())
    turn(fake_loop)
    task.cancel()
    first.settle(1)  # in the same turn
    turn(fake_loop)
    assert not task.done()
    second.settle("tidied up")
    turn(fake_loop)
    assert task.result() == "tidied up"


# time


def test_a_timer_fires_when_its_time_has_come(fake_loop, clock):
    fired: list[float] = []
    fake_loop.after(2, lambda: fired.append(clock.now))
    later(fake_loop, clock, 1.9)
    assert fired == []
    later(fake_loop, clock, 0.1)
    assert fired == [1002.0]
    later(fake_loop, clock, 10)
    assert fired == [1002.0]


def test_timers_fire_in_the_order_of_their_times(fake_loop, clock):
    fired: list[int] = []
    for seconds in (3, 1, 2):
        fake_loop.after(seconds, lambda seconds=seconds: fired.append(seconds))
    later(fake_loop, clock, 5)
    assert fired == [1, 2, 3]


def test_a_cancelled_timer_does_not_fire(fake_loop, clock):
    fired: list[int] = []
    timer = fake_loop.after(1, lambda: fired.append(1))
    fake_loop.after(2, lambda: fired.append(2))
    timer.cancel()
    timer.cancel()
    later(fake_loop, clock, 3)
    assert fired == [2]
    timer.cancel()


def test_a_timer_may_cancel_another_of_the_same_turn(fake_loop, clock):
    fired: list[str] = []
    second = fake_loop.after(2, lambda: fired.append("second"))
    fake_loop.after(1, second.cancel)
    later(fake_loop, clock, 3)
    assert fired == []


def test_cancelled_timers_are_not_kept(fake_loop, clock):
    fired: list[int] = []
    for number in range(5):
        fake_loop.after(10 + number, lambda number=number: fired.append(number))
    for _ in range(10_000):
        fake_loop.after(1000, lambda: fired.append(-1)).cancel()
    assert len(fake_loop._timers) < 200
    later(fake_loop, clock, 2000)
    assert fired == [0, 1, 2, 3, 4]
    assert fake_loop._timers == []


def test_the_loop_waits_for_the_next_timer(loop):
    began = loop.clock()
    run(loop, loop.sleep(0.02))
    assert loop.clock() - began >= 0.02


def test_sleep_comes_back_in_time(fake_loop, clock):
    task = fake_loop.spawn(fake_loop.sleep(3))
    turn(fake_loop)
    later(fake_loop, clock, 2.9)
    assert not task.done()
    later(fake_loop, clock, 0.1)
    assert task.done()


def test_a_cancelled_sleep_leaves_no_timer(fake_loop, clock):
    task = fake_loop.spawn(fake_loop.sleep(3))
    turn(fake_loop)
    task.cancel()
    turn(fake_loop)
    assert all(timer.callback is None for timer in fake_loop._timers)


def test_within_gives_the_value_that_comes_in_time(fake_loop, clock):
    future = Future[int]()
    task = fake_loop.spawn(fake_loop.within(future, 5))
    turn(fake_loop)
    later(fake_loop, clock, 4.9)
    future.settle(1)
    turn(fake_loop)
    assert task.result() == 1
    assert all(timer.callback is None for timer in fake_loop._timers)


def test_within_raises_when_the_time_is_over_and_leaves_the_future_alone(fake_loop, clock):
    future = Future[int]()
    patient = fake_loop.spawn(fake_loop.within(future, None))
    hasty = fake_loop.spawn(fake_loop.within(future, 5))
    hasty.then(lambda _: None)
    turn(fake_loop)
    later(fake_loop, clock, 5)
    with pytest.raises(TimeoutError, match=r"^not done within 5\.0 s$"):
        hasty.result()
    assert not future.done()
    assert not patient.done()
    future.settle(1)
    turn(fake_loop)
    assert patient.result() == 1


def test_within_passes_an_exception_on(fake_loop):
    future = Future[int]()
    task = fake_loop.spawn(fake_loop.within(future, 5))
    task.then(lambda _: None)
    turn(fake_loop)
    future.fail(Broken("why"))
    turn(fake_loop)
    with pytest.raises(Broken, match=r"^why$"):
        task.result()


@pytest.mark.parametrize("seconds", [0, -1])
def test_within_no_time_a_settled_future_counts(fake_loop, seconds):
    done, never = Future[int](), Future[int]()
    done.settle(1)
    first = fake_loop.spawn(fake_loop.within(done, seconds))
    second = fake_loop.spawn(fake_loop.within(never, seconds))
    second.then(lambda _: None)
    turn(fake_loop, 2)
    assert first.result() == 1
    with pytest.raises(TimeoutError):
        second.result()


def test_a_cancelled_within_forgets_its_future(fake_loop):
    future = Future[int]()
    task = fake_loop.spawn(fake_loop.within(future, 5))
    turn(fake_loop)
    task.cancel()
    turn(fake_loop)
    assert future._callbacks == []
    assert all(timer.callback is None for timer in fake_loop._timers)


# order


def test_what_is_queued_runs_in_order(fake_loop):
    order: list[int] = []
    for number in range(5):
        fake_loop.soon(order.append, number)
    turn(fake_loop)
    assert order == [0, 1, 2, 3, 4]


def test_a_turn_ends_although_more_is_queued_meanwhile(fake_loop):
    order: list[int] = []

    def again():
        order.append(len(order))
        fake_loop.soon(again)

    fake_loop.soon(again)
    turn(fake_loop, 3)
    assert order == [0, 1, 2]


def test_a_turn_looks_at_descriptors_then_timers_then_the_queue(fake_loop, clock, fds):
    read_end, write_end = fds.pipe()
    order: list[str] = []
    fake_loop.soon(order.append, "queue")
    fake_loop.after(0, lambda: order.append("timer"))
    fake_loop.watch(read_end, READ, lambda _: order.append("descriptor"))
    os.write(write_end, b"x")
    fake_loop.turn()
    assert order == ["descriptor", "timer", "queue"]
    fake_loop.forget(read_end)


# descriptors


def test_a_watcher_is_called_while_its_descriptor_is_ready(loop, fds):
    read_end, write_end = fds.pipe()
    seen: list[int] = []
    loop.watch(read_end, READ, seen.append)
    assert asleep(loop)
    os.write(write_end, b"ab")
    loop.turn()
    loop.turn()
    assert seen == [READ, READ]
    os.read(read_end, 2)
    assert asleep(loop)
    fds.close(write_end)
    loop.turn()
    assert seen[2:] == [HANGUP]
    loop.forget(read_end)


def test_an_edge_is_told_of_once(loop, fds):
    read_end, write_end = fds.pipe()
    seen: list[int] = []
    loop.watch(read_end, READ | EDGE, seen.append)
    os.write(write_end, b"a")
    loop.turn()
    assert asleep(loop)
    os.write(write_end, b"b")
    loop.turn()
    assert seen == [READ, READ]
    loop.forget(read_end)


def test_the_events_of_a_watcher_may_change(loop, fds):
    read_end, write_end = fds.pipe()
    seen: list[int] = []
    loop.watch(write_end, 0, seen.append)
    assert asleep(loop)
    loop.rewatch(write_end, WRITE)
    loop.turn()
    assert seen == [WRITE]
    loop.rewatch(write_end, 0)
    assert asleep(loop)
    fds.close(read_end)
    loop.turn()
    assert seen[1] & select.EPOLLERR
    loop.forget(write_end)


def test_a_forgotten_descriptor_is_quiet(loop, fds):
    read_end, write_end = fds.pipe()
    loop.watch(read_end, READ, lambda _: pytest.fail("called"))
    os.write(write_end, b"a")
    loop.forget(read_end)
    loop.forget(read_end)
    assert asleep(loop)
    loop.watch(read_end, READ, lambda _: os.read(read_end, 1))
    loop.turn()
    assert asleep(loop)
    loop.forget(read_end)


def test_a_watcher_may_forget_another_of_the_same_turn(loop, fds):
    pipes = [fds.pipe() for _ in range(2)]
    called: list[int] = []

    def watcher(number):
        def ready(_):
            called.append(number)
            for read_end, _ in pipes:
                loop.forget(read_end)

        return ready

    for number, (read_end, write_end) in enumerate(pipes):
        loop.watch(read_end, READ, watcher(number))
        os.write(write_end, b"x")
    loop.turn()
    assert len(called) == 1


def test_only_what_can_be_waited_for_is_watched(loop, fds, directory):
    file = fds.open(directory / "plain", os.O_RDWR | os.O_CREAT)
    with pytest.raises(PermissionError):
        loop.watch(file, READ, lambda _: None)
    loop.forget(file)
    read_end, _ = fds.pipe()
    loop.watch(read_end, READ, lambda _: None)
    with pytest.raises(FileExistsError):
        loop.watch(read_end, READ, lambda _: None)
    loop.forget(read_end)


def test_readable_waits_once(loop, fds):
    read_end, write_end = fds.pipe()
    task = loop.spawn(loop.readable(read_end))
    turn(loop, 2)
    assert not task.done()
    os.write(write_end, b"x")
    until(loop, task.done)
    assert asleep(loop)
    assert os.read(read_end, 1) == b"x"


def test_a_hang_up_is_readable(loop, fds):
    read_end, write_end = fds.pipe()
    fds.close(write_end)
    run(loop, loop.readable(read_end))
    assert os.read(read_end, 1) == b""


def test_a_cancelled_wait_for_a_descriptor_is_forgotten(loop, fds):
    read_end, write_end = fds.pipe()
    task = loop.spawn(loop.readable(read_end))
    turn(loop)
    task.cancel()
    turn(loop)
    os.write(write_end, b"x")
    assert asleep(loop)


# signals


@pytest.fixture
def usr1():
    """SIGUSR1, as it was after the test."""
    before = signal.getsignal(signal.SIGUSR1)
    yield signal.SIGUSR1
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_wakes_the_loop(usr1):
    loop = Loop()
    called: list[int] = []
    loop.on_signal(usr1, lambda: called.append(1))
    assert asleep(loop)
    os.kill(os.getpid(), usr1)
    until(loop, lambda: called)
    assert called == [1]
    loop.close()


def test_many_signals_are_one_call(usr1):
    loop = Loop()
    called: list[int] = []
    loop.on_signal(usr1, lambda: called.append(1))
    for _ in range(10):
        os.kill(os.getpid(), usr1)
    until(loop, lambda: called)
    assert called == [1]
    assert asleep(loop)
    loop.close()


def test_another_signal_is_nobodys_business(usr1):
    loop = Loop()
    loop.on_signal(usr1, lambda: pytest.fail("called"))
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        os.kill(os.getpid(), signal.SIGUSR2)
        loop.turn()
        assert asleep(loop)
    finally:
        signal.signal(signal.SIGUSR2, before)
        loop.close()


def test_a_closed_loop_no_longer_hears_signals(usr1):
    loop = Loop()
    loop.on_signal(usr1, lambda: pytest.fail("called"))
    loop.close()
    os.kill(os.getpid(), usr1)
    assert signal.set_wakeup_fd(-1) == -1


# gates


def test_a_gate_lets_one_through_at_a_time_in_order(fake_loop):
    gate = Gate()
    log: list[str] = []
    doors = [Future[None]() for _ in range(3)]

    async def pass_through(number):
        async with gate:
            log.append(f"in {number}")
            await doors[number]
            log.append(f"out {number}")

    tasks = [fake_loop.spawn(pass_through(number)) for number in range(3)]
    turn(fake_loop)
    assert log == ["in 0"]
    for number in (2, 0, 1):
        doors[number].settle(None)
        turn(fake_loop, 3)
    assert log == ["in 0", "out 0", "in 1", "out 1", "in 2", "out 2"]
    assert all(task.done() for task in tasks)


def test_a_gate_can_be_used_again(loop):
    gate = Gate()

    async def twice():
        async with gate:
            pass
        async with gate:
            return "again"

    assert run(loop, twice()) == "again"


def test_a_gate_opens_after_an_exception(loop):
    gate = Gate()

    async def fall():
        with pytest.raises(Broken):
            async with gate:
                raise Broken
        async with gate:
            return "open"

    assert run(loop, fall()) == "open"


def hold(loop, gate, log, name, door=None):
    async def work():
        async with gate:
            log.append(name)
            if door is not None:
                await door

    return loop.spawn(work())


def test_nobody_overtakes_who_waits(fake_loop):
    gate, door = Gate(), Future[None]()
    log: list[str] = []
    hold(fake_loop, gate, log, "holder", door)
    hold(fake_loop, gate, log, "waiter")
    turn(fake_loop)
    door.settle(None)
    hold(fake_loop, gate, log, "late")
    turn(fake_loop, 3)
    assert log == ["holder", "waiter", "late"]


def test_who_is_cancelled_in_the_queue_leaves_it(fake_loop):
    gate, door = Gate(), Future[None]()
    log: list[str] = []
    hold(fake_loop, gate, log, "holder", door)
    tired = hold(fake_loop, gate, log, "tired")
    hold(fake_loop, gate, log, "patient")
    turn(fake_loop)
    tired.cancel()
    turn(fake_loop)
    door.settle(None)
    turn(fake_loop, 3)
    assert log == ["holder", "patient"]


def test_who_is_cancelled_while_the_gate_is_handed_over_passes_it_on(fake_loop):
    gate, door = Gate(), Future[None]()
    log: list[str] = []
    hold(fake_loop, gate, log, "holder", door)
    unlucky = hold(fake_loop, gate, log, "unlucky")
    hold(fake_loop, gate, log, "next")
    turn(fake_loop)
    door.settle(None)  # the holder leaves, and the gate is the unlucky one's
    unlucky.cancel()
    turn(fake_loop, 4)
    assert unlucky.done()
    assert log[-1] == "next"
    assert not gate._held


def test_a_cancelled_holder_opens_the_gate(fake_loop):
    gate = Gate()
    log: list[str] = []
    holder = hold(fake_loop, gate, log, "holder", Future[None]())
    hold(fake_loop, gate, log, "next")
    turn(fake_loop)
    holder.cancel()
    turn(fake_loop, 3)
    assert log == ["holder", "next"]


# the loop itself


def test_run_turns_until_its_future_is_settled(loop):
    future = Future[str]()
    loop.after(0.01, lambda: future.settle("done"))
    assert loop.run(future) == "done"
    failed = Future[str]()
    loop.soon(failed.fail, Broken("why"))
    with pytest.raises(Broken):
        loop.run(failed)


def test_a_loop_gives_its_descriptors_back():
    before = set(os.listdir("/proc/self/fd"))
    loop = Loop()
    previous = signal.getsignal(signal.SIGUSR1)
    loop.on_signal(signal.SIGUSR1, lambda: None)
    loop.close()
    signal.signal(signal.SIGUSR1, previous)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_task_is_a_future(fake_loop):
    async def work():
        return 1

    task = fake_loop.spawn(work())
    seen: list[int] = []
    assert isinstance(task, Task)
    task.then(lambda done: seen.append(done.result()))
    turn(fake_loop)
    assert seen == [1]


# rest


@pytest.fixture
def resting_loop():
    """A real loop that rests soon, and what it has done."""
    loop = Loop()
    loop.rest = 0.01
    log: list[str] = []
    loop.on_rest = lambda: log.append("rest")  # type: ignore[method-assign]
    yield loop, log
    loop.close()


def test_a_loop_without_anything_to_do_rests_once(resting_loop):
    loop, log = resting_loop
    over = Future[None]()
    over.then(lambda _: log.append("timer"))
    loop.after(0.1, lambda: over.settle(None))
    loop.run(over)
    assert log == ["rest", "timer"]


def test_a_loop_rests_again_after_something_happened(resting_loop):
    loop, log = resting_loop
    read_end, write_end = os.pipe()
    over = Future[None]()

    def ready(_):
        log.append(os.read(read_end, 1).decode())
        loop.after(0.1, lambda: over.settle(None))

    loop.watch(read_end, READ, ready)
    loop.after(0.1, lambda: os.write(write_end, b"x"))
    loop.run(over)
    loop.forget(read_end)
    os.close(read_end)
    os.close(write_end)
    assert log == ["rest", "x", "rest"]


def test_a_loop_that_is_busy_does_not_rest(resting_loop):
    loop, log = resting_loop
    over = Future[None]()

    def again(left):
        log.append("turn")
        loop.after(0.001, lambda: again(left - 1) if left else over.settle(None))

    loop.rest = 30.0
    again(20)
    loop.run(over)
    assert set(log) == {"turn"}
