"""Saving finished rounds, and checking that record and state are of the same round."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusseg.config.schema import Config
from fusseg.core.errors import DataError
from fusseg.federation.parts import CENTROIDS
from fusseg.federation.protocol import Protocol
from fusseg.federation.rounds import Round
from fusseg.runs.directory import RECORD, STATE, save_record
from fusseg.runs.history import save_history
from fusseg.runs.record import DEPLOYMENT
from fusseg.runs.record_form import ModelScores, Record
from fusseg.runs.saved_state import SavedState, save_state

_MOST_IN_HISTORY = 1000
"""Number of clients, first by name, for which a round's centroids are saved; no figure shows
more."""


def keep_round(run_dir: Path, record: Record, finished: Round, saved: SavedState) -> None:
    """Write a finished round to the run directory, and the number of regions to its record.

    The record is written before the state. After a crash between the two, the record is one round
    ahead (`check_same_round`); a resumed run repeats that round and replaces its entry.

    Raises:
        DataError: If a file cannot be written.
    """
    record["num_regions"] = saved.state.model.num_regions
    save_record(run_dir, record)
    parts_of = {update.client_id: update.parts for update in finished.updates}
    if finished.total is not None:
        parts_of = dict(finished.total.collected)
    sent = {
        client_id: parts[CENTROIDS]
        for client_id, parts in sorted(parts_of.items())[:_MOST_IN_HISTORY]
        # After averaging, the tensors of single clients are gone.
        if CENTROIDS in parts and not parts[CENTROIDS].is_meta
    }
    save_history(run_dir, finished.state.round_number, finished.state.model.centroids, sent)
    save_state(run_dir, saved)


def recorded_round(record: Record) -> int | None:
    """Return the last round of a record: 0 before the first, None for an anchor without rounds.

    For an adapted run it is the last round of the run that was adapted.

    Raises:
        DataError: If the record is damaged.
    """
    if record.get("anchor") is not None:
        return None
    try:
        if record["rounds"]:
            return int(record["rounds"][-1]["round"])
        if record.get("adapted") is None:
            return 0
        start: Mapping[str, Any] = record["start"] or {}
        return int(start["round"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"damaged record: its rounds cannot be read ({error!r})") from error


def check_same_round(run_dir: Path, record: Record, saved_round: int) -> None:
    """Check that record and state are of the same round; else the scores are another model's.

    Args:
        run_dir: Run directory.
        record: Its record.
        saved_round: Round of its state.

    Raises:
        DataError: If the rounds differ.
    """
    check_not_behind(run_dir, record, saved_round)
    if recorded_round(record) in (None, saved_round):
        return
    command = "serve" if record["engine"] == DEPLOYMENT else "run"
    resume = shlex.join(["fusseg", command, "--resume", "--out", str(run_dir)])
    options = " with the same options as before" if record["engine"] == DEPLOYMENT else ""
    raise DataError(
        f"{_describe_rounds(run_dir, record, saved_round)}: the run was stopped between the two, "
        f"or is still running; if it is not, finish the round: {resume}{options}"
    )


def check_not_behind(run_dir: Path, record: Record, saved_round: int) -> None:
    """Check that a record does not end before its state: such a run cannot be resumed.

    Args:
        run_dir: Run directory.
        record: Its record.
        saved_round: Round of its state.

    Raises:
        DataError: If rounds are missing in the record.
    """
    known = recorded_round(record)
    if known is not None and known < saved_round:
        raise DataError(
            f"{_describe_rounds(run_dir, record, saved_round)}: one of the two is from another "
            "time or run; restore the file that belongs to the other, or train again"
        )


def _describe_rounds(run_dir: Path, record: Record, saved_round: int) -> str:
    state = f"{STATE} is of round {saved_round}" if saved_round else f"there is no {STATE} yet"
    return f"{run_dir / RECORD} ends with round {recorded_round(record)}, but {state}"


def rewind_record(record: Record, rounds_done: int, protocol: Protocol) -> None:
    """Remove from a record all that came after the round from which a run is resumed.

    Args:
        record: The record, changed in place.
        rounds_done: Number of rounds of the saved state.
        protocol: Number of rounds of training and in all.
    """
    record["rounds"] = [entry for entry in record["rounds"] if entry["round"] <= rounds_done]
    if rounds_done < protocol.rounds:
        record["trained"] = None
    if rounds_done < protocol.last_scored:
        record["final"] = None
    # What `fusseg teach` has added belongs to no round.
    if protocol.teaching and rounds_done < protocol.num_rounds:
        record["taught"] = None


def is_scored(round_number: int, config: Config, protocol: Protocol) -> bool:
    """Tell whether a round is scored: the start, every n-th, and the last of training and of all.

    Teaching does not change the regions; the classes have scores of their own.
    """
    every = config.evaluation.every
    if round_number > protocol.last_scored:
        return False
    return round_number in (0, protocol.rounds, protocol.last_scored) or (
        every > 0 and round_number % every == 0
    )


def enter_scores(
    record: Record, round_number: int, scores: ModelScores, protocol: Protocol
) -> None:
    """Enter the scores of the final model and of the last training round in the record."""
    if round_number == protocol.last_scored:
        record["final"] = scores
    elif round_number == protocol.rounds > 0:
        record["trained"] = scores
