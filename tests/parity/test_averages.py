"""Equations 8 and 9 against loops over clients and numbers."""

import pytest
import torch

from fusseg.config.schema import Config, FederationConfig
from fusseg.federation.gathering import aggregate
from fusseg.federation.parts import name_head
from fusseg.federation.state import ClientUpdate
from fusseg.federation.strategies import resolve
from fusseg.segmentation.head import initial_head


def slow_average(numbers, weights):
    total = 0.0
    for number, weight in zip(numbers, weights, strict=True):
        total += weight * number
    return total / sum(weights)


UNSURE = "uncertainty"
FITS = {"a": 0.5, "b": 0.75, "c": 0.2}


@pytest.mark.parametrize("kind", ["images", "equal", "uncertainty"])
def test_fedavg_equals_loops_over_every_number(kind, make_state, seeded):
    counts = [5, 1, 17]
    updates = [
        ClientUpdate(
            name,
            count,
            loss=0.0,
            parts={
                **name_head(initial_head(4, 3, seeded(count))),
                "centroids": torch.randn(6, 3, generator=seeded(count)),
                **(
                    {"fit": torch.tensor(FITS[name], dtype=torch.float64)} if kind == UNSURE else {}
                ),
            },
        )
        for name, count in zip("abc", counts, strict=True)
    ]
    state = make_state(initial_head(4, 3, seeded(0)), torch.zeros(6, 3))
    federation = FederationConfig(strategy="fedavg", weights=kind)
    protocol = resolve(Config(federation=federation))
    (task,) = protocol.tasks(1)
    merged = aggregate(state, updates, protocol, task, seeded(0)).model

    weights = {"images": counts, "equal": [1, 1, 1], UNSURE: [5 * 200, 1 * 400, 17 * 125]}[kind]
    for name, found in merged.head.items():
        sent = [update.parts[f"head.{name}"].flatten().tolist() for update in updates]
        expected = [slow_average(numbers, weights) for numbers in zip(*sent, strict=True)]
        assert found.flatten().tolist() == pytest.approx(expected, abs=1e-7)
        assert found.dtype == torch.float32
    sent = [update.parts["centroids"].flatten().tolist() for update in updates]
    expected = [slow_average(numbers, weights) for numbers in zip(*sent, strict=True)]
    assert merged.centroids.flatten().tolist() == pytest.approx(expected, abs=1e-7)
