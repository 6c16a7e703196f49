"""A backbone without weights: color and oriented filter energies with local context."""

import math
from collections.abc import Callable
from hashlib import sha256

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from fusseg.features.backbones.backbone import Backbone, check_sides

STRIDE = 8
NUM_ORIENTATIONS = 6
NUM_SCALES = 5
"""Gabor wavelengths of 4, 8, 16, 32 and 64 pixels."""
WAVELENGTH = 4.0
"""Wavelength in pixels of the filtered pyramid level."""
ENVELOPE = 1.8
"""Standard deviation of the Gabor window, in pixels of the pyramid level."""
RADIUS = 3
FLOOR = 0.02
"""Contrast below which texture counts as noise; colors range from 0 to 1."""
CONTEXTS = ((0.0, 0.5), (1.5, 0.7), (4.0, 1.0), (10.0, 0.7))
"""Standard deviation in positions (0: the position itself) and weight of each context window."""
COLOR_WEIGHT = 2.0
"""Balances three channels of color against thirty of texture in a cosine."""
# Standard deviations of the features over the positions of 1500 unlabeled photographs (BSDS500
# and ImageNet), so that each group of channels has about unit variance in natural images.
COLOR_SCALES = (0.16, 0.083, 0.10)
CONTRAST_SCALES = (0.64, 0.41, 0.49)
ENERGY_SCALES = (0.35, 0.35, 0.37, 0.40, 0.38)


def load_filterbank(name: str = "filterbank") -> Backbone:
    """Build the weight-free backbone.

    The features of a position are the mean and the contrast of three opponent colors and the
    energies of Gabor filters of six orientations at five wavelengths, followed by their averages
    over three wider windows. They do not depend on where in the image the position lies.

    Args:
        name: As written in `backbone.name`.
    """
    describe = filterbank_function()

    def extract(
        images: UInt8[Tensor, "batch height width 3"],
    ) -> Float[Tensor, "batch dim h w"]:
        check_sides(name, STRIDE, (images.shape[1], images.shape[2]))
        # One by one: the order of sums in a convolution may depend on the size of the batch, but
        # features must not depend on the other images of the batch.
        return torch.cat([describe(image[None]) for image in images])

    return Backbone(
        name=name,
        fingerprint=_fingerprint(),
        feature_dim=len(CONTEXTS) * _channel_scales().numel(),
        stride=STRIDE,
        center=True,
        extract=extract,
        same_on_any_threads=True,
    )


def filterbank_function() -> Callable[[UInt8[Tensor, "batch height width 3"]], Tensor]:
    """Make the function from a batch of images to features of shape (batch, dim, h, w)."""
    filters, scales = _gabor_filters(), _channel_scales()
    return lambda images: _with_context(_local(images, filters) / scales)


def _fingerprint() -> str:
    constants = (
        "filterbank 1",
        (STRIDE, NUM_ORIENTATIONS, NUM_SCALES, WAVELENGTH, ENVELOPE, RADIUS, FLOOR),
        (CONTEXTS, COLOR_WEIGHT, COLOR_SCALES, CONTRAST_SCALES, ENERGY_SCALES),
    )
    return sha256(repr(constants).encode()).hexdigest()


def _channel_scales() -> Float[Tensor, "1 channels 1 1"]:
    scales = [scale / COLOR_WEIGHT for scale in COLOR_SCALES]
    scales += CONTRAST_SCALES
    scales += [scale for scale in ENERGY_SCALES for _ in range(NUM_ORIENTATIONS)]
    return torch.tensor(scales).view(1, -1, 1, 1)


def _gabor_filters() -> Float[Tensor, "filters 1 side side"]:
    """Make the even filters of all orientations, then the odd ones; a constant image gives 0."""
    steps = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    window = torch.exp(-(x.square() + y.square()) / (2 * ENVELOPE**2))
    evens, odds = [], []
    for orientation in range(NUM_ORIENTATIONS):
        angle = math.pi * orientation / NUM_ORIENTATIONS
        phase = 2 * math.pi / WAVELENGTH * (x * math.cos(angle) + y * math.sin(angle))
        even = window * phase.cos()
        even = even - window * (even.sum() / window.sum())
        odd = window * phase.sin()
        evens.append(even / even.abs().sum())
        odds.append(odd / odd.abs().sum())
    return torch.stack(evens + odds)[:, None]


def _local(
    images: UInt8[Tensor, "batch height width 3"], filters: Float[Tensor, "filters 1 side side"]
) -> Float[Tensor, "batch channels h w"]:
    """Describe each cell of 8x8 pixels by color, contrast and texture."""
    colors = _opponent_colors(images)
    mean = avg_pool2d(colors, STRIDE)
    variance = avg_pool2d(colors.square(), STRIDE) - mean.square()
    contrast = variance.clamp(min=0).sqrt()
    energies = _oriented_energies(colors[:, :1], filters)
    return torch.cat([mean, (contrast + FLOOR).log(), (energies + FLOOR).log()], dim=1)


def _opponent_colors(
    images: UInt8[Tensor, "batch height width 3"],
) -> Float[Tensor, "batch 3 height width"]:
    """Compute lightness, red-green and yellow-blue from cube roots, as in CIELAB."""
    roots = torch.arange(256).div(255).clamp(min=1 / 255).pow(1 / 3)[images.long()]
    red, green, blue = roots.unbind(dim=3)
    return torch.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue], dim=1)


def _oriented_energies(
    lightness: Float[Tensor, "batch 1 height width"],
    filters: Float[Tensor, "filters 1 side side"],
) -> Float[Tensor, "batch channels h w"]:
    """Filter each level of a pyramid and average the magnitudes over the cells."""
    binomial = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    halve = torch.outer(binomial, binomial)[None, None]
    energies = []
    cell, level = STRIDE, lightness
    for scale in range(NUM_SCALES):
        # Once a pixel is a cell, longer wavelengths need blurring and a dilated filter.
        dilation = 1 if scale < 4 else 2
        response = conv2d(_replicate(level, RADIUS * dilation), filters, dilation=dilation)
        # In place: allocating memory of this size takes longer than the arithmetic.
        even, odd = response.square_().chunk(2, dim=1)
        energies.append(avg_pool2d(even.add_(odd).sqrt_(), cell))
        if cell > 1:
            level = conv2d(_replicate(level, 1), halve, stride=2)
            cell //= 2
        else:
            level = _blur(level, 1.0)
    return torch.cat(energies, dim=1)


def _replicate(level: Tensor, margin: int) -> Tensor:
    """Repeat the border pixels, so that the border is not an edge."""
    return pad(level, (margin, margin, margin, margin), mode="replicate")


def _with_context(
    local: Float[Tensor, "batch channels h w"],
) -> Float[Tensor, "batch dim h w"]:
    """Append averages over increasingly wide windows."""
    maps = [weight * (_blur(local, sigma) if sigma else local) for sigma, weight in CONTEXTS]
    return torch.cat(maps, dim=1)


def _blur(maps: Float[Tensor, "batch channels h w"], sigma: float) -> Tensor:
    """Average with Gaussian weights over the positions inside the map."""
    height, width = maps.shape[2:]
    return _gaussian_rows(height, sigma) @ maps @ _gaussian_rows(width, sigma).T


def _gaussian_rows(length: int, sigma: float) -> Float[Tensor, "{length} {length}"]:
    """Make one row of weights per position; each sums to 1."""
    steps = torch.arange(length, dtype=torch.float32)
    weights = torch.exp(-(steps[:, None] - steps).square() / (2 * sigma**2))
    return weights / weights.sum(dim=1, keepdim=True)
