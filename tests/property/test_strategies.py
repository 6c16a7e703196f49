import torch
from hypothesis import given
from hypothesis import strategies as st

from fusseg.config import FederationConfig
from fusseg.federation.aggregation import aggregate
from fusseg.federation.state import CentroidUsage, ClientUpdate
from fusseg.federation.strategies import STRATEGIES
from fusseg.segmentation.head import initial_head

federations = st.builds(
    FederationConfig,
    strategy=st.sampled_from(sorted(STRATEGIES)),
    distance=st.sampled_from(["cosine", "euclidean"]),
    weighted=st.booleans(),
    aggregate_heads=st.booleans(),
    aggregate_centroids=st.booleans(),
)


def uses(federation):
    return federation.strategy == "consensus" and federation.aggregate_centroids


def draw_usage(generator):
    counts = torch.randint(0, 50, (5,), generator=generator)
    return CentroidUsage(counts, torch.rand(5, dtype=torch.float64, generator=generator))


def draw_updates(seed, counts, federation, seeded):
    generator = seeded(seed)
    updates = []
    for client, count in enumerate(counts):
        head = initial_head(4, 3, generator)
        centroids = torch.randn(5, 3, generator=generator)
        updates.append(
            ClientUpdate(
                f"site {client}",
                count,
                head if federation.aggregate_heads else None,
                centroids if federation.aggregate_centroids else None,
                loss=0.0,
                usage=draw_usage(generator) if uses(federation) else None,
            )
        )
    return updates


@given(
    federation=federations,
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(1, 10_000), min_size=1, max_size=7),
    data=st.data(),
)
def test_aggregation_ignores_the_order_of_updates_bit_for_bit(
    federation, seed, counts, data, make_state, seeded, same_bits
):
    state = make_state(initial_head(4, 3, seeded(1)), torch.zeros(5, 3))
    updates = draw_updates(seed, counts, federation, seeded)
    shuffled = data.draw(st.permutations(updates))
    first = aggregate(state, updates, federation, seeded(seed))
    second = aggregate(state, shuffled, federation, seeded(seed))
    assert same_bits(first.model, second.model)


@given(
    federation=federations,
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(1, 100), min_size=1, max_size=4),
)
def test_the_next_state_fits_the_last_one(federation, seed, counts, make_state, seeded, same_bits):
    state = make_state(initial_head(4, 3, seeded(1)), torch.zeros(5, 3))
    updates = draw_updates(seed, counts, federation, seeded)
    merged = aggregate(state, updates, federation, seeded(seed)).model
    assert merged.head.keys() == state.model.head.keys()
    assert merged.centroids.shape == (5, 3)
    assert {weight.dtype for weight in merged.head.values()} == {torch.float32}
    assert merged.centroids.dtype == torch.float32
    if not (federation.aggregate_heads or federation.aggregate_centroids):
        assert same_bits(merged, state.model)


@given(seed=st.integers(0, 2**31), counts=st.lists(st.integers(1, 100), min_size=2, max_size=6))
def test_clients_that_agree_are_averaged_to_what_they_sent(seed, counts, make_state, seeded):
    federation = FederationConfig(strategy="fedavg")
    head, centroids = initial_head(4, 3, seeded(seed)), torch.randn(5, 3, generator=seeded(seed))
    updates = [
        ClientUpdate(str(client), count, head, centroids, loss=0.0)
        for client, count in enumerate(counts)
    ]
    merged = aggregate(make_state(head, centroids), updates, federation, seeded(0)).model
    torch.testing.assert_close(merged.centroids, centroids, rtol=1e-6, atol=0)
    for name, weight in head.items():
        torch.testing.assert_close(merged.head[name], weight, rtol=1e-6, atol=0)
