"""Axes: ticks are round, few, within, and in order, whatever the values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sparse.reporting.page.scales import linear, logarithmic, number

VALUES = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=5)
POSITIVE = st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=5)


def holds(scale, values):
    assert all(-1e-6 <= scale(tick) <= 1 + 1e-6 for tick in scale.ticks)
    assert list(scale.ticks) == sorted(set(scale.ticks))
    assert all(-1e-6 <= scale(value) <= 1 + 1e-6 for value in values)


@given(VALUES)
def test_linear(values):
    scale = linear(values)
    holds(scale, values)
    assert 2 <= len(scale.ticks) <= 12


@pytest.mark.parametrize("ticks", [3, 4, 5])
@given(st.floats(0, 10), st.floats(0.01, 10))
def test_axes_with_room_have_three_ticks(ticks, low, wide):
    for zero in (True, False):
        assert 3 <= len(linear([low, low + wide], ticks, zero=zero).ticks) <= 2 * ticks + 2


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_epochs_have_whole_ticks(first, last):
    scale = linear([first, last], 6, whole=True)
    holds(scale, [first, last])
    assert scale.ticks
    assert all(tick == int(tick) for tick in scale.ticks)


@given(POSITIVE)
def test_logarithmic(values):
    scale = logarithmic(values)
    assert all(-1e-6 <= scale(value) <= 1 + 1e-6 for value in values)
    assert len(scale.ticks) <= 7
    middle = math.sqrt(scale.low * scale.high)
    assert scale(middle) == pytest.approx(0.5)


def test_places_are_shares_of_the_axis():
    scale = linear([0.0, 10.0], zero=True)
    assert scale.low == 0
    assert scale(scale.high) == 1
    assert scale(scale.high / 4) == pytest.approx(0.25)


def test_labels_of_ticks_differ():
    for values in ([0.97, 0.985], [1234.0, 1300.0], [1e-5, 3e-5], [0.0, 0.004]):
        labels = [number(tick) for tick in linear(values).ticks]
        assert len(set(labels)) == len(labels), labels
