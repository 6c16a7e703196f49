"""What more than one unit test needs from the disk."""

import numpy as np
import pytest
from PIL import Image

CLASSES = 'names = ["gravel", "metal"]\n'


@pytest.fixture
def write_site(tmp_path):
    """Write a site's folder of 64x64 images of two materials, some with masks of 0 and 1."""

    def write(name, num_images=4, num_masks=0, seed=0):
        folder = tmp_path / "data" / name
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        (folder / "classes.toml").write_text(CLASSES)
        for index in range(num_images):
            generator = np.random.default_rng(100 * seed + index)
            edge = 8 * int(generator.integers(2, 7))
            pixels = generator.integers(60, 200, (64, 64, 1)).repeat(3, 2).astype(np.uint8)
            pixels[:, edge:] = (90, 110, 150)
            mask = np.zeros((64, 64), np.uint8)
            mask[:, edge:] = 1
            Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
            if index < num_masks:
                Image.fromarray(mask).save(folder / "masks" / f"{index}.png")
        return folder

    return write
