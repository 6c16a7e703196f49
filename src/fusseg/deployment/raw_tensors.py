"""Tensors as plain bytes, checked on the way back: no pickle, no format that could run code."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fusseg.errors import FederationError

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
}
"""Types of numbers that may travel."""
MOST_BYTES = 512 * 2**20
"""Of one tensor."""


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
        shape: Sides, not negative.
        content: As `to_bytes` wrote it.

    Raises:
        FederationError: If the type is unknown, a side negative, or the bytes do not fit.
    """
    if dtype not in DTYPES:
        raise FederationError(f"tensor {name!r} is {dtype!r}, must be one of {', '.join(DTYPES)}")
    if any(side < 0 for side in shape):
        raise FederationError(f"tensor {name!r} has the shape {tuple(shape)}")
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
