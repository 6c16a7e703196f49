import re
from dataclasses import replace

import pytest
from PIL import Image

from fusseg.config.schema import BackboneConfig, Config, DataConfig, EvaluationConfig
from fusseg.core.errors import ConfigError
from fusseg.data.items import Item
from fusseg.features.backbones import Backbone
from fusseg.features.cache.store import FeatureSettings
from fusseg.features.views import (
    View,
    held_out_views,
    mirror,
    pick_images,
    training_views,
    whole_size,
    with_mirrored,
    zoomed_views,
)


def backbone(stride=8, image_size=None):
    return Backbone("b", "f" * 64, 3, stride, True, lambda images: images, image_size)


def settings(size, fit="crop", **more):
    return FeatureSettings("b", "f" * 64, size, fit, "bilinear", **more)


@pytest.fixture
def items(tmp_path):
    """A landscape image of 40 x 100 pixels and a portrait one of 90 x 60."""
    found = []
    for stem, size in (("wide", (100, 40)), ("tall", (60, 90))):
        Image.new("RGB", size).save(tmp_path / f"{stem}.png")
        found.append(Item("s", stem, "", tmp_path / f"{stem}.png"))
    return found


def test_training_and_held_out_images_are_seen_alike_unless_told_otherwise(items):
    config = Config(data=DataConfig(image_size=(32, 48)))
    expected = tuple(View(item, settings((32, 48))) for item in items)
    assert training_views(items, backbone(), config) == expected
    assert held_out_views(items, backbone(), config) == expected


def test_views_say_in_which_precision_and_how_features_are_kept(items):
    narrow = replace(backbone(), precision="bfloat16")
    config = Config(data=DataConfig(image_size=(32, 48)), backbone=BackboneConfig(cache="pca:2"))
    expected = settings((32, 48), precision="bfloat16", cache="pca:2")
    assert {view.settings for view in training_views(items, narrow, config)} == {expected}
    assert {view.settings for view in held_out_views(items, narrow, config)} == {expected}


def test_more_components_than_channels_are_refused(items):
    config = Config(data=DataConfig(image_size=(32, 48)), backbone=BackboneConfig(cache="pca:3"))
    with pytest.raises(ConfigError, match=r"^backbone\.cache 'pca:3' must keep fewer"):
        training_views(items, backbone(), config)
    with pytest.raises(ConfigError, match=r"^backbone\.cache 'pca:3' must keep fewer"):
        held_out_views(items, backbone(), config)


def test_held_out_images_have_a_size_of_their_own(items):
    data, evaluation = DataConfig(image_size=(24, 24)), EvaluationConfig(image_size=(32, 40))
    config = Config(data=data, evaluation=evaluation)
    assert {view.settings for view in training_views(items, backbone(), config)} == {
        settings((24, 24))
    }
    assert {view.settings for view in held_out_views(items, backbone(), config)} == {
        settings((32, 40))
    }


def test_whole_images_keep_their_aspect_ratio_in_whole_strides(items):
    evaluation = EvaluationConfig(image_size=(32, 40), whole=True)
    config = Config(data=DataConfig(image_size=(24, 24)), evaluation=evaluation)
    wide, tall = held_out_views(items, backbone(), config)
    # 40 x 100 becomes 32 x 80; 90 x 60 becomes 48 x 32.
    assert wide == View(items[0], settings((32, 80), "stretch"))
    assert tall == View(items[1], settings((48, 32), "stretch"))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((720, 960), (320, 424)),  # 426.7, nearest to 53 strides
        ((960, 720), (424, 320)),
        ((100, 100), (320, 320)),
        ((5, 5000), (320, 320000)),
    ],
)
def test_the_shorter_side_of_a_whole_image_is_given_and_the_other_rounded(shape, expected):
    assert whole_size(shape, 320, 8) == expected


def test_a_broken_image_is_left_to_the_extraction(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    item = Item("s", "a", "", tmp_path / "a.png")
    config = Config(data=DataConfig(image_size=(24, 24)), evaluation=EvaluationConfig(whole=True))
    assert held_out_views([item], backbone(), config) == (View(item, settings((24, 24))),)


def test_mirror_images_are_wanted_for_flip_averaging_only(items):
    view = View(items[0], settings((24, 24)))
    mirrored = View(items[0], settings((24, 24), mirrored=True))
    assert mirror(view) == mirrored
    assert mirror(mirrored) == view
    assert with_mirrored([view], EvaluationConfig()) == (view,)
    assert with_mirrored([view], EvaluationConfig(flip=True)) == (view, mirrored)


@pytest.mark.parametrize(
    ("num_images", "expected"),
    [(1, [0]), (4, [0]), (5, [0, 4]), (8, [0, 7]), (10, [0, 4, 9])],
)
def test_one_image_in_four_is_also_seen_zoomed(num_images, expected):
    assert pick_images(num_images) == expected


def test_no_more_than_64_images_are_also_seen_zoomed_and_none_twice():
    for num_images in (252, 256, 257, 10_000):
        picked = pick_images(num_images)
        assert len(set(picked)) == len(picked) == min(64, -(-num_images // 4))
        assert (picked[0], picked[-1]) == (0, num_images - 1)


def test_the_images_of_each_client_are_zoomed_unless_the_backbone_depends_on_the_scale(tmp_path):
    def views(client, count):
        items = [Item("s", f"{client}{n}", "", tmp_path / f"{n}.png") for n in range(count)]
        return [View(replace(item, client=client), settings((24, 24))) for item in items]

    large, small = views("a", 5), views("b", 2)
    # In whatever order the images of the clients come.
    mixed = [large[0], *small, *large[1:]]
    other = settings((24, 24), zoomed=True)
    expected = tuple(View(view.item, other) for view in (large[0], large[4], small[0]))
    assert zoomed_views(mixed, backbone()) == expected
    assert zoomed_views([], backbone()) == ()
    assert zoomed_views(mixed, replace(backbone(), name="filterbank")) == ()


def test_a_size_that_does_not_suit_the_backbone_is_refused_by_its_key(items):
    config = Config(
        data=DataConfig(image_size=(24, 24)), evaluation=EvaluationConfig(image_size=(32, 41))
    )
    message = (
        "backbone 'b' needs image sides that are multiples of 8, got [32, 41]; set "
        "evaluation.image_size to [32, 40] or [32, 48]"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        held_out_views(items, backbone(), config)
    with pytest.raises(
        ConfigError, match=r"takes only images of \[24, 24\], got \[32, 41\]; set ev"
    ):
        held_out_views(items, backbone(image_size=(24, 24)), config)


def test_a_backbone_of_one_size_cannot_see_images_whole(items):
    config = Config(data=DataConfig(image_size=(24, 24)), evaluation=EvaluationConfig(whole=True))
    message = (
        "backbone 'b' takes only images of [24, 24] and cannot see images whole; set "
        "evaluation.whole to false"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        held_out_views(items, backbone(image_size=(24, 24)), config)
