"""An image that adds nothing changes no sum by more than the noise was made for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusseg.config.file import parse_config
from fusseg.core.randomness import round_generator
from fusseg.features.labeled_features import LabeledFeatures
from fusseg.federation.noise import grains, measure
from fusseg.federation.points import KeptCodes
from fusseg.federation.protocol import Work
from fusseg.federation.rounds import initial_state
from fusseg.federation.state import Client
from fusseg.federation.strategies import resolve
from fusseg.segmentation.training import TrainingPlan

POSITIONS, DIM, CLIP = 12, 5, 0.5
PROTOCOL = resolve(
    parse_config(
        {
            "model": {"whitening": 0.0, "init_steps": 1, "num_clusters": 4, "code_dim": 3},
            "federation": {
                "strategy": "pca",
                "keep": "last",
                "positions_per_image": 7,
                "teach": True,
            },
            "teach": {"shrinkage": 0.1},
            "privacy": {
                "secure_sum": True,
                "noise": "image",
                "feature_norm": 1.5,
                "clip": CLIP,
            },
        }
    )
)
TASKS = {
    task.name: task
    for number in range(PROTOCOL.first_round, PROTOCOL.num_rounds + 1)
    for task in PROTOCOL.tasks(number)
}
LARGEST = {
    "lloyd": {"sums": 7, "counts": 7},
    "moments": {"second": 7 * 1.5**2, "first": 7 * 1.5},
    "class-sums": {"counts": 12, "first": 12 * 1.5, "second": 12 * 1.5**2},
}
"""Largest length of an image's part: positions times a power of the length of a feature."""


def answer(task, client):
    plan = TrainingPlan(1, torch.zeros(DIM), {}, (("sky", ("sky",)), ("road", ("road",))))
    state = initial_state(PROTOCOL, plan)
    kept = KeptCodes(PROTOCOL.positions_per_image, PROTOCOL.seed)
    work = Work(client, state.model, state, PROTOCOL, kept)
    parts = task.parts(state, PROTOCOL)
    return measure(task, work, parts), parts


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), scale=st.sampled_from([0.01, 1.0, 1000.0]))
def test_one_image_moves_a_sum_by_at_most_its_bound(name, seed, scale, random_features):
    features = random_features(seed, num_images=4)
    maps = features.maps[0]
    maps[2] = maps[2] * np.float16(scale)
    drawn = round_generator(seed, 0, "labels")
    labels = torch.randint(-1, 2, (4, POSITIONS), generator=drawn)
    found = []
    for images in ([0, 1, 2, 3], [0, 1, 3]):
        chosen = features.pick(np.array(images))
        labeled = LabeledFeatures(chosen, labels[images], ("sky", "road"))
        found.append(answer(TASKS[name], Client("a", chosen, Path("unused"), labeled=labeled)))
    (all_of_them, parts), (without, _) = found
    made = grains(TASKS[name], parts, PROTOCOL, POSITIONS, needed=2)
    assert made.keys() == LARGEST[name].keys()
    spent = 0.0
    for part, largest in LARGEST[name].items():
        length = float((all_of_them[part].double() - without[part].double()).norm())
        assert length <= CLIP * largest * (1 + 1e-9)
        spent += (CLIP * largest / made[part].deviation) ** 2
    # All parts together are a Gaussian mechanism with the multiplier of the run.
    assert spent**-0.5 == pytest.approx(PROTOCOL.privacy.noise_multiplier, rel=1e-3)
    # What is not noised depends on the number of images alone.
    for part in parts.keys() - made.keys():
        assert all_of_them[part].ndim == 0
