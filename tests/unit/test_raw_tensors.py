import struct

import pytest
import torch

from fusseg.deployment.raw_tensors import DTYPES, MOST_BYTES, dtype_name, from_bytes, to_bytes
from fusseg.errors import FederationError


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


@pytest.mark.parametrize("shape", [(-1,), (2, -2), (-2, -2)])
def test_a_side_is_not_negative(shape):
    assert refused("float32", shape, bytes(16)) == f"tensor 'w' has the shape {shape}"


@pytest.mark.parametrize(
    ("dtype", "shape", "size", "got"),
    [
        ("float32", (2, 3), 24, 23),
        ("float32", (2, 3), 24, 25),
        ("float32", (2, 3), 24, 0),
        ("float64", (2, 3), 48, 24),
        ("bfloat16", (), 2, 4),
        ("int64", (0, 5), 0, 1),
        ("float32", (2**40, 2**40), 2**82, 8),
    ],
)
def test_bytes_and_shape_fit(dtype, shape, size, got):
    assert refused(dtype, shape, bytes(got)) == (
        f"tensor 'w' of shape {shape} as {dtype} takes {size} bytes (at most 536870912), got {got}"
    )


def test_a_tensor_is_not_too_large(monkeypatch):
    assert MOST_BYTES == 512 * 2**20
    monkeypatch.setattr("fusseg.deployment.raw_tensors.MOST_BYTES", 8)
    assert from_bytes("w", "float32", (2,), bytes(8)).tolist() == [0.0, 0.0]
    assert refused("float32", (3,), bytes(12)) == (
        "tensor 'w' of shape (3,) as float32 takes 12 bytes (at most 8), got 12"
    )


@pytest.mark.parametrize("shape", [(0, 2**70), (2**62, 2**62, 0), (0, -1)])
def test_an_absurd_shape_without_numbers_is_refused(shape):
    with pytest.raises(FederationError):
        from_bytes("w", "float32", shape, b"")
