"""A model leaves its run: as a file that segments alone, and as an ONNX graph."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import fusseg.cli.export
from fusseg import Segmenter, load_run, pick_segmenter, segment_image
from fusseg.config.file import load_config

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
import onnxruntime  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402


def pooling(path, shape=("b", 3, "h", "w")):
    """Write an encoder of three channels, stride 8, with a branch that is always taken."""

    def port(name, *shape, kind=TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, kind, list(shape))

    def branch(name):
        pooled = helper.make_node(
            "AveragePool", ["image"], [name], kernel_shape=[8, 8], strides=[8, 8]
        )
        return helper.make_graph([pooled], name, [], [port(name, "b", 3, "y", "x")])

    always = helper.make_tensor("always", TensorProto.BOOL, [], [True])
    node = helper.make_node(
        "If", ["always"], ["features"], then_branch=branch("yes"), else_branch=branch("no")
    )
    ports = [port("image", *shape)], [port("features", "b", 3, "y", "x")]
    graph = helper.make_graph([node], "tiny", *ports, [always])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return f"onnx:{path}"


def tokens(path, shape=("b", 3, "h", "w")):
    """Write an encoder that averages patches of 8 pixels, and gives them as a row of tokens."""
    nodes = [
        helper.make_node("AveragePool", ["image"], ["map"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Constant", [], ["flat"], value_ints=[0, 0, -1]),
        helper.make_node("Reshape", ["map", "flat"], ["channels"]),
        helper.make_node("Transpose", ["channels"], ["features"], perm=[0, 2, 1]),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(sides))
        for name, sides in (("image", shape), ("features", ("b", "n", 3)))
    ]
    graph = helper.make_graph(nodes, "tiny", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return f"onnx:{path}"


@pytest.fixture
def run_dir(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    assert cli("run", config, "--out", tmp_path / "run")[0] == 0
    return tmp_path / "run"


@pytest.fixture
def onnx_run(cli, make_sites, make_config, tmp_path):
    name = pooling(tmp_path / "encoder.onnx")
    config = make_config(make_sites(), more=f"[backbone]\nname = {json.dumps(name)}")
    assert cli("run", config, "--out", tmp_path / "run")[0] == 0
    return tmp_path / "run"


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_a_packed_model_segments_as_its_run_without_it(cli, run_dir, tmp_path):
    file = tmp_path / "model.safetensors"
    code, out, _ = cli("pack", run_dir, "--out", file)
    assert code == 0
    assert out.startswith(f"{file}: 2 regions, ")
    expected = Segmenter.load(run_dir).predict(picture(70, 90)).regions
    run_dir.rename(tmp_path / "gone")
    assert np.array_equal(Segmenter.load(file).predict(picture(70, 90)).regions, expected)


def test_a_model_of_another_backbone_starts_no_run(cli, onnx_run, tmp_path):
    other = ("--set", "backbone.name=filterbank", "--out", tmp_path / "new")
    code, _, err = cli("run", "--from", onnx_run, *other)
    assert code == 2
    assert "filterbank has" in err
    assert "set backbone.name to the backbone of that run" in err
    assert not (tmp_path / "new").exists()


def test_a_packed_model_names_no_path_and_no_site(cli, onnx_run, tmp_path):
    file, told = tmp_path / "model.safetensors", tmp_path / "told.safetensors"
    cli("pack", onnx_run, "--out", file)
    cli("pack", onnx_run, "--out", told, "--with-sites")
    for private in (str(tmp_path), "north", "south", "west", "gravel"):
        assert private.encode() not in file.read_bytes()
    assert b"north" in told.read_bytes()
    assert str(tmp_path).encode() not in told.read_bytes()


def test_the_command_takes_the_backbone_of_a_model_file(cli, onnx_run, tmp_path):
    cli("pack", onnx_run, "--out", tmp_path / "model.safetensors")
    moved = (tmp_path / "encoder.onnx").rename(tmp_path / "moved.onnx")
    Image.fromarray(picture(64, 96)).save(tmp_path / "image.png")
    given = ("predict", tmp_path / "model.safetensors", tmp_path / "image.png", "--out")
    code, _, err = cli(*given, tmp_path / "out")
    assert code == 2
    assert "backbone" in err
    code, _, err = cli(*given, tmp_path / "out", "--backbone", f"onnx:{moved}")
    assert (code, err) == (0, "")
    assert (tmp_path / "out" / "image.png").exists()


def test_a_packed_model_takes_its_backbone_from_anywhere(cli, onnx_run, tmp_path):
    file, moved = tmp_path / "model.safetensors", tmp_path / "moved.onnx"
    assert cli("pack", onnx_run, "--out", file)[0] == 0
    expected = Segmenter.load(onnx_run).predict(picture(64, 96)).regions
    (tmp_path / "encoder.onnx").rename(moved)
    segmenter = Segmenter.load(file, backbone=f"onnx:{moved}")
    assert np.array_equal(segmenter.predict(picture(64, 96)).regions, expected)


def test_what_would_be_sent_is_written_with_dry_run(cli, run_dir, tmp_path):
    folder = tmp_path / "repo"
    code, out, _ = cli("push", run_dir, "me/pipes", "--license", "mit", "--dry-run", folder)
    assert code == 0
    assert out.endswith("nothing was sent\n")
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "model.safetensors"]
    card = (folder / "README.md").read_text()
    assert re.search(r"\| mIoU on held-out images \| \d+\.\d % of 6 images \|", card)
    code, _, err = cli("push", run_dir, "me/pipes", "--dry-run", folder)
    assert code == 2
    assert "--dry-run must be a new or empty folder" in err
    assert (folder / "README.md").read_text() == card


@pytest.fixture
def backbone_name(request, tmp_path):
    return pooling(tmp_path / "encoder.onnx") if request.param == "onnx" else request.param


@pytest.mark.parametrize("backbone_name", ["filterbank", "onnx"], indirect=True)
def test_an_exported_graph_segments_any_batch_and_size(
    cli, start_cli, make_sites, make_config, tmp_path, backbone_name
):
    run_dir, file = tmp_path / "run", tmp_path / "model.onnx"
    config = make_config(make_sites(), more=f"[backbone]\nname = {json.dumps(backbone_name)}")
    assert cli("run", config, "--out", run_dir)[0] == 0
    # In a process of its own: the checks of shapes in tests stop torch from tracing.
    process = start_cli("export", run_dir, "--out", file)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "Warning" not in out
    assert "compared with the model on 7 images" in out
    assert "two images at once give the same regions as each alone" in out
    run = load_run(run_dir)
    graph = session(file)
    assert [port.name for port in graph.get_outputs()] == ["regions", "similarities"]
    for height, width, batch in ((64, 96, 1), (50, 131, 3), (200, 120, 2)):
        images = np.stack([picture(height, width, seed) for seed in range(batch)])
        regions, similarities = graph.run(None, {"image": images})
        assert regions.dtype == np.uint8
        assert similarities.shape[:2] == (batch, 2)
        for image, found in zip(images, regions, strict=True):
            expected = segment_image(image, run, pick_segmenter(run, site=None))
            assert (found == expected).mean() > 0.99
    metadata = json.loads(onnx.load(file).metadata_props[0].value)
    assert metadata["training"]["strategy"] == "fedcc-kmeans"
    assert str(tmp_path).encode() not in file.read_bytes()


def test_a_graph_that_differs_is_not_kept(cli, onnx_run, tmp_path, monkeypatch):
    file = tmp_path / "model.onnx"
    monkeypatch.setattr(fusseg.cli.export, "MOST_DIFFERENCE", -1)
    code, out, _ = cli("export", onnx_run, "--out", file)
    assert code == 1
    assert f"the graph differs from the model, so {file} is not written; --force" in out
    assert not file.exists()
    assert cli("export", onnx_run, "--out", file, "--force")[0] == 0
    assert file.exists()


def test_images_to_compare_on_can_be_given(cli, onnx_run, tmp_path):
    (tmp_path / "own").mkdir()
    for index in range(2):
        Image.fromarray(picture(90, 70, index)).save(tmp_path / "own" / f"{index}.png")
    code, out, _ = cli(
        "export", onnx_run, "--out", tmp_path / "model.onnx", "--images", tmp_path / "own"
    )
    assert code == 0
    assert "compared with the model on 3 images" in out
    (tmp_path / "own" / "0.png").write_bytes(b"")
    code, out, _ = cli(
        "export", onnx_run, "--out", tmp_path / "model.onnx", "--images", tmp_path / "own"
    )
    assert code == 0
    assert f"skipped {tmp_path / 'own' / '0.png'}: image is empty" in out
    assert "compared with the model on 2 images" in out


@pytest.mark.parametrize(("command", "ending"), [("pack", ".safetensors"), ("export", ".onnx")])
def test_another_ending_is_refused(cli, run_dir, tmp_path, command, ending):
    code, _, err = cli(command, run_dir, "--out", tmp_path / "model.pt")
    assert code == 2
    assert f"is named *{ending}, got --out {tmp_path / 'model.pt'}" in err


def test_an_encoder_of_one_size_is_exported_with_it(cli, make_sites, make_config, tmp_path):
    name = pooling(tmp_path / "encoder.onnx", ("b", 3, 64, 96))
    config = make_config(make_sites(), more=f"[backbone]\nname = {json.dumps(name)}")
    assert cli("run", config, "--out", tmp_path / "run")[0] == 0
    code, _, err = cli("export", tmp_path / "run", "--out", tmp_path / "model.onnx")
    assert code == 0, err
    image = picture(100, 50)
    regions, _ = session(tmp_path / "model.onnx").run(None, {"image": image[None]})
    assert (regions[0] == Segmenter.load(tmp_path / "run").predict(image).regions).mean() > 0.99


@pytest.mark.parametrize(
    ("grid", "size"), [('"square"', "[64, 64]"), ("[8, 12]", "[64, 96]")], ids=["square", "8x12"]
)
def test_tokens_on_a_grid_do_all_that_a_map_does(
    cli, make_sites, make_config, tmp_path, grid, size
):
    images, expected = tmp_path / "sites/west/images", {}
    for kind, more in (("map", ""), ("tokens", f"\ngrid = {grid}")):
        write = tokens if kind == "tokens" else pooling
        name = write(tmp_path / f"{kind}.onnx")
        more = f"[backbone]\nname = {json.dumps(name)}{more}"
        sites = tmp_path / "sites"
        config = make_config(sites if sites.exists() else make_sites(), more=more)
        config.write_text(config.read_text().replace("[64, 96]", size))
        run = tmp_path / f"run-{kind}"
        code, _, err = cli("run", config, "--out", run)
        assert code == 0, err
        cli("pack", run, "--out", tmp_path / f"{kind}.safetensors")
        for source in (run, tmp_path / f"{kind}.safetensors"):
            given = () if source == run else ("--backbone", name)
            out = tmp_path / f"{kind}-{source.suffix}"
            code, _, err = cli("predict", source, images, "--out", out, *given)
            assert code == 0, err
            for path in sorted(out.glob("*.png")):
                found = np.asarray(Image.open(path))
                # The map of any size sees images uncut, tokens see them stretched.
                if kind == "map" and size == "[64, 64]":
                    continue
                assert np.array_equal(expected.setdefault(path.name, found), found)
    code, out, err = cli("export", tmp_path / "run-tokens", "--out", tmp_path / "model.onnx")
    assert code == 0, err
    assert "two images at once give the same regions as each alone" in out
    pictures = np.stack([picture(100, 50, seed) for seed in range(2)])
    regions, _ = session(tmp_path / "model.onnx").run(None, {"image": pictures})
    for image, found in zip(pictures, regions, strict=True):
        own = Segmenter.load(tmp_path / "run-tokens").predict(image).regions
        assert (own == found).mean() > 0.99


def test_init_writes_the_grid_of_tokens(cli, make_sites, tmp_path):
    name, config = tokens(tmp_path / "tokens.onnx"), tmp_path / "mine.toml"
    init = ("init", make_sites(), "--backbone", name, "--out", config)
    code, _, err = cli(*init)
    assert code == 2
    assert 'set backbone.grid = "square"' in err
    assert "--grid must be square or ROWSxCOLUMNS" in cli(*init, "--grid", "8by8")[2]
    for said, grid, size in (("square", "square", (64, 64)), ("8x12", (8, 12), (64, 96))):
        assert cli(*init, "--grid", said)[0] == 0
        chosen = load_config(config)
        assert (chosen.backbone.grid, chosen.data.image_size) == (grid, size)
        assert cli("check", config)[0] == 0
        config.unlink()


def test_an_encoder_of_one_image_at_a_time_is_refused(cli, make_sites, make_config, tmp_path):
    name = pooling(tmp_path / "encoder.onnx", (1, 3, "h", "w"))
    config = make_config(make_sites(), more=f"[backbone]\nname = {json.dumps(name)}")
    assert cli("run", config, "--out", tmp_path / "run")[0] == 0
    code, _, err = cli("export", tmp_path / "run", "--out", tmp_path / "model.onnx")
    assert code == 2
    assert "has a fixed batch size" in err


def test_a_run_without_held_out_images_has_to_be_given_some(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites(), held_out=())
    assert cli("run", config, "--out", tmp_path / "run")[0] == 0
    code, _, err = cli("export", tmp_path / "run", "--out", tmp_path / "model.onnx")
    assert code == 2
    assert "the run has no held-out images to compare on; give some with --images" in err
