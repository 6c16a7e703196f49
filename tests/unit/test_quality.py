import pytest
import torch

from fusseg.evaluation.quality import average_quality, sum_quality
from fusseg.segmentation.assignment import build_segmenter, cosines, encode
from fusseg.segmentation.objective import Model


def test_sums_count_the_best_cluster_its_cosine_and_its_lead():
    found = torch.tensor([[0.5, 0.25, -1.0], [0.5, 1.0, 0.25], [-0.5, 0.5, 0.25]])
    sums = sum_quality(found)
    assert sums.positions.tolist() == [1, 2, 0]
    assert sums.cosine == 0.5 + 1.0 + 0.5
    assert sums.margin == 0.25 + 0.5 + 0.25


@pytest.fixture
def segmenter():
    """Codes are the features, centroids the two axes and (0.6, 0.8)."""
    head = {
        "linear.weight": torch.eye(2),
        "linear.bias": torch.zeros(2),
        "hidden.weight": torch.zeros(2, 2),
        "hidden.bias": torch.zeros(2),
        "output.weight": torch.zeros(2, 2),
        "output.bias": torch.zeros(2),
    }
    centroids = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    return build_segmenter(Model(head, centroids), torch.zeros(2))


def test_quality_is_the_mean_over_all_positions_of_all_images(segmenter):
    maps = torch.tensor([[[[3.0, 0.0], [0.0, 2.0]]], [[[3.0, 4.0], [0.0, 5.0]]]])
    sums = [sum_quality(cosines(segmenter, encode(segmenter, codes))) for codes in maps]
    found = average_quality(sums)
    assert found.cluster_share.tolist() == [0.25, 0.5, 0.25]
    assert found.mean_cosine == pytest.approx(1.0)
    # Leads: 1 - 0.6, 1 - 0.8, 1 - 0.8, 1 - 0.8.
    assert found.mean_margin == pytest.approx(0.25)


def test_quality_of_no_image_is_refused():
    with pytest.raises(ValueError, match=r"^quality needs at least 1 image, got 0$"):
        average_quality([])
