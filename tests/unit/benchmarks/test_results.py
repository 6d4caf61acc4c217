"""A run and its JSON."""

import json

from benchmarks.results import Curve, Missing, Point, Run, figure, from_json, to_json
from benchmarks.summary import Spread, Summary

SETTING = {"containerd": "1.6.20", "launcher": "python"}


def a_run():
    return Run(
        mode="quick",
        started="2025-01-02 03:04 UTC",
        seconds=12.5,
        machine={"cores": "2"},
        versions={"runc": "1.1.5"},
        figures=[
            figure("exec", "total", SETTING, "ms", [(1.0, 2.0), (2.0, 4.0)]),
            figure("soak", "slope", SETTING, "KiB", [(1.0, 2.0)], with_ratio=False),
        ],
        curves=[Curve("density", "PSS sum", SETTING, "KiB", "containers", [Point(1, 10.0, 20.0)])],
        missing=[Missing("start", SETTING, "no zygote"), Missing("kill", SETTING, "died", True)],
    )


def test_a_run_survives_its_json():
    assert from_json(to_json(a_run())) == a_run()


def test_an_empty_run_survives_its_json():
    assert from_json(to_json(Run())) == Run()


def test_the_json_names_what_the_numbers_are():
    first = json.loads(to_json(a_run()))["figures"][0]
    assert first["ours"] == {"median": 1.5, "min": 1.0, "p90": 1.9, "samples": 2}
    assert first["ratio"] == {"median": 0.5, "p25": 0.5, "p75": 0.5}


def test_one_figure_is_one_line_so_that_runs_can_be_compared():
    lines = [line for line in to_json(a_run()).splitlines() if '"case"' in line]
    assert len(lines) == 5


def test_a_figure_has_both_sides_and_the_ratio_of_pairs():
    found = figure("exec", "total", SETTING, "ms", [(1.0, 4.0), (3.0, 4.0), (2.0, 4.0)])
    assert found.ours == Summary(2.0, 1.0, 2.8, 3)
    assert found.stock == Summary(4.0, 4.0, 4.0, 3)
    assert found.ratio == Spread(0.5, 0.375, 0.625)


def test_a_ratio_that_says_nothing_is_left_out():
    assert figure("soak", "s", SETTING, "KiB", [(1.0, 2.0)], with_ratio=False).ratio is None
    assert figure("soak", "s", SETTING, "KiB", [(1.0, 0.0)]).ratio is None


def test_a_point_of_a_curve_has_a_ratio_unless_stock_is_zero():
    assert Point(1, 1.0, 2.0).ratio == 0.5
    assert Point(1, 1.0, 0.0).ratio is None
