"""Medians, ratios, slopes and the order of pairs."""

import pytest

from benchmarks import summary


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([5.0], 90, 5.0),
        ([1.0, 2.0], 50, 1.5),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 25, 2.0),
        ([0.0, 10.0], 90, 9.0),
        (list(range(101)), 99, 99),
        ([4.0, 1.0], 0, 1.0),
        ([4.0, 1.0], 100, 4.0),
    ],
)
def test_a_percentile_lies_between_its_neighbours(values, percent, expected):
    assert summary.percentile(values, percent) == pytest.approx(expected)


def test_nothing_has_no_percentile():
    with pytest.raises(ValueError):
        summary.percentile([], 50)


def test_a_summary_is_median_minimum_and_p90():
    assert summary.summarise([3.0, 1.0, 2.0]) == pytest.approx((2.0, 1.0, 2.8, 3))


def test_the_ratio_is_taken_within_pairs_and_not_of_the_medians():
    """A machine that slows down threefold in the midst of it changes nothing."""
    pairs = [(1.0, 2.0), (1.1, 2.2), (9.0, 6.0), (3.0, 6.0), (3.3, 6.6)]
    found = summary.ratios(pairs)
    assert found is not None
    assert found.median == pytest.approx(0.5)
    assert found.p75 == pytest.approx(0.5)


def test_quartiles_of_the_ratios():
    assert summary.ratios([(n, 1.0) for n in (1.0, 2.0, 3.0, 4.0, 5.0)]) == (3.0, 2.0, 4.0)


def test_a_stock_value_of_zero_has_no_ratio():
    assert summary.ratios([(1.0, 0.0)]) is None
    assert summary.ratios([(1.0, 0.0), (1.0, 2.0)]) == (0.5, 0.5, 0.5)


def test_both_sides_are_first_equally_often_and_in_turns():
    orders = [summary.order(number) for number in range(4)]
    assert orders == [(0, 1), (1, 0), (0, 1), (1, 0)]


def test_the_slope_of_a_line_and_of_noise_around_it():
    assert summary.slope([(0, 1.0), (1, 3.0), (2, 5.0)]) == pytest.approx(2.0)
    assert summary.slope([(0, 1.0), (1, 2.0), (2, 1.0), (3, 2.0)]) == pytest.approx(0.2)
    assert summary.slope([(100, 7.0), (200, 7.0)]) == 0


def test_one_place_has_no_slope():
    with pytest.raises(ValueError):
        summary.slope([(1, 1.0), (1, 2.0)])


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1234567.0, 1235000.0), (0.00123456, 0.001235), (0.0, 0.0), (-2.5, -2.5)],
)
def test_tidy_keeps_significant_digits(value, expected):
    assert summary.tidy(value) == expected
