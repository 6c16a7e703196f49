import dataclasses

import pytest

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError
from fusseg.features.backbones.filterbank import load_filterbank
from fusseg.prediction.viewing import PredictOptions, view_image

DATA = DataConfig(image_size=(64, 96))
BACKBONE = load_filterbank()
FIXED = dataclasses.replace(BACKBONE, image_size=(64, 96))


def view(shape, data=DATA, backbone=BACKBONE, **options):
    found = view_image(shape, data, backbone, PredictOptions(**options))
    return found.size, found.tiling.size, found.tiling.tile


def test_an_image_covers_the_training_size_in_one_tile():
    assert view((640, 960)) == ((64, 96), (8, 12), (8, 12))
    # 64 / 500 is the larger of the two: as high as in training, wider.
    assert view((500, 1000)) == ((64, 128), (8, 16), (8, 16))


def test_what_is_seen_of_a_small_thin_image_is_bounded_and_of_a_large_one_tiled():
    # Enlarged to cover the training size it would be 64 x 42667; 8 times the training size it is.
    size, _, _ = view((3, 2000))
    assert size == (8, 5728)
    assert view((640, 20000)) == ((64, 2000), (8, 250), (8, 24))


def test_a_scale_is_taken_at_its_word_and_tiled_by_twice_the_training_size():
    assert view((1000, 2000), scale=0.5) == ((496, 1000), (62, 125), (16, 24))
    assert view((1000, 2000), scale=0.5, tile=256) == ((496, 1000), (62, 125), (32, 32))
    # 8 times the training size are still seen at once.
    assert view((192, 256), scale=1.0)[2] == (24, 32)


def test_a_large_training_size_bounds_the_tile_for_memory():
    large = DataConfig(image_size=(1024, 2048))
    assert view((1024, 2048), data=large)[2] == (128, 256)
    assert view((1024, 4096), data=large)[2] == (128, 256)


def test_stretching_and_a_fixed_size_give_the_training_size():
    stretch = dataclasses.replace(DATA, fit="stretch")
    assert view((1000, 1000), data=stretch)[0] == (64, 96)
    assert view((1000, 1000), backbone=FIXED)[0] == (64, 96)
    assert view((1000, 1000), backbone=FIXED, scale=0.2) == ((200, 200), (25, 25), (8, 12))
    assert view((100, 100), backbone=FIXED, scale=0.2) == ((64, 96), (8, 12), (8, 12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "the scale must lie above 0 and up to 4, got 0.0"),
        ({"tile": 0}, "the tile must be at least 1 pixel, got 0"),
        ({"refine": "best"}, "unknown refinement 'best'; choose one of none, guided, crf"),
        ({"batch": 0}, "the batch must lie in 1 to 10000, got 0"),
        ({"tile": 7}, "the tile must be at least the backbone's stride of 8, got 7"),
        ({"scale": 4.0}, "at scale 4.0 the backbone would see 36000 x 48000 pixels, more than"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        view((9000, 12000), **options)


def test_a_backbone_of_one_size_takes_no_other_tile():
    with pytest.raises(ConfigError, match="takes images of"):
        view((100, 100), backbone=FIXED, tile=32)
