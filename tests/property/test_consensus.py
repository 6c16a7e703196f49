import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from fusseg.federation.strategies.consensus import consensus_centroids
from fusseg.segmentation.assignment import match_rows


def draw(seed, seeded, clients=3, clusters=4, dim=5):
    generator = seeded(seed)
    centroids = torch.randn(clients, clusters, dim, generator=generator)
    counts = torch.randint(0, 500, (clients, clusters), generator=generator)
    counts[:, 0] += 1
    cosines = torch.rand(clients, clusters, dtype=torch.float64, generator=generator)
    return centroids, counts, cosines, torch.randn(clusters, dim, generator=generator)


@given(seed=st.integers(0, 2**31), first=st.booleans(), data=st.data())
def test_neither_the_order_of_clients_nor_of_their_rows_matters(seed, first, data, seeded):
    centroids, counts, cosines, previous = draw(seed, seeded)
    found = consensus_centroids(centroids, counts, cosines, previous, seeded(1) if first else None)
    clients = data.draw(st.permutations(range(3)))
    rows = torch.tensor([data.draw(st.permutations(range(4))) for _ in range(3)])
    order = torch.tensor(clients)[:, None], rows
    shuffled = consensus_centroids(
        centroids[order], counts[order], cosines[order], previous, seeded(1) if first else None
    )
    assert torch.equal(found, shuffled)


@given(seed=st.integers(0, 2**31), noise=st.floats(0, 0.05))
def test_indices_stay_from_round_to_round(seed, noise, seeded):
    """Clients that return the global centroids, moved a little and in any order."""
    generator = seeded(seed)
    previous = torch.eye(6)[:4] * torch.rand(4, 1, generator=generator).add(0.5)
    sent = previous + noise * torch.randn(3, 4, 6, generator=generator)
    orders = torch.stack([torch.randperm(4, generator=generator) for _ in range(3)])
    sent = sent[torch.arange(3)[:, None], orders]
    counts, cosines = torch.full((3, 4), 100), torch.full((3, 4), 0.9, dtype=torch.float64)
    found = consensus_centroids(sent, counts, cosines, previous, None)
    nearest = (normalize(found, dim=1) @ normalize(previous, dim=1).T).argmax(dim=1)
    assert nearest.tolist() == [0, 1, 2, 3]


@given(seed=st.integers(0, 2**31))
def test_the_result_lies_on_the_sphere_and_is_finite(seed, seeded):
    centroids, counts, cosines, previous = draw(seed, seeded, clients=2, clusters=6)
    for generator in (None, seeded(0)):
        found = consensus_centroids(centroids, counts, cosines, previous, generator)
        assert torch.allclose(found.norm(dim=1), torch.ones(6), atol=1e-6)


@given(seed=st.integers(0, 2**31), data=st.data())
def test_matching_undoes_any_permutation(seed, data, seeded):
    rows = torch.randn(5, 7, generator=seeded(seed))
    order = data.draw(st.permutations(range(5)))
    assert torch.equal(match_rows(rows[list(order)], rows), rows)
