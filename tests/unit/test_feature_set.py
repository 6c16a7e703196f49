import numpy as np
import pytest
import torch

from fusseg.features.cache.store import FeatureSettings, open_store
from fusseg.features.cache.writer import writing
from fusseg.features.feature_set import pool_features, read_features

SETTINGS = FeatureSettings("filterbank", "f" * 64, (16, 16), "crop", "bilinear")


def digest(name):
    return name * 64


def stored(path, site, **values):
    """Store with one row per name, whose feature at a position is value + position."""
    store = open_store(path, site, SETTINGS, (2, 2, 1))
    with writing(store) as writer:
        for name, value in values.items():
            features = value + np.arange(4).reshape(2, 2, 1)
            mean = features.mean(axis=(0, 1), dtype=np.float32)
            writer.append(digest(name), features.astype(np.float16), mean)
    return store


@pytest.fixture
def features(tmp_path):
    store = stored(tmp_path, "s", a=10, b=20, c=30)
    return read_features(store, ("s/third", "s/first"), (digest("c"), digest("a")))


def test_a_set_views_the_rows_of_its_images_in_its_own_order(features):
    assert len(features) == 2
    assert features.names == ("s/third", "s/first")
    assert features.map_shape == (2, 2, 1)
    assert features.fingerprint == "f" * 64
    assert features.feature_map(0).flatten().tolist() == [30, 31, 32, 33]
    assert features.feature_map(1).flatten().tolist() == [10, 11, 12, 13]
    assert features.feature_map(0).dtype == torch.float32
    assert features.pooled.tolist() == [[31.5], [11.5]]


def test_two_images_of_the_same_bytes_share_a_row(tmp_path):
    store = stored(tmp_path, "s", a=10)
    features = read_features(store, ("s/x", "s/copy"), (digest("a"), digest("a")))
    assert len(features) == 2
    assert torch.equal(features.feature_map(0), features.feature_map(1))


def test_mean_features_of_a_run_of_rows_stay_on_disk(tmp_path):
    store = stored(tmp_path, "s", a=10, b=20, c=30)
    run = read_features(store, ("s/b", "s/c"), (digest("b"), digest("c")))
    assert isinstance(run.pooled, np.memmap)
    assert run.pooled.tolist() == [[21.5], [31.5]]
    mixed = read_features(store, ("s/c", "s/b"), (digest("c"), digest("b")))
    assert mixed.pooled.tolist() == [[31.5], [21.5]]


def test_gathering_reads_flat_positions_row_by_row(features):
    images = torch.tensor([1, 0, 1])
    positions = torch.tensor([[0, 3], [2, 2], [1, 0]])
    gathered = features.gather(images, positions)
    assert gathered[..., 0].tolist() == [[10, 13], [32, 32], [11, 10]]
    assert gathered.dtype == torch.float32


def test_sums_and_counts_are_over_all_positions(features):
    assert features.feature_sum().tolist() == [4 * 31.5 + 4 * 11.5]
    assert features.feature_sum().dtype == torch.float64
    assert features.feature_count == 8


def test_pooled_sets_view_their_images_one_after_another(features, tmp_path):
    other = read_features(stored(tmp_path, "t", d=40), ("t/d",), (digest("d"),))
    pooled = pool_features([other, features])
    assert pooled.names == ("t/d", "s/third", "s/first")
    assert [int(found[0, 0, 0]) for found in map(pooled.feature_map, range(len(pooled)))] == [
        40,
        30,
        10,
    ]
    assert pooled.pooled.flatten().tolist() == [41.5, 31.5, 11.5]
    gathered = pooled.gather(torch.tensor([2, 0]), torch.tensor([[1], [3]]))
    assert gathered.flatten().tolist() == [11, 43]
    assert len(pool_features([pooled, other])) == 4
    assert int(pool_features([pooled, other]).feature_map(3)[0, 0, 0]) == 40


def test_the_digest_depends_on_the_images_and_their_order(tmp_path):
    store = stored(tmp_path, "s", a=10, b=20)
    forward = read_features(store, ("1", "2"), (digest("a"), digest("b")))
    renamed = read_features(store, ("3", "4"), (digest("a"), digest("b")))
    backward = read_features(store, ("2", "1"), (digest("b"), digest("a")))
    assert forward.digest == renamed.digest
    assert forward.digest != backward.digest


def test_an_empty_set_of_a_new_store_is_empty(tmp_path):
    features = read_features(open_store(tmp_path, "s", SETTINGS, (2, 2, 1)), (), ())
    assert len(features) == 0
    assert len(features) == 0
    assert features.feature_count == 0
