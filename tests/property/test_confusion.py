from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from fusseg.evaluation.scores import count_pixels


@given(
    seed=st.integers(0, 2**31),
    num_pixels=st.integers(1, 400),
    cuts=st.lists(st.integers(0, 400), max_size=4),
    num_clusters=st.integers(1, 255),
    num_classes=st.integers(1, 256),
)
def test_merging_the_counts_of_parts_equals_counting_at_once(
    seed, num_pixels, cuts, num_clusters, num_classes, seeded
):
    generator = seeded(seed)
    clusters = torch.randint(num_clusters, (num_pixels,), generator=generator).to(torch.uint8)
    labels = torch.randint(256, (num_pixels,), generator=generator).to(torch.uint8)
    whole = count_pixels(clusters, labels, num_clusters, num_classes)
    edges = [0, *sorted(min(cut, num_pixels) for cut in cuts), num_pixels]
    parts = torch.zeros_like(whole)
    for start, end in pairwise(edges):
        parts += count_pixels(clusters[start:end], labels[start:end], num_clusters, num_classes)
    assert torch.equal(parts, whole)
    assert int(whole.sum()) == int((labels.int() < num_classes).sum())
    order = torch.randperm(num_pixels, generator=generator)
    again = count_pixels(clusters[order], labels[order], num_clusters, num_classes)
    assert torch.equal(again, whole)
