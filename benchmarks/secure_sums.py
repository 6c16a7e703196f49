"""What secure sums cost: arithmetic and bytes per site and at the server, beyond a plain sum.

    OMP_NUM_THREADS=1 python -m benchmarks.secure_sums [--json FILE]

Sums of simulated sites in this process: `head` is the term of a training round with a head for 768
channels, `lloyd` that of a Lloyd step with 27 clusters. A site's columns are one site's own work;
keys are drawn, signed and checked once for all sums of a round. `server` is adding the masked terms
and removing the masks; `plain` adds the same updates without masks. Nothing travels here, so round
trips are not in it.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from torch import Tensor

from fusseg.config.file import parse_config
from fusseg.core.visible_text import say
from fusseg.deployment.keys.credentials import public_line
from fusseg.deployment.secure_sum.agreement import check_agreed, sign_set
from fusseg.deployment.secure_sum.masks import mask, unmask
from fusseg.deployment.secure_sum.pair_keys import (
    PairKeys,
    PublicKeys,
    check_keys,
    name_sum,
    new_keys,
)
from fusseg.deployment.secure_sum.shares import Dealt, Shares, deal, open_shares, reveal
from fusseg.federation.fixed_point import count_numbers
from fusseg.federation.parts import Part
from fusseg.federation.protocol import Protocol, Task
from fusseg.federation.secure_sums import SumRules, make_term, read_total, sites_needed, term_shapes
from fusseg.federation.state import ClientUpdate
from fusseg.federation.strategies import resolve
from fusseg.federation.summation import RunningSum
from fusseg.federation.traffic import num_bytes

SITES = (3, 18, 100)
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Row:
    """Seconds and bytes of one sum."""

    term: str
    numbers: int
    sites: int
    site_keys: float
    """Draw and sign keys, and check those of all others: once for all sums of a round."""
    site_shares: float
    site_mask: float
    """Round to integers, and mask."""
    site_reveal: float
    site_sum: float
    """The last three."""
    server: float
    plain: float
    bytes_up: int
    """Of one site, with keys, shares, masked term and reveal."""
    bytes_plain: int


def timed(work: Callable[[], _Value]) -> tuple[_Value, float]:
    """Return a result, and the seconds that it took."""
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun


def parts_of(term: str, protocol: Protocol) -> dict[str, Part]:
    """List the parts of a term, as wide as with a ViT's 768 channels."""
    dim, code, clusters = 768, protocol.code_dim, 27
    if term == "lloyd":
        return {
            "sums": Part((clusters, code), torch.float64, "sum"),
            "counts": Part((clusters,), torch.int64, "sum"),
        }
    shapes = {"hidden": (dim, dim), "linear": (code, dim), "nonlinear": (code, dim), "bias": (908,)}
    return {name: Part(shape, torch.float32, "mean") for name, shape in shapes.items()}


def measure(term: str, sites: int, protocol: Protocol) -> Row:
    """Run all stages of one sum of simulated sites, and time those of the first one."""
    parts = parts_of(term, protocol)
    task: Task = protocol.tasks(1)[0]
    rules = SumRules(parts, task, protocol)
    names = [f"site-{number:03d}" for number in range(sites)]
    needed, sum_id = sites_needed(protocol.privacy.threshold, sites), name_sum("bench", term, sites)
    own = {name: ec.generate_private_key(ec.SECP384R1()) for name in names}
    roster = {name: public_line(key) for name, key in own.items()}
    made = {name: timed(lambda name=name: new_keys(name, own[name], sum_id, 1)) for name in names}
    signed = [found[1] for found, _ in made.values()]
    checked, check_seconds = timed(lambda: check_keys(signed, roster, sum_id, needed))
    private: dict[str, PairKeys] = {name: found[0][0] for name, (found, _) in made.items()}
    public: dict[str, PublicKeys] = {name: keys[0] for name, keys in checked.items()}
    dealt: dict[str, Dealt] = {}
    for name in reversed(names):
        dealt[name], share_seconds = timed(
            lambda name=name: deal(name, private[name], public, sum_id, needed)
        )
    updates = {name: _update(name, parts, number) for number, name in enumerate(names)}
    masked = {}
    for name in reversed(names):
        masked[name], mask_seconds = timed(
            lambda name=name: mask(
                make_term(updates[name], rules, sites).numpy().view(np.uint64),
                name,
                private[name],
                dealt[name].seed,
                public,
                sum_id,
            )
        )
    revealed = {}
    signatures = {name: sign_set(private[name], sum_id, names) for name in names[:needed]}
    for name in reversed(names[:needed]):
        sealed = {dealer: one.sealed[name] for dealer, one in dealt.items()}
        revealed[name], reveal_seconds = timed(
            lambda name=name, sealed=sealed: _reveal(
                open_shares(name, private[name], public, sealed, sum_id),
                signatures,
                public,
                sum_id,
                needed,
            )
        )
    numbers = count_numbers(term_shapes(parts, task))

    def serve() -> Tensor:
        total = np.zeros(numbers, np.uint64)
        for row in masked.values():
            total += row
        commitments = {name: one.commitment for name, one in dealt.items()}
        plain = unmask(total, names, public, commitments, revealed, sum_id, needed)
        read_total(torch.from_numpy(plain.view(np.int64)), names, {}, rules)
        return torch.from_numpy(plain.view(np.int64))

    found, server_seconds = timed(serve)
    expected = sum(make_term(update, rules, sites) for update in updates.values())
    assert torch.equal(found, torch.as_tensor(expected))
    _, plain_seconds = timed(lambda: _add_plain(parts, updates))
    plain_bytes = num_bytes(*updates[names[0]].parts.values())
    sealed_bytes = sum(len(one) for one in dealt[names[0]].sealed.values())
    overhead = 96 + 144 + 64 + 32 + sealed_bytes + 32 * sites
    site = (share_seconds, mask_seconds, reveal_seconds)
    return Row(
        term,
        numbers,
        sites,
        made[names[0]][1] + check_seconds,
        *site,
        sum(site),
        server_seconds,
        plain_seconds,
        8 * numbers + overhead,
        plain_bytes + 16,
    )


def _reveal(
    shares: Mapping[str, Shares],
    signatures: Mapping[str, bytes],
    keys: Mapping[str, PublicKeys],
    sum_id: bytes,
    needed: int,
) -> dict[str, bytes]:
    """Check who has signed the set, and reveal: a site's last stage."""
    check_agreed(signatures, keys, sum_id, [*shares], needed)
    return reveal(shares, [*shares])


def _update(name: str, parts: Mapping[str, Part], seed: int) -> ClientUpdate:
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for part_name, part in parts.items():
        shape = tuple(side or 1 for side in part.shape)
        if part.dtype.is_floating_point:
            values[part_name] = torch.randn(shape, generator=generator).to(part.dtype)
        else:
            values[part_name] = torch.randint(1000, shape, generator=generator)
    return ClientUpdate(name, 40 + seed, 1.5, values)


def _add_plain(parts: Mapping[str, Part], updates: Mapping[str, ClientUpdate]) -> None:
    example = next(iter(updates.values())).parts
    total = RunningSum(example)
    for update in updates.values():
        total.add(update.parts, update.num_images)
    total.total()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    protocol = resolve(parse_config({"privacy": {"secure_sum": True}}))
    rows = []
    say("| term | sites | keys | shares | mask | reveal | a site's sum | server | plain |")
    say("|---|---|---|---|---|---|---|---|---|")
    for term in ("head", "lloyd"):
        for sites in SITES:
            measure(term, min(sites, 3), protocol)  # load what is loaded once
            row = measure(term, sites, protocol)
            rows.append(row)
            stages = (row.site_keys, row.site_shares, row.site_mask, row.site_reveal, row.site_sum)
            shown = " | ".join(_milliseconds(one) for one in (*stages, row.server, row.plain))
            say(f"| {term} | {sites} | {shown} |")
    for row in rows:
        say(f"{row.term}, {row.sites} sites: {row.bytes_up:,} bytes, plain {row.bytes_plain:,}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


if __name__ == "__main__":
    main()
