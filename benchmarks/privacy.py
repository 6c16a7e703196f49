"""Attack what a site sends: membership of an image, and an audit of epsilon from below.

    OMP_NUM_THREADS=1 python -m benchmarks.privacy CONFIG.toml RUN_DIR [--cache DIR] [--json FILE]

RUN_DIR is a finished run of CONFIG.toml, a training-free one; its model is what the sites receive.
Each site keeps a random half of its images, and the attacker, who has an image and knows what it
would add, asks of which half it is. The table holds the area under the ROC curve: 0.5 is guessing,
1 is certainty.

- `lloyd`: the sums of a Lloyd step. The attacker compares the image's sums with those that were
  sent, each number weighted by how little it varies among the images of the other sites.
- `head`: the change of the head in a round of training. The attacker trains the head on the image
  alone and compares the two changes.

What is attacked is a site's own message (plain), the same after masking, the sum over all sites
(what secure sums tell), and that sum with noise.

The audit adds an image that is as large as the clipping allows to a sum with noise, many times,
and bounds epsilon from how often that is seen (Jagielski et al., 2020); 95 % sure.
"""

import argparse
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import beta, rankdata
from torch import Tensor

from fusseg.config.file import load_config
from fusseg.config.schema import Config
from fusseg.core.visible_text import say
from fusseg.deployment.secure_sum.masks import expand
from fusseg.features.extraction import wait_for
from fusseg.federation.accounting import needed_multiplier
from fusseg.federation.answer import answer
from fusseg.federation.lloyd_steps import LLOYD_STEP
from fusseg.federation.noise import add_noise, noised_exchanges
from fusseg.federation.parts import HEAD
from fusseg.federation.points import KeptCodes
from fusseg.federation.protocol import Protocol, Work
from fusseg.federation.secure_sums import SumRules, make_term, read_total, rules_of_sum
from fusseg.federation.state import Client, ClientUpdate, GlobalState
from fusseg.federation.strategies import resolve
from fusseg.runs.prepare import extract, look_up
from fusseg.runs.saved_state import load_state

EPSILONS = (16.0, 8.0, 4.0, 1.0)
DRAWS = 5
"""Random halves."""
TRIALS = 100_000
"""Sums with and without the canary."""
IMAGES = 4
"""Images of each half that the attack on heads asks for, per site: each costs a training."""
_STEPS = 4
_SITES = 3
"""Sites of the audit."""


@dataclass(frozen=True)
class Row:
    """One attack: what was seen, and how well members were told from others."""

    sent: str
    seen: str
    auc: float


@dataclass(frozen=True)
class Audit:
    """Claimed and audited epsilon of one exchange."""

    claimed: float
    audited: float


def area(members: Sequence[float], others: Sequence[float]) -> float:
    """Compute the area under the ROC curve: how often a member has the higher score."""
    ranks = rankdata([*members, *others])
    wins = ranks[: len(members)].sum() - len(members) * (len(members) + 1) / 2
    return float(wins / (len(members) * len(others)))


def images_of(client: Client) -> Iterator[Client]:
    """View each image of a client as a client."""
    for image in range(len(client.features)):
        yield replace(client, features=client.features.pick(np.array([image])))


def halves(client: Client, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the images that a site keeps, and the others."""
    order = np.random.default_rng(seed).permutation(len(client.features))
    return order[: len(order) // 2], order[len(order) // 2 :]


def with_noise(protocol: Protocol, epsilon: float) -> Protocol:
    """Add the noise that the budget of a whole run asks for to each of its exchanges."""
    exchanges = noised_exchanges(protocol)
    z = needed_multiplier(epsilon, exchanges, protocol.privacy.delta)
    privacy = replace(protocol.privacy, noise="image", epsilon=epsilon, noise_multiplier=z)
    return replace(protocol, privacy=privacy)


def attack_lloyd(
    clients: Sequence[Client], state: GlobalState, protocol: Protocol, positions: int
) -> list[Row]:
    """Tell members of a site from its sums of a Lloyd step."""
    added = []
    for client in clients:
        rows = [
            LLOYD_STEP.measure(Work(one, state.model, state, protocol, _no_codes(protocol)))
            for one in images_of(client)
        ]
        added.append(torch.stack([row["sums"].flatten() for row in rows]).double())
    scores: dict[str, tuple[list[float], list[float]]] = {}
    for seed in range(DRAWS):
        chosen = [halves(client, seed) for client in clients]
        own = [rows[members].sum(dim=0) for rows, (members, _) in zip(added, chosen, strict=True)]
        everything = torch.stack(own).sum(dim=0)
        total = sum(len(members) for members, _ in chosen)
        noised = {
            f"sum over all sites, noise of epsilon {epsilon:g}": _noised_sums(
                own, with_noise(protocol, epsilon), positions, state
            )
            for epsilon in EPSILONS
        }
        for place, (members, others) in enumerate(chosen):
            known = torch.cat([rows for number, rows in enumerate(added) if number != place])
            key = secrets.token_bytes(32)
            masked = own[place] + torch.from_numpy(
                expand(key, own[place].numel()).view(np.int64).astype(float)
            )
            seen = {
                "the site's own message": (own[place], len(members)),
                "the site's own message, masked": (masked, len(members)),
                "sum over all sites": (everything, total),
                **{name: (sums, total) for name, sums in noised.items()},
            }
            for name, (sums, count) in seen.items():
                found = _compare(sums, count, added[place], known)
                pair = scores.setdefault(name, ([], []))
                pair[0].extend(found[members].tolist())
                pair[1].extend(found[others].tolist())
    return [Row("lloyd", name, area(*pair)) for name, pair in scores.items()]


def _no_codes(protocol: Protocol) -> KeptCodes:
    return KeptCodes(protocol.positions_per_image, protocol.seed)


def _compare(sums: Tensor, count: int, images: Tensor, known: Tensor) -> Tensor:
    """Score images: how well each explains what was sent beyond an average of as many."""
    mean, spread = known.mean(dim=0), known.var(dim=0)
    weight = 1 / (spread + spread.mean())
    return (images - mean) @ (weight * (sums - count * mean))


def _noised_sums(
    own: Sequence[Tensor], protocol: Protocol, positions: int, state: GlobalState
) -> Tensor:
    """Add up the sites' terms with noise; images are not shortened, which helps the attack."""
    parts = LLOYD_STEP.parts(state, protocol)
    rules = rules_of_sum(LLOYD_STEP, parts, protocol, positions, len(own))
    shape = state.model.centroids.shape
    counts = torch.zeros(shape[0]).double()
    terms = [
        make_term(
            ClientUpdate(str(number), 2, None, {"sums": sums.view(shape), "counts": counts}),
            rules,
            len(own),
        )
        for number, sums in enumerate(own)
    ]
    row = torch.stack(terms).sum(dim=0)
    plain = SumRules(parts, LLOYD_STEP, protocol, {"sums": rules.grains["sums"]})
    names = [str(number) for number in range(len(own))]
    return read_total(row, names, {}, plain).parts["sums"].flatten()


def attack_heads(clients: Sequence[Client], state: GlobalState, config: Config) -> list[Row]:
    """Tell members of a site from its change of the head in one round."""
    protocol = _training(config)
    task = protocol.tasks(1)[0]
    plan = replace(state.plan, num_steps=_STEPS)
    state = replace(state, round_number=0, plan=plan, candidates=(), kept=None)
    scores: dict[str, tuple[list[float], list[float]]] = {}
    chosen = [halves(client, 0) for client in clients]
    sent = []
    for client, (members, _) in zip(clients, chosen, strict=True):
        kept = replace(client, features=client.features.pick(members))
        sent.append(_change(state, task, kept, protocol))
    average = torch.stack(sent).mean(dim=0)
    seen_by_all = {"sum over all sites": average}
    for epsilon in EPSILONS:
        exchanges = config.federation.rounds
        z = needed_multiplier(epsilon, exchanges, protocol.privacy.delta)
        norm = protocol.privacy.update_norm
        short = [one * min(1.0, norm / float(one.norm())) for one in sent]
        noise = torch.randn(average.shape, dtype=torch.float64) * z * norm / len(sent)
        name = f"sum over all sites, noise of epsilon {epsilon:g} (site)"
        seen_by_all[name] = torch.stack(short).mean(dim=0) + noise
    for place, (members, others) in enumerate(chosen):
        seen = {"the site's own message": sent[place], **seen_by_all}
        for number, images in enumerate((members[:IMAGES], others[:IMAGES])):
            for image in images:
                # Twice: a batch of training needs two images.
                features = clients[place].features.pick(np.array([image, image]))
                alone = _change(state, task, replace(clients[place], features=features), protocol)
                for name, found in seen.items():
                    score = torch.nn.functional.cosine_similarity(found, alone, dim=0)
                    scores.setdefault(name, ([], []))[number].append(float(score))
    return [Row("head", name, area(*pair)) for name, pair in scores.items()]


def _training(config: Config) -> Protocol:
    federation = replace(config.federation, strategy="fedavg", keep="last")
    model = replace(config.model, init="random", whitening="auto")
    local = replace(config.local, steps=_STEPS, batch_size=2)
    return resolve(replace(config, federation=federation, model=model, local=local))


def _change(state: GlobalState, task: object, client: Client, protocol: Protocol) -> Tensor:
    kept = _no_codes(protocol)
    found = answer(state, task, None, client, protocol, kept).update.parts
    changes = [
        (found[f"{HEAD}{name}"] - weight).double().flatten()
        for name, weight in state.model.head.items()
    ]
    return torch.cat(changes)


def audit(protocol: Protocol, state: GlobalState, positions: int) -> list[Audit]:
    """Bound epsilon of one exchange from below with an image as large as clipping allows."""
    found = []
    parts = LLOYD_STEP.parts(state, protocol)
    sampled = min(protocol.positions_per_image or positions, positions)
    most = protocol.privacy.clip * sampled
    for epsilon in EPSILONS:
        z = needed_multiplier(epsilon, 1, protocol.privacy.delta)
        privacy = replace(protocol.privacy, noise="image", epsilon=epsilon, noise_multiplier=z)
        noisy = replace(protocol, privacy=privacy)
        rules = rules_of_sum(LLOYD_STEP, parts, noisy, positions, _SITES)
        seen = [torch.zeros(TRIALS), torch.zeros(TRIALS)]
        # The canary lies in one cluster and one direction; noise elsewhere says nothing about it.
        for grain in rules.grains.values():
            for inside in (0, 1):
                values = [inside * most, *[0.0] * (_SITES - 1)]
                terms = [add_noise(torch.full((TRIALS,), one), grain, 2.0**60) for one in values]
                sums = torch.stack(terms).sum(dim=0) * grain.step
                seen[inside] += sums * most / grain.deviation**2
        without, within = (one.numpy() for one in seen)
        found.append(Audit(epsilon, lower_bound(without, within, protocol.privacy.delta)))
    return found


def lower_bound(without: np.ndarray, within: np.ndarray, delta: float) -> float:
    """Bound epsilon from how often scores pass a threshold, 95 % sure (Clopper and Pearson)."""
    # The threshold is chosen on one half and counted on the other.
    half = len(without) // 2
    thresholds = np.quantile(without[:half], [0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999])
    gains = [
        np.log(max((within[:half] > at).mean() - delta, 1e-9))
        - np.log(max((without[:half] > at).mean(), 1 / half))
        for at in thresholds
    ]
    at = thresholds[int(np.argmax(gains))]
    hits, alarms = int((within[half:] > at).sum()), int((without[half:] > at).sum())
    low = beta.ppf(0.025, hits, half - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, alarms + 1, half - alarms)
    return max(0.0, float(np.log((low - delta) / high))) if low > delta else 0.0


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config = load_config(options.config)
    prepared = wait_for(extract(look_up(config), config, options.cache))
    protocol, state = resolve(config), load_state(options.run_dir).state
    height, width, _ = prepared.clients[0].features.map_shape
    rows = attack_lloyd(prepared.clients, state, protocol, height * width)
    rows += attack_heads(prepared.clients, state, config)
    say("| sent | seen | area under the curve |")
    say("|---|---|---|")
    for row in rows:
        say(f"| {row.sent} | {row.seen} | {row.auc:.3f} |")
    audits = audit(protocol, state, height * width)
    say("| epsilon of one exchange | audited, at least |")
    say("|---|---|")
    for one in audits:
        say(f"| {one.claimed:g} | {one.audited:.2f} |")
    if options.json:
        found = {"rows": [vars(row) for row in rows], "audits": [vars(one) for one in audits]}
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
