"""A loaded model in other processes: pickled, spawned, forked."""

import copy
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from fusseg import ConfigError, DataError, Segmenter

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

SCRIPT = """
import sys, warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
from fusseg import Segmenter

warnings.simplefilter("ignore", DeprecationWarning)

def work(segmenter, image):
    return int(segmenter.predict(image).regions.astype(np.int64).sum())

def own(run, image):
    return work(Segmenter.load(run), image)

def inherited(image):
    return work(SEGMENTER, image)

def dropped(image):
    global SEGMENTER
    found = inherited(image)
    del SEGMENTER
    return found

if __name__ == "__main__":
    how, run, image = sys.argv[1:]
    SEGMENTER = Segmenter.load(run)
    expected = work(SEGMENTER, image)
    if how == "joblib":
        from joblib import Parallel, delayed
        found = Parallel(n_jobs=2)(delayed(work)(SEGMENTER, image) for _ in range(4))
    elif how == "spawn":
        with get_context("spawn").Pool(2) as pool:
            found = pool.map(partial(work, SEGMENTER), [image] * 4)
    else:
        task = {
            "fork": inherited,
            "fork and drop": dropped,
            "fork and load": partial(own, run),
            "fork and pickle": partial(work, SEGMENTER),
        }[how]
        with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
            found = list(pool.map(task, [image] * 2))
    print(set(found) == {expected})
"""


def pooling(path):
    shape = ("b", 3, "h", "w")
    node = helper.make_node("AveragePool", ["image"], ["map"], kernel_shape=[8, 8], strides=[8, 8])
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
        for name in ("image", "map")
    ]
    graph = helper.make_graph([node], "tiny", ports[:1], ports[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return f"onnx:{path}"


@pytest.fixture
def run_dir(request, cli, make_sites, make_config, tmp_path):
    name = pooling(tmp_path / "encoder.onnx") if request.param == "onnx" else request.param
    config = make_config(make_sites(), more=f"[backbone]\nname = {json.dumps(name)}")
    assert cli("run", config, "--out", tmp_path / "run")[0] == 0
    return tmp_path / "run"


both = pytest.mark.parametrize("run_dir", ["filterbank", "onnx"], indirect=True)
one = pytest.mark.parametrize("run_dir", ["filterbank"], indirect=True)


@both
def test_other_processes_predict_the_same_after_this_one_has(run_dir, tmp_path):
    script, image = tmp_path / "script.py", tmp_path / "sites/west/images/001.png"
    script.write_text(SCRIPT)
    # With one thread there would be nothing to wait for.
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    ways = ["spawn"]
    if hasattr(os, "fork"):
        ways += ["fork", "fork and drop", "fork and load", "fork and pickle"]
    if "onnx" in (run_dir / "config.toml").read_text():
        ways.append("joblib")
    for way in ways:
        found = subprocess.run(
            [sys.executable, script, way, run_dir, image],
            env=environment,
            timeout=100,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (found.returncode, found.stdout) == (0, "True\n"), (way, found.stderr)


@both
def test_a_pickled_segmenter_is_a_path_and_its_names(run_dir, tmp_path, cli):
    segmenter = Segmenter.load(run_dir)
    regions = replace(
        segmenter.regions, regions=(replace(segmenter.regions.regions[0], name="gravel"),)
    )
    content = pickle.dumps(segmenter.with_regions(regions))
    assert len(content) < 2000
    loaded = pickle.loads(content)
    assert loaded.regions == regions
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)
    found = loaded.numbered().predict(image).regions
    assert np.array_equal(found, segmenter.predict(image).regions)
    assert copy.copy(segmenter) is copy.deepcopy(segmenter) is segmenter
    file = tmp_path / "model.safetensors"
    cli("pack", run_dir, "--out", file)
    backbone = f"onnx:{tmp_path / 'encoder.onnx'}" if "onnx:" in segmenter.backbone.name else None
    packed = pickle.loads(pickle.dumps(Segmenter.load(file, backbone=backbone)))
    assert np.array_equal(packed.predict(image).regions, found)


@one
def test_a_model_that_has_changed_is_not_unpickled(run_dir, tmp_path, cli):
    segmenter = Segmenter.load(run_dir)
    model = replace(segmenter.model, centroids=torch.flip(segmenter.model.centroids, [0]))
    content = pickle.dumps(replace(segmenter, model=model))
    with pytest.raises(
        DataError, match=r"run is not the one that was pickled: its state, backbone"
    ):
        pickle.loads(content)
    content = pickle.dumps(replace(segmenter, digest="0" * 64))
    with pytest.raises(DataError, match=r"load it again with Segmenter\.load"):
        pickle.loads(content)
    with pytest.raises(ConfigError, match="was not loaded from a path and cannot be pickled"):
        pickle.dumps(replace(segmenter, source=None))
