"""What a run keeps of a finished round, in simulation and in deployment."""

import shlex
from pathlib import Path

from fusseg.config.schema import Config
from fusseg.core.errors import DataError
from fusseg.federation.parts import CENTROIDS
from fusseg.federation.protocol import Protocol
from fusseg.federation.rounds import Round
from fusseg.runs.directory import (
    RECORD,
    STATE,
    Record,
    SavedState,
    save_history,
    save_record,
    save_state,
)
from fusseg.runs.record import DEPLOYMENT

_MOST_IN_HISTORY = 1000
"""Clients of a round, first by name, whose centroids are kept for figures: no figure shows more."""


def keep_round(run_dir: Path, record: Record, finished: Round, saved: SavedState) -> None:
    """Write a finished round to the run directory.

    First the record, then the state: a crash between them repeats the round, and its entry is
    written anew. Until then the record is one round ahead (`check_same_round`).

    Raises:
        DataError: If a file cannot be written.
    """
    save_record(run_dir, record)
    sent = {
        update.client_id: update.parts[CENTROIDS]
        for update in finished.updates[:_MOST_IN_HISTORY]
        # Where they were averaged no client's own are left.
        if CENTROIDS in update.parts and not update.parts[CENTROIDS].is_meta
    }
    save_history(run_dir, finished.state.round_number, finished.state.model.centroids, sent)
    save_state(run_dir, saved)


def recorded_round(record: Record) -> int | None:
    """Say which round a record ends with: 0 before the first, None for an anchor, which has none.

    An adapted run begins with the round of the run it was made of.

    Raises:
        DataError: If the record is damaged.
    """
    if record.get("anchor") is not None:
        return None
    try:
        if record["rounds"]:
            return int(record["rounds"][-1]["round"])
        return int(record["start"]["round"]) if record.get("adapted") is not None else 0
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"damaged record: its rounds cannot be read ({error!r})") from error


def check_same_round(run_dir: Path, record: Record, saved_round: int) -> None:
    """Refuse a record and a state of different rounds: the scores would be another model's.

    Args:
        run_dir: Run directory.
        record: Its record.
        saved_round: Round of its state.

    Raises:
        DataError: If the record ends with another round.
    """
    check_not_behind(run_dir, record, saved_round)
    if recorded_round(record) in (None, saved_round):
        return
    command = "serve" if record["engine"] == DEPLOYMENT else "run"
    resume = shlex.join(["fusseg", command, "--resume", "--out", str(run_dir)])
    options = " with the options it had" if record["engine"] == DEPLOYMENT else ""
    raise DataError(
        f"{_describe_rounds(run_dir, record, saved_round)}: the run was stopped between the two, "
        f"or still goes on; if it does not, finish the round: {resume}{options}"
    )


def check_not_behind(run_dir: Path, record: Record, saved_round: int) -> None:
    """Refuse a record that ends before its state: no run leaves one, and none can go on from it.

    Args:
        run_dir: Run directory.
        record: Its record.
        saved_round: Round of its state.

    Raises:
        DataError: If rounds are missing.
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
    """Drop from a record what came after the round a run goes on from.

    Args:
        record: Changed in place.
        rounds_done: Rounds of the saved state.
        protocol: How many rounds there are.
    """
    record["rounds"] = [entry for entry in record["rounds"] if entry["round"] <= rounds_done]
    if rounds_done < protocol.rounds:
        record["trained"] = None
    if rounds_done < protocol.num_rounds:
        record["final"] = None


def is_scored(round_number: int, config: Config, protocol: Protocol) -> bool:
    """Whether a round is scored: every n-th, the last of training and the last of all."""
    every = config.evaluation.every
    return round_number in (protocol.rounds, protocol.num_rounds) or (
        every > 0 and round_number % every == 0
    )


def enter_scores(record: Record, round_number: int, scores: Record, protocol: Protocol) -> None:
    """Note the scores after the last round, and after the last one of training."""
    if round_number == protocol.num_rounds:
        record["final"] = scores
    elif round_number == protocol.rounds:
        record["trained"] = scores
