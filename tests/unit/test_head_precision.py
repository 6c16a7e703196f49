"""Heads on the way, by hand."""

import torch

from fusseg.federation.head_precision import (
    narrow_parts,
    narrow_update,
    receive_state,
    widen_update,
)
from fusseg.federation.parts import Part, head_parts
from fusseg.federation.state import ClientUpdate


def test_float32_changes_nothing(make_state):
    state = make_state({"w": torch.tensor([1.001, 2.0])}, torch.zeros(2, 2))
    assert receive_state(state, "float32").model.head["w"].tolist() == [
        torch.tensor(1.001).item(),
        2.0,
    ]
    update = ClientUpdate("a", 1, 0.0, {"head.w": torch.tensor([1.5, 2.5])})
    parts = head_parts(state.model.head)
    sent = narrow_update(update, parts, state.model.head, "float32")
    assert sent is update
    assert widen_update(sent, parts, "float32") is update
    assert narrow_parts(parts, "float32") == parts


def test_bfloat16_rounds_the_head_down_and_its_change_up(make_state):
    # bfloat16 has 8 binary digits: between 1 and 2 its numbers are 1/128 apart
    head = {"w": torch.tensor([1.0 + 1 / 512, -1.5])}
    state = make_state(head, torch.ones(2, 2))
    received = receive_state(state, "bfloat16")
    assert received.model.head["w"].tolist() == [1.0, -1.5]
    assert received.model.centroids is state.model.centroids
    moved = torch.tensor([1 / 1024, -(2.0**-12)])
    trained = {"head.w": received.model.head["w"] + moved, "centroids": torch.full((2, 2), 1 / 3)}
    parts = {**head_parts(head), "centroids": Part((2, 2), torch.float32, "collect")}
    update = ClientUpdate("a", 1, 0.0, trained)
    sent = narrow_update(update, parts, received.model.head, "bfloat16")
    assert sent.parts["head.w"].dtype == torch.bfloat16
    assert sent.parts["head.w"].tolist() == [1 / 1024, -(2.0**-12)]
    assert sent.parts["centroids"] is trained["centroids"]
    described = narrow_parts(parts, "bfloat16")
    assert {name: part.dtype for name, part in described.items()} == {
        name: tensor.dtype for name, tensor in sent.parts.items()
    }
    # added to what the server has, not to what arrived
    widened = widen_update(sent, parts, "bfloat16")
    assert widened.parts["head.w"].tolist() == [1.0 + 3 / 1024, -1.5 - 2.0**-12]
    assert widened.parts["centroids"] is trained["centroids"]


def test_an_update_without_a_head_travels_as_it_is():
    parts = {"sums": Part((2,), torch.float64, "sum")}
    update = ClientUpdate("a", 1, parts={"sums": torch.tensor([1 / 3, 2 / 3]).double()})
    sent = narrow_update(update, parts, {}, "bfloat16")
    assert sent == update
    assert widen_update(sent, parts, "bfloat16") == update
    assert narrow_parts(parts, "bfloat16") == parts


def test_a_part_that_is_no_weight_is_narrowed_by_its_own_start():
    start = torch.tensor([1.0, -2.0])
    parts = {"extra": Part((2,), torch.float32, "mean", start=start, narrow=True)}
    update = ClientUpdate("a", 1, 0.0, {"extra": torch.tensor([1.25, -2.0])})
    sent = narrow_update(update, parts, {}, "bfloat16")
    assert sent.parts["extra"].tolist() == [0.25, 0.0]
    assert widen_update(sent, parts, "bfloat16").parts["extra"].tolist() == [1.25, -2.0]
