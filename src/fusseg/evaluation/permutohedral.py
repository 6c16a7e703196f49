"""Gaussian filtering in several dimensions on the permutohedral lattice (Adams, Baek & Davis 2010).

A brute-force filter over N points computes N x N kernel values. Here each point is spread over the
corners of its enclosing simplex (splat), the lattice points are blurred along d + 1 directions, and
each point reads its corners (slice), which costs N x d^2. The lattice points and their neighbors
depend only on the positions and are found once for all values.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64
from scipy.sparse import csr_array

_BLOCK_BYTES = 256 * 2**20
"""Memory for the lattice values of one block of channels."""


@dataclass(frozen=True)
class Lattice:
    """Linear maps between points and lattice points, and from lattice points to their neighbors."""

    splat: csr_array
    """Barycentric weights, lattice points x points."""
    slice: csr_array
    """Transpose of `splat`, scaled so that the blurs sum to one over a filled lattice."""
    blurs: tuple[csr_array, ...]
    """One per direction: weight 1 for the lattice point and 1/2 for its two neighbors."""


def build_lattice(positions: Float[np.ndarray, "points dims"]) -> Lattice:
    """Find the lattice points around positions, and their neighbors.

    Args:
        positions: Positions in units of the Gaussian's standard deviation.
    """
    num_points, dims = positions.shape
    corners, weights = _enclosing_simplices(positions)
    origin = corners.min(axis=(0, 1)) - (dims + 1)
    extent = corners.max(axis=(0, 1)) - origin + dims + 2
    # One integer key per lattice point; a step along a direction adds a constant to it.
    radix = np.append(np.cumprod(extent[:0:-1], dtype=np.int64)[::-1], 1)
    keys, vertex = np.unique((corners - origin) @ radix, return_inverse=True)
    shape = (num_points, len(keys))
    ends = np.arange(num_points + 1) * (dims + 1)
    order = (weights.astype(np.float32).ravel(), vertex.ravel(), ends)
    to_points = csr_array(order, shape=shape)
    scale = np.float32(1 / (1 + 2.0**-dims))
    steps = np.ones((dims + 1, dims), dtype=np.int64)
    steps[np.arange(dims), np.arange(dims)] = -dims
    blurs = tuple(_blur(keys, int(step @ radix)) for step in steps)
    return Lattice(to_points.T.tocsr(), to_points * scale, blurs)


def gaussian_filter(
    lattice: Lattice, values: Float32[np.ndarray, "points channels"]
) -> Float32[np.ndarray, "points channels"]:
    """Sum the values of all points, weighted by about exp(-|p_i - p_j|^2 / 2), up to a constant.

    The kernel is only approximately Gaussian, and contributions that pass through a lattice point
    that is no point's corner are lost, as in the dense-CRF implementation of Kraehenbuehl & Koltun.
    Divide the result by that for values of one; the error is then a few percent (parity test).
    """
    filtered = np.empty_like(values)
    block = max(1, _BLOCK_BYTES // (4 * lattice.splat.shape[0]))
    for start in range(0, values.shape[1], block):
        part = slice(start, start + block)
        blurred = lattice.splat @ np.ascontiguousarray(values[:, part])
        for blur in lattice.blurs:
            blurred = blur @ blurred
        filtered[:, part] = lattice.slice @ blurred
    return filtered


def _enclosing_simplices(
    positions: Float[np.ndarray, "points dims"],
) -> tuple[Int64[np.ndarray, "points corners dims"], Float[np.ndarray, "points corners"]]:
    """Find the corners of the simplex around each position, and its barycentric coordinates.

    Returns:
        The corners' first `dims` coordinates (the last follows from their sum of zero), and the
        weights, which sum to one.
    """
    dims = positions.shape[1]
    elevated = _elevate(positions)
    # The closest lattice point whose coordinates are multiples of dims + 1, if its sum is zero.
    base = np.round(elevated / (dims + 1)).astype(np.int64)
    excess = base.sum(axis=1, keepdims=True)
    order = np.argsort(base * (dims + 1) - elevated, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(dims + 1)[None], axis=1)
    # If it is not zero, change the coordinates with the largest rounding errors by one.
    rank += excess
    base += (rank < 0).astype(np.int64) - (rank > dims)
    rank %= dims + 1
    offset = np.empty_like(elevated)
    np.put_along_axis(offset, rank, elevated / (dims + 1) - base, axis=1)
    weights = np.empty_like(elevated)
    weights[:, 1:] = (offset[:, :-1] - offset[:, 1:])[:, ::-1]
    weights[:, 0] = 1 + offset[:, -1] - offset[:, 0]
    # Corner k: add k to each coordinate, and subtract dims + 1 from those of the last k ranks.
    number = np.arange(dims + 1)
    canonical = number[:, None] - (dims + 1) * (number[None, :] > dims - number[:, None])
    corners = (base * (dims + 1))[:, None, :] + canonical[number[None, :, None], rank[:, None, :]]
    return corners[:, :, :dims], weights


def _elevate(
    positions: Float[np.ndarray, "points dims"],
) -> Float[np.ndarray, "points coordinates"]:
    """Embed positions isometrically in the plane of coordinates that sum to zero.

    They are scaled so that splat, blur and slice together have a standard deviation of one.
    """
    dims = positions.shape[1]
    number = np.arange(1, dims + 1)
    scaled = (
        positions.astype(np.float64) * np.sqrt(2 / 3) * (dims + 1) / np.sqrt(number * (number + 1))
    )
    # Column j: -j times the j-th direction, plus all later ones.
    later = np.concatenate([scaled[:, ::-1].cumsum(axis=1)[:, ::-1], np.zeros((len(scaled), 1))], 1)
    later[:, 1:] -= number * scaled
    return later


def _blur(keys: Int64[np.ndarray, " vertices"], step: int) -> csr_array:
    """Make the blur along one direction: weight 1 for the lattice point, 1/2 for its neighbors."""
    found, columns = [], []
    for neighbor in (keys - step, keys, keys + step):
        place = np.minimum(np.searchsorted(keys, neighbor), len(keys) - 1)
        found.append(keys[place] == neighbor)
        columns.append(place)
    present = np.stack(found, axis=1)
    weights = np.broadcast_to(np.array([0.5, 1, 0.5], np.float32), present.shape)
    ends = np.append(0, present.sum(axis=1).cumsum())
    entries = (weights[present], np.stack(columns, axis=1)[present], ends)
    return csr_array(entries, shape=(len(keys), len(keys)))
