"""The judge: compare models without labels, from sums of the clients, and keep the best (ours).

Two figures of a model, from one exchange of sums:

- *agreement*: the normalized mutual information of the regions of an image and those of its zoomed
  view. Regions of things stay the same; regions of what depends on the scale change.
- *margin*: how much nearer a code is to its own region than to the next one, in cosine.

Starts are compared by their agreement: margins in different code spaces say little. Training
replaces the start if it increases the margin and keeps the agreement: where it splits what belongs
together, one of the two decreases. For a backbone that measures structures of a fixed size, there
are no zoomed views: there is one start then, and the margin alone decides on training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from fusseg.features.zoom import central_window
from fusseg.federation.checks import judged_positions
from fusseg.federation.lloyd_steps import sampled_codes
from fusseg.federation.parts import Part
from fusseg.federation.protocol import Gathered, Protocol, Task, Work
from fusseg.federation.side_by_side import of_start, side_by_side
from fusseg.federation.state import Candidate, GlobalState
from fusseg.segmentation.assignment import (
    Segmenter,
    build_segmenter,
    encode,
    largest_of_regions,
    similarities,
)
from fusseg.segmentation.objective import Model

CHOICE = "choice"
"""Name of the round after the last one in the record: the server keeps the better model."""
TRAINED = "trained"
"""Name of the candidate that went through all rounds."""
GAIN = 0.05
"""Share by which a figure must be higher for a candidate to replace the one before it."""
LOSS = 0.05
"""Largest share of the start's agreement that training may lose."""


@dataclass(frozen=True)
class Figures:
    """What the judge knows about a model."""

    agreement: float
    """Normalized mutual information of the regions in both views, in [0, 1]."""
    margin: float
    """Mean difference of the cosines with the nearest and the second nearest region, in [0, 2]."""


def figures_of(
    pairs: Int[Tensor, "regions regions"], margin: Float[Tensor, ""], positions: Int[Tensor, ""]
) -> Figures:
    """Compute the figures of a model from sums over all clients (server's side).

    The agreement is I(A; B) / sqrt(H(A) H(B)) (Strehl & Ghosh, 2002), 0 if a view has one region.

    >>> figures_of(torch.tensor([[5, 0], [0, 5]]), torch.tensor(3.0), torch.tensor(12))
    Figures(agreement=1.0, margin=0.25)

    Args:
        pairs: Number of positions with one region in the image and another in its zoomed view.
        margin: Sum of the margins.
        positions: Number of positions in that sum.
    """
    shares = pairs.double() / pairs.sum().clamp(min=1)
    rows, columns = shares.sum(dim=1), shares.sum(dim=0)
    scale = (_entropy(rows) * _entropy(columns)).sqrt()
    shared = _entropy(rows) + _entropy(columns) - _entropy(shares.flatten())
    agreement = float(shared / scale) if float(scale) > 0 else 0.0
    return Figures(min(max(agreement, 0.0), 1.0), float(margin) / max(int(positions), 1))


def count_pairs(
    segmenter: Segmenter,
    whole: Float[Tensor, "height width dim"],
    zoomed: Float[Tensor, "height width dim"],
) -> Int[Tensor, "regions regions"]:
    """Count the regions of an image and of its zoomed view, position by position.

    Args:
        segmenter: The judged model.
        whole: Feature map of the image.
        zoomed: Feature map of its center, enlarged.
    """
    window = central_window(*whole.shape[:2])
    near = similarities(segmenter, encode(segmenter, zoomed))
    shrunk = interpolate(near[None], window.shape, mode="area")[0]
    inside = similarities(segmenter, encode(segmenter, whole))[:, window.rows, window.columns]
    first, second = _regions(segmenter, inside), _regions(segmenter, shrunk)
    number = segmenter.num_regions
    counts = torch.bincount(first * number + second, minlength=number**2)
    return counts.reshape(number, number)


def sum_margins(segmenter: Segmenter, codes: Float[Tensor, "_ code"]) -> Float[Tensor, ""]:
    """Sum the margins of unit codes, in float64."""
    found = largest_of_regions(segmenter, codes @ segmenter.centroids.T, dim=1)
    nearest = found.topk(2, dim=1).values.double()
    return (nearest[:, 0] - nearest[:, 1]).sum()


def judge_parts(state: GlobalState, protocol: Protocol) -> dict[str, Part]:
    """Describe the sums that the figures are made from."""
    number = state.model.num_regions
    check = judged_positions(protocol.positions_per_image)
    return {
        "pairs": Part((number, number), torch.int64, "sum", check),
        "margin": Part((), torch.float64, "sum"),
        "positions": Part((), torch.int64, "sum"),
    }


def measure_model(work: Work) -> dict[str, Tensor]:
    """Compare the model's regions in both views, and sum its margins (client's side)."""
    client, mean_feature = work.client, work.state.plan.mean_feature
    segmenter = build_segmenter(work.model, mean_feature)
    number = segmenter.num_regions
    pairs = torch.zeros(number, number, dtype=torch.int64)
    if client.zoomed is not None:
        place_of = {digest: place for place, digest in enumerate(client.features.digests)}
        for place, digest in enumerate(client.zoomed.digests):
            whole = client.features.feature_map(place_of[digest])
            pairs += count_pairs(segmenter, whole, client.zoomed.feature_map(place))
    margin, positions = torch.zeros((), dtype=torch.float64), 0
    for chunk in sampled_codes(work):
        margin += sum_margins(segmenter, chunk)
        positions += len(chunk)
    return {"pairs": pairs, "margin": margin, "positions": torch.tensor(positions)}


def add_start(name: str, gathered: Gathered) -> GlobalState:
    """Keep a start if its agreement is higher than that of the one kept so far, by `GAIN`."""
    state, found = gathered.state, _figures(gathered)
    before = kept_candidate(state.candidates)
    better = before is None or found.agreement > before.agreement * (1 + GAIN)
    return _enter(state, name, found, better=better)


def keep_start(name: str, gathered: Gathered) -> GlobalState:
    """Make the only start the model of round 0, with its figures."""
    return _begin(add_start(name, gathered), gathered.protocol)


def keep_best_start(names: Sequence[str], gathered: Gathered) -> GlobalState:
    """Make the best of several starts the model of round 0."""
    state = gathered.state
    for number, name in enumerate(names):
        one = of_start(gathered, number)
        state = add_start(name, replace(one, state=replace(state, model=one.state.model)))
    return _begin(state, gathered.protocol)


def keep_better_model(gathered: Gathered) -> GlobalState:
    """Keep the trained model if its margin is larger than the start's, and it agrees as well.

    Args:
        gathered: Its sums.

    Returns:
        The state with the kept model as the model; it ends the run.
    """
    state, found = gathered.state, _figures(gathered)
    before = kept_candidate(state.candidates)
    assert before is not None
    agrees = found.agreement >= before.agreement * (1 - LOSS)
    better = agrees and found.margin > before.margin * (1 + GAIN)
    state = _enter(state, TRAINED, found, better=better)
    return replace(state, model=_kept(state))


def judge_start(name: str) -> Task:
    """Make the exchange that judges the only start of round 0.

    Args:
        name: Name of the start in the record.
    """
    return replace(_JUDGE, conclude=partial(keep_start, name))


def judge_starts(names: Sequence[str]) -> Task:
    """Make the exchange that judges several starts of round 0 side by side.

    Args:
        names: Their names in the record, in order.
    """
    judge = side_by_side(_JUDGE, len(names))
    return replace(judge, conclude=partial(keep_best_start, names))


def kept_candidate(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the candidate that is kept so far; None: none was judged."""
    return next((one for one in candidates if one.kept), None)


def _begin(state: GlobalState, protocol: Protocol) -> GlobalState:
    """Begin with the best start."""
    # Without a choice, nothing is compared with it later.
    kept = state.kept if protocol.choice else None
    return replace(state, model=_kept(state), kept=kept, starts=())


def _enter(state: GlobalState, name: str, found: Figures, *, better: bool) -> GlobalState:
    """Add a candidate to the state; if it is better, it replaces the kept one."""
    candidate = Candidate(name, found.agreement, found.margin, kept=better)
    if not better:
        return replace(state, candidates=(*state.candidates, candidate))
    others = (replace(one, kept=False) for one in state.candidates)
    return replace(state, candidates=(*others, candidate), kept=state.model)


def _kept(state: GlobalState) -> Model:
    assert state.kept is not None
    return state.kept


def _figures(gathered: Gathered) -> Figures:
    totals = gathered.totals
    return figures_of(totals["pairs"], totals["margin"], totals["positions"])


def _same_model(gathered: Gathered) -> Model:
    return gathered.state.model


def _regions(
    segmenter: Segmenter, scores: Float[Tensor, "clusters height width"]
) -> Int[Tensor, " positions"]:
    nearest = scores.argmax(dim=0).flatten()
    return nearest if segmenter.region_of is None else segmenter.region_of[nearest]


def _entropy(shares: Float[Tensor, " _"]) -> Float[Tensor, ""]:
    entropy: Tensor = torch.special.entr(shares).sum()
    return entropy


_JUDGE = Task("judge", judge_parts, measure_model, _same_model, shared=True, judges=True)
CHOOSE = replace(_JUDGE, conclude=keep_better_model)
"""The exchange after the last round, in which the trained model is judged."""
