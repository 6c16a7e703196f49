"""What noise spends, against the exact curve of the Gaussian mechanism."""

import math
import sys

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from fusseg.core.errors import ConfigError
from fusseg.federation.accounting import needed_multiplier, spent_epsilon


def exact_epsilon(multiplier, delta):
    """Balle and Wang (2018), theorem 8: epsilon of one Gaussian mechanism."""

    def beyond(epsilon):
        left = norm.cdf(0.5 / multiplier - epsilon * multiplier)
        right = norm.logcdf(-0.5 / multiplier - epsilon * multiplier) + epsilon
        return left - math.exp(right) - delta

    return brentq(beyond, 1e-9, 500)


@pytest.mark.parametrize("multiplier", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("exchanges", [1, 12])
def test_the_bound_holds_and_is_close_to_the_exact_curve(multiplier, exchanges):
    # Several Gaussian mechanisms are one with less noise.
    exact = exact_epsilon(multiplier / math.sqrt(exchanges), 1e-6)
    found = spent_epsilon(multiplier, exchanges, 1e-6)
    assert exact <= found < 1.2 * exact


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 8.0, 50.0])
def test_the_least_noise_stays_within_the_budget(epsilon):
    found = needed_multiplier(epsilon, 12, 1e-6)
    assert spent_epsilon(found, 12, 1e-6) <= epsilon
    assert spent_epsilon(0.98 * found, 12, 1e-6) > epsilon
    # Three digits.
    assert float(f"{found:.3g}") == found


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match=r"fusseg\[privacy\]"):
        spent_epsilon(1.0, 1, 1e-6)
