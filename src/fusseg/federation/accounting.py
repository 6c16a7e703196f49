"""The privacy that noise gives, accounted by Google's `dp-accounting` (Renyi divergences)."""

import math
from types import ModuleType

from fusseg.core.errors import ConfigError

_MOST = 1e6
"""Largest multiplier that is tried."""
_PRECISION = 1e-4


def spent_epsilon(multiplier: float, exchanges: int, delta: float) -> float:
    """Compute epsilon of Gaussian noise in several exchanges.

    The bound holds for the discrete Gaussian as for the continuous one (Canonne et al., 2020,
    theorem 4).

    Args:
        multiplier: Standard deviation of the noise, in sensitivities.
        exchanges: Number of exchanges that use the same images.
        delta: Probability with which the bound may fail.
    """
    accounting = _accounting()
    event = accounting.SelfComposedDpEvent(accounting.GaussianDpEvent(multiplier), exchanges)
    found: float = accounting.rdp.RdpAccountant().compose(event).get_epsilon(delta)
    return found


def needed_multiplier(epsilon: float, exchanges: int, delta: float) -> float:
    """Compute the least noise with which several exchanges stay within a budget.

    Args:
        epsilon: The budget.
        exchanges: Number of exchanges that use the same images.
        delta: Probability with which the bound may fail.

    Returns:
        Standard deviation of the noise in sensitivities, rounded up to three digits, so that other
        versions of the package find the same number.
    """
    low, high = 0.0, 1.0
    while spent_epsilon(high, exchanges, delta) > epsilon and high < _MOST:
        low, high = high, 2 * high
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        low, high = (
            (low, middle) if spent_epsilon(middle, exchanges, delta) <= epsilon else (middle, high)
        )
    digit = 10.0 ** (math.floor(math.log10(high)) - 2)
    return round(math.ceil(high / digit) * digit, 12)


def _accounting() -> ModuleType:
    try:
        import dp_accounting
        import dp_accounting.rdp
    except ImportError as error:
        raise ConfigError(
            "privacy.noise needs the package dp-accounting, which is not installed: "
            "pip install 'fusseg[privacy]'"
        ) from error
    module: ModuleType = dp_accounting
    return module
