"""A containerd that does not take events, or is not there (FAILURES 3, 14; CONTRACT 9.3)."""

from __future__ import annotations

import pytest

from shim_runc_py.testing.daemon import wait_until

LIFE = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]


def live(shim, bundle):
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    assert shim.task.wait(bundle.id).exit_status == 7
    shim.task.delete(bundle.id)


def test_events_wait_for_a_containerd_that_is_away_and_keep_their_order(
    make_bundle, start_shim, sink
):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    sink.stop()
    live(shim, bundle)
    sink.start()
    sink.wait_for("/tasks/delete")
    assert sink.topics() == LIFE


@pytest.mark.stock(skip="tries again in the background and in another order")
def test_events_that_are_refused_for_a_while_arrive_in_order(make_bundle, start_shim, sink):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    sink.refuse(True)
    live(shim, bundle)
    sink.refuse(False)
    sink.wait_for("/tasks/delete")
    assert sink.topics() == LIFE


def test_a_shim_without_a_containerd_to_tell_serves_all_the_same(make_bundle, start_shim, sink):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    sink.stop()
    live(shim, bundle)
    assert shim.task.call("Connect", id=bundle.id).task_pid == 0


@pytest.mark.stock(skip="waits for longer")
def test_shutdown_does_not_wait_for_ever_for_a_containerd_that_is_away(
    make_bundle, start_shim, sink
):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    sink.stop()
    live(shim, bundle)
    shim.task.shutdown()
    shim.wait_gone(8)
    assert "events are lost" in shim.log()


def test_events_are_flushed_before_the_end(make_bundle, start_shim, sink):
    for _ in range(5):
        bundle = make_bundle("exit-7")
        shim = start_shim(bundle)
        live(shim, bundle)
        shim.task.shutdown()
        shim.wait_gone()
        assert sink.topics(bundle.id) == LIFE


def test_a_restart_of_containerd_between_two_events_is_no_loss(make_bundle, start_shim, sink):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    sink.wait_for("/tasks/create")
    sink.stop()
    sink.start()
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    wait_until(lambda: "/tasks/exit" in sink.topics(), "the exit came")
    assert sink.topics() == LIFE[:3]
