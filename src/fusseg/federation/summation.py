"""Order-independent running sums of tensors that arrive one by one."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

_BLOCK = 2**15
"""Numbers added at once, few enough for the operands to fit the CPU's cache."""


class RunningSum:
    """Sums of tensors by name, with the rounding errors kept in a second float64.

    Both together have twice the digits of float64. The order of the terms only affects digits
    beyond float64, so the sum rounded to float64 is the same in any order. Integers are added
    directly.
    """

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        """Start at zero.

        Args:
            like: Tensors with the names and shapes of a term; integer dtypes are summed in int64.
        """
        self._high = {
            name: torch.zeros(
                part.shape, dtype=torch.float64 if part.dtype.is_floating_point else torch.int64
            )
            for name, part in like.items()
        }
        self._low = {name: torch.zeros_like(part) for name, part in self._high.items()}

    def add(
        self, terms: Mapping[str, Tensor], factor: int = 1, names: Iterable[str] | None = None
    ) -> None:
        """Add one tensor to each sum, or to some of them.

        Args:
            terms: Tensors with the same names and shapes as `like`.
            factor: Multiplies each term. Below 2 ** 29 its product with a float32 is exact; from
                there on the product is rounded, to the same float64 in any order.
            names: Sums to add to; None: all.
        """
        for name in self._high if names is None else names:
            high = self._high[name]
            highs, lows, added = (
                torch.split(part.reshape(-1), _BLOCK)
                for part in (high, self._low[name], terms[name])
            )
            for place in zip(highs, lows, added, strict=True):
                _add_block(*place, factor)

    def total(self) -> dict[str, Tensor]:
        """Return the sums in float64, or int64 for integers."""
        return {name: high + self._low[name] for name, high in self._high.items()}


def _add_block(high: Tensor, low: Tensor, term: Tensor, factor: int) -> None:
    """Add to `high` in place, and add the rounding error to `low` (Knuth's two-sum)."""
    term = term.to(high.dtype) * factor
    total = high + term
    if high.dtype.is_floating_point:
        added = total - high
        low += (high - (total - added)) + (term - added)
    high.copy_(total)
