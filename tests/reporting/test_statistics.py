import math

import pytest
from scipy import stats

from lightning_sparse.checks import SparsityError
from lightning_sparse.reporting.statistics import (
    deviation,
    paired_interval,
    student_cdf,
    student_quantile,
)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 29, 200])
@pytest.mark.parametrize("probability", [0.005, 0.3, 0.5, 0.95, 0.975, 0.9995])
def test_quantiles_are_those_of_scipy(probability, degrees):
    expected = stats.t.ppf(probability, degrees)
    assert student_quantile(probability, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 8, 51])
def test_the_distribution_is_symmetric_and_that_of_scipy(degrees):
    for t in (0.0, 0.3, 1.0, 4.0, 40.0):
        assert student_cdf(t, degrees) == pytest.approx(stats.t.cdf(t, degrees), abs=1e-13)
        assert student_cdf(t, degrees) + student_cdf(-t, degrees) == pytest.approx(1)


def test_an_interval_worked_by_hand():
    """Of 1 and 3: mean 2, deviation sqrt(2), so half a width of tan(0.475 pi) * sqrt(2) / sqrt(2)."""
    low, mean, high, number = paired_interval([1.0, 3.0])
    assert (mean, number) == (2.0, 2)
    assert high - mean == pytest.approx(math.tan(0.475 * math.pi))
    assert mean - low == pytest.approx(high - mean)


def test_an_interval_is_that_of_scipys_paired_test():
    one, other = [0.91, 0.88, 0.95, 0.9], [0.89, 0.9, 0.9, 0.86]
    found = paired_interval([a - b for a, b in zip(one, other, strict=True)], 0.9)
    expected = stats.ttest_rel(one, other).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("differences", "mean"), [([], math.nan), ([0.5], 0.5)])
def test_less_than_two_differences_have_no_interval(differences, mean):
    found = paired_interval(differences)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert math.isnan(deviation(differences))


@pytest.mark.parametrize("arguments", [(0.0, 3), (1.0, 3), (0.5, 0), (0.5, 2.0)])
def test_what_is_out_of_range_is_refused(arguments):
    with pytest.raises(SparsityError):
        student_quantile(*arguments)
