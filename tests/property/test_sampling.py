from itertools import islice

import torch
from hypothesis import given
from hypothesis import strategies as st

from fusseg.segmentation.sampling import derangement, draw_batch, query_batches

seeds = st.integers(0, 2**31)


@given(seed=seeds, num_images=st.integers(2, 40), batch_size=st.integers(2, 8))
def test_an_epoch_covers_every_image_at_most_once_and_all_in_whole_batches(
    seed, num_images, batch_size, seeded
):
    batches = query_batches(num_images, batch_size, seeded(seed))
    if num_images < batch_size:
        drawn = next(batches).tolist()
        assert len(drawn) == batch_size
        assert set(drawn) <= set(range(num_images))
        return
    for _ in range(3):
        epoch = torch.cat(list(islice(batches, num_images // batch_size))).tolist()
        assert len(epoch) == len(set(epoch)) == num_images // batch_size * batch_size
        assert set(epoch) <= set(range(num_images))
        if num_images % batch_size == 0:
            assert set(epoch) == set(range(num_images))


@given(seed=seeds, size=st.integers(2, 30))
def test_derangements_are_permutations_without_fixed_point(seed, size, seeded):
    order = derangement(size, seeded(seed)).tolist()
    assert sorted(order) == list(range(size))
    assert all(place != element for place, element in enumerate(order))


@given(seed=seeds, num_images=st.integers(2, 9), supports=st.integers(1, 4))
def test_a_draw_depends_on_the_generator_alone(seed, num_images, supports, random_features, seeded):
    features = random_features(0, num_images=num_images)
    nearest = (torch.arange(num_images)[:, None] + 1) % num_images

    def draw():
        generator = seeded(seed)
        queries = next(query_batches(num_images, 3, generator))
        return draw_batch(features, nearest, queries, torch.zeros(5), 5, supports, generator)

    torch.manual_seed(seed)
    first = draw()
    torch.manual_seed(seed + 1)
    second = draw()
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.partners, second.partners)
