"""Finding the form of an encoder's output by running it: a map, or tokens on a grid."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from fusseg.config.schema import Grid
from fusseg.core.errors import ConfigError

Run = Callable[[Float[np.ndarray, "batch 3 height width"]], Float32[np.ndarray, "*shape"]]
"""Function from normalized images to the encoder's output."""
Size = tuple[int, int]
"""Height and width."""

PROBE_SIZE = (224, 448)
"""Multiples of every usual stride (7, 8, 14, 16, 28, 32); not square, to tell height from width."""
SQUARE_PROBE = (224, 224)
STRIDES = (4, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)
"""Strides to try, the smallest first, if a grid is given and the image size is free."""
LARGEST_STRIDE = 64
"""Largest stride of suggested grids."""
MOST_PREFIX = 16
"""Most tokens before the patches (class, distillation, registers) that any known encoder has."""
_MAP = "(batch, dim, height / stride, width / stride)"


@dataclass(frozen=True)
class Layout:
    """The form of an encoder's features."""

    feature_dim: int
    stride: int
    image_size: Size | None
    """The only size it takes; None: any multiples of the stride, squares for a square grid."""
    probe: Size
    """A size that it takes."""


def find_layout(
    run: Run, path: Path, image_size: Size | None, grid: Grid | None, *, gives_tokens: bool
) -> Layout:
    """Find the number of channels and the stride.

    Args:
        run: The encoder.
        path: Its file, for errors.
        image_size: Size that the file fixes; None: free.
        grid: How tokens lie, as `backbone.grid`; None: the output is a map.
        gives_tokens: Whether the file declares an output of three dimensions.

    Raises:
        ConfigError: If the output has another form.
    """
    if grid is None:
        size = image_size or (SQUARE_PROBE if gives_tokens else PROBE_SIZE)
        with _hinting(free=gives_tokens and image_size is None):
            shape = run(probe_images(size)[:1]).shape
        return _of_map(shape, path, size, image_size)
    if grid == "square":
        return _of_square(run, path, image_size)
    return _of_grid(run, path, image_size, grid)


def lay_out(
    tokens: Float32[np.ndarray, "batch tokens dim"], rows: int, columns: int
) -> Float32[np.ndarray, "batch dim rows columns"]:
    """Turn tokens, row after row, into a map."""
    batch, _, dim = tokens.shape
    return np.ascontiguousarray(tokens.transpose(0, 2, 1).reshape(batch, dim, rows, columns))


def probe_images(size: Size) -> Float32[np.ndarray, "2 3 height width"]:
    """Make two very different images: noise, and a ramp of another mean and spread."""
    noise = np.random.default_rng(0).standard_normal((3, *size))
    slope = np.broadcast_to(np.linspace(-2, 1, size[1]), (3, *size))
    return np.stack([noise, slope]).astype(np.float32)


@contextmanager
def _hinting(*, free: bool) -> Iterator[None]:
    """Add a hint to errors of encoders that may take images of one size without declaring it.

    Raises:
        ConfigError: The error raised inside, with the hint.
    """
    try:
        yield
    except ConfigError as error:
        hint = "; if it takes only images of one size, set backbone.grid to its [rows, columns]"
        raise ConfigError(f"{error}{hint * free}") from error


def _of_map(shape: tuple[int, ...], path: Path, size: Size, image_size: Size | None) -> Layout:
    if len(shape) == 4 and shape[0] == 1:
        stride = size[0] // shape[2] if shape[2] else 0
        if stride and (shape[2] * stride, shape[3] * stride) == size:
            return Layout(shape[1], stride, image_size, size)
    described = (
        f"the output of ONNX file {str(path)!r} must be of shape {_MAP}, got {shape} for an image "
        f"of {size}"
    )
    raise ConfigError(f"{described}; {_how_to_export(shape, size)}")


def _how_to_export(shape: tuple[int, ...], size: Size) -> str:
    """Say in terms of PyTorch how to export an output that is a map."""
    if len(shape) == 4 and shape[1] and size[0] % shape[1] == 0:
        stride = size[0] // shape[1]
        if shape[2] * stride == size[1]:
            return "its channels are last: export features.permute(0, 3, 1, 2)"
    if len(shape) == 4:
        return "export it with one stride for height and width that divides both"
    if len(shape) == 3:
        fits = _find_grid(shape[1], size)
        if fits is not None:
            rows, columns, prefix = fits
            drop = f"{rows} x {columns} + {prefix}; {_drop(prefix)}; " if prefix else ""
            first = f"tokens[:, {prefix}:]" if prefix else "tokens"
            grid = '"square"' if rows == columns else f"[{rows}, {columns}]"
            return (
                f"these are tokens: {drop}set backbone.grid = {grid}, or export a map: "
                f"{first}.transpose(1, 2).unflatten(2, (height // {size[0] // rows}, width // "
                f"{size[0] // rows}))"
            )
        if _find_grid(shape[2], size) is not None:
            return (
                "these are tokens with their channels first: export a map, "
                "tokens.unflatten(2, (rows, columns))"
            )
        return (
            "these are tokens: export a map, tokens.transpose(1, 2).unflatten(2, (rows, columns))"
        )
    return "export the features before they are pooled or flattened"


def _of_square(run: Run, path: Path, image_size: Size | None) -> Layout:
    size = image_size or SQUARE_PROBE
    if size[0] != size[1]:
        raise ConfigError(
            f"backbone.grid is 'square', but ONNX file {str(path)!r} takes images of {list(size)}; "
            "set backbone.grid to [rows, columns]"
        )
    with _hinting(free=image_size is None):
        shape = run(probe_images(size)[:1]).shape
    _check_tokens(shape, path, size)
    side = isqrt(shape[1])
    if side**2 != shape[1] or size[0] % side:
        raise _wrong_number(shape, (side, side), "a square", path, size)
    return Layout(shape[2], size[0] // side, image_size, size)


def _of_grid(run: Run, path: Path, image_size: Size | None, grid: tuple[int, int]) -> Layout:
    rows, columns = grid
    if image_size is not None:
        stride = image_size[0] // rows
        if stride == 0 or (rows * stride, columns * stride) != image_size:
            raise ConfigError(
                f"backbone.grid {list(grid)} does not divide the images of {list(image_size)} that "
                f"ONNX file {str(path)!r} takes into squares; correct it"
            )
        shape = run(probe_images(image_size)[:1]).shape
        _check_tokens(shape, path, image_size)
        if shape[1] != rows * columns:
            raise _wrong_number(shape, grid, f"{rows} x {columns}", path, image_size)
        return Layout(shape[2], stride, image_size, image_size)
    tried = []
    for size, shape in _sizes_that_run(run, path, grid):
        if shape[1] == rows * columns:
            return Layout(shape[2], size[0] // rows, size, size)
        if 0 < shape[1] - rows * columns <= MOST_PREFIX:
            raise _wrong_number(shape, grid, f"{rows} x {columns}", path, size)
        tried.append(f"{shape[1]} for {list(size)}")
    raise ConfigError(
        f"ONNX file {str(path)!r} does not give the {rows} x {columns} tokens of backbone.grid for "
        f"images of {rows} x {columns} patches of any usual size; it gives "
        f"{', '.join(tried) or 'nothing for any of them'}; correct backbone.grid, or export the "
        "encoder for one image size"
    )


def _sizes_that_run(
    run: Run, path: Path, grid: tuple[int, int]
) -> Iterator[tuple[Size, tuple[int, ...]]]:
    for stride in STRIDES:
        size = (grid[0] * stride, grid[1] * stride)
        try:
            features = run(probe_images(size)[:1])
        except ConfigError:
            # Encoders with learned positions take only one size.
            continue
        _check_tokens(features.shape, path, size)
        yield size, features.shape


def _check_tokens(shape: tuple[int, ...], path: Path, size: Size) -> None:
    if len(shape) == 3 and shape[0] == 1 and min(shape) > 0:
        return
    remedy = "remove backbone.grid" if len(shape) == 4 else "export it in this form"
    raise ConfigError(
        f"with backbone.grid the output of ONNX file {str(path)!r} must be of shape (batch, "
        f"tokens, dim), got {shape} for an image of {size}; {remedy}"
    )


def _wrong_number(
    shape: tuple[int, ...], grid: tuple[int, int], wanted: str, path: Path, size: Size
) -> ConfigError:
    """Say how many tokens are superfluous, or why they do not form the grid."""
    number, (rows, columns) = shape[1], grid
    prefix = number - rows * columns
    start = f"ONNX file {str(path)!r}: {number} tokens are not {wanted}"
    fits = size[0] % rows == size[1] % columns == 0 and size[0] // rows <= LARGEST_STRIDE
    if fits and prefix > 0:
        return ConfigError(f"{start}: {rows} x {columns} + {prefix}; {_drop(prefix)}")
    return ConfigError(f"{start} of an image of {list(size)}; {_how_to_export(shape, size)}")


def _drop(prefix: int) -> str:
    return f"drop the first {prefix} token{'s' if prefix > 1 else ''} when exporting"


def _find_grid(number: int, size: Size) -> tuple[int, int, int] | None:
    """Find a grid of square patches with the fewest extra tokens; None if none comes close."""
    height, width = size
    grids = (
        (height // stride, width // stride)
        for stride in range(2, LARGEST_STRIDE + 1)
        if height % stride == 0 and width % stride == 0
    )
    found = [
        (rows, columns, number - rows * columns)
        for rows, columns in grids
        if 0 <= number - rows * columns <= MOST_PREFIX
    ]
    return min(found, key=lambda one: one[2], default=None)
