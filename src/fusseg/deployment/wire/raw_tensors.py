"""Tensors as plain bytes, checked on the way back: no pickle, no format that could run code."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.core.visible_text import shown
from fusseg.federation.parts import TRAVELING

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in TRAVELING}
"""Types of numbers that may travel."""
MOST_BYTES = 512 * 2**20
"""Of one tensor."""
MOST_SIDES = 8
LONGEST_SIDE = 2**31


def dtype_name(tensor: Tensor) -> str:
    """Name a tensor's type of number as it is written on the wire."""
    return str(tensor.dtype).removeprefix("torch.")


def to_bytes(tensor: Tensor) -> bytes:
    """Write a tensor's numbers, row by row, little-endian as every supported machine has them."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def from_bytes(name: str, dtype: str, shape: Sequence[int], content: bytes) -> Tensor:
    """Read a tensor.

    Args:
        name: For the error message.
        dtype: One of `DTYPES`.
        shape: At most `MOST_SIDES` whole numbers of 0 to `LONGEST_SIDE`.
        content: As `to_bytes` wrote it.

    Raises:
        FederationError: If the type is unknown, the shape is none, or the bytes do not fit.
    """
    if dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise FederationError(f"tensor {name!r} is {shown(dtype)}, must be one of {known}")
    # Before anything is multiplied: the product of giant or of many sides takes minutes, and
    # Python refuses to write it.
    if len(shape) > MOST_SIDES:
        raise FederationError(f"tensor {name!r} has {len(shape)} sides, must be 0 to {MOST_SIDES}")
    for side in shape:
        # bool is an int to Python, and nobody's length.
        if isinstance(side, bool) or not isinstance(side, int) or not 0 <= side <= LONGEST_SIDE:
            raise FederationError(
                f"tensor {name!r} has a side of {shown(side)}, must be a whole number of 0 to "
                f"{LONGEST_SIDE}"
            )
    size = math.prod(shape) * DTYPES[dtype].itemsize
    # As if no side were 0: beside one, the others could be of any length.
    room = math.prod(max(1, side) for side in shape) * DTYPES[dtype].itemsize
    if len(content) != size or room > MOST_BYTES:
        raise FederationError(
            f"tensor {name!r} of shape {tuple(shape)} as {dtype} takes {size} bytes (at most "
            f"{MOST_BYTES}), got {len(content)}"
        )
    if not content:
        return torch.empty(tuple(shape), dtype=DTYPES[dtype])
    # A copy: the bytes cannot be written to, and what is trained is.
    return torch.frombuffer(bytearray(content), dtype=DTYPES[dtype]).reshape(tuple(shape))
