import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError
from fusseg.features.backbones import check_image_size, load_backbone
from fusseg.prediction.viewing import PredictOptions, view_image

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

REAL = Path(__file__).parents[2].parent / "shared" / "weights" / "squeezenet-stride8" / "model.onnx"


def write(path, nodes, inputs, outputs, weights=(), **save):
    tensors = [numpy_helper.from_array(value, name) for name, value in weights]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path, **save)
    return f"onnx:{path}"


def port(name, *shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, list(shape))


def pooling(path, shape=("b", 3, "h", "w"), kernel=(8, 8)):
    """Write an encoder that averages cells of pixels."""
    node = helper.make_node(
        "AveragePool", ["image"], ["features"], kernel_shape=kernel, strides=kernel
    )
    return write(path, [node], [port("image", *shape)], [port("features", None, None, None, None)])


def convolution(path, value=0.5, **save):
    """Write an encoder of 5 channels and stride 16 with constant weights."""
    weights = np.full((5, 3, 16, 16), value, np.float32)
    node = helper.make_node("Conv", ["image", "weights"], ["features"], strides=[16, 16])
    ports = [port("image", "b", 3, "h", "w")], [port("features", "b", 5, "y", "x")]
    return write(path, [node], *ports, [("weights", weights)], **save)


def patches(path, *tail, shape=("b", 3, "h", "w"), stride=16, output=3):
    """Write an encoder of 5 channels for each patch, whose map goes through more nodes."""
    weights = np.random.default_rng(0).standard_normal((5, 3, stride, stride)).astype(np.float32)
    node = helper.make_node("Conv", ["image", "weights"], ["map"], strides=[stride, stride])
    constants = [
        ("weights", weights),
        ("flat", np.array([0, 5, -1], np.int64)),
        ("start", np.array([0], np.int64)),
        ("axis", np.array([1], np.int64)),
    ]
    port_out = port("features", *[None] * output)
    return write(path, [node, *tail], [port("image", *shape)], [port_out], constants)


FLAT = helper.make_node("Reshape", ["map", "flat"], ["channels"])


def tokens(path, prefix=0, **said):
    """Write the same encoder as tokens, repeating the first ones before all."""
    if not prefix:
        node = helper.make_node("Transpose", ["channels"], ["features"], perm=[0, 2, 1])
        return patches(path, FLAT, node, **said)
    nodes = [
        helper.make_node("Transpose", ["channels"], ["patches"], perm=[0, 2, 1]),
        helper.make_node("Constant", [], ["end"], value_ints=[prefix]),
        helper.make_node("Slice", ["patches", "start", "end", "axis"], ["first"]),
        helper.make_node("Concat", ["first", "patches"], ["features"], axis=1),
    ]
    return patches(path, FLAT, *nodes, **said)


def as_map(path, **said):
    node = helper.make_node("Identity", ["map"], ["features"])
    return patches(path, node, output=4, **said)


def noise(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)


def test_features_are_the_output_for_normalized_images(tmp_path):
    backbone = load_backbone(pooling(tmp_path / "model.onnx"))
    assert (backbone.feature_dim, backbone.stride, backbone.center) == (3, 8, True)
    image = torch.zeros(1, 16, 24, 3, dtype=torch.uint8)
    image[0, 8:, 16:] = torch.tensor([255, 128, 0], dtype=torch.uint8)
    features = backbone.extract(image)
    assert features.shape == (1, 3, 2, 3)
    assert features.dtype == torch.float32
    black = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    orange = [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, -0.406 / 0.225]
    assert torch.allclose(features[0, :, 0, 0], torch.tensor(black), atol=1e-5)
    assert torch.allclose(features[0, :, 1, 2], torch.tensor(orange), atol=1e-5)


@pytest.mark.parametrize("stride", [4, 7, 14, 16, 32])
def test_stride_is_found(tmp_path, stride):
    name = pooling(tmp_path / "model.onnx", kernel=(stride, stride))
    assert load_backbone(name).stride == stride


def test_features_of_an_image_do_not_depend_on_its_batch(tmp_path):
    backbone = load_backbone(convolution(tmp_path / "model.onnx"))
    assert (backbone.feature_dim, backbone.stride) == (5, 16)
    images = noise(4, 48, 80)
    assert torch.equal(backbone.extract(images)[2:3], backbone.extract(images[2:3]))


def test_a_file_with_a_batch_of_1_runs_image_by_image(tmp_path):
    free = load_backbone(pooling(tmp_path / "free.onnx"))
    fixed = load_backbone(pooling(tmp_path / "fixed.onnx", (1, 3, "h", "w")))
    images = noise(3, 16, 24)
    assert torch.equal(fixed.extract(images), free.extract(images))


def test_a_file_with_a_fixed_image_size_takes_that_only(tmp_path):
    name = pooling(tmp_path / "model.onnx", ("b", 3, 32, 48))
    backbone = load_backbone(name)
    assert backbone.image_size == (32, 48)
    assert backbone.extract(noise(2, 32, 48)).shape == (2, 3, 4, 6)
    message = (
        f"backbone {name!r} takes only images of [32, 48], got [48, 32]; set data.image_size to "
        "[32, 48]"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        backbone.extract(noise(1, 48, 32))


def test_fingerprint_is_that_of_the_bytes(tmp_path):
    first = load_backbone(convolution(tmp_path / "a.onnx", 0.5)).fingerprint
    assert load_backbone(convolution(tmp_path / "b.onnx", 0.5)).fingerprint == first
    assert load_backbone(convolution(tmp_path / "c.onnx", 0.6)).fingerprint != first


def test_fingerprint_covers_weights_in_a_file_of_their_own(tmp_path):
    def fingerprint(folder, value):
        folder.mkdir()
        apart = {"save_as_external_data": True, "location": "w.data", "size_threshold": 0}
        name = convolution(folder / "model.onnx", value, **apart)
        assert (folder / "w.data").stat().st_size == 5 * 3 * 16 * 16 * 4
        return load_backbone(name).fingerprint

    first = fingerprint(tmp_path / "a", 0.5)
    assert (tmp_path / "a" / "model.onnx").read_bytes() != b""
    assert fingerprint(tmp_path / "b", 0.5) == first
    assert fingerprint(tmp_path / "c", 0.6) != first


def refused(name, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        load_backbone(name)


def test_a_missing_file_is_refused(tmp_path):
    path = tmp_path / "none.onnx"
    refused(f"onnx:{path}", f"ONNX file '{path}' does not exist; correct backbone.name")


def test_a_file_that_is_not_onnx_is_refused(tmp_path):
    path = tmp_path / "text.onnx"
    path.write_text("not a model")
    refused(
        f"onnx:{path}",
        f"ONNX file '{path}' cannot be loaded: [ONNXRuntimeError] : 7 : INVALID_PROTOBUF : "
        f"Load model from {path} failed:Protobuf parsing failed; export it again",
    )


def test_two_inputs_are_refused(tmp_path):
    path = tmp_path / "model.onnx"
    node = helper.make_node("Add", ["a", "b"], ["features"])
    ports = [port("a", 1, 3, "h", "w"), port("b", 1, 3, "h", "w")]
    name = write(path, [node], ports, [port("features", 1, 3, "h", "w")])
    refused(
        name,
        f"ONNX file '{path}' must have 1 input and 1 output, got 2 and 1; export the encoder alone",
    )


def test_an_input_that_is_no_image_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    refused(
        pooling(path, ("b", 4, "h", "w")),
        f"the input of ONNX file '{path}' must be float32 of shape (batch, 3, height, width), "
        "got tensor(float) of shape ('b', 4, 'h', 'w')",
    )


def test_an_output_that_is_not_float32_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    node = helper.make_node("Cast", ["image"], ["features"], to=TensorProto.FLOAT16)
    output = port("features", "b", 3, "h", "w", kind=TensorProto.FLOAT16)
    refused(
        write(path, [node], [port("image", "b", 3, "h", "w")], [output]),
        f"the output of ONNX file '{path}' must be float32, got tensor(float16)",
    )


@pytest.mark.parametrize("shape", [(2, 3, "h", "w"), ("b", 3, 64, "w")])
def test_fixed_dimensions_that_cannot_be_honored_are_refused(tmp_path, shape):
    path = tmp_path / "model.onnx"
    refused(
        pooling(path, shape),
        f"ONNX file '{path}' may fix only a batch of 1, and height and width together, "
        f"got an input of shape {shape}; export it with free dimensions",
    )


def test_an_output_without_positions_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    node = helper.make_node("Flatten", ["image"], ["features"])
    name = write(path, [node], [port("image", "b", 3, "h", "w")], [port("features", "b", "d")])
    refused(
        name,
        f"the output of ONNX file '{path}' must be of shape "
        "(batch, dim, height / stride, width / stride), got (1, 301056) for an image of "
        "(224, 448); export the features before they are pooled or flattened",
    )


def test_cells_that_are_not_square_are_refused(tmp_path):
    path = tmp_path / "model.onnx"
    refused(
        pooling(path, kernel=(8, 16)),
        f"the output of ONNX file '{path}' must be of shape "
        "(batch, dim, height / stride, width / stride), got (1, 3, 28, 28) for an image of "
        "(224, 448); export it with one stride for height and width that divides both",
    )


def test_an_output_that_is_not_finite_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    refused(
        convolution(path, np.inf),
        f"ONNX file '{path}' returned values that are not finite; "
        "check its weights and the normalization it expects",
    )


def test_an_output_of_another_size_than_probed_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    node = helper.make_node("AveragePool", ["image"], ["p"], kernel_shape=[8, 8], strides=[8, 8])
    resize = helper.make_node("Resize", ["p", "", "", "size"], ["features"], mode="nearest")
    sizes = np.array([1, 3, 28, 56], np.int64)
    name = write(
        path,
        [node, resize],
        [port("image", "b", 3, "h", "w")],
        [port("features", None, None, None, None)],
        [("size", sizes)],
    )
    backbone = load_backbone(name)
    message = f"ONNX file '{path}' returned features of shape (1, 3, 28, 56), expected (1, 3, 2, 3)"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        backbone.extract(noise(1, 16, 24))


def test_a_model_that_fails_on_a_size_is_named(tmp_path):
    path = tmp_path / "model.onnx"
    pool = helper.make_node("AveragePool", ["image"], ["p"], kernel_shape=[8, 8], strides=[8, 8])
    add = helper.make_node("Add", ["p", "positions"], ["features"])
    positions = np.zeros((1, 3, 28, 56), np.float32)
    name = write(
        path,
        [pool, add],
        [port("image", "b", 3, "h", "w")],
        [port("features", "b", 3, "y", "x")],
        [("positions", positions)],
    )
    backbone = load_backbone(name)
    message = rf"^ONNX file '{path}' fails on images of \(16, 24\): .*Add"
    with pytest.raises(ConfigError, match=message):
        backbone.extract(noise(1, 16, 24))


@pytest.mark.parametrize(
    ("shape", "size", "grid", "only"),
    [
        (("b", 3, "h", "w"), (64, 64), "square", None),
        (("b", 3, "h", "w"), (224, 224), "square", None),
        (("b", 3, 64, 64), (64, 64), "square", (64, 64)),
        ((1, 3, 64, 64), (64, 64), "square", (64, 64)),
        (("b", 3, "h", "w"), (48, 80), (3, 5), (48, 80)),
        (("b", 3, 48, 80), (48, 80), (3, 5), (48, 80)),
        ((1, 3, 48, 80), (48, 80), (3, 5), (48, 80)),
    ],
)
def test_tokens_are_laid_out_as_the_map_they_come_from(tmp_path, shape, size, grid, only):
    plain = load_backbone(as_map(tmp_path / "map.onnx", shape=shape))
    backbone = load_backbone(tokens(tmp_path / "tokens.onnx", shape=shape), grid=grid)
    assert (backbone.feature_dim, backbone.stride, backbone.image_size) == (5, 16, only)
    images = noise(3, *size)
    assert torch.equal(backbone.extract(images), plain.extract(images))


def test_tokens_with_positions_of_one_size_need_rows_and_columns(tmp_path):
    positions = helper.make_node(
        "Constant",
        [],
        ["positions"],
        value=numpy_helper.from_array(np.ones((1, 5, 15), np.float32)),
    )
    nodes = [
        positions,
        helper.make_node("Add", ["channels", "positions"], ["placed"]),
        helper.make_node("Transpose", ["placed"], ["features"], perm=[0, 2, 1]),
    ]
    name = patches(tmp_path / "tokens.onnx", FLAT, *nodes)
    for grid in (None, "square"):
        with pytest.raises(
            ConfigError, match=r"fails on images .* set backbone.grid to its \[rows,"
        ):
            load_backbone(name, grid=grid)
    backbone = load_backbone(name, grid=(3, 5))
    assert (backbone.stride, backbone.image_size) == (16, (48, 80))
    plain = load_backbone(as_map(tmp_path / "map.onnx"))
    images = noise(2, 48, 80)
    assert torch.equal(backbone.extract(images), plain.extract(images) + 1)


def test_a_square_grid_takes_square_images_only(tmp_path):
    backbone = load_backbone(tokens(tmp_path / "tokens.onnx"), grid="square")
    check_image_size(backbone, (96, 96))
    with pytest.raises(ConfigError, match=r"square images, got \[64, 96\]; set data.image_size to"):
        check_image_size(backbone, (64, 96))
    data = DataConfig(image_size=(96, 96))
    view = view_image((300, 500), data, backbone, PredictOptions())
    assert (view.size, view.tiling.tile) == ((96, 96), (6, 6))
    view = view_image((300, 500), data, backbone, PredictOptions(scale=1.0))
    assert (view.size, view.tiling.tile) == ((304, 496), (6, 6))


def test_the_grid_changes_the_fingerprint(tmp_path):
    name = tokens(tmp_path / "tokens.onnx", shape=("b", 3, 64, 64))
    found = {load_backbone(name, grid=grid).fingerprint for grid in ("square", (4, 4))}
    assert len(found) == 2


@pytest.mark.parametrize(
    ("prefix", "grid", "shape", "message"),
    [
        (0, None, ("b", 3, "h", "w"), 'these are tokens: set backbone.grid = "square", or export'),
        (
            0,
            None,
            ("b", 3, 48, 80),
            r"set backbone.grid = \[3, 5\], or export a map: tokens.transp",
        ),
        (1, None, ("b", 3, "h", "w"), r"14 x 14 \+ 1; drop the first 1 token when exporting; set"),
        (5, None, ("b", 3, 48, 80), r"3 x 5 \+ 5; drop the first 5 tokens when exporting; set .*"),
        (1, "square", ("b", 3, "h", "w"), "197 tokens are not a square: 14 x 14 . 1; drop the fir"),
        (
            5,
            "square",
            ("b", 3, 64, 64),
            r"21 tokens are not a square: 4 x 4 \+ 5; drop the first 5",
        ),
        (
            1,
            (3, 5),
            ("b", 3, "h", "w"),
            r"16 tokens are not 3 x 5: 3 x 5 \+ 1; drop the first 1 to",
        ),
        (
            2,
            (3, 5),
            (1, 3, 48, 80),
            r"17 tokens are not 3 x 5: 3 x 5 \+ 2; drop the first 2 tokens",
        ),
        (0, "square", ("b", 3, 48, 80), r"takes images of \[48, 80\]; set backbone.grid to \[rows"),
        (
            0,
            (3, 4),
            ("b", 3, 48, 80),
            r"backbone.grid \[3, 4\] does not divide the images of \[48,",
        ),
        (0, (6, 10), ("b", 3, 48, 80), r"15 tokens are not 6 x 10 of an image .*grid = \[3, 5\]"),
    ],
)
def test_tokens_that_cannot_be_laid_out_are_refused(tmp_path, prefix, grid, shape, message):
    name = tokens(tmp_path / "tokens.onnx", prefix, shape=shape)
    with pytest.raises(ConfigError, match=message) as refusal:
        load_backbone(name, grid=grid)
    assert str(tmp_path / "tokens.onnx") in str(refusal.value)


def test_channels_that_do_not_come_second_are_refused_with_the_remedy(tmp_path):
    last = helper.make_node("Transpose", ["map"], ["features"], perm=[0, 2, 3, 1])
    with pytest.raises(
        ConfigError, match=r"channels are last: export features.permute\(0, 3, 1, 2"
    ):
        load_backbone(patches(tmp_path / "last.onnx", last, output=4))
    first = helper.make_node("Identity", ["channels"], ["features"])
    with pytest.raises(ConfigError, match="tokens with their channels first: export a map"):
        load_backbone(patches(tmp_path / "first.onnx", FLAT, first))
    with pytest.raises(ConfigError, match="tokens with their channels first: export a map"):
        load_backbone(patches(tmp_path / "first.onnx", FLAT, first), grid="square")
    turn = helper.make_node("Transpose", ["image"], ["features"], perm=[0, 3, 1, 2])
    name = write(
        tmp_path / "input.onnx",
        [turn],
        [port("image", "b", "h", "w", 3)],
        [port("features", None, None, None, None)],
    )
    with pytest.raises(ConfigError, match="its channels are last: export it with a transposition"):
        load_backbone(name)


def test_a_grid_is_refused_where_there_is_none(tmp_path):
    with pytest.raises(ConfigError, match="for ONNX files that give tokens, got backbone 'filterb"):
        load_backbone("filterbank", grid="square")
    with pytest.raises(
        ConfigError, match=r"must be of shape \(batch, tokens, dim\), .* remove backb"
    ):
        load_backbone(pooling(tmp_path / "map.onnx"), grid="square")


@pytest.mark.parametrize("kind", ["mean", "softmax", "normalization"])
def test_a_file_in_which_images_change_each_other_is_refused(tmp_path, kind):
    nodes = {
        "mean": [
            helper.make_node("ReduceMean", ["map"], ["mean"], axes=[0]),
            helper.make_node("Sub", ["map", "mean"], ["features"]),
        ],
        "softmax": [helper.make_node("Softmax", ["map"], ["features"], axis=0)],
        "normalization": [
            helper.make_node("ReduceMean", ["map"], ["mean"], axes=[0, 2, 3]),
            helper.make_node("Sub", ["map", "mean"], ["moved"]),
            helper.make_node("ReduceL2", ["moved"], ["length"], axes=[0, 2, 3]),
            helper.make_node("Div", ["moved", "length"], ["features"]),
        ],
    }[kind]
    with pytest.raises(ConfigError, match="depend on the other images of its batch: they differ"):
        load_backbone(patches(tmp_path / "model.onnx", *nodes, output=4))
    # With a batch of 1 there are no others.
    backbone = load_backbone(
        patches(tmp_path / "one.onnx", *nodes, output=4, shape=(1, 3, "h", "w"))
    )
    images = noise(2, 32, 32)
    assert torch.equal(backbone.extract(images)[1:], backbone.extract(images[1:]))


def test_a_file_that_fails_on_two_images_runs_image_by_image(tmp_path):
    one = helper.make_node("Constant", [], ["one"], value_ints=[1, 5, -1])
    nodes = [
        one,
        helper.make_node("Reshape", ["map", "one"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["features"], perm=[0, 2, 1]),
    ]
    backbone = load_backbone(patches(tmp_path / "model.onnx", *nodes), grid="square")
    plain = load_backbone(as_map(tmp_path / "map.onnx"))
    images = noise(3, 64, 64)
    assert torch.equal(backbone.extract(images), plain.extract(images))


@pytest.mark.skipif(not REAL.is_file(), reason="../shared/weights is absent")
def test_the_real_encoder_has_the_form_its_notes_say():
    backbone = load_backbone(f"onnx:{REAL}")
    assert (backbone.feature_dim, backbone.stride, backbone.center) == (1024, 8, True)
    features = backbone.extract(noise(2, 64, 96))
    assert features.shape == (2, 1024, 8, 12)
    assert (features >= 0).all()
    assert torch.equal(features[1:], backbone.extract(noise(2, 64, 96)[1:]))
