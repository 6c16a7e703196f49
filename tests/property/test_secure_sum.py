"""Sums of masked terms, over any sites that drop out in any stage."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from fusseg.core.errors import FederationError
from fusseg.deployment.secure_sum.masks import mask, sum_terms, unmask
from fusseg.deployment.secure_sum.pair_keys import check_keys, name_sum, new_keys
from fusseg.deployment.secure_sum.shares import check_summed, deal, open_shares, reveal

SUM = name_sum("run", 3, "lloyd")
NAMES = ("east", "north", "south", "süd", "west")
KEYS = {name: ec.generate_private_key(ec.SECP384R1()) for name in NAMES}
ROSTER = {
    name: key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    for name, key in KEYS.items()
}


class Sites:
    """All sites of a sum, each with what it knows, and what the server holds."""

    def __init__(self, names, needed, terms):
        self.needed, self.terms = needed, terms
        made = {name: new_keys(name, KEYS[name], SUM, 1) for name in names}
        self.private = {name: private for name, ((private,), _) in made.items()}
        found = check_keys([signed for _, signed in made.values()], ROSTER, SUM, needed)
        self.public = {name: public for name, (public,) in found.items()}

    def deal(self, names):
        """Some sites deal their shares; the others drop out before."""
        self.dealt = {
            name: deal(name, self.private[name], self.public, SUM, self.needed) for name in names
        }
        self.dealers = {name: self.public[name] for name in sorted(names)}

    def send(self, names):
        """Some of those send their masked terms."""
        self.summed = set(names)
        return {
            name: mask(
                self.terms[name],
                name,
                self.private[name],
                self.dealt[name].seed,
                self.dealers,
                SUM,
            )
            for name in names
        }

    def reveal(self, names):
        """Some of those reveal what the server lacks."""
        found = {}
        for name in names:
            sealed = {dealer: dealt.sealed[name] for dealer, dealt in self.dealt.items()}
            shares = open_shares(name, self.private[name], self.public, sealed, SUM)
            check_summed(name, shares, self.summed, self.needed)
            found[name] = reveal(shares, self.summed)
        return found

    def unmask(self, sent, revealed):
        total = sum_terms(iter(sent.values()), len(next(iter(sent.values()))))
        commitments = {name: dealt.commitment for name, dealt in self.dealt.items()}
        return unmask(total, self.summed, self.public, commitments, revealed, SUM, self.needed)


@st.composite
def remaining(draw):
    """Sites that are still there after each of four stages, each a part of the one before."""
    stages = [list(NAMES)]
    for _ in range(3):
        stages.append(sorted(draw(st.sets(st.sampled_from(stages[-1]), min_size=4))))
    return stages


@given(remaining(), st.integers(0, 2**32))
def test_the_sum_is_that_of_the_sites_whose_terms_arrived(stages, seed):
    drawn = np.random.default_rng(seed)
    terms = {name: drawn.integers(0, 2**64, 7, dtype=np.uint64) for name in NAMES}
    _, dealers, senders, helpers = stages
    sites = Sites(NAMES, 4, terms)
    sites.deal(dealers)
    sent = sites.send(senders)
    found = sites.unmask(sent, sites.reveal(helpers))
    expected = sum_terms((terms[name] for name in senders), 7)
    assert found.tolist() == expected.tolist()


@given(st.permutations(NAMES))
def test_the_order_of_terms_and_sites_does_not_matter(order):
    terms = {name: np.full(3, place, np.uint64) for place, name in enumerate(NAMES)}
    sites = Sites(order, 4, terms)
    sites.deal(order)
    sent = sites.send(order)
    assert sites.unmask(sent, sites.reveal(order)).tolist() == [10, 10, 10]


@given(st.sets(st.sampled_from(NAMES), max_size=3))
def test_fewer_sites_than_needed_reveal_nothing(helpers):
    sites = Sites(NAMES, 4, {name: np.zeros(2, np.uint64) for name in NAMES})
    sites.deal(NAMES)
    sent = sites.send(NAMES)
    with pytest.raises(FederationError, match="4 sites have to reveal shares"):
        sites.unmask(sent, sites.reveal(sorted(helpers)))
