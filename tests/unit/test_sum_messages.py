"""Messages of secure sums: back and forth, and what a lying sender can put into them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fusseg.core.errors import FederationError
from fusseg.deployment.secure_sum.pair_keys import PublicKeys, SignedKeys
from fusseg.deployment.secure_sum.shares import Dealt
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.sum_messages import (
    Session,
    Wanted,
    add_dealers,
    expect_session,
    pack_all_keys,
    pack_dealt,
    pack_keys,
    pack_masked,
    pack_revealed,
    pack_summed,
    read_session,
    take_dealers,
    unpack_agreed,
    unpack_all_keys,
    unpack_dealt,
    unpack_keys,
    unpack_masked,
    unpack_revealed,
    unpack_summed,
)
from fusseg.federation.parts import Part

SESSION = Session("run", 3, "round", 2)
NAMES = ["a", "b", "ü"]


def some(length, start=1):
    return bytes((start + place) % 256 for place in range(length))


def signed(name):
    keys = tuple(
        PublicKeys(some(32, place), some(32, 40 + place), some(32, 80 + place)) for place in (1, 2)
    )
    return SignedKeys(name, keys, some(103))


def dealt(start):
    sealed = {name: some(80, start + place) for place, name in enumerate(NAMES)}
    return Dealt(b"", some(32, start), sealed)


def test_keys_arrive_as_they_were_sent():
    wanted = Wanted(2, "d" * 64)
    assert unpack_keys(pack_keys(signed("a"), wanted), "a", 2) == (signed("a"), wanted)
    sent = [signed(name) for name in NAMES]
    assert unpack_all_keys(pack_all_keys(sent), 2) == sent


def test_shares_arrive_as_they_were_dealt():
    packet = pack_dealt([dealt(1), dealt(100)], NAMES)
    found = unpack_dealt(packet, "a", NAMES, 2)
    assert [one.commitment for one in found] == [some(32, 1), some(32, 100)]
    assert [dict(one.sealed) for one in found] == [dealt(1).sealed, dealt(100).sealed]
    task = Packet({"task": "train", "run": "run", "round": 2}, {"centroids": torch.ones(2)})
    asked = add_dealers(task, SESSION, dealt(1).sealed)
    rest, sealed = take_dealers(asked)
    assert sealed == dealt(1).sealed
    assert [*rest.tensors] == ["centroids"]
    assert read_session(asked) == SESSION


def test_masked_terms_and_revealed_shares_arrive():
    masked = np.array([2**64 - 1, 5], dtype=np.uint64)
    parts = {"centroids": Part((2,), torch.float32, "collect")}
    packet = Packet({}, pack_masked(masked, some(64), {"centroids": torch.ones(2)}))
    row, signature, opened = unpack_masked(packet, "a", 2, parts)
    assert signature == some(64)
    assert row.tolist() == masked.tolist()
    assert opened["centroids"].tolist() == [1, 1]
    revealed = {name: some(32, place) for place, name in enumerate(NAMES)}
    assert unpack_revealed(Packet({}, pack_revealed(revealed)), "a", NAMES) == revealed
    assert unpack_summed(pack_summed(["b", "a"], SESSION)) == ["a", "b"]
    signatures = {"a": some(64), "ü": some(64, 9)}
    assert unpack_agreed(pack_summed(NAMES, SESSION, signatures)) == (NAMES, signatures)


WRONG_KEYS = {
    "of another number of sums": torch.zeros(3, 12, dtype=torch.int64),
    "of another type": torch.zeros(2, 12, dtype=torch.float64),
    "without rows": torch.zeros(0, 12, dtype=torch.int64),
}


@pytest.mark.parametrize("kind", WRONG_KEYS)
def test_malformed_words_are_refused(kind):
    packet = pack_keys(signed("a"), Wanted(2, "d" * 64))
    changed = Packet(packet.fields, {**packet.tensors, "sum.keys": WRONG_KEYS[kind]})
    with pytest.raises(FederationError, match=r"client 'a' sent sum\.keys of shape"):
        unpack_keys(changed, "a", 2)
    with pytest.raises(FederationError, match="expected"):
        unpack_keys(Packet(packet.fields, {**packet.tensors, "more": torch.ones(1)}), "a", 2)


@pytest.mark.parametrize(
    "names", ["[", "{}", "[]", '["b", "a"]', '["a", "a"]', "[1]", '[""]', json.dumps(["x" * 101])]
)
def test_malformed_lists_of_sites_are_refused(names):
    packet = Packet({**SESSION.fields(), "sites": names})
    with pytest.raises(FederationError, match="'sites' must be a sorted list of names"):
        unpack_summed(packet)


def test_answers_to_another_session_are_refused():
    packet = Packet({**SESSION.fields()})
    expect_session(packet, SESSION)
    with pytest.raises(FederationError, match="'session' must be 4"):
        expect_session(packet, replace(SESSION, number=4))
    with pytest.raises(FederationError, match="'kind' must be 'hello' or 'round'"):
        read_session(Packet({"kind": "other", "run": "run", "session": 1, "round": 1}))


def test_sums_of_other_runs_sessions_rounds_and_places_have_other_names():
    others = [
        replace(SESSION, run="other"),
        replace(SESSION, number=4),
        replace(SESSION, kind="hello"),
        replace(SESSION, round_number=3),
    ]
    names = {one.sum_id(place) for one in (SESSION, *others) for place in (0, 1)}
    assert len(names) == 10
