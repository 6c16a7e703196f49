"""The first part of the exported graph, which resizes images to the scale of training like Pillow.

ONNX's own antialiased Resize differs from Pillow's by up to 9 of 255 levels in onnxruntime, and has
no `box` and no `lanczos`. This graph computes the weights of every output row and column as Pillow
does, and applies them as two matrix products.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto

from fusseg.config.schema import Interpolation
from fusseg.export.onnx.graph_text import parse_graph

_SUPPORT: Mapping[Interpolation, float] = {
    "box": 0.5, "bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0
}  # fmt: skip
"""Radius of each filter, in pixels of the smaller image."""

_FILTERS: Mapping[Interpolation, str] = {
    "box": """
        {p}_above = Greater ({p}_offset, minus_half)
        {p}_below = LessOrEqual ({p}_offset, half)
        {p}_both = And ({p}_above, {p}_below)
        {p}_raw = Where ({p}_both, one, zero)""",
    "bilinear": """
        {p}_away = Abs ({p}_offset)
        {p}_left = Sub (one, {p}_away)
        {p}_raw = Max ({p}_left, zero)""",
    # a = -1/2: 1.5 x^3 - 2.5 x^2 + 1 up to 1, then -0.5 x^3 + 2.5 x^2 - 4 x + 2 up to 2.
    "bicubic": """
        {p}_away = Abs ({p}_offset)
        {p}_a = Mul ({p}_away, cubic_3)
        {p}_b = Sub ({p}_a, cubic_2)
        {p}_c = Mul ({p}_b, {p}_away)
        {p}_d = Mul ({p}_c, {p}_away)
        {p}_near = Add ({p}_d, one)
        {p}_e = Sub ({p}_away, cubic_5)
        {p}_f = Mul ({p}_e, {p}_away)
        {p}_g = Add ({p}_f, cubic_8)
        {p}_h = Mul ({p}_g, {p}_away)
        {p}_i = Sub ({p}_h, cubic_4)
        {p}_far = Mul ({p}_i, minus_half)
        {p}_is_near = Less ({p}_away, one)
        {p}_is_far = Less ({p}_away, support)
        {p}_tail = Where ({p}_is_far, {p}_far, zero)
        {p}_raw = Where ({p}_is_near, {p}_near, {p}_tail)""",
    # sinc(x) sinc(x / 3); at 0 it is computed for a tiny angle, which gives 1.
    "lanczos": """
        {p}_zero = Equal ({p}_offset, zero)
        {p}_safe = Where ({p}_zero, tiny, {p}_offset)
        {p}_angle = Mul ({p}_safe, pi)
        {p}_sine = Sin ({p}_angle)
        {p}_inner = Div ({p}_sine, {p}_angle)
        {p}_third = Div ({p}_angle, support)
        {p}_third_sine = Sin ({p}_third)
        {p}_outer = Div ({p}_third_sine, {p}_third)
        {p}_product = Mul ({p}_inner, {p}_outer)
        {p}_away = Abs ({p}_offset)
        {p}_reached = LessOrEqual ({p}_away, support)
        {p}_raw = Where ({p}_reached, {p}_product, zero)""",
}

_WEIGHTS = """
        {p}_scale = Div ({p}_in, {p}_out)
        {p}_widening = Max ({p}_scale, one)
        {p}_reach = Mul ({p}_widening, support)
        {p}_targets = Range (zero, {p}_out, one)
        {p}_middles = Add ({p}_targets, half)
        {p}_flat = Mul ({p}_middles, {p}_scale)
        {p}_center = Unsqueeze ({p}_flat, last)
        {p}_sources = Range (zero, {p}_in, one)
        {p}_low_a = Sub ({p}_center, {p}_reach)
        {p}_low_b = Add ({p}_low_a, half)
        {p}_low = Floor ({p}_low_b)
        {p}_high_a = Add ({p}_center, {p}_reach)
        {p}_high_b = Add ({p}_high_a, half)
        {p}_high = Floor ({p}_high_b)
        {p}_from_low = GreaterOrEqual ({p}_sources, {p}_low)
        {p}_to_high = Less ({p}_sources, {p}_high)
        {p}_inside = And ({p}_from_low, {p}_to_high)
        {p}_apart_a = Sub ({p}_sources, {p}_center)
        {p}_apart = Add ({p}_apart_a, half)
        {p}_narrowing = Div (one, {p}_widening)
        {p}_offset = Mul ({p}_apart, {p}_narrowing)
        {filter}
        {p}_kept = Where ({p}_inside, {p}_raw, zero)
        {p}_total = ReduceSum <keepdims = 1> ({p}_kept, last)
        {p}_shares = Div ({p}_kept, {p}_total)
        {p}_scaled = Mul ({p}_shares, precision)
        {p}_lifted = Add ({p}_scaled, half)
        {p}_whole = Floor ({p}_lifted)
        {p}_fixed = Div ({p}_whole, precision)
        {p}_weights = Cast <to = 1> ({p}_fixed)"""
"""Pillow's weights: normalized over the pixels inside the image, in fixed point with 22 bits."""

_FILTERED = """
        planes_u8 = Transpose <perm = [0, 3, 1, 2]> (image)
        planes = Cast <to = 1> (planes_u8)
        x_transposed = Transpose <perm = [1, 0]> (x_weights)
        shrinks = Less (y_out, y_in)
        grows = Greater (x_out, x_in)
        columns_first = And (shrinks, grows)
        filtered = If (columns_first) <
            then_branch = down_across () => (float[batch, 3, seen_height, seen_width] da_levels) {{
                da_first = MatMul (y_weights, planes)
                {da_first}
                da_second = MatMul (da_first_levels, x_transposed)
                {da_second}
                da_levels = Identity (da_second_levels)
            }},
            else_branch = across_down () => (float[batch, 3, seen_height, seen_width] ad_levels) {{
                ad_first = MatMul (planes, x_transposed)
                {ad_first}
                ad_second = MatMul (y_weights, ad_first_levels)
                {ad_second}
                ad_levels = Identity (ad_second_levels)
            }}
        >
        seen_planes = Cast <to = 2> (filtered)
        seen = Transpose <perm = [0, 2, 3, 1]> (seen_planes)"""
"""Levels are rounded to integers after each product, so Pillow's order of the products matters."""

_ROUNDED = """
                {p}_lifted = Add ({p}, half32)
                {p}_whole = Floor ({p}_lifted)
                {p}_levels = Clip ({p}_whole, black, white)"""

_NEAREST = """
        {p}_scale = Div ({p}_in, {p}_out)
        {p}_targets = Range (zero, {p}_out, one)
        {p}_is_first = Equal ({p}_targets, zero)
        {p}_first = Mul ({p}_scale, half)
        {p}_steps = Where ({p}_is_first, {p}_first, {p}_scale)
        {p}_places = CumSum ({p}_steps, first_axis)
        {p}_floor = Floor ({p}_places)
        {p}_last = Sub ({p}_in, one)
        {p}_bounded = Min ({p}_floor, {p}_last)
        {p}_index = Cast <to = 7> ({p}_bounded)"""
"""Places are summed step by step, as in Pillow, because its rounding decides between pixels."""

_TRAINING_SIZE = """
        ratios = Div (training, sides)
        cover = ReduceMax <keepdims = 0> (ratios)
        area_int = ReduceProd <keepdims = 0> (size)
        area = Cast <to = 11> (area_int)
        enlarging = Div (largest, area)
        root = Sqrt (enlarging)
        limit = Max (root, one)
        scale = Min (cover, limit)
        scaled = Mul (sides, scale)
        scaled_whole = Round (scaled)
        strides = Div (scaled_whole, stride)
        strides_whole = Round (strides)
        positions = Max (strides_whole, one)
        seen_size = Mul (positions, stride)"""


def view_graph(
    training: tuple[int, int],
    interpolation: Interpolation,
    stride: int,
    largest: int | None,
    opset: int,
) -> ModelProto:
    """Build the graph from `image` (uint8, batch x height x width x 3) to `seen` and `size`.

    Args:
        training: Height and width of images in training.
        interpolation: Filter for resizing.
        stride: Stride of the backbone.
        largest: Number of pixels up to which a small image is enlarged to cover the training size,
            with its aspect ratio kept; None: every image is stretched to the training size.
        opset: Version of ONNX's own operators.
    """
    sizing = "seen_size = Identity (training)" if largest is None else _TRAINING_SIZE
    if interpolation == "nearest":
        body = (
            "".join(_NEAREST.format(p=axis) for axis in "xy")
            + """
        rows = Gather <axis = 1> (image, y_index)
        seen = Gather <axis = 2> (rows, x_index)"""
        )
    else:
        weights = (
            _WEIGHTS.format(p=axis, filter=_FILTERS[interpolation].format(p=axis)) for axis in "xy"
        )
        products = ("da_first", "da_second", "ad_first", "ad_second")
        rounded = {name: _ROUNDED.format(p=name) for name in products}
        body = "".join(weights) + _FILTERED.format(**rounded)
    text = f"""
    view (uint8[batch, height, width, 3] image)
        => (uint8[batch, seen_height, seen_width, 3] seen, int64[2] size)
    {{
        size = Shape <start = 1, end = 3> (image)
        sides = Cast <to = 11> (size)
        {sizing}
        y_in = Gather (sides, row)
        x_in = Gather (sides, column)
        y_out = Gather (seen_size, row)
        x_out = Gather (seen_size, column)
        {body}
    }}"""
    return parse_graph(text, opset, _constants(text, training, interpolation, stride, largest))


def _constants(
    text: str,
    training: tuple[int, int],
    interpolation: Interpolation,
    stride: int,
    largest: int | None,
) -> dict[str, Any]:
    """List the constants that the text uses."""
    known: dict[str, Any] = {
        "training": np.array(training, np.float64),
        "largest": float(largest or 0),
        "stride": float(stride),
        "support": _SUPPORT.get(interpolation, 0.0),
        "zero": 0.0,
        "half": 0.5,
        "minus_half": -0.5,
        "one": 1.0,
        "tiny": 1e-9,
        "pi": np.pi,
        "cubic_2": 2.5,
        "cubic_3": 1.5,
        "cubic_4": 4.0,
        "cubic_5": 5.0,
        "cubic_8": 8.0,
        "precision": float(2**22),
        "half32": np.float32(0.5),
        "black": np.float32(0),
        "white": np.float32(255),
        "row": 0,
        "column": 1,
        "first_axis": 0,
        "last": np.array([-1], np.int64),
    }
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return {name: value for name, value in known.items() if name in words}
