"""Classes taught over a network: the same bits, what is sent, and sites that differ."""

import json

import pytest
import torch

pytest.importorskip("flwr", reason="Flower is not installed")

from loopback import SITES, LoopbackGrid, events, federation_in, hurry, simulated

import fusseg
from fusseg.core.errors import ConfigError, FederationError
from fusseg.deployment.server.server_rounds import serve_rounds
from fusseg.deployment.wire.ledger import read_ledger
from fusseg.deployment.wire.messages import pack, unpack
from fusseg.deployment.wire.packet import Packet
from fusseg.runs.directory import load_record
from fusseg.runs.saved_state import load_state

TEACH = ("federation.teach=true", "federation.rounds=1", "federation.max_weight_share=1")
CLASSES = 'names = ["gravel", "metal"]\n'


@pytest.fixture(autouse=True)
def _in_a_flower_process(monkeypatch):
    hurry(monkeypatch)


@pytest.fixture
def root(make_sites):
    """Three sites with masks and class files of their own, and one that is held out."""
    folder = make_sites(sites=(*SITES, "west"))
    for site in SITES:
        (folder / site / "classes.toml").write_text(CLASSES)
    return folder


@pytest.fixture
def deploy(root, make_config, tmp_path):
    make = federation_in(tmp_path, root, make_config)

    def run(*overrides, lies=None):
        run_dir, config, folders = make(*TEACH, *overrides)
        serve_rounds(LoopbackGrid(folders, lies), run_dir, tmp_path / "cache")
        return run_dir, config, folders

    return run


def remove_masks(root, site):
    for mask in (root / site / "masks").iterdir():
        mask.unlink()
    (root / site / "masks").rmdir()


@pytest.mark.parametrize("shrinkage", ["auto", 0.5])
def test_classes_of_a_deployment_have_the_bits_of_the_simulation(shrinkage, deploy, tmp_path):
    run_dir, config, folders = deploy(f"teach.shrinkage={shrinkage}", "teach.unknown_below=0.9")
    found = load_state(run_dir).state.taught
    expected_dir = simulated(config, tmp_path)
    expected = load_state(expected_dir).state.taught
    assert torch.equal(found.classifier.weight, expected.classifier.weight)
    assert torch.equal(found.classifier.bias, expected.classifier.bias)
    assert found.chosen == expected.chosen
    assert load_record(run_dir)["taught"] == load_record(expected_dir)["taught"]
    # Each site has the classes, too.
    for folder in folders:
        (result,) = folder.glob("**/result")
        own = fusseg.Segmenter.load(result)
        assert own.regions.names[:2] == ("gravel", "metal")
        assert torch.equal(own.model.classifier.weight, found.classifier.weight)


def test_a_site_sends_sums_and_the_names_of_its_classes(deploy):
    run_dir, _, _ = deploy()
    sent = [line for line in read_ledger(run_dir)[0] if line.direction == "to server"]
    hello = next(line for line in sent if line.task == "hello" and line.fields["state"] == "done")
    assert json.loads(hello.fields["classes"]) == ["gravel", "metal"]
    statistics = next(line for line in sent if line.task == "class-sums")
    shapes = {tensor.name: tuple(tensor.shape) for tensor in statistics.tensors}
    assert shapes["counts"] == (2,)
    assert shapes["first"][0] == 2
    assert shapes["second"] == (shapes["first"][1],) * 2


def test_one_site_with_labels_is_enough(deploy, root):
    for site in ("north", "south"):
        remove_masks(root, site)
    run_dir, _, _ = deploy()
    taught = load_record(run_dir)["taught"]
    assert taught["num_labeled_images"] == 6
    assert taught["mean_iou"] > 0.8


def test_names_that_differ_are_listed_with_their_sites_and_joined_by_a_map(deploy, root, tmp_path):
    (root / "south" / "classes.toml").write_text('names = ["Kies", "metal"]\n')
    run_dir, _, _ = deploy()
    record = load_record(run_dir)
    assert list(record["taught"]["positions_per_class"]) == ["gravel", "metal", "Kies"]
    differing = {"gravel": ["east", "north"], "Kies": ["south"]}
    assert record["hello"]["differing_classes"] == differing
    said = [event["text"] for event in events(run_dir)]
    assert "class 'Kies' is only at south" in said


def test_a_map_joins_the_names(deploy, root, tmp_path):
    (root / "south" / "classes.toml").write_text('names = ["Kies", "metal"]\n')
    path = tmp_path / "classes.map.toml"
    path.write_text('[classes]\nKies = "gravel"\n')
    run_dir, _, _ = deploy(f"teach.class_map={json.dumps(str(path))}")
    record = load_record(run_dir)
    assert record["hello"]["differing_classes"] == {}
    assert not any("is only at" in event["text"] for event in events(run_dir))
    assert list(record["taught"]["positions_per_class"]) == ["gravel", "metal"]
    assert record["taught"]["num_labeled_images"] == 18


def more_labels(_message, reply):
    """Say that there are more labels than positions."""
    packet = unpack(reply.content)
    if packet.fields["task"] == "class-sums":
        counts = packet.tensors["counts"] * 1000
        reply.content = pack(Packet(packet.fields, {**packet.tensors, "counts": counts}))
    return reply


def strange_names(_message, reply):
    fields = reply.content["fields"]
    if fields["task"] == "hello" and fields["state"] == "done":
        fields["classes"] = json.dumps(["gravel", "a\nb"])
    return reply


def test_a_site_with_more_labels_than_positions_is_left_out_with_its_reason(deploy):
    run_dir, _, _ = deploy("federation.min_sites=2", lies={"south": more_labels})
    last = load_record(run_dir)["rounds"][-1]
    (incident,) = [one for one in last["incidents"] if one["task"] == "class-sums"]
    assert incident["client_id"] == "south"
    assert "positions of 6 images, but it has" in incident["reason"]


def test_names_that_are_no_text_on_one_line_are_refused(deploy):
    run_dir, _, _ = deploy("federation.min_sites=2", lies={"south": strange_names})
    said = " ".join(event["text"] for event in events(run_dir))
    assert "south: refused: client 'south' sent" in said
    assert "as the name of a class" in said


def test_a_list_of_images_is_refused(deploy):
    with pytest.raises(ConfigError, match="the server does not know the sites' file names"):
        deploy("teach.label_list=x.txt")


def test_sites_without_any_label_are_refused(deploy, root):
    for site in SITES:
        remove_masks(root, site)
    with pytest.raises(FederationError, match="fewer than 2 classes"):
        deploy()
