import struct
import time

import pytest
import torch

from fusseg.core.errors import FederationError
from fusseg.deployment.wire.raw_tensors import DTYPES, MOST_BYTES, dtype_name, from_bytes, to_bytes


def refused(*arguments):
    with pytest.raises(FederationError) as caught:
        from_bytes("w", *arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "content"),
    [
        (torch.float32, struct.pack("<2f", 1.5, -2.0)),
        (torch.float64, struct.pack("<2d", 1.5, -2.0)),
        # The upper half of a float32.
        (torch.bfloat16, struct.pack("<2f", 1.5, -2.0)[2:4] + struct.pack("<2f", 1.5, -2.0)[6:8]),
    ],
)
def test_numbers_are_written_little_endian(dtype, content):
    assert to_bytes(torch.tensor([1.5, -2.0], dtype=dtype)) == content


def test_whole_numbers_have_eight_bytes():
    content = to_bytes(torch.tensor([1, -1, 2**62]))
    assert content == b"\1" + bytes(7) + b"\xff" * 8 + bytes(7) + b"\x40"
    assert from_bytes("w", "int64", (3,), content).tolist() == [1, -1, 2**62]


def test_rows_follow_each_other_whatever_the_layout_in_memory():
    columns = torch.tensor([[1, 2, 3], [4, 5, 6]]).T
    assert not columns.is_contiguous()
    assert to_bytes(columns) == struct.pack("<6q", 1, 4, 2, 5, 3, 6)
    assert to_bytes(torch.tensor([7]).expand(3)) == struct.pack("<3q", 7, 7, 7)
    assert to_bytes(torch.arange(10)[2:8:3]) == struct.pack("<2q", 2, 5)


@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (1, 3, 2, 1)])
@pytest.mark.parametrize("name", DTYPES)
def test_a_tensor_comes_back_with_its_shape_and_type(name, shape, seeded):
    tensor = torch.randint(-9, 9, shape, generator=seeded(0)).to(DTYPES[name])
    assert dtype_name(tensor) == name
    found = from_bytes("w", name, shape, to_bytes(tensor))
    assert found.dtype == tensor.dtype
    assert found.shape == tensor.shape
    assert torch.equal(found, tensor)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)])
def test_a_tensor_without_numbers_comes_back_too(shape):
    content = to_bytes(torch.zeros(shape))
    assert content == b""
    assert from_bytes("w", "float32", shape, content).shape == shape


def test_values_that_are_not_numbers_keep_their_bits():
    content = struct.pack("<4I", 0x7FC00001, 0xFF800000, 0x80000000, 0x00000001)
    found = from_bytes("w", "float32", (4,), content)
    assert to_bytes(found) == content
    assert found.isnan().tolist() == [True, False, False, False]
    assert found[3] == 2.0**-149


def test_what_was_read_can_be_changed_and_leaves_the_bytes_alone():
    content = struct.pack("<2f", 1.0, 2.0)
    found = from_bytes("w", "float32", (2,), content)
    found += 1
    assert found.tolist() == [2.0, 3.0]
    assert content == struct.pack("<2f", 1.0, 2.0)


@pytest.mark.parametrize("dtype", ["float16", "bool", "object", "torch.float32", "", "Float32"])
def test_only_some_types_travel(dtype):
    assert refused(dtype, (1,), bytes(4)) == (
        f"tensor 'w' is {dtype!r}, must be one of float32, float64, bfloat16, int64"
    )


@pytest.mark.parametrize(
    ("shape", "got"),
    [
        ((-1,), "-1"),
        ((2, -2), "-2"),
        ((0, -1), "-1"),
        ((2**31 + 1,), "2147483649"),
        ((0, 2**70), str(2**70)),
        ((2**62, 2**62, 0), str(2**62)),
        ((True,), "True"),
        ((False, 1), "False"),
        # Python writes no such numbers
        ((10**5000,), "a value of type int that is too large to show"),
    ],
)
def test_a_side_is_a_whole_number_within_bounds(shape, got):
    assert refused("float32", shape, bytes(4)) == (
        f"tensor 'w' has a side of {got}, must be a whole number of 0 to 2147483648"
    )


@pytest.mark.parametrize("shape", [(1,) * 9, (0,) * 9, (1,) * 100_000, (10**4000,) * 200_000])
def test_a_tensor_has_few_sides_and_no_others_are_multiplied(shape):
    started = time.process_time()
    assert refused("float32", shape, bytes(4)) == (
        f"tensor 'w' has {len(shape)} sides, must be 0 to 8"
    )
    assert time.process_time() - started < 1


def test_eight_sides_are_enough_and_the_longest_has_a_reason_of_its_own():
    assert from_bytes("w", "float32", (1,) * 8, bytes(4)).shape == (1,) * 8
    reason = refused("float32", (2**31,) * 8, bytes(4))
    assert f"takes {2**250} bytes (at most 536870912), got 4" in reason


@pytest.mark.parametrize(
    ("dtype", "shape", "size", "got"),
    [
        ("float32", (2, 3), 24, 23),
        ("float32", (2, 3), 24, 25),
        ("float32", (2, 3), 24, 0),
        ("float64", (2, 3), 48, 24),
        ("bfloat16", (), 2, 4),
        ("int64", (0, 5), 0, 1),
        ("float32", (2**31, 2**31), 2**64, 8),
    ],
)
def test_bytes_and_shape_fit(dtype, shape, size, got):
    assert refused(dtype, shape, bytes(got)) == (
        f"tensor 'w' of shape {shape} as {dtype} takes {size} bytes (at most 536870912), got {got}"
    )


def test_a_tensor_is_not_too_large(monkeypatch):
    assert MOST_BYTES == 512 * 2**20
    monkeypatch.setattr("fusseg.deployment.wire.raw_tensors.MOST_BYTES", 8)
    assert from_bytes("w", "float32", (2,), bytes(8)).tolist() == [0.0, 0.0]
    assert refused("float32", (3,), bytes(12)) == (
        "tensor 'w' of shape (3,) as float32 takes 12 bytes (at most 8), got 12"
    )


@pytest.mark.parametrize("shape", [(0, 2**31), (2**31, 2**31, 0)])
def test_an_absurd_shape_without_numbers_is_refused(shape):
    with pytest.raises(FederationError, match="takes 0 bytes"):
        from_bytes("w", "float32", shape, b"")


def test_a_type_of_any_length_is_named_in_few_words():
    assert len(refused("float32" * 10**6, (1,), bytes(4))) < 150
