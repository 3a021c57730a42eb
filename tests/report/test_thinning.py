"""Thinned curves: short, in order, and no extreme and no gap is lost."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ganctl.report.thinning import MOST, Curve

VALUES = st.lists(st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf]), max_size=400)


def thinned(values: list[float], part: int = 1000) -> list[tuple[int, float | None]]:
    curve = Curve()
    for begin in range(0, len(values), part):
        some = np.array(values[begin : begin + part])
        curve.extend(begin + np.arange(len(some)), some)
    return curve.points()


@given(VALUES)
def test_a_short_curve_is_kept_whole(values: list[float]) -> None:
    expected = [
        (step, value if math.isfinite(value) else None) for step, value in enumerate(values)
    ]
    assert thinned(values) == expected


@given(VALUES, st.integers(5, 40))
def test_a_long_curve_keeps_its_extremes_and_that_it_has_gaps(
    values: list[float], times: int
) -> None:
    values = values * times
    found = thinned(values)
    kept = [value for _, value in found if value is not None]
    finite = [value for value in values if math.isfinite(value)]
    assert len(found) <= 6 * MOST
    assert [step for step, _ in found] == sorted(step for step, _ in found)
    assert all(value is None or values[step] == value for step, value in found)
    if finite:
        assert (min(kept), max(kept)) == (min(finite), max(finite))
    assert (len(finite) < len(values)) == any(value is None for _, value in found)


@given(VALUES, st.integers(5, 40), st.integers(1, 3000))
def test_it_does_not_matter_in_which_parts_values_come(
    values: list[float], times: int, part: int
) -> None:
    assert thinned(values * times, part) == thinned(values * times)


def test_a_gap_before_a_value_of_its_span_comes_before_it() -> None:
    found = thinned([math.nan, 1.0] * 2 * MOST)
    assert found[:4] == [(0, None), (1, 1.0), (2, None), (3, 1.0)]
    assert [step for step, _ in found] == sorted(step for step, _ in found)


def test_one_spike_among_a_million_is_seen() -> None:
    points = thinned([9.0 if step == 77_777 else 0.0 for step in range(200_000)])
    assert (77_777, 9.0) in points
    assert len(points) <= 4 * MOST
