"""Which figures a target is about, and whether it is met."""

import pytest

from benchmarks import targets
from benchmarks.results import Curve, Point, Run, figure
from benchmarks.targets import AIM, MISSED, MUST, Target

LESS = Target("exec", "exec", "total", 1.0, 0.9)
MORE = Target("rate", "stdio", "one container: rate", 2.0, None, at_least=True)


@pytest.mark.parametrize(
    ("target", "value", "expected"),
    [
        (LESS, 0.5, AIM),
        (LESS, 0.9, AIM),
        (LESS, 0.904, AIM),  # told as 0.90
        (LESS, 0.91, MUST),
        (LESS, 1.0, MUST),
        (LESS, 1.01, MISSED),
        (MORE, 2.0, MUST),
        (MORE, 99.0, MUST),  # an aim that is no number is never claimed
        (MORE, 1.99, MISSED),
    ],
)
def test_a_target_is_judged_by_the_number_that_is_told(target, value, expected):
    assert targets.verdict(target, value) == expected


def a_figure(case, name, ours=1.0, stock=2.0, **setting):
    return figure(case, name, setting, "ms", [(ours, stock)])


def test_a_target_of_one_containerd_and_launcher_takes_no_other():
    run = Run(
        figures=[
            a_figure("lifecycle", "containerd", 0.9, containerd="1.6.20", launcher="python"),
            a_figure("lifecycle", "containerd", 1.0, containerd="1.6.20", launcher="native"),
            a_figure("lifecycle", "containerd", 1.1, containerd="2.1.9", launcher="python"),
            a_figure("lifecycle", "harness", 9.0, containerd="2.1.9", launcher="python"),
        ]
    )
    target = Target("l", "lifecycle", "containerd", 1, 1, targets.OLD | targets.PYTHON)
    assert [value for _, value in targets.measured(run, target)] == [0.45]


def test_a_target_of_one_caller_does_not_take_sixteen():
    run = Run(figures=[a_figure("rpc", "State p50", callers=callers) for callers in ("1", "16")])
    (target,) = [target for target in targets.TARGETS if target.case == "rpc"]
    assert [setting for setting, _ in targets.measured(run, target)] == [{"callers": "1"}]


def test_a_target_without_a_containerd_takes_every_one():
    figures = [a_figure("exec", "total", containerd=name) for name in ("1.6.20", "2.1.9")]
    assert len(targets.measured(Run(figures=figures), LESS)) == 2


def test_a_target_at_a_point_takes_that_point_and_of_single_containers():
    points = [Point(1, 9.0, 1.0), Point(50, 1.0, 4.0)]
    setting = {"containerd": "2.1.9", "launcher": "python"}
    curves = [
        Curve("density", "PSS sum", setting, "KiB", x, points)
        for x in ("containers", "containers in the pod")
    ]
    target = Target("p", "density", "PSS sum", 1, 1, at=50)
    assert targets.measured(Run(curves=curves), target) == [(setting, 0.25)]


def test_a_target_for_our_own_number_takes_that():
    run = Run(figures=[a_figure("soak", "idle wake-ups", 3.0, 100.0)])
    target = Target("i", "soak", "idle wake-ups", 1, 0, ours=True)
    assert targets.measured(run, target) == [({}, 3.0)]


def test_what_was_not_measured_is_named():
    assert targets.unmeasured(Run()) == list(targets.TARGETS)
    run = Run(figures=[a_figure("exec", "total")])
    assert "exec" not in [target.label for target in targets.unmeasured(run)]


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.label)
def test_an_aim_is_never_easier_than_the_must(target):
    if target.aim is not None:
        assert (target.aim >= target.must) if target.at_least else (target.aim <= target.must)
