import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from fusseg.config.schema import BackboneConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.features.cache.codecs import PACKINGS, check_cache, find_basis, row_type
from fusseg.features.cache.store import FeatureSettings, list_stores, open_store
from fusseg.features.cache.writer import writing
from fusseg.features.feature_set import read_features

SETTINGS = FeatureSettings("filterbank", "f" * 64, (16, 16), "crop", "bilinear")
SHAPE = (3, 4, 6)


def digest(index):
    return f"{index:064x}"


def random_maps(count, seed=0, shape=SHAPE):
    values = np.random.default_rng(seed).standard_normal((count, *shape))
    return (values * np.arange(1, shape[2] + 1) + 5).astype(np.float16)


def filled(path, cache, maps):
    """A store of some maps, whose digests are their numbers."""
    store = open_store(path, "s", replace(SETTINGS, cache=cache), maps.shape[1:])
    with writing(store) as writer:
        for index, features in enumerate(maps):
            writer.append(digest(index), features, features.mean((0, 1), dtype=np.float32))
    return store


def read(store, *images):
    return read_features(store, [f"s/{i}" for i in images], [digest(i) for i in images])


def low_rank_maps(count, seed=0):
    """Maps of six channels whose features lie on a plane of two dimensions, off the origin."""
    rng = np.random.default_rng(seed)
    directions = np.array([[1, 0, 1, 0, 0, 0], [0, 2, 0, 0, 1, 0]])
    return (rng.standard_normal((count, 3, 4, 2)) @ directions + 3).astype(np.float16)


@pytest.mark.parametrize(
    ("cache", "num_bytes"),
    [("float16", 3 * 4 * 6 * 2), ("int8", 3 * 4 * 6 + 2 * 6 * 4), ("pca:2", 3 * 4 * 2 * 2)],
)
def test_a_row_takes_as_many_bytes_on_disk_as_its_type_says(cache, num_bytes, tmp_path):
    store = filled(tmp_path, cache, random_maps(3))
    assert row_type(cache, SHAPE).itemsize == store.row_bytes == num_bytes
    assert store.data_path.stat().st_size == 3 * num_bytes


def test_float16_is_kept_to_the_bit(tmp_path):
    maps = random_maps(2)
    features = read(filled(tmp_path, "float16", maps), 1, 0)
    assert features.feature_map(0).numpy().astype(np.float16).tobytes() == maps[1].tobytes()


def test_int8_is_off_by_half_a_level_of_its_channel_at_most(tmp_path):
    maps = random_maps(4)
    features = read(filled(tmp_path, "int8", maps), *range(4))
    for image, exact in enumerate(maps.astype(np.float32)):
        steps = (exact.max((0, 1)) - exact.min((0, 1))) / 255
        error = np.abs(features.feature_map(image).numpy() - exact)
        assert (error <= steps * 0.5001 + 1e-6).all()
        assert error.max() > 0


def test_int8_keeps_the_least_and_the_largest_value_and_channels_of_one_value(tmp_path):
    maps = np.zeros((1, 1, 3, 2), np.float16)
    maps[0, 0, :, 0], maps[0, 0, :, 1] = [-1, 0, 254], 7
    (found,) = read(filled(tmp_path, "int8", maps), 0).feature_map(0)
    assert found.tolist() == [[-1, 7], [0, 7], [254, 7]]


def test_as_many_components_as_there_are_dimensions_lose_only_rounding(tmp_path):
    maps = low_rank_maps(5)
    features = read(filled(tmp_path, "pca:2", maps), *range(5))
    for image, exact in enumerate(maps):
        assert np.allclose(features.feature_map(image), exact.astype(np.float32), atol=2e-2)


def test_the_basis_is_the_eigenvectors_of_the_covariance_unwhitened():
    maps = random_maps(6)
    basis = find_basis(list(maps), 3)
    flat = maps.reshape(-1, 6).astype(np.float64)
    assert np.allclose(basis.mean, flat.mean(0), atol=1e-4)
    _, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    for found, expected in zip(basis.components.numpy(), vectors.T[::-1], strict=False):
        assert np.abs(found @ expected) == pytest.approx(1, abs=1e-4)
        assert found[np.abs(found).argmax()] > 0
    assert np.allclose(basis.components @ basis.components.T, np.eye(3), atol=1e-5)


def test_the_basis_is_of_the_first_images_and_stays(tmp_path):
    maps = low_rank_maps(40)
    maps[32:, ..., 5] += 100  # outside the plane of the first 32
    store = filled(tmp_path, "pca:2", maps)
    kept = (store.path / "basis.f32").read_bytes()
    with writing(store) as writer:
        writer.append(digest(40), maps[39], maps[39].mean((0, 1), dtype=np.float32))
    assert (store.path / "basis.f32").read_bytes() == kept
    first, last = read(store, 0, 40).feature_map(0), read(store, 0, 40).feature_map(1)
    assert np.allclose(first, maps[0].astype(np.float32), atol=2e-2)
    assert float(last[..., 5].mean()) == pytest.approx(3, abs=0.1)


def test_the_mean_features_are_exact_under_every_codec(tmp_path):
    maps = random_maps(3)
    plain = filled(tmp_path, "float16", maps).pooled().tolist()
    assert filled(tmp_path, "int8", maps).pooled().tolist() == plain
    assert filled(tmp_path, "pca:1", maps).pooled().tolist() == plain


@pytest.mark.parametrize("cache", ["int8", "pca:3"])
def test_gathering_decodes_what_the_whole_map_holds(cache, tmp_path):
    features = read(filled(tmp_path, cache, random_maps(4)), 3, 1, 0)
    images, positions = torch.tensor([2, 0, 2]), torch.tensor([[0, 11], [5, 5], [7, 1]])
    gathered = features.gather(images, positions)
    for place, image in enumerate(images.tolist()):
        whole = features.feature_map(image).flatten(0, 1)
        assert torch.allclose(gathered[place], whole[positions[place]], atol=1e-5)
    assert gathered.dtype == torch.float32


@pytest.mark.parametrize("cache", ["int8", "pca:2"])
def test_rows_appended_later_are_as_if_appended_at_once(cache, tmp_path):
    maps = random_maps(40)
    whole = filled(tmp_path / "whole", cache, maps)
    store = filled(tmp_path / "parts", cache, maps[:33])
    with writing(store) as writer:
        for index in range(33, 40):
            writer.append(digest(index), maps[index], maps[index].mean((0, 1), dtype=np.float32))
    assert store.data_path.read_bytes() == whole.data_path.read_bytes()


def test_components_beyond_float16_are_refused_with_what_to_do(tmp_path):
    maps = np.zeros((2, 1, 2, 4), np.float16)
    maps[:, :, 1] = 60000
    message = (
        "principal components of features exceed the largest float16, 65504; set backbone.cache to "
        "'float16' or 'int8'"
    )
    maps[1] *= -1
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        filled(tmp_path, "pca:1", maps)


class KillError(Exception):
    """Stands for a process that ends at this point."""


def test_rows_that_wait_for_a_basis_do_not_count_when_the_process_dies(tmp_path):
    store = open_store(tmp_path, "s", replace(SETTINGS, cache="pca:2"), SHAPE)

    def die():
        with writing(store) as writer:
            features = random_maps(1)[0]
            writer.append(digest(0), features, features.mean((0, 1), dtype=np.float32))
            writer.commit()
            raise KillError

    with pytest.raises(KillError):
        die()
    assert store.digests() == []
    assert not (store.path / "basis.f32").exists()


@pytest.mark.parametrize("content", [None, b"", b"\0" * 8])
def test_rows_without_their_basis_do_not_count_and_are_written_anew(content, tmp_path):
    maps = low_rank_maps(3)
    store = filled(tmp_path, "pca:2", maps)
    basis = store.path / "basis.f32"
    if content is None:
        basis.unlink()
    else:
        basis.write_bytes(content)
    assert store.digests() == []
    assert store.maps().shape == (0, *SHAPE)
    again = filled(tmp_path, "pca:2", maps)
    assert len(again.digests()) == 3
    assert np.allclose(read(again, 2).feature_map(0), maps[2].astype(np.float32), atol=2e-2)


def test_codecs_have_keys_of_their_own_and_are_listed(tmp_path):
    stores = [filled(tmp_path, cache, random_maps(1)) for cache in ("float16", "int8", "pca:2")]
    assert len({store.path for store in stores}) == 3
    assert sorted(found.settings.cache for found in list_stores(tmp_path)) == [
        "float16",
        "int8",
        "pca:2",
    ]
    assert stores[0].settings.key == SETTINGS.key
    assert set(PACKINGS) == {"float16", "int8", "pca"}


@pytest.mark.parametrize("cache", ["", "float32", "pca", "pca:0", "pca:x", "pca:-3", "int8:4"])
def test_an_unknown_cache_is_refused(cache):
    message = (
        "backbone.cache must be 'float16', 'int8' or 'pca:R' with the number of principal "
        f"components for R, such as 'pca:64', got {cache!r}"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        BackboneConfig(cache=cache)


@pytest.mark.parametrize("components", [144, 1000])
def test_as_many_components_as_channels_are_refused(components):
    config = BackboneConfig(cache=f"pca:{components}")
    message = (
        f"backbone.cache 'pca:{components}' must keep fewer components than backbone 'filterbank' "
        "has channels, 144; lower it, or keep 'float16' or 'int8'"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        check_cache(config, 144)
    check_cache(BackboneConfig(cache="pca:143"), 144)
