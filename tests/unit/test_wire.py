"""Heads on the way, by hand."""

import torch

from fusseg.federation.state import ClientUpdate
from fusseg.federation.wire import narrow_update, receive_state, widen_update


def test_float32_changes_nothing(make_state):
    state = make_state({"w": torch.tensor([1.001, 2.0])}, torch.zeros(2, 2))
    assert receive_state(state, "float32").model.head["w"].tolist() == [
        torch.tensor(1.001).item(),
        2.0,
    ]
    update = ClientUpdate("a", 1, {"w": torch.tensor([1.5, 2.5])}, loss=0.0)
    sent = narrow_update(update, state.model.head, "float32")
    assert sent is update
    assert widen_update(sent, state.model.head, "float32") is update


def test_bfloat16_rounds_the_head_down_and_its_change_up(make_state):
    # bfloat16 has 8 binary digits: between 1 and 2 its numbers are 1/128 apart
    head = {"w": torch.tensor([1.0 + 1 / 512, -1.5])}
    state = make_state(head, torch.ones(2, 2))
    received = receive_state(state, "bfloat16")
    assert received.model.head["w"].tolist() == [1.0, -1.5]
    assert received.model.centroids is state.model.centroids
    trained = {"w": received.model.head["w"] + torch.tensor([1 / 1024, -(2.0**-12)])}
    sent = narrow_update(ClientUpdate("a", 1, trained, loss=0.0), received.model.head, "bfloat16")
    assert sent.head["w"].dtype == torch.bfloat16
    assert sent.head["w"].tolist() == [1 / 1024, -(2.0**-12)]
    # added to what the server has, not to what arrived
    widened = widen_update(sent, head, "bfloat16")
    assert widened.head["w"].tolist() == [1.0 + 3 / 1024, -1.5 - 2.0**-12]


def test_an_update_without_a_head_travels_as_it_is():
    update = ClientUpdate("a", 1)
    assert narrow_update(update, {}, "bfloat16") is update
    assert widen_update(update, {}, "bfloat16") is update
