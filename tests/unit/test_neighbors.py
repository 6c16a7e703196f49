import re

import numpy as np
import pytest
import torch

from fusseg.core.errors import DataError
from fusseg.features.neighbors import cached_neighbors, nearest_neighbors


def test_neighbors_come_nearest_first_by_cosine_and_never_the_image_itself():
    pooled = torch.tensor([[1.0, 0.0], [100.0, 10.0], [3.0, 4.0], [-1.0, 0.1]])
    assert nearest_neighbors(pooled, 3).tolist() == [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]]


def test_copies_of_an_image_are_neighbors_but_not_the_image_itself():
    pooled = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert nearest_neighbors(pooled, 1)[:2].tolist() == [[1], [0]]


@pytest.mark.parametrize(("asked", "found"), [(1, 1), (2, 2), (5, 2)])
def test_there_are_never_more_neighbors_than_other_images(asked, found):
    assert nearest_neighbors(torch.eye(3), asked).shape == (3, found)


def test_one_image_has_no_neighbor():
    with pytest.raises(DataError, match=r"^nearest neighbors need at least 2 images, got 1$"):
        nearest_neighbors(torch.ones(1, 3), 2)


def test_the_mean_feature_is_subtracted_before_the_cosine(make_features, tmp_path):
    # Seen from (0, 0) the second image lies with the third, from (1, 1) with the first.
    rows = torch.tensor([[2.0, 1.0], [3.0, 1.25], [1.0, 0.375]])
    features = make_features(rows[:, None, None].expand(3, 2, 2, 2))
    plain = cached_neighbors(features, torch.zeros(2), 1, tmp_path)
    centered = cached_neighbors(features, torch.ones(2), 1, tmp_path)
    assert plain.tolist() == [[1], [2], [1]]
    assert centered.tolist() == [[1], [0], [0]]


def test_neighbors_are_kept_and_read_again(random_features, tmp_path):
    features, mean = random_features(0), torch.zeros(5)
    computed = cached_neighbors(features, mean, 2, tmp_path)
    (file,) = (tmp_path / "neighbors").iterdir()
    assert np.fromfile(file, dtype=np.int64).tolist() == computed.flatten().tolist()
    np.full((6, 2), 4).tofile(file)
    assert torch.equal(cached_neighbors(features, mean, 2, tmp_path), torch.full((6, 2), 4))


def test_other_images_means_or_counts_have_their_own_file(random_features, tmp_path):
    mean = torch.zeros(5)
    cached_neighbors(random_features(0), mean, 2, tmp_path)
    cached_neighbors(random_features(0), mean, 3, tmp_path)
    cached_neighbors(random_features(0), mean + 1, 2, tmp_path)
    cached_neighbors(random_features(1), mean, 2, tmp_path)
    cached_neighbors(random_features(0, name="b"), mean, 2, tmp_path)
    assert len(list((tmp_path / "neighbors").iterdir())) == 5


@pytest.fixture
def file(random_features, tmp_path):
    cached_neighbors(random_features(0), torch.zeros(5), 2, tmp_path)
    (found,) = (tmp_path / "neighbors").iterdir()
    return found


DAMAGES = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[:-3],
    "a row short": lambda content: content[:-16],
    "a row too many": lambda content: content + content[:16],
    "an image too far": lambda content: np.int64(6).tobytes() + content[8:],
    "a negative image": lambda content: np.int64(-1).tobytes() + content[8:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_computed_anew(damage, file, random_features, tmp_path):
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    found = cached_neighbors(random_features(0), torch.zeros(5), 2, tmp_path)
    assert torch.equal(found, nearest_neighbors(torch.from_numpy(random_features(0).pooled), 2))
    assert file.read_bytes() == whole


def test_neighbors_that_cannot_be_written_say_how_to_choose_another_cache(
    file, random_features, tmp_path
):
    folder = file.parent
    file.unlink()
    folder.rmdir()
    folder.touch()
    message = (
        f"cannot write the nearest neighbors {file}: File exists; choose another cache folder with "
        "--cache or FUSSEG_CACHE"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        cached_neighbors(random_features(0), torch.zeros(5), 2, tmp_path)
