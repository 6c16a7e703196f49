import torch

from fusseg.federation.lloyd_steps import CodeSums, move_centroids, sum_codes
from fusseg.federation.points import KeptCodes, sample_positions, unit_codes
from fusseg.segmentation.head import initial_head


def test_one_step_by_hand():
    codes = [torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.0, 1.0]])]
    centroids = torch.tensor([[5.0, 0.0], [0.0, 0.1], [-1.0, 0.0]])
    found = sum_codes(codes, centroids)
    assert found.counts.tolist() == [1, 2, 0]
    expected = torch.tensor([[1.0, 0.0], [0.6, 1.8], [0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(found.sums, expected)
    assert torch.allclose(
        found.mean_cosines(centroids), torch.tensor([1.0, 0.9, 0.0], dtype=torch.float64)
    )
    moved = move_centroids(centroids, found)
    # the empty cluster keeps its centroid, the others turn to their sums
    length = (0.36 + 3.24) ** 0.5
    expected = torch.tensor([[1.0, 0.0], [0.6 / length, 1.8 / length], [-1.0, 0.0]])
    assert torch.allclose(moved, expected)


def test_codes_that_cancel_out_leave_the_centroid():
    total = CodeSums(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([2]))
    assert move_centroids(torch.tensor([[0.0, 3.0]]), total).tolist() == [[0.0, 1.0]]


def test_positions_depend_on_the_image_and_the_seed_alone(random_features):
    features = random_features(0, num_images=3, height=6, width=5)
    drawn = sample_positions(features, 7, seed=1)
    assert drawn.shape == (3, 7)
    assert all(len(set(row)) == 7 for row in drawn.tolist())
    assert drawn.max() < 30
    alone = random_features(5, num_images=1, height=6, width=5)
    assert torch.equal(sample_positions(alone, 7, seed=1)[0], drawn[0])  # the same digest
    assert not torch.equal(sample_positions(features, 7, seed=2), drawn)
    assert not torch.equal(drawn[0], drawn[1])


def test_all_positions_where_none_are_left_out(random_features):
    features = random_features(0, num_images=2, height=2, width=3)
    for per_image in (0, 6, 99):
        expected = [list(range(6))] * 2
        assert sample_positions(features, per_image, seed=0).tolist() == expected


def test_kept_codes_are_those_of_the_head_at_hand(random_features, seeded):
    features = random_features(0, num_images=4)
    mean = torch.zeros(5)
    first, second = initial_head(5, 3, seeded(0)), initial_head(5, 3, seeded(1))
    kept = KeptCodes(per_image=4, seed=0)
    for head in (first, first, second, first):
        positions = sample_positions(features, 4, seed=0)
        expected = torch.cat(list(unit_codes(head, features, positions, mean)))
        found = torch.cat(list(kept.of_client("a", features, head, mean)))
        assert torch.equal(found, expected)
        assert torch.allclose(found.norm(dim=1), torch.ones(16))


def test_codes_that_are_forgotten_make_room_for_others(random_features, seeded, monkeypatch):
    features = random_features(0, num_images=4)
    head = initial_head(5, 3, seeded(0))
    # 4 images, 4 positions, 3 channels, 4 bytes
    monkeypatch.setattr("fusseg.federation.points._KEPT_BYTES", 4 * 4 * 3 * 4)
    kept = KeptCodes(4, 0)
    first = kept.of_client("a", features, head, torch.zeros(5))
    assert kept.of_client("a", features, head, torch.zeros(5)) is first
    assert not isinstance(kept.of_client("b", features, head, torch.zeros(5)), list)
    other = kept.of_client("a", features, initial_head(5, 3, seeded(1)), torch.zeros(5))
    assert isinstance(other, list)
    kept.forget()
    assert isinstance(kept.of_client("b", features, head, torch.zeros(5)), list)


def test_codes_beyond_the_budget_are_made_anew(random_features, seeded, monkeypatch):
    features = random_features(0, num_images=4)
    head = initial_head(5, 3, seeded(0))
    whole = list(KeptCodes(4, 0).of_client("a", features, head, torch.zeros(5)))
    monkeypatch.setattr("fusseg.federation.points._KEPT_BYTES", 10)
    streaming = KeptCodes(4, 0)
    for _ in range(2):
        found = streaming.of_client("a", features, head, torch.zeros(5))
        assert not isinstance(found, list)
        assert torch.equal(torch.cat(list(found)), torch.cat(whole))
