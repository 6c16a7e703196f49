"""What codecs keep of a feature map, whatever it holds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fusseg.features.cache.codecs import packing_of

maps = arrays(
    np.float16,
    array_shapes(min_dims=3, max_dims=3, max_side=5),
    elements=st.floats(-1000, 1000, width=16),
)


@given(maps)
def test_int8_is_off_by_half_a_level_at_most_and_keeps_the_range(features):
    codec = packing_of("int8")[0].codec(None)
    found = codec.decode(codec.encode(features), slice(None)).reshape(features.shape)
    exact = features.astype(np.float32)
    low, high = exact.min((0, 1)), exact.max((0, 1))
    assert (np.abs(found - exact) <= (high - low) / 255 * 0.501 + 1e-3).all()
    assert np.allclose(found.min((0, 1)), low, atol=1e-3)
    assert np.allclose(found.max((0, 1)), high, rtol=1e-5, atol=1e-3)


@given(maps)
def test_what_int8_decoded_is_encoded_to_nearly_itself(features):
    codec = packing_of("int8")[0].codec(None)
    once = codec.decode(codec.encode(features), slice(None)).reshape(features.shape)
    twice = codec.decode(codec.encode(once.astype(np.float16)), slice(None))
    step = (once.max((0, 1)) - once.min((0, 1))) / 255
    assert (np.abs(twice.reshape(features.shape) - once) <= step + 1).all()
