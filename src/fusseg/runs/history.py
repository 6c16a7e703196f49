"""The folder `history` of a run directory: the centroids of every round."""

from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fusseg.core.errors import DataError
from fusseg.core.spread import spread_evenly
from fusseg.runs.directory import write_run_file

HISTORY = "history"
"""Name of the folder."""
GLOBAL_CENTROIDS, CLIENT_CENTROIDS = "global", "client/"
"""Names of tensors in a round's file: the server's centroids, and the prefix of each client's."""


def save_history(
    path: Path, round_number: int, centroids: Tensor, sent: Mapping[str, Tensor]
) -> None:
    """Save the centroids of one round, for figures of how they moved.

    Args:
        path: Run directory.
        round_number: Number of the round, from 1.
        centroids: Global centroids after the round.
        sent: Centroids that each client sent; empty if clients send none.

    Raises:
        DataError: If the file cannot be written.
    """
    by_client = {f"{CLIENT_CENTROIDS}{name}": part for name, part in sent.items()}
    tensors = {GLOBAL_CENTROIDS: centroids, **by_client}
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    try:
        (path / HISTORY).mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {path / HISTORY}: {error.strerror}") from error
    write_run_file(path / HISTORY / f"round-{round_number:03d}.safetensors", content)


def load_history(
    path: Path, max_rounds: int | None = None, max_clients: int | None = None
) -> dict[int, dict[str, Tensor]]:
    """Read the centroids of the saved rounds: `global` and `client/ID`, by round.

    Args:
        path: Run directory.
        max_rounds: Largest number of rounds to read, spread evenly; None: all.
        max_clients: Largest number of clients to read, spread evenly by name; None: all.

    Raises:
        DataError: If a file is damaged.
    """
    files = spread_evenly(sorted((path / HISTORY).glob("round-*.safetensors")), max_rounds)
    names = {file: _history_names(file) for file in files}
    clients = sorted(set().union(*names.values()) - {GLOBAL_CENTROIDS})
    kept = {GLOBAL_CENTROIDS, *spread_evenly(clients, max_clients)}
    return {
        int(file.stem.removeprefix("round-")): _read_history(file, names[file] & kept)
        for file in files
    }


def _history_names(file: Path) -> set[str]:
    try:
        int(file.stem.removeprefix("round-"))
        with safe_open(file, framework="pt") as opened:
            return set(opened.keys())
    except (SafetensorError, ValueError, OSError) as error:
        raise DataError(f"damaged history: {file} ({error})") from error


def _read_history(file: Path, names: Collection[str]) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in sorted(names)}
    except (SafetensorError, OSError) as error:
        raise DataError(f"damaged history: {file} ({error})") from error
