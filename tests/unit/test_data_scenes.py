import subprocess
import sys
import zlib

import numpy as np
import pytest

from fusseg.data.synthetic.scenes import SCENES, Scene, draw_scene

ALL_SITES = [(kind, site) for kind in SCENES for site in SCENES[kind].sites]


@pytest.mark.parametrize(("kind", "site"), ALL_SITES)
def test_equal_scenes_are_equal_and_others_differ(kind, site):
    image, mask = draw_scene(Scene(kind, site, 3, 7))
    draw_scene.cache_clear()
    again, same_mask = draw_scene(Scene(kind, site, 3, 7))
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, same_mask)
    assert not np.array_equal(image, draw_scene(Scene(kind, site, 4, 7))[0])
    assert not np.array_equal(image, draw_scene(Scene(kind, site, 3, 8))[0])


def test_scenes_are_the_same_in_another_process():
    scene = Scene("streets", "dusk", 1, 2)
    code = (
        "import zlib; from fusseg.data.synthetic.scenes import Scene, draw_scene; "
        f"print(zlib.crc32(draw_scene({scene!r})[0].tobytes()))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == zlib.crc32(draw_scene(scene)[0].tobytes())


@pytest.mark.parametrize(("kind", "site"), ALL_SITES)
def test_masks_hold_no_value_beyond_the_classes(kind, site):
    image, mask = draw_scene(Scene(kind, site, 0, 0))
    assert image.shape == (240, 320, 3)
    assert mask.shape == (240, 320)
    assert mask.max() < len(SCENES[kind].class_names) == len(SCENES[kind].colors)


@pytest.mark.parametrize("site", SCENES["pipes"].sites)
def test_pipes_cover_a_quarter_to_a_half_of_the_pixels(site):
    shares = [draw_scene(Scene("pipes", site, index, 0))[1].mean() for index in range(8)]
    assert min(shares) > 0.15
    assert max(shares) < 0.55
    assert 0.25 < np.mean(shares) < 0.5


@pytest.mark.parametrize("site", SCENES["pipes"].sites)
def test_pipes_are_smoother_than_what_lies_behind(site):
    """The cue that makes the scenes separable without labels."""
    for index in range(4):
        image, mask = draw_scene(Scene("pipes", site, index, 0))
        # means of 2 x 2 pixels, because sensor noise is the same everywhere
        coarse = image.reshape(120, 2, 160, 2, 3).mean(axis=(1, 3, 4))
        rough = np.abs(np.diff(coarse, axis=1))
        inside = mask[::2, 2::2] == 1
        assert rough[inside].mean() < 0.6 * rough[~inside].mean()


@pytest.mark.parametrize("site", SCENES["streets"].sites)
def test_every_class_of_the_streets_occurs(site):
    seen = set()
    for index in range(6):
        seen |= set(np.unique(draw_scene(Scene("streets", site, index, 0))[1]).tolist())
    assert seen == set(range(7))


@pytest.mark.parametrize("kind", SCENES)
def test_sites_differ_in_mean_color_or_contrast(kind):
    figures = []
    for site in SCENES[kind].sites:
        pixels = np.stack([draw_scene(Scene(kind, site, index, 0))[0] for index in range(3)])
        figures.append([*pixels.mean(axis=(0, 1, 2)), pixels.std()])
    for one in range(len(figures)):
        for other in range(one):
            assert np.abs(np.subtract(figures[one], figures[other])).max() > 5


def test_scenes_cannot_be_written_to():
    image, _ = draw_scene(Scene("pipes", "yard", 0, 0))
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 0
