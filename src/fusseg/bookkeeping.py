"""What a run keeps of a finished round, in simulation and in deployment."""

from pathlib import Path

from fusseg.config import Config, FederationConfig
from fusseg.federation.rounds import Round
from fusseg.federation.schedule import num_rounds, num_training_rounds
from fusseg.federation.strategies import resolve_federation
from fusseg.runs import Record, SavedState, save_history, save_record, save_state

_MOST_IN_HISTORY = 1000
"""Clients of a round, first by name, whose centroids are kept for figures: no figure shows more."""


def keep_round(run_dir: Path, record: Record, finished: Round, saved: SavedState) -> None:
    """Write a finished round to the run directory.

    First the record, then the state: a crash between them repeats the round, and its entry is
    written anew.

    Raises:
        DataError: If a file cannot be written.
    """
    save_record(run_dir, record)
    sent = {
        update.client_id: update.centroids
        for update in finished.updates[:_MOST_IN_HISTORY]
        if update.centroids is not None
    }
    save_history(run_dir, finished.state.round_number, finished.state.model.centroids, sent)
    save_state(run_dir, saved)


def rewind_record(record: Record, rounds_done: int, federation: FederationConfig) -> None:
    """Drop from a record what came after the round a run goes on from.

    Args:
        record: Changed in place.
        rounds_done: Rounds of the saved state.
        federation: With baselines resolved.
    """
    record["rounds"] = record["rounds"][:rounds_done]
    if rounds_done < num_training_rounds(federation):
        record["trained"] = None
    if rounds_done < num_rounds(federation):
        record["final"] = None


def is_scored(round_number: int, config: Config) -> bool:
    """Whether a round is scored: every n-th, the last of training and the last of all."""
    federation = resolve_federation(config.federation)
    ends = (num_training_rounds(federation), num_rounds(federation))
    every = config.evaluation.every
    return round_number in ends or (every > 0 and round_number % every == 0)


def enter_scores(
    record: Record, round_number: int, scores: Record, federation: FederationConfig
) -> None:
    """Note the scores after the last round, and after the last one of training."""
    if round_number == num_rounds(federation):
        record["final"] = scores
    elif round_number == num_training_rounds(federation):
        record["trained"] = scores
