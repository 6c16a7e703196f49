import hashlib
import re
import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fusseg.config.schema import BackboneConfig, Config, DataConfig, EvaluationConfig
from fusseg.core.errors import DataError
from fusseg.data.items import Item
from fusseg.features.backbones import Backbone
from fusseg.features.extraction import Progress, extract_features
from fusseg.features.views import held_out_views, mirror, training_views

STRIDE = 8


def mean_colors(images):
    """Mean color of each cell, on a scale from 0 to 1."""
    cells = images.float().div(255).unflatten(1, (-1, STRIDE)).unflatten(3, (-1, STRIDE))
    return cells.mean(dim=(2, 4)).permute(0, 3, 1, 2)


@pytest.fixture
def backbone():
    return Backbone(
        "means", "f" * 64, feature_dim=3, stride=STRIDE, center=True, extract=mean_colors
    )


@pytest.fixture
def config():
    return Config(data=DataConfig(image_size=(16, 24)), backbone=BackboneConfig(batch_size=2))


@pytest.fixture
def write_items(tmp_path):
    """Images of one color each: gray of 10, 20, 30 and so on."""

    def write(count, site="s"):
        items = []
        for index in range(count):
            path = tmp_path / f"{site}{index}.png"
            gray = 10 * (index + 1)
            Image.new("RGB", (24, 16), (gray, gray, gray)).save(path)
            items.append(Item(site, f"{index}", "", path))
        return items

    return write


def extract(items, backbone, config, cache):
    views = training_views(items, backbone, config)
    return extract_features(views, backbone, config.backbone.batch_size, cache)


def seen(items, backbone, config):
    return training_views(items, backbone, config)


def run(stages):
    events = []
    while True:
        try:
            events.append(next(stages))
        except StopIteration as stop:
            return events, stop.value


def test_features_are_the_backbones_in_the_order_of_the_items(
    backbone, config, write_items, tmp_path
):
    items = write_items(5)
    events, features = run(extract(items, backbone, config, tmp_path / "cache"))
    found = features.of_views(seen(items[::-1], backbone, config))
    assert found.names == ("s/4", "s/3", "s/2", "s/1", "s/0")
    for image, gray in enumerate((50, 40, 30, 20, 10)):
        expected = torch.full((2, 3, 3), np.float16(gray / 255).item())
        assert torch.equal(found.feature_map(image), expected)
    assert events[:5] == [Progress("read", done, 5) for done in range(1, 6)]
    assert events[5:] == [Progress("extract", done, 5) for done in range(1, 6)]


def test_only_what_is_missing_is_extracted(backbone, config, write_items, tmp_path):
    items = write_items(4)
    run(extract(items[:3], backbone, config, tmp_path / "cache"))
    events, features = run(extract(items, backbone, config, tmp_path / "cache"))
    assert [event for event in events if event.stage == "extract"] == [Progress("extract", 1, 1)]
    events, features = run(extract(items, backbone, config, tmp_path / "cache"))
    assert not [event for event in events if event.stage == "extract"]
    assert len(features.of_views(seen(items, backbone, config))) == 4


def test_renamed_images_are_known_by_their_bytes_and_copies_are_extracted_once(
    backbone, config, write_items, tmp_path
):
    items = write_items(2)
    run(extract(items, backbone, config, tmp_path / "cache"))
    copy = tmp_path / "copy.png"
    shutil.copy(items[0].image, copy)
    more = [*items, Item("s", "copy", "", copy)]
    events, features = run(extract(more, backbone, config, tmp_path / "cache"))
    assert not [event for event in events if event.stage == "extract"]
    found = features.of_views(seen(more, backbone, config))
    assert found.digests[2] == found.digests[0]
    assert found.digests[0] == hashlib.sha256(copy.read_bytes()).hexdigest()


def test_a_new_size_or_backbone_is_extracted_anew(backbone, config, write_items, tmp_path):
    items = write_items(1)
    run(extract(items, backbone, config, tmp_path / "cache"))
    other = Backbone("means", "e" * 64, 3, STRIDE, center=True, extract=mean_colors)
    larger = Config(data=DataConfig(image_size=(32, 48)))
    for backbone_, config_ in ((other, config), (backbone, larger)):
        events, _ = run(extract(items, backbone_, config_, tmp_path / "cache"))
        assert events[-1] == Progress("extract", 1, 1)


def test_broken_images_are_skipped_with_their_reason(backbone, config, write_items, tmp_path):
    items = write_items(3)
    items[1].image.write_bytes(b"no image")
    items.append(Item("s", "gone", "", tmp_path / "gone.png"))
    _, features = run(extract(items, backbone, config, tmp_path / "cache"))
    assert {skipped.item.stem for skipped in features.skipped} == {"1", "gone"}
    assert all(str(skipped.item.image) in skipped.reason for skipped in features.skipped)
    views = seen(items, backbone, config)
    assert [features.has(view) for view in views] == [True, False, True, False]
    assert features.of_views(views).names == ("s/0", "s/2")


def test_copies_of_a_broken_image_are_skipped_with_its_reason(
    backbone, config, write_items, tmp_path
):
    items = [*write_items(3), *write_items(1, site="t")]
    for broken in (items[0], items[2], items[3]):
        broken.image.write_bytes(b"no image")
    _, features = run(extract(items, backbone, config, tmp_path / "cache"))
    found = [(skipped.item, skipped.reason) for skipped in features.skipped]
    assert [item for item, _ in found] == [items[0], items[2], items[3]]
    assert found[0][1] == found[1][1]
    assert str(items[2].image) in found[0][1]
    assert str(items[3].image) in found[2][1]


def test_a_complete_cache_is_read_without_its_lock_and_an_incomplete_one_needs_it(
    backbone, config, write_items, tmp_path
):
    items = write_items(3)
    _, features = run(extract(items[:2], backbone, config, tmp_path / "cache"))
    (store,) = [store.path for store in features.stores.values()]
    (store / "lock").unlink(missing_ok=True)
    (store / "lock").mkdir()  # cannot be opened for writing, not even by root
    _, again = run(extract(items[:2], backbone, config, tmp_path / "cache"))
    assert len(again.of_views(seen(items[:2], backbone, config))) == 2
    message = (
        f"cannot write features to {store}: Is a directory; free disk space or choose another "
        "cache folder with --cache or FUSSEG_CACHE"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        run(extract(items, backbone, config, tmp_path / "cache"))


def test_no_usable_image_is_an_error(backbone, config, write_items, tmp_path):
    items = write_items(1)
    items[0].image.write_bytes(b"")
    _, features = run(extract(items, backbone, config, tmp_path / "cache"))
    message = "no image is left, all were skipped; fusseg check says why"
    with pytest.raises(DataError, match=f"^{message}$"):
        features.of_views(seen(items, backbone, config))


def test_features_that_are_not_finite_are_skipped_and_not_stored(config, write_items, tmp_path):
    def overflow(images):
        return mean_colors(images) * torch.where(images.amax() > 15, 1e9, 1.0)

    items = write_items(2)
    backbone = Backbone("loud", "d" * 64, 3, STRIDE, center=True, extract=overflow)
    single = Config(data=config.data, backbone=BackboneConfig(batch_size=1))
    _, features = run(extract(items, backbone, single, tmp_path / "cache"))
    (skipped,) = features.skipped
    assert skipped.item.stem == "1"
    assert skipped.reason == "the backbone's features are not finite in float16"
    (store,) = features.stores.values()
    assert store.digests() == [features.digests[items[0]]]


def test_an_abandoned_extraction_goes_on_where_it_was(backbone, config, write_items, tmp_path):
    items = write_items(7)
    cut = extract(items, backbone, config, tmp_path / "cut")
    while next(cut) != Progress("extract", 3, 7):
        pass
    cut.close()
    events, features = run(extract(items, backbone, config, tmp_path / "cut"))
    assert events[-1].done == events[-1].total
    _, whole = run(extract(items, backbone, config, tmp_path / "whole"))
    for view in seen(items, backbone, config):
        assert torch.equal(
            features.of_views([view]).feature_map(0), whole.of_views([view]).feature_map(0)
        )


def test_a_disk_that_is_too_small_is_refused_before_the_first_image(
    backbone, config, write_items, tmp_path, monkeypatch
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 10))
    stages = extract(write_items(3), backbone, config, tmp_path / "cache")
    message = (
        "the features of 3 images of site 's' need 0.00 GB, but .* has 0.00 GB free; choose "
        "another cache folder with --cache or FUSSEG_CACHE, or lower data.image_size"
    )
    with pytest.raises(DataError, match=message):
        run(stages)


def test_mirror_images_have_features_of_their_own(backbone, config, tmp_path):
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, :8], pixels[:8, 16:] = 250, 100
    Image.fromarray(pixels).save(tmp_path / "a.png")
    item = Item("s", "a", "", tmp_path / "a.png")
    (view,) = seen([item], backbone, config)
    events, features = run(extract_features([view, mirror(view)], backbone, 2, tmp_path / "cache"))
    plain = features.of_views([view]).feature_map(0)
    mirrored = features.of_views([mirror(view)]).feature_map(0)
    assert torch.equal(mirrored, plain.flip(1))
    assert not torch.equal(mirrored, plain)
    # Its bytes are hashed once for both.
    assert events == [Progress("read", 1, 1), Progress("extract", 1, 2), Progress("extract", 2, 2)]


def test_views_of_different_sizes_keep_their_order(backbone, config, tmp_path):
    items = []
    for index, size in enumerate([(24, 16), (32, 64), (24, 16), (32, 64), (80, 16)]):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", size, (10 * index,) * 3).save(path)
        items.append(Item("s", f"{index}", "", path))
    whole = replace(config, evaluation=EvaluationConfig(whole=True))
    views = held_out_views(items, backbone, whole)
    _, features = run(extract_features(views, backbone, 2, tmp_path / "cache"))
    found = features.of_views(views)
    assert found.names == ("s/0", "s/1", "s/2", "s/3", "s/4")
    shapes = [tuple(found.feature_map(index).shape) for index in range(5)]
    assert shapes == [(2, 3, 3), (4, 2, 3), (2, 3, 3), (4, 2, 3), (2, 10, 3)]
    grays = [round(255 * float(found.feature_map(index).mean())) for index in range(5)]
    assert grays == [0, 10, 20, 30, 40]
    assert found.pooled[3] == pytest.approx(30 / 255, abs=1e-3)


def test_an_image_broken_in_two_views_is_skipped_once(backbone, config, write_items, tmp_path):
    items = write_items(2)
    items[0].image.write_bytes(b"no image")
    views = seen(items, backbone, config)
    both = [*views, *map(mirror, views)]
    _, features = run(extract_features(both, backbone, 2, tmp_path / "cache"))
    assert [skipped.item for skipped in features.skipped] == [items[0]]
    assert [features.has(view) for view in both] == [False, True, False, True]
