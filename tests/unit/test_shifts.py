import pytest
import torch

from fusseg.config import LocalConfig
from fusseg.errors import DataError
from fusseg.segmentation.shifts import automatic_shift, balance_quantiles

QUANTILES = (0.75, 0.80, 0.95)


def test_images_of_one_material_each_give_the_cosines_of_the_materials(make_features, seeded):
    # Inside an image all cosines are 1; between the two images all are 0.6.
    maps = torch.tensor([[1.0, 0.0], [0.6, 0.8]])[:, None, None].expand(2, 3, 3, 2)
    local = LocalConfig(batch_size=2, positions=5, shift_quantiles=QUANTILES)
    shift = automatic_shift(make_features(maps), torch.zeros(2), local, seeded(0))
    assert shift == pytest.approx((1.0, 0.6, 0.6), abs=1e-3)  # the features are float16


def test_the_mean_feature_is_subtracted_before_the_cosines(make_features, seeded):
    # Around (1, 1) the two images point in opposite directions.
    maps = torch.tensor([[2.0, 1.0], [0.0, 1.0]])[:, None, None].expand(2, 3, 3, 2)
    local = LocalConfig(batch_size=2, positions=5, shift_quantiles=QUANTILES)
    shift = automatic_shift(make_features(maps), torch.ones(2), local, seeded(0))
    assert shift == pytest.approx((1.0, -1.0, -1.0))


def test_each_kind_of_pair_has_its_own_quantile(random_features, seeded):
    features, mean = random_features(0), torch.zeros(5)

    def shift(*quantiles: float):
        local = LocalConfig(batch_size=4, positions=9, shift_quantiles=quantiles)
        return automatic_shift(features, mean, local, seeded(0))

    low, high = shift(0.1, 0.2, 0.3), shift(0.1, 0.8, 0.3)
    assert low[0] == high[0]
    assert low[1] < high[1]
    assert low[2] == high[2]


def test_one_image_has_no_neighbor(random_features, seeded):
    local = LocalConfig(shift_quantiles=QUANTILES)
    with pytest.raises(DataError, match=r"^nearest neighbors need at least 2 images, got 1$"):
        automatic_shift(random_features(0, num_images=1), torch.zeros(5), local, seeded(0))


@pytest.mark.parametrize(
    ("num_clusters", "expected"),
    [(2, (0.5, 0.5, 0.95)), (4, (0.75, 0.75, 0.95)), (27, (0.75, 0.80, 0.95))],
)
def test_balanced_quantiles_follow_the_number_of_clusters(num_clusters, expected):
    found = balance_quantiles(LocalConfig(), num_clusters)
    assert found.shift_quantiles == pytest.approx(expected)


def test_given_quantiles_stay_as_they_are():
    local = LocalConfig(shift_quantiles=QUANTILES)
    assert balance_quantiles(local, 2) is local


def test_quantiles_have_to_be_balanced_before_they_are_used(random_features, seeded):
    with pytest.raises(ValueError, match="balance them first"):
        automatic_shift(random_features(0), torch.zeros(5), LocalConfig(), seeded(0))
