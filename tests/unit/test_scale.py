"""The figures that docs/scale.md computes are those of the code that counts bytes."""

from pathlib import Path

import pytest
import torch

from fusseg.config import FederationConfig, ModelConfig
from fusseg.federation.aggregation import expected_tensors
from fusseg.federation.lloyd import CodeSums
from fusseg.federation.moments import FeatureMoments
from fusseg.federation.rounds import Answers, Round, initial_state
from fusseg.federation.state import ClientUpdate, Hello
from fusseg.federation.traffic import bytes_down, bytes_up
from fusseg.record import describe_hello
from fusseg.segmentation.training import TrainingPlan

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")


def row(name):
    """Figures of the line that begins so in the table of name, unit and two figures."""
    lines = [line.strip("|").split("|") for line in PAGE.splitlines()]
    (cells,) = (cells for cells in lines if cells[0].strip() == name and len(cells) == 4)
    return [int(cell.strip().replace(",", "")) for cell in cells[2:]]


def start(dim):
    plan = TrainingPlan(num_steps=1, mean_feature=torch.zeros(dim), shift=(0.1, 0.2, 0.3))
    return initial_state(ModelConfig(), plan, 0)


def messages(dim):
    """Bytes of each kind of message."""
    state = start(dim)
    head, centroids = state.model.head, state.model.centroids
    sizes = {"numbers of the head": sum(part.numel() for part in head.values())}
    for wire, note in (("float32", ""), ("bfloat16", ", bfloat16")):
        federation = FederationConfig(wire=wire)
        update = ClientUpdate("a", 1, head, centroids, loss=0.5)
        sizes[f"*train*, up{note}"] = bytes_up(update, federation)
        finished = Round(state, (Answers("train", ()),))
        sizes[f"*train*, down{note}"] = bytes_down(finished, 0, federation)
    plain = FederationConfig(strategy="pca", lloyd_rounds=1)
    sums = CodeSums(**expected_tensors(state, plain, "lloyd"))
    sizes["*lloyd*, up"] = bytes_up(ClientUpdate("a", 1, code_sums=sums), plain)
    moments = FeatureMoments(**expected_tensors(state, plain, "moments"))
    sizes["*moments*, up"] = bytes_up(ClientUpdate("a", 1, moments=moments), plain)
    hello = Hello("a", 8, torch.zeros(dim).double(), 8, (0.1, 0.2, 0.3), "f" * 64, "0.1.0")
    said = describe_hello([hello], state.plan, sent=True)
    sizes |= {"hello, up": said["bytes_up"], "hello, down": said["bytes_down"]}
    sizes["features of an image, float16"] = 40 * 40 * dim * 2
    return sizes


@pytest.mark.parametrize("name", messages(4))
def test_the_bytes_of_a_message_are_those_that_the_code_counts(name):
    assert row(name) == [messages(dim)[name] for dim in (384, 768)]
