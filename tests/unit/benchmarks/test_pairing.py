"""Both shims in turns."""

import itertools

from benchmarks.pairing import AT_LEAST, paired


def take(pairs, warm=0, seconds=1000.0, step=1.0):
    """The calls in their order, and what came out; each look at the clock takes `step`."""
    calls = []

    def action(binary):
        calls.append(binary)
        return f"{binary}{len(calls)}"

    clock = itertools.count(0, step).__next__
    found = paired(action, ("o", "s"), pairs, warm=warm, seconds=seconds, clock=clock)
    return "".join(calls), found


def test_who_is_first_takes_turns():
    assert take(4)[0] == "ossoosso"


def test_a_pair_is_ours_and_stock_whoever_was_first():
    assert take(2)[1] == [("o1", "s2"), ("o4", "s3")]


def test_warming_up_counts_for_nothing():
    calls, found = take(1, warm=2)
    assert calls == "ossoos"
    assert found == [("o5", "s6")]


def test_it_ends_early_when_the_time_is_over():
    assert len(take(100, seconds=10.0)[1]) < 20


def test_it_never_ends_before_there_is_something_to_tell():
    assert len(take(100, seconds=0.0, step=50.0)[1]) == AT_LEAST


def test_progress_is_told():
    told: list[int] = []
    paired(lambda _: 0, ("o", "s"), 3, warm=1, seconds=1e9, say=told.append)
    assert told == [1, 2, 3]
