"""The judge's figures follow from sums alone: however images are held, and regions numbered."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Generator

from fusseg.config.schema import Config, FederationConfig
from fusseg.federation.gathering import aggregate
from fusseg.federation.judge import CHOOSE, figures_of, sum_margins
from fusseg.federation.state import Candidate, ClientUpdate, GlobalState
from fusseg.federation.strategies import resolve
from fusseg.segmentation.assignment import Segmenter
from fusseg.segmentation.head import SegmentationHead, initial_head, linear_head
from fusseg.segmentation.objective import Model
from fusseg.segmentation.training import TrainingPlan

SEED = st.integers(0, 2**32 - 1)
REGIONS = 3
PROTOCOL = resolve(Config(federation=FederationConfig(weights="equal")))


@st.composite
def tables(draw):
    """Counts of pairs of regions; some regions are not seen."""
    side = draw(st.integers(2, 5))
    counts = draw(st.lists(st.integers(0, 60), min_size=side**2, max_size=side**2))
    return torch.tensor(counts).reshape(side, side)


def agreement(pairs):
    return figures_of(pairs, torch.tensor(0.0).double(), torch.tensor(1)).agreement


@given(tables())
def test_the_agreement_is_a_share_and_alike_in_both_directions(pairs):
    assert 0 <= agreement(pairs) <= 1
    assert agreement(pairs) == pytest.approx(agreement(pairs.T), abs=1e-12)


@given(tables(), SEED)
def test_the_agreement_does_not_depend_on_the_numbers_of_regions(pairs, seed):
    order = torch.randperm(len(pairs), generator=Generator().manual_seed(seed))
    assert agreement(pairs[order][:, order]) == pytest.approx(agreement(pairs), abs=1e-12)
    assert agreement(pairs[order]) == pytest.approx(agreement(pairs), abs=1e-12)


@given(st.lists(st.integers(1, 60), min_size=2, max_size=5), SEED)
def test_the_agreement_is_1_where_each_region_is_one_of_the_other_view(sizes, seed):
    order = torch.randperm(len(sizes), generator=Generator().manual_seed(seed))
    assert agreement(torch.diag(torch.tensor(sizes))[order]) == pytest.approx(1.0)


@given(SEED, st.integers(2, 6))
def test_margins_lie_between_0_and_2_and_do_not_depend_on_the_order_of_regions(seed, clusters):
    generator = Generator().manual_seed(seed)
    codes, centroids = (
        torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
        for count in (20, clusters)
    )
    head = SegmentationHead(3, 3)
    order = torch.randperm(clusters, generator=generator)
    found = float(sum_margins(Segmenter(head, centroids, torch.zeros(3)), codes))
    turned = float(sum_margins(Segmenter(head, centroids[order], torch.zeros(3)), codes))
    assert 0 <= found <= 2 * len(codes)
    assert turned == pytest.approx(found, abs=1e-4)


def state_of():
    head = linear_head(torch.eye(2), torch.zeros(2), initial_head(2, 2, Generator()))
    model = Model(head, torch.zeros(REGIONS, 2))
    plan = TrainingPlan(1, torch.zeros(2), {})
    kept = Candidate("start", 0.1, 0.1, kept=True)
    return GlobalState(1, model, plan, candidates=(kept,), kept=model)


@given(SEED, st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_images_give_the_same_figures_whoever_holds_them(seed, holders):
    """Sums of one client per image, and of clients that hold several."""
    generator = Generator().manual_seed(seed)
    images = [
        {
            "pairs": torch.randint(50, (REGIONS, REGIONS), generator=generator),
            "margin": torch.rand((), generator=generator, dtype=torch.float64),
            "positions": torch.randint(1, 9, (), generator=generator),
        }
        for _ in holders
    ]
    apart = [ClientUpdate(f"{place:03d}", 1, parts=one) for place, one in enumerate(images)]
    held = {
        name: [one for one, by in zip(images, holders, strict=True) if by == name] for name in "abc"
    }
    together = [
        ClientUpdate(name, len(own), parts={part: sum(one[part] for one in own) for part in own[0]})
        for name, own in held.items()
        if own
    ]
    found = [
        aggregate(state_of(), updates, PROTOCOL, CHOOSE, Generator()).candidates[-1]
        for updates in (apart, apart[::-1], together)
    ]
    assert found[0] == found[1]
    assert (found[2].agreement, found[2].kept) == (found[0].agreement, found[0].kept)
    assert found[2].margin == pytest.approx(found[0].margin, rel=1e-12)
