"""Partitions of clients that differ, cameras that differ, and the distances between clients."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fusseg.bench.distances import (
    Distances,
    distance_of_classes,
    distance_of_features,
    dump_distances,
    measure_distances,
    read_distances,
)
from fusseg.config.schema import BackboneConfig, Config, DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.cameras import see_through
from fusseg.data.images import load_image
from fusseg.data.items import Item
from fusseg.data.layouts import open_dataset
from fusseg.data.partitions import training_images
from fusseg.data.partitions.grouping import apportion
from fusseg.data.partitions.leave_one_out import leave_one_out
from fusseg.data.partitions.unlike_clients import deal_classes, growing_sizes
from fusseg.features.extraction import digest_item

SCENES = DataConfig(layout="synthetic", images_per_site=4, image_size=(32, 48))


def counts_of(**settings):
    config = replace(SCENES, **settings)
    items = training_images(open_dataset(config), config)
    return sorted(Counter(item.client for item in items).items())


@given(classes=st.lists(st.integers(-1, 6), min_size=1, max_size=60), num_clients=st.integers(1, 4))
def test_clients_of_whole_classes_have_none_in_common(classes, num_clients):
    classes = np.array(classes)
    if len(set(classes.tolist())) < num_clients:
        with pytest.raises(ConfigError, match="dominant classes for"):
            deal_classes(classes, num_clients)
        return
    clients = deal_classes(classes, num_clients)
    for value in set(classes.tolist()):
        assert len(set(clients[classes == value].tolist())) == 1
    assert set(clients.tolist()) == set(range(num_clients))


def test_frequent_classes_are_dealt_first_and_each_to_the_smallest_client():
    classes = np.repeat([4, 1, 2, 3], [2, 9, 5, 3])
    assert deal_classes(classes, 2).tolist() == [1] * 2 + [0] * 9 + [1] * 5 + [1] * 3


@given(
    num_clients=st.integers(1, 8),
    more=st.integers(0, 400),
    ratio=st.sampled_from([1.0, 3.5, 100.0]),
)
def test_sizes_grow_and_leave_enough_for_each(num_clients, more, ratio):
    sizes = growing_sizes(2 * num_clients + more, num_clients, ratio)
    assert sum(sizes) == 2 * num_clients + more
    assert sizes[0] >= 2
    assert all(later >= earlier - 1 for earlier, later in pairwise(sizes))


def test_many_images_have_the_ratio_that_was_asked_for():
    assert growing_sizes(11110, 4, 1000.0) == [10, 100, 1000, 10000]
    assert growing_sizes(12, 4, 1.0) == [3, 3, 3, 3]
    assert apportion([1, 1, 98], 10, least=2) == [2, 2, 6]


def test_partitions_of_sizes_and_classes_are_chosen_by_name():
    names = ("client-00", "client-01")
    assert counts_of(partition="sizes:7", num_clients=2) == list(zip(names, (2, 14), strict=True))
    assert counts_of(partition="sizes:1") == [(f"client-0{place}", 4) for place in range(4)]
    streets = counts_of(scenes="streets", partition="classes", num_clients=2)
    assert [name for name, _ in streets] == list(names)
    drawn = counts_of(partition="sizes:7", num_clients=2, partition_seed=1)
    assert drawn == list(zip(names, (2, 14), strict=True))


def test_too_few_images_for_clients_of_growing_sizes_are_refused(tmp_path):
    for site in ("a", "b", "c"):
        (tmp_path / site / "images").mkdir(parents=True)
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / site / "images" / "0.png")
    config = DataConfig(root=str(tmp_path), partition="sizes:2")
    with pytest.raises(ConfigError, match="3 is too many for 3 training images"):
        training_images(open_dataset(config), config)


def test_a_held_out_site_needs_no_camera():
    config = replace(SCENES, cameras={"hall": "noisy", "yard": "tinted"})
    turns = leave_one_out(config)
    assert turns["hall"].cameras == {"yard": "tinted"}
    assert turns["tank"].cameras == config.cameras
    assert leave_one_out(SCENES)["hall"].cameras is None


def test_measured_distances_are_read_again_and_damage_is_named(tmp_path):
    found = {"i.i.d.": Distances(3, 1.5, None, 0.25), "x": Distances(2, 1.0, 0.125, 0.0)}
    path = tmp_path / "distances.csv"
    assert read_distances(path) == {}
    path.write_text(dump_distances(found))
    assert read_distances(path) == found
    path.write_text(path.read_text().replace("0.25", "far"))
    with pytest.raises(DataError, match="line 2 has a distance that is no number"):
        read_distances(path)


@pytest.mark.parametrize("text", ["sizes:0.5", "sizes:many", "sizes:nan", "sizes:1e9"])
def test_a_ratio_is_a_number_from_one_up(text):
    with pytest.raises(ConfigError, match="needs a number from 1 to 10000 after the colon"):
        counts_of(partition=text)


def test_cameras_belong_to_clients_that_train():
    config = replace(SCENES, partition="iid", cameras={"client-01": "noisy"})
    items = training_images(open_dataset(config), config)
    seen = {(item.client, item.camera) for item in items}
    assert seen == {("client-01", "noisy"), *((f"client-0{place}", None) for place in (0, 2, 3))}
    wrong = replace(config, cameras={"client-9": "noisy"})
    with pytest.raises(ConfigError, match=r"names the client 'client-9', who has no training"):
        training_images(open_dataset(wrong), wrong)


@pytest.fixture
def gray():
    return np.full((400, 600, 3), 100, np.uint8)


def test_a_blurred_image_spreads_an_edge_by_a_share_of_the_shorter_side(gray):
    gray[:, 300:] = 200
    blurred = see_through("blurred", gray)
    column = blurred[200, :, 0].astype(float)
    # Of a Gaussian of 4 pixels, 68 % of the step lies within 4 pixels of the edge.
    inside = column[303] - column[296]
    assert 100 * 0.5 < inside < 100 * 0.8
    assert column[270] == 100
    assert column[330] == 200


def test_a_noisy_image_has_the_noise_of_the_recipe_at_any_size(gray):
    for pixels in (gray[:320, :320], gray[:64, :64]):
        found = see_through("noisy", pixels).astype(float)
        assert found.mean() == pytest.approx(100, abs=2)
        assert found.std() == pytest.approx(20, abs=1.5)
    large = np.full((1280, 1280, 3), 100, np.uint8)
    found = np.asarray(
        Image.fromarray(see_through("noisy", large)).resize((320, 320), Image.Resampling.BOX)
    )
    # Grains are as large as a pixel at 320, so that shrinking the image keeps most of them.
    assert 8 < found.astype(float).std() < 20


@pytest.mark.parametrize("camera", ["blurred", "tinted", "noisy"])
def test_a_camera_gives_the_same_pixels_again_and_features_of_their_own(camera, tmp_path, gray):
    gray[:200] = 30
    Image.fromarray(gray).save(tmp_path / "a.png")
    own = Item("yard", "a", "", tmp_path / "a.png")
    other = replace(own, camera=camera)
    assert np.array_equal(load_image(own), gray)
    assert not np.array_equal(load_image(other), gray)
    assert np.array_equal(load_image(other), load_image(other))
    assert digest_item(own, {}).digest != digest_item(other, {}).digest


def test_the_distance_of_classes_is_the_mean_over_pairs():
    counts = [np.array([10, 0]), np.array([0, 5]), np.array([3, 3])]
    assert distance_of_classes(counts) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert distance_of_classes([*counts, np.array([0, 0])]) == distance_of_classes(counts)
    assert distance_of_classes(counts[:1]) is None


def test_a_partition_of_the_same_features_has_the_same_unit(random_features):
    clients = [random_features(0), random_features(1)]
    maps = [
        torch.stack([one.feature_map(image) for image in range(len(one))]).flatten(0, 2).double()
        for one in clients
    ]
    pooled = torch.cat(maps)
    unit = (pooled - pooled.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    expected = (maps[0].mean(dim=0) - maps[1].mean(dim=0)).norm() / unit
    assert distance_of_features(clients) == pytest.approx(float(expected), rel=1e-6)
    assert distance_of_features(clients[:1]) == 0


def test_clients_are_measured_from_their_cached_features(tmp_path):
    data = replace(SCENES, scenes="streets", held_out_sites=("dusk",))
    config = Config(data=data, backbone=BackboneConfig(name="filterbank"))
    alike = measure_distances(replace(config, data=replace(data, partition="iid")), tmp_path)
    unlike = measure_distances(config, tmp_path)
    assert alike.num_clients == unlike.num_clients == 3
    assert alike.sizes == unlike.sizes == 1
    assert 0 < alike.features < unlike.features
    assert 0 < alike.classes < 1


def test_other_cameras_reach_the_features(tmp_path):
    config = Config(
        data=replace(SCENES, partition="iid", cameras={"client-00": "tinted"}),
    )
    plain = replace(config, data=replace(config.data, cameras=None))
    assert (
        measure_distances(config, tmp_path).features > measure_distances(plain, tmp_path).features
    )
