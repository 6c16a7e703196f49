"""The figures that docs/scale.md computes are those of the code that counts bytes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fusseg.config.schema import Config, FederationConfig
from fusseg.federation.head_precision import narrow_parts
from fusseg.federation.judge import CHOOSE
from fusseg.federation.lloyd_steps import LLOYD_STEP
from fusseg.federation.moments import moments_task
from fusseg.federation.protocol import sent_parts
from fusseg.federation.rounds import initial_state
from fusseg.federation.state import ClientUpdate, Hello
from fusseg.federation.strategies import resolve
from fusseg.federation.traffic import PLAN, bytes_up, make_delivery
from fusseg.runs.record import describe_hello
from fusseg.segmentation.training import TrainingPlan

SHIFTS = {"shift_self": 0.1, "shift_neighbor": 0.2, "shift_random": 0.3}
PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")


def row(name):
    """Figures of the line that begins so in the table of name, unit and two figures."""
    lines = [line.strip("|").split("|") for line in PAGE.splitlines()]
    (cells,) = (cells for cells in lines if cells[0].strip() == name and len(cells) == 4)
    return [int(cell.strip().replace(",", "")) for cell in cells[2:]]


def sent_up(task, state, protocol):
    """Bytes of an answer to a task."""
    parts = narrow_parts(sent_parts(task, state, protocol), protocol.wire)
    tensors = {name: torch.empty(part.shape, dtype=part.dtype) for name, part in parts.items()}
    return bytes_up(ClientUpdate("a", 1, 0.5 if task.trains else None, tensors))


def sent_down(task, state, protocol):
    """Bytes of a task, to a client that holds nothing and to one that has the plan already."""
    delivery = make_delivery(state, task, protocol)
    held = {PLAN: delivery.kept[PLAN].digest}
    return [delivery.num_bytes(delivery.news(known)) for known in ({}, held)]


def messages(dim):
    """Bytes of each kind of message."""
    protocol = resolve(Config())
    [train] = protocol.tasks(1)
    plan = TrainingPlan(num_steps=1, mean_feature=torch.zeros(dim), agreed=SHIFTS)
    state = initial_state(protocol, plan)
    sizes = {"numbers of the head": sum(part.numel() for part in state.model.head.values())}
    for wire, note in (("float32", ""), ("bfloat16", ", bfloat16")):
        settled = replace(protocol, wire=wire)
        first, later = sent_down(train, state, settled)
        sizes[f"*train*, up{note}"] = sent_up(train, state, settled)
        sizes[f"*train*, down{note}"] = later
        sizes["plan, down"] = first - later
    pca = resolve(Config(federation=FederationConfig(strategy="pca", lloyd_rounds=1)))
    sizes["*lloyd*, up"] = sent_up(LLOYD_STEP, state, pca)
    sizes["*moments*, up"] = sent_up(moments_task(27), state, pca)
    sizes["*judge*, up"] = sent_up(CHOOSE, state, pca)
    hello = Hello("a", 8, torch.zeros(dim).double(), 8, SHIFTS, "f" * 64, "0.2.0", 1.0)
    sizes["hello, up"] = describe_hello([hello], plan, sent=True)["bytes_up"]
    # 224 and 320 pixels a side in patches of 8
    sizes["features of a training image, float16"] = 28 * 28 * dim * 2
    sizes["features of a held-out image, float16"] = 40 * 40 * dim * 2
    return sizes


@pytest.mark.parametrize("name", messages(4))
def test_the_bytes_of_a_message_are_those_that_the_code_counts(name):
    assert row(name) == [messages(dim)[name] for dim in (384, 768)]
