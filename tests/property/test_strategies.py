import torch
from hypothesis import given
from hypothesis import strategies as st

from fusseg.config.schema import Config, FederationConfig, ModelConfig
from fusseg.federation.gathering import aggregate
from fusseg.federation.parts import name_head
from fusseg.federation.protocol import sent_parts
from fusseg.federation.state import ClientUpdate
from fusseg.federation.strategies import STRATEGIES, resolve
from fusseg.segmentation.head import initial_head


def settle(**federation):
    """Rules for five centroids of three channels."""
    model = ModelConfig(init="random", num_clusters=5, code_dim=3)
    return resolve(Config(model=model, federation=FederationConfig(**federation)))


# Those of sums alone need one model for all, and are merged alike.
TRAINING = sorted(name for name, one in STRATEGIES.items() if not one.one_model)
federations = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(TRAINING),
        "distance": st.sampled_from(["cosine", "euclidean"]),
        "weights": st.sampled_from(["images", "equal"]),
        "aggregate_heads": st.booleans(),
        "aggregate_centroids": st.booleans(),
    }
)


def merge(state, updates, protocol, generator):
    """Aggregate what clients trained."""
    (task,) = protocol.tasks(1)
    return aggregate(state, updates, protocol, task, generator).model


def draw_updates(seed, counts, protocol, state, seeded):
    """What clients could have trained, as far as it is asked for."""
    generator = seeded(seed)
    wanted = sent_parts(protocol.tasks(1)[0], state, protocol)
    updates = []
    for client, count in enumerate(counts):
        drawn = {
            **name_head(initial_head(4, 3, generator)),
            "centroids": torch.randn(5, 3, generator=generator),
            "counts": torch.randint(0, 50, (5,), generator=generator),
            "cosines": torch.rand(5, dtype=torch.float64, generator=generator),
        }
        parts = {name: drawn[name] for name in wanted}
        updates.append(ClientUpdate(f"site {client}", count, 0.0, parts))
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
    protocol = settle(**federation)
    state = make_state(initial_head(4, 3, seeded(1)), torch.zeros(5, 3))
    updates = draw_updates(seed, counts, protocol, state, seeded)
    shuffled = data.draw(st.permutations(updates))
    first = merge(state, updates, protocol, seeded(seed))
    second = merge(state, shuffled, protocol, seeded(seed))
    assert same_bits(first, second)


@given(
    federation=federations,
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(1, 100), min_size=1, max_size=4),
)
def test_the_next_state_fits_the_last_one(federation, seed, counts, make_state, seeded, same_bits):
    protocol = settle(**federation)
    state = make_state(initial_head(4, 3, seeded(1)), torch.zeros(5, 3))
    updates = draw_updates(seed, counts, protocol, state, seeded)
    merged = merge(state, updates, protocol, seeded(seed))
    assert merged.head.keys() == state.model.head.keys()
    assert merged.centroids.shape == (5, 3)
    assert {weight.dtype for weight in merged.head.values()} == {torch.float32}
    assert merged.centroids.dtype == torch.float32
    if not (protocol.aggregate_heads or protocol.aggregate_centroids):
        assert same_bits(merged, state.model)


@given(seed=st.integers(0, 2**31), counts=st.lists(st.integers(1, 100), min_size=2, max_size=6))
def test_clients_that_agree_are_averaged_to_what_they_sent(seed, counts, make_state, seeded):
    head, centroids = initial_head(4, 3, seeded(seed)), torch.randn(5, 3, generator=seeded(seed))
    updates = [
        ClientUpdate(str(client), count, 0.0, {**name_head(head), "centroids": centroids})
        for client, count in enumerate(counts)
    ]
    state = make_state(head, centroids)
    merged = merge(state, updates, settle(strategy="fedavg"), seeded(0))
    torch.testing.assert_close(merged.centroids, centroids, rtol=1e-6, atol=0)
    for name, weight in head.items():
        torch.testing.assert_close(merged.head[name], weight, rtol=1e-6, atol=0)
