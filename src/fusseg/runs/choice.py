"""Which of the judged models a run started from and kept, and why, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from fusseg.federation.judge import GAIN, LOSS, TRAINED
from fusseg.runs.record_form import CandidateEntry

MORE_THAN = f"more than {100 * GAIN:g} % above"
"""By how much a model's figure must exceed that of the one before it, in words."""

MOST_LOST = f"{100 * LOSS:g} %"
"""Largest share of the start's agreement that the trained model may lose, in words."""


def chosen_start(candidates: Sequence[CandidateEntry]) -> CandidateEntry | None:
    """Find the start that the first round began with; None: no start was judged."""
    return next(reversed(_kept_in_turn(candidates)), None)


def keeps_start(candidates: Sequence[CandidateEntry]) -> bool:
    """Tell whether the start was kept in place of the trained model."""
    return any(one["name"] == TRAINED and not one["kept"] for one in candidates)


def describe_choice(record: Mapping[str, Any]) -> str | None:
    """Say in one sentence which model was kept and why; None: there was nothing to choose from.

    Args:
        record: Content of `record.json`; the trained model is judged at the end of a run only.

    Examples:
        >>> start = {"name": "start", "agreement": 0.6, "margin": 0.28, "kept": False}
        >>> trained = {"name": "trained", "agreement": 0.6, "margin": 0.42, "kept": True}
        >>> describe_choice({"candidates": [start, trained], "rounds": [{"loss": 1.0}]})
        "The trained model was kept: its margin 0.420 is more than 5 % above the start's 0.280."
    """
    candidates: Sequence[CandidateEntry] = record.get("candidates") or []
    start = chosen_start(candidates)
    trained = next((one for one in candidates if one["name"] == TRAINED), None)
    if start is None or trained is None:
        return _describe_starts(candidates)
    own, other = f"{trained['margin']:.3f}", f"the start's {start['margin']:.3f}"
    name = name_last(record)
    if trained["kept"]:
        return f"The {name} was kept: its margin {own} is {MORE_THAN} {other}."
    reason = f"margin {own} is not {MORE_THAN} {other}"
    if trained["agreement"] < start["agreement"] * (1 - LOSS):
        own, other = (f"{one['agreement']:.3f}" for one in (trained, start))
        reason = f"agreement {own} is more than {MOST_LOST} below the start's {other}"
    return (
        f"{'Training' if _trains(record) else 'The Lloyd steps'} did not improve on the start, "
        f"which was kept: the {name}'s {reason}."
    )


def name_last(record: Mapping[str, Any]) -> str:
    """Name the model after the last round, which has only Lloyd steps where nothing trains."""
    return "trained model" if _trains(record) else "last model"


def _trains(record: Mapping[str, Any]) -> bool:
    return any(entry["loss"] is not None for entry in record["rounds"])


def _describe_starts(candidates: Sequence[CandidateEntry]) -> str | None:
    """Say which of several starts was kept, by the agreement."""
    if len(candidates) < 2:
        return None
    *_, best = kept = _kept_in_turn(candidates)
    text = f"Of {len(candidates)} starts, {best['name']} was kept: "
    if len(kept) == 1:
        return f"{text}no other's agreement is {MORE_THAN} its {best['agreement']:.3f}."
    before = kept[-2]
    own, other = f"{best['agreement']:.3f}", f"the {before['agreement']:.3f} of {before['name']}"
    return f"{text}its agreement {own} is {MORE_THAN} {other}."


def _kept_in_turn(candidates: Sequence[CandidateEntry]) -> list[CandidateEntry]:
    """List the starts that were the best when they were judged, by the judge's rule."""
    kept: list[CandidateEntry] = []
    for one in candidates:
        if one["name"] == TRAINED:
            continue
        if not kept or one["agreement"] > kept[-1]["agreement"] * (1 + GAIN):
            kept.append(one)
    return kept
