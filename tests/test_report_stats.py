import math

import numpy as np
import pytest

from cab.report.stats import pearson, spearman, t_interval, welch_interval


def test_t_quantiles_are_right():
    """The density of Student's t, integrated numerically up to each quantile."""
    for freedom in range(1, 60):
        values = [-1.0, *[0.0] * (freedom - 1), 1.0]
        low, high = t_interval(values)
        t = (high - low) / 2 / np.std(values, ddof=1) * math.sqrt(freedom + 1)
        x = np.linspace(0, t, 20001)
        log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
        density = np.exp(log_scale - (freedom + 1) / 2 * np.log1p(x**2 / freedom))
        assert np.trapezoid(density, x) == pytest.approx(0.475, abs=1e-5)
    assert t_interval([1.0]) is None
    assert t_interval([1.0, 1.0]) == (1.0, 1.0)


def test_the_interval_of_a_difference():
    low, high = welch_interval([27.5, 21.0, 19.0, 23.6, 17.0], [27.1, 22.0, 20.8, 23.4])
    # by hand: means 21.62 and 23.325, variances 16.772 and 7.4625 over 5 and 4; t of 6.86 degrees of freedom
    assert low == pytest.approx(-1.705 - 2.374 * 2.28474, abs=3e-3)
    assert high == pytest.approx(-1.705 + 2.374 * 2.28474, abs=3e-3)
    assert welch_interval([1.0], [1.0, 2.0]) is None
    assert welch_interval([3.0, 3.0], [1.0, 1.0]) == (2.0, 2.0)


def test_correlations():
    x, y = [1.0, 2.0, 3.0, 40.0], [1.0, 4.0, 9.0, 16.0]
    r = np.corrcoef(x, y)[0, 1]
    assert pearson(x, y).value == pytest.approx(r)
    assert pearson(x, y).interval.low == pytest.approx(math.tanh(math.atanh(r) - 1.959964), abs=1e-6)
    assert pearson([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 4.0, 6.0, 8.0, 10.0]).interval == pytest.approx((1.0, 1.0))
    assert spearman(x, y) == pytest.approx(1.0)
    assert spearman([3.0, 1.0, 3.0, 2.0], [3.5, 1.0, 3.5, 2.0]) == pytest.approx(1.0)  # ties share their mean rank
    assert pearson([1.0, 1.0], [1.0, 2.0]) is spearman([1.0, 1.0], [1.0, 2.0]) is None
