"""What a site and the server refuse in a sum of masked terms, and what a masked term shows."""

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from scipy.stats import chi2

from fusseg.core.errors import FederationError
from fusseg.deployment.secure_sum.agreement import check_agreed, sign_set, signers_of
from fusseg.deployment.secure_sum.masks import expand, mask, sum_terms, unmask
from fusseg.deployment.secure_sum.pair_keys import agree, check_keys, name_sum, new_keys
from fusseg.deployment.secure_sum.shares import (
    check_summed,
    deal,
    open_shares,
    recover,
    reveal,
)

SUM, OTHER = name_sum("run", 1), name_sum("run", 2)
NAMES = ("a", "b", "c")
KEYS = {name: ec.generate_private_key(ec.SECP384R1()) for name in (*NAMES, "stranger")}
ROSTER = {
    name: KEYS[name].public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    for name in NAMES
}


@pytest.fixture
def made():
    return {name: new_keys(name, KEYS[name], SUM, 1) for name in NAMES}


@pytest.fixture
def private(made):
    return {name: private for name, ((private,), _) in made.items()}


@pytest.fixture
def signed(made):
    return {name: signed for name, (_, signed) in made.items()}


@pytest.fixture
def public(signed):
    return {name: one.keys[0] for name, one in signed.items()}


@pytest.fixture
def dealt(private, public):
    return {name: deal(name, private[name], public, SUM, 2) for name in NAMES}


def opened(site, private, public, dealt):
    sealed = {name: one.sealed[site] for name, one in dealt.items()}
    return open_shares(site, private[site], public, sealed, SUM)


def test_keys_that_are_signed_for_this_session_are_accepted(signed):
    assert [*check_keys([*signed.values()][::-1], ROSTER, SUM, 3)] == ["a", "b", "c"]


def test_too_few_sites_are_refused(signed):
    with pytest.raises(FederationError, match=r"named 2 sites.*at least 3"):
        check_keys([signed["a"], signed["b"]], ROSTER, SUM, 3)


def test_a_site_that_is_not_on_the_roster_is_refused(signed):
    _, stranger = new_keys("stranger", KEYS["stranger"], SUM, 1)
    with pytest.raises(FederationError, match="'stranger', which is not on this site's roster"):
        check_keys([*signed.values(), stranger], ROSTER, SUM, 3)


def test_a_site_that_occurs_twice_is_refused(signed):
    with pytest.raises(FederationError, match="'a' twice"):
        check_keys([*signed.values(), signed["a"]], ROSTER, SUM, 3)


OTHER_KEY = bytes(31) + b"\1"
FORGED = {
    "another masking key": lambda signed: exchange_keys(signed, masking=OTHER_KEY),
    "another sealing key": lambda signed: exchange_keys(signed, sealing=OTHER_KEY),
    "keys of one sum more": lambda signed: replace(signed, keys=signed.keys * 2),
    "no signature": lambda keys: replace(keys, signature=b""),
    "the name of another site": lambda keys: replace(keys, site="b"),
    "another session": lambda _: new_keys("a", KEYS["a"], OTHER, 1)[1],
    "the key of another site": lambda _: new_keys("a", KEYS["stranger"], SUM, 1)[1],
}


def exchange_keys(signed, **changes):
    return replace(signed, keys=(replace(signed.keys[0], **changes),))


@pytest.mark.parametrize("kind", FORGED)
def test_keys_that_the_server_has_made_or_changed_are_refused(kind, signed):
    received = [FORGED[kind](signed["a"]), signed["c"]]
    with pytest.raises(FederationError, match="are not signed by its key"):
        check_keys(received, ROSTER, SUM, 2)


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), b"short"])
def test_points_without_a_secret_are_refused(point, private):
    with pytest.raises(FederationError, match="public key that cannot be used"):
        agree(private["a"].masking, point, "mask")


def test_secrets_of_a_pair_differ_by_purpose(private, public):
    one = agree(private["a"].masking, public["b"].masking, "mask", SUM)
    assert one == agree(private["b"].masking, public["a"].masking, "mask", SUM)
    assert one != agree(private["a"].masking, public["b"].masking, "mask", OTHER)


def test_only_its_receiver_opens_a_share(private, public, dealt):
    with pytest.raises(FederationError, match="shares of 'a' cannot be opened"):
        open_shares("c", private["c"], public, {"a": dealt["a"].sealed["b"]}, SUM)


def test_shares_that_were_changed_or_belong_to_another_sum_are_refused(private, public, dealt):
    sealed = bytearray(dealt["a"].sealed["b"])
    sealed[0] ^= 1
    for content, sum_id in ((bytes(sealed), SUM), (dealt["a"].sealed["b"], OTHER), (b"", SUM)):
        with pytest.raises(FederationError, match="cannot be opened"):
            open_shares("b", private["b"], public, {"a": content}, sum_id)
    with pytest.raises(FederationError, match="'stranger', which takes no part"):
        open_shares("b", private["b"], public, {"stranger": b""}, SUM)


def test_a_site_reveals_the_seed_or_the_key_of_another_never_both(private, public, dealt):
    shares = opened("a", private, public, dealt)
    found = reveal(shares, ["a", "b"])
    assert found == {"a": shares["a"].seed, "b": shares["b"].seed, "c": shares["c"].masking}


def test_a_site_reveals_nothing_for_a_sum_of_too_few_or_without_its_own_term():
    with pytest.raises(FederationError, match=r"terms of 1 sites.*at least 2"):
        check_summed("a", NAMES, ["a", "a"], 2)
    with pytest.raises(FederationError, match="left out this site's term"):
        check_summed("a", NAMES, ["b", "c"], 2)
    with pytest.raises(FederationError, match="'d', which has dealt no shares"):
        check_summed("a", NAMES, ["a", "b", "d"], 2)


def test_a_set_is_agreed_on_if_enough_of_its_sites_have_signed_it_and_no_other(private, public):
    signed = {name: sign_set(private[name], SUM, ["a", "b"]) for name in NAMES}
    check_agreed(signed, public, SUM, ["b", "a"], 2)
    # c is not of the set, so that its signature counts for nothing.
    assert signers_of(signed, public, SUM, ["a", "b"]) == ["a", "b"]
    refused = {
        "another set": (signed, SUM, ["a", "b", "c"]),
        "another sum": (signed, OTHER, ["a", "b"]),
        "one site under two names": ({"a": signed["a"], "b": signed["a"]}, SUM, ["a", "b"]),
        "a stranger": ({"a": signed["a"], "x": signed["b"]}, SUM, ["a", "x"]),
        "no signature": ({"a": signed["a"], "b": b""}, SUM, ["a", "b"]),
    }
    for signatures, sum_id, summed in refused.values():
        with pytest.raises(FederationError, match=r"sites have signed.*at least 2"):
            check_agreed(signatures, public, sum_id, summed, 2)


def test_the_shares_of_enough_sites_give_the_secrets_and_of_fewer_do_not(private, public, dealt):
    held = {
        place: {
            owner: shares.seed for owner, shares in opened(name, private, public, dealt).items()
        }
        for place, name in enumerate(NAMES, start=1)
    }
    seeds = {name: one.seed for name, one in dealt.items()}

    def fits(owner, secret):
        return seeds[owner] == secret

    for places in ((1, 2), (1, 3), (2, 3), (1, 2, 3)):
        assert recover({place: held[place] for place in places}, NAMES, 2, fits) == seeds
    with pytest.raises(FederationError, match=r"2 sites have to reveal shares.*1 have"):
        recover({1: held[1]}, NAMES, 2, fits)
    held[2]["c"] = b"short"
    with pytest.raises(FederationError, match=r"2 sites have to reveal shares.*1 have"):
        recover({1: held[1], 2: held[2]}, NAMES, 2, fits)


@pytest.mark.parametrize("summed", [("a", "b", "c"), ("a", "b")])
def test_a_wrong_share_is_noticed(summed, private, public, dealt):
    terms = {name: np.zeros(4, np.uint64) for name in NAMES}
    sent = [
        mask(terms[name], name, private[name], dealt[name].seed, public, SUM) for name in summed
    ]
    revealed = {name: reveal(opened(name, private, public, dealt), summed) for name in ("a", "b")}
    revealed["a"]["c"] = bytes(32)
    commitments = {name: one.commitment for name, one in dealt.items()}
    with pytest.raises(FederationError, match="shares of 'c' do not reveal its secret"):
        unmask(sum_terms(iter(sent), 4), summed, public, commitments, revealed, SUM, 2)
    # With one site more the liar is left out.
    revealed["c"] = reveal(opened("c", private, public, dealt), summed)
    found = unmask(sum_terms(iter(sent), 4), summed, public, commitments, revealed, SUM, 2)
    assert found.tolist() == [0, 0, 0, 0]


def test_a_masked_term_looks_like_random_numbers(private, public, dealt):
    """Chi-squared test of the bytes of one masked term, at a level of one in a million."""
    term = np.zeros(100_000, np.uint64)
    masked = mask(term, "a", private["a"], dealt["a"].seed, public, SUM)
    counts = np.bincount(masked.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert chi2.ppf(1e-6, 255) < statistic < chi2.ppf(1 - 1e-6, 255)
    assert not (masked == term).any()


def test_masks_are_the_key_stream_of_chacha20():
    """RFC 8439, section 2.4.2's cipher with a key and nonce of zeros (appendix A.1, vector 1)."""
    assert expand(bytes(32), 2).tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28"


def test_private_parts_are_not_printed(private, dealt):
    for shown in (repr(private["a"]), repr(dealt["a"])):
        assert "masking=" not in shown
        assert "seed=" not in shown
