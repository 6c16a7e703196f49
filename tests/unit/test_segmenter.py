import pytest
import torch

from fusseg.segmentation.assignment import assign, build_segmenter, cosines, encode, similarities
from fusseg.segmentation.objective import Model

IDENTITY = {
    "linear.weight": torch.eye(2),
    "linear.bias": torch.zeros(2),
    "hidden.weight": torch.zeros(2, 2),
    "hidden.bias": torch.zeros(2),
    "output.weight": torch.zeros(2, 2),
    "output.bias": torch.zeros(2),
}


@pytest.fixture
def segmenter():
    centroids = torch.tensor([[5.0, 0.0], [0.0, 0.1], [3.0, 4.0]])
    return build_segmenter(Model(IDENTITY, centroids), torch.tensor([10.0, 20.0]))


def test_centroids_are_brought_to_unit_length(segmenter):
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    torch.testing.assert_close(segmenter.centroids, expected)
    assert segmenter.num_clusters == 3


def test_similarity_is_the_code_length_times_the_cosine(segmenter):
    features = torch.tensor([[[13.0, 24.0], [10.0, 18.0]]])  # codes (3, 4) and (0, -2)
    expected = torch.tensor([[[3.0, 0.0]], [[4.0, -2.0]], [[5.0, -1.6]]])
    torch.testing.assert_close(similarities(segmenter, encode(segmenter, features)), expected)


def test_cosines_come_position_by_position(segmenter):
    features = torch.tensor([[[13.0, 24.0]], [[10.0, 18.0]]])
    expected = torch.tensor([[0.6, 0.8, 1.0], [0.0, -1.0, -0.8]])
    torch.testing.assert_close(cosines(segmenter, encode(segmenter, features)), expected)


def test_pixels_between_two_positions_follow_the_interpolated_codes():
    # Over four pixels the first similarity falls 3, 2.25, 0.75, 0 and the second rises 0 to 1.
    scores = torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]]])
    assert assign(scores, (1, 4)).tolist() == [[0, 0, 0, 1]]
    assert assign(scores.transpose(1, 2), (4, 1)).flatten().tolist() == [0, 0, 0, 1]


def test_at_the_size_of_the_map_every_position_takes_its_largest_similarity():
    scores = torch.tensor([[[3.0, 0.0], [-1.0, 2.0]], [[0.0, 1.0], [-2.0, 2.5]]])
    assigned = assign(scores, (2, 2))
    assert assigned.tolist() == [[0, 1], [0, 1]]
    assert assigned.dtype == torch.uint8


def test_the_last_of_255_clusters_can_be_assigned():
    scores = torch.zeros(255, 1, 1)
    scores[254] = 1
    assert assign(scores, (2, 3)).tolist() == [[254] * 3] * 2


@pytest.mark.parametrize("size", [(3, 4), (7, 1), (40, 300)])
def test_of_equal_similarities_the_first_is_assigned(size):
    scores = torch.tensor([0.0, 2.0, 1.0, 2.0, 2.0])[:, None, None].expand(5, 3, 4)
    assert assign(scores, size).unique().tolist() == [1]
