"""The page is made of the results."""

import pytest

from benchmarks import plots, report
from benchmarks.__main__ import RESULTS
from benchmarks.results import Curve, Missing, Point, Run, figure, from_json

OLD = {"containerd": "1.6.20", "launcher": "python"}
NEW = {**OLD, "containerd": "2.1.9"}


def a_run():
    points = [Point(n, 1000.0 + n, 2000.0 + n) for n in range(0, 101, 5)]
    return Run(
        mode="full",
        started="2025-01-02 03:04 UTC",
        seconds=1234,
        machine={"cores": "2"},
        figures=[
            figure("exec", "total", OLD, "ms", [(15.0, 20.0)] * 5),
            figure("rpc", "State p50", {**OLD, "callers": "16"}, "µs", [(1.0, 2.0)]),
            figure("soak", "growth", OLD, "KiB", [(-3.0, 2.0)], with_ratio=False),
        ],
        curves=[
            Curve("density", "PSS sum", place, "KiB", "containers", points) for place in (OLD, NEW)
        ],
        missing=[Missing("start", {**OLD, "zygote": "on"}, "no zygote\n after two starts")],
    )


def test_the_page_is_what_the_results_say():
    """`make bench` writes both; whoever changes one by hand is found here."""
    path = RESULTS / "latest.json"
    page = report.PAGE.read_text()
    if not path.exists():
        assert report.replaced(page, report.generated(None)) == page
        return
    run = from_json(path.read_text())
    images = [f"{name}.svg" for name in plots.grouped(run.curves)]
    assert report.replaced(page, report.generated(run, images)) == page
    for name in images:
        assert (report.IMAGES / name).exists()
        assert (report.IMAGES / name).with_suffix(".png").exists()


def test_a_figure_is_a_row_with_both_sides_and_the_spread_of_the_ratio():
    text = report.generated(a_run())
    row = "| total | 1.6.20 | python | 15.0 ms | 20.0 ms | 15.0 / 20.0 | 15.0 / 20.0 | "
    assert f"{row}0.75 (0.75 – 0.75) |" in text
    assert "| State p50, callers 16 | 1.6.20 |" in text


def test_a_figure_without_a_ratio_tells_none():
    assert "| growth | 1.6.20 | python | -3.00 KiB | 2.00 KiB |" in report.generated(a_run())


def test_targets_are_judged_and_those_without_a_number_are_named():
    text = report.generated(a_run())
    assert "| exec | 1.6.20 | python | 0.75 | ≤ 1 | ≤ 0.9 | met, and the aim |" in text
    assert "| kill to exit |  |  |  | ≤ 0.6 | ≤ 0.4 | not measured |" in text
    assert "| stdio bytes per second |  |  |  | ≥ 2 | as a pipe | not measured |" in text


def test_what_is_missing_is_told_on_one_line():
    assert (
        "| start, zygote on | 1.6.20 | python | no zygote after two starts |"
        in report.generated(a_run())
    )


def test_every_table_has_as_many_cells_in_each_row():
    blocks = report.generated(a_run(), ["density-pss-sum.svg"]).split("\n\n")
    tables = [block.splitlines() for block in blocks if block.startswith("|")]
    assert len(tables) >= 5
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1, lines


def test_a_long_curve_is_told_in_part_with_both_ends():
    lines = report.describe(a_run().curves[0])
    assert len(lines) == 5
    assert "0 containers" in lines[0]
    assert "100 containers" in lines[-1]


def test_no_results_are_no_numbers():
    assert report.generated(None) == report.NOTHING


def test_only_what_is_between_the_markers_is_replaced():
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    assert report.replaced(page, "new") == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"


def test_a_page_without_markers_is_not_written():
    with pytest.raises(ValueError):
        report.replaced("by hand", "new")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"), (0.1234, "0.123"), (1.5, "1.50"), (25.06, "25.1"), (99.96, "100"),
        (100.4, "100"), (12345.6, "12,346"), (-7.0, "-7.00"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits_and_no_exponent(value, expected):
    assert report.number(value) == expected


def test_the_same_curve_of_two_containerds_is_one_plot():
    groups = plots.grouped(a_run().curves)
    assert {name: len(curves) for name, curves in groups.items()} == {
        "density-pss-sum-containers": 2
    }
