from dataclasses import replace

import pytest
import torch

from fusseg.config.schema import LocalConfig
from fusseg.core.errors import DataError
from fusseg.segmentation.head import initial_head, linear_head
from fusseg.segmentation.objective import Model
from fusseg.segmentation.objectives import settle_local
from fusseg.segmentation.objectives.stego import (
    SHIFTS,
    StegoSettings,
    balance_quantiles,
    depend_on_start,
    estimate_shifts,
    estimate_shifts_at_start,
)

QUANTILES = (0.75, 0.80, 0.95)


def estimate(features, mean, generator, batch_size=8, num_clusters=27, **stego):
    """The three shifts in their order; as many clusters as need no balance of the quantiles."""
    local = settle_local(LocalConfig(batch_size=batch_size, tables={"stego": stego}), num_clusters)
    found = estimate_shifts(features, mean, local, generator)
    assert tuple(found) == SHIFTS
    return tuple(found.values())


def test_images_of_one_material_each_give_the_cosines_of_the_materials(make_features, seeded):
    # Inside an image all cosines are 1; between the two images all are 0.6.
    maps = torch.tensor([[1.0, 0.0], [0.6, 0.8]])[:, None, None].expand(2, 3, 3, 2)
    shift = estimate(make_features(maps), torch.zeros(2), seeded(0), batch_size=2, positions=5)
    assert shift == pytest.approx((1.0, 0.6, 0.6), abs=1e-3)  # the features are float16


def test_the_mean_feature_is_subtracted_before_the_cosines(make_features, seeded):
    # Around (1, 1) the two images point in opposite directions.
    maps = torch.tensor([[2.0, 1.0], [0.0, 1.0]])[:, None, None].expand(2, 3, 3, 2)
    shift = estimate(make_features(maps), torch.ones(2), seeded(0), batch_size=2, positions=5)
    assert shift == pytest.approx((1.0, -1.0, -1.0))


def test_an_image_drawn_twice_does_not_count_as_its_own_random_support(make_features, seeded):
    # As above, but a batch of 8 draws each of the two images several times.
    maps = torch.tensor([[1.0, 0.0], [0.6, 0.8]])[:, None, None].expand(2, 3, 3, 2)
    shift = estimate(make_features(maps), torch.zeros(2), seeded(0), positions=5)
    assert shift == pytest.approx((1.0, 0.6, 0.6), abs=1e-3)


def test_batches_are_drawn_until_two_images_have_met(make_features, seeded):
    # The two draws of a batch are the same image every other time.
    maps = torch.tensor([[1.0, 0.0], [0.6, 0.8]])[:, None, None].expand(2, 3, 3, 2)
    few = {"batch_size": 3, "positions": 5, "shift_batches": 1, "random_supports": 1}
    for seed in range(30):
        shift = estimate(make_features(maps), torch.zeros(2), seeded(seed), **few)
        assert shift[2] == pytest.approx(0.6, abs=1e-3)


def test_each_kind_of_pair_has_its_own_quantile(random_features, seeded):
    features, mean = random_features(0), torch.zeros(5)

    def shift(*quantiles: float):
        given = {"positions": 9, "shift_quantiles": list(quantiles)}
        return estimate(features, mean, seeded(0), batch_size=4, **given)

    low, high = shift(0.1, 0.2, 0.3), shift(0.1, 0.8, 0.3)
    assert low[0] == high[0]
    assert low[1] < high[1]
    assert low[2] == high[2]


def test_one_image_has_no_neighbor(random_features, seeded):
    with pytest.raises(DataError, match=r"^nearest neighbors need at least 2 images, got 1$"):
        estimate(random_features(0, num_images=1), torch.zeros(5), seeded(0))


@pytest.mark.parametrize(
    ("num_clusters", "expected"),
    [(2, (0.5, 0.5, 0.95)), (4, (0.75, 0.75, 0.95)), (27, (0.75, 0.80, 0.95))],
)
def test_balanced_quantiles_follow_the_number_of_clusters(num_clusters, expected):
    found = settle_local(LocalConfig(), num_clusters).settings
    assert found.shift_quantiles == pytest.approx(expected)


def test_given_quantiles_stay_as_they_are():
    settings = StegoSettings(shift_quantiles=QUANTILES)
    assert balance_quantiles(settings, 2) == replace(settings, shift_from_start=False)


def test_quantiles_have_to_be_balanced_before_they_are_used(random_features, seeded):
    local = replace(settle_local(LocalConfig(), 2), settings=StegoSettings())
    with pytest.raises(ValueError, match="balance them first"):
        estimate_shifts(random_features(0), torch.zeros(5), local, seeded(0))


@pytest.mark.parametrize(
    ("stego", "expected"),
    [
        ({}, False),
        ({"shift_from_start": True}, True),
        ({"shift_from_start": True, "shift_quantiles": list(QUANTILES)}, False),
        ({"shift_from_start": True, "shift": [0.1, 0.2, 0.3]}, False),
    ],
)
def test_only_balanced_shifts_depend_on_the_start(stego, expected):
    local = settle_local(LocalConfig(tables={"stego": stego}), 2)
    assert depend_on_start(local.settings) is expected


def halves(make_features):
    """Two images, each half one material and half another, and a start with a centroid of each."""
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])
    image = torch.stack([one.expand(4, 2), other.expand(4, 2)])
    head = linear_head(torch.eye(2), torch.zeros(2), initial_head(2, 2, torch.Generator()))
    start = Model(head, torch.stack([one, other]))
    return make_features(torch.stack([image, image])), start


def test_a_start_of_one_region_pushes_no_pair_apart(make_features, seeded):
    """The shift is then the smallest of all values: the cosine of the two materials."""
    features, start = halves(make_features)
    one_region = replace(start, centroids=torch.tensor([[1.0, 0.5], [-1.0, 0.0]]))
    tables = {"stego": {"positions": 200, "shift_batches": 4}}
    local = settle_local(LocalConfig(batch_size=2, tables=tables), 2)
    found = estimate_shifts_at_start(features, torch.zeros(2), one_region, local, seeded(0))
    # Cosines are 1 and 0.6, with a mean near 0.8: centering changes nearly nothing.
    assert tuple(found.values()) == pytest.approx((0.6, 0.6, 0.6), abs=0.06)
