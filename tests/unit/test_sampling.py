from itertools import islice

import pytest
import torch

from fusseg.segmentation.losses import pair_up
from fusseg.segmentation.sampling import (
    derangement,
    draw_batch,
    draw_kept,
    draw_places,
    drop_channels,
    query_batches,
)


def readable_features(make_features, num_images=4, height=3, width=2):
    """Each feature tells its image and its flat position."""
    maps = torch.zeros(num_images, height, width, 3)
    maps[..., 0] = torch.arange(num_images)[:, None, None]
    maps[..., 1] = torch.arange(height * width).reshape(height, width)
    maps[..., 2] = 1
    return make_features(maps)


def test_a_client_with_fewer_images_than_a_batch_draws_with_replacement(seeded):
    batches = list(islice(query_batches(3, 8, seeded(0)), 20))
    assert all(batch.shape == (8,) for batch in batches)
    assert set(torch.cat(batches).tolist()) == {0, 1, 2}


def test_an_incomplete_last_batch_is_left_out(seeded):
    batches = list(islice(query_batches(5, 2, seeded(0)), 200))
    assert all(len(set(batch.tolist())) == 2 for batch in batches)
    # Which image an epoch leaves out is drawn anew, so that none is left out for good.
    counts = torch.bincount(torch.cat(batches), minlength=5)
    assert int(counts.min()) > 60


def test_every_derangement_of_four_is_drawn_about_equally_often(seeded):
    generator = seeded(0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(1800):
        order = tuple(derangement(4, generator).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 9
    assert all(140 < count < 260 for count in counts.values())


def test_the_only_derangement_of_two_is_the_swap(seeded):
    assert derangement(2, seeded(0)).tolist() == [1, 0]


def test_a_batch_holds_the_features_of_queries_and_of_images_from_their_rows(make_features, seeded):
    features = readable_features(make_features)
    nearest = torch.tensor([[1, 2], [0, 3], [3, 0], [2, 1]])
    queries = torch.tensor([2, 0, 3])
    seen: list[set[float]] = [set(), set(), set()]
    for seed in range(20):
        batch = draw_batch(features, nearest, queries, torch.zeros(3), 50, 4, seeded(seed))
        assert batch.features.shape == (6, 50, 3)
        of_queries, of_neighbors = batch.features.chunk(2)
        for place, query in enumerate(queries.tolist()):
            assert set(of_queries[place, :, 0].tolist()) == {query}
            (neighbor,) = set(of_neighbors[place, :, 0].tolist())
            seen[place].add(neighbor)
    assert seen == [{3, 0}, {1, 2}, {2, 1}]


def test_positions_cover_the_whole_map_and_differ_between_images(make_features, seeded):
    features = readable_features(make_features)
    nearest = torch.tensor([[1], [0], [3], [2]])
    queries = torch.arange(4)
    batch = draw_batch(features, nearest, queries, torch.zeros(3), 200, 5, seeded(0))
    drawn = batch.features[..., 1]
    assert all(set(image.tolist()) == {0, 1, 2, 3, 4, 5} for image in drawn)
    assert len({tuple(image.tolist()) for image in drawn}) == 8


def test_random_supports_are_permutations_of_the_queries_without_fixed_point(make_features, seeded):
    features = readable_features(make_features)
    nearest = torch.tensor([[1], [0], [3], [2]])
    batch = draw_batch(features, nearest, torch.arange(4), torch.zeros(3), 2, 5, seeded(0))
    assert batch.partners.shape == (5, 4)
    for order in batch.partners:
        assert sorted(order.tolist()) == [0, 1, 2, 3]
        assert not bool((order == torch.arange(4)).any())


@pytest.mark.parametrize("num_images", range(2, 8))
def test_an_image_drawn_twice_is_never_counted_as_its_own_support(num_images, seeded):
    generator = seeded(num_images)
    nearest = (torch.arange(num_images)[:, None] + 1) % num_images
    met_itself = 0
    for queries in islice(query_batches(num_images, 8, generator), 100):
        places = draw_places(nearest, queries, 4, 2, 5, generator)
        for order, counted in zip(places.partners, places.counted, strict=True):
            others = queries[order]
            assert counted.tolist() == [q != o for q, o in zip(queries, others, strict=True)]
            met_itself += int((~counted).sum())
    # Without the repeats of the draw a pair would be two of seven other places of a batch.
    assert 100 * 5 * 8 * 0.8 * (7 / 8) / num_images < met_itself


def test_in_a_batch_of_different_images_every_support_counts(make_features, seeded):
    features = readable_features(make_features, num_images=8)
    nearest = (torch.arange(8)[:, None] + 1) % 8
    queries = next(query_batches(8, 8, seeded(0)))
    batch = draw_batch(features, nearest, queries, torch.zeros(3), 121, 5, seeded(1))
    assert batch.counted.shape == (5, 8)
    assert bool(batch.counted.all())


def test_the_mean_feature_is_subtracted_from_queries_and_neighbors(make_features, seeded):
    features = make_features(torch.full((2, 2, 2, 2), 5.0))
    nearest = torch.tensor([[1], [0]])
    mean = torch.tensor([2.0, 4.0])
    batch = draw_batch(features, nearest, torch.tensor([0, 1]), mean, 3, 5, seeded(0))
    expected = torch.tensor([3.0, 1.0]).expand(2, 3, 2)
    assert torch.equal(batch.features, torch.cat([expected, expected]))


def test_dropped_channels_are_zero_at_all_positions_of_an_image_and_the_rest_is_scaled(seeded):
    dropped = drop_channels(torch.ones(3, 4, 50), draw_kept(3, 50, 0.2, seeded(0)), 0.2)
    assert torch.equal(dropped, dropped[:, :1].expand(3, 4, 50))
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    masks = {tuple(image[0].tolist()) for image in dropped}
    assert len(masks) == 3
    assert abs(float((dropped == 0).float().mean()) - 0.2) < 0.07


def test_no_dropout_leaves_the_features_as_they_are(seeded):
    features = torch.randn(2, 3, 4, generator=seeded(0))
    assert torch.equal(drop_channels(features, draw_kept(2, 4, 0.0, seeded(1)), 0.0), features)


def test_pairs_meet_themselves_their_neighbor_and_their_partner():
    queries = torch.tensor([[[2.0, 0.0]], [[0.0, 3.0]], [[3.0, 4.0]]])
    neighbors = torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]], [[4.0, 3.0]]])
    pairings = pair_up(torch.cat([queries, neighbors]), torch.tensor([[1, 2, 0], [2, 0, 1]]))
    torch.testing.assert_close(pairings.with_self.flatten(), torch.tensor([1.0, 1.0, 1.0]))
    torch.testing.assert_close(pairings.with_neighbor.flatten(), torch.tensor([0.0, 1.0, 0.96]))
    first, second = pairings.with_random
    torch.testing.assert_close(first.flatten(), torch.tensor([0.0, 0.8, 0.6]))
    torch.testing.assert_close(second.flatten(), torch.tensor([0.6, 0.0, 0.8]))


def test_correspondences_are_indexed_by_query_position_then_other_position():
    queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    pairings = pair_up(torch.cat([queries, queries]), torch.tensor([[1, 0]]))
    assert pairings.with_random[0][0].tolist() == [[1, 1], [0, 0]]
    assert pairings.with_random[0][1].tolist() == [[1, 0], [1, 0]]
