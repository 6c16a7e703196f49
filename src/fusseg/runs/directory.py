"""A run directory: config.toml, record.json, state.safetensors, report.html."""

import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fusseg.config.file import (
    differing_keys,
    dump_config,
    load_config,
    merge_tables,
    parse_config,
    parse_overrides,
    read_toml,
)
from fusseg.config.previous_version import (
    PREVIOUS,
    moved_keys,
    translate_record,
    translate_settings,
    translate_state,
)
from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, DataError
from fusseg.core.files import is_temporary, write_atomically
from fusseg.core.version import VERSION
from fusseg.federation.state import GlobalState, Memory
from fusseg.runs.regions import regions_file
from fusseg.segmentation.head import HeadWeights, SegmentationHead
from fusseg.segmentation.objective import Model
from fusseg.segmentation.objectives import spell_out
from fusseg.segmentation.training import TrainingPlan

FORMAT_VERSION = 2
CONFIG, RECORD, STATE, REPORT = "config.toml", "record.json", "state.safetensors", "report.html"
HISTORY = "history"
"""Folder of the centroids of every round."""
GLOBAL_CENTROIDS, CLIENT_CENTROIDS = "global", "client/"
"""Names in a round's file: the server's, and what stands before each client's."""

Record = dict[str, Any]
"""What `record.json` holds; see docs/record.md."""

_CARRIED = "carried."
"""What the name of a tensor begins with that the objective left with a client."""

RECORD_KEYS = (
    "name",
    "seed",
    "command",
    "versions",
    "backbone",
    "engine",
    "strategy",
    "num_clusters",
    "protocol",
    "clients",
    "hello",
    "rounds",
    "trained",
    "final",
    "seconds",
    "skipped_images",
)
"""Without these a record is damaged."""

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class SavedState:
    """All that training needs to go on after a round, to the same bits."""

    state: GlobalState
    memories: dict[str, Memory]
    """What stays with the clients, by client; empty where nothing does."""
    fingerprint: str
    """Of the backbone."""
    client_digests: dict[str, str] = field(default_factory=dict)
    """Which images each client trained on, by client: a digest of their bytes."""
    held: dict[str, dict[str, str]] = field(default_factory=dict)
    """What simulated clients have and are not sent again (`Traffic.held`)."""


def check_new_run(path: Path) -> None:
    """Refuse a run directory that would replace something.

    Raises:
        ConfigError: If there is something at the path already.
    """
    try:
        free = not path.exists() or (path.is_dir() and _is_empty(path))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if not free:
        unfinished = (path / CONFIG).exists() and not (path / REPORT).exists()
        resumed = ", or continue the run with --resume" if unfinished else ""
        raise ConfigError(f"{path} exists and is not overwritten; choose another --out{resumed}")


def create_run(path: Path, config: Config) -> None:
    """Start a run directory with its configuration, every key spelled out.

    Raises:
        ConfigError: If there is something at the path already.
    """
    check_new_run(path)
    content = dump_config(spell_out(config)).encode()
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / CONFIG, content)
    except OSError as error:
        raise ConfigError(f"cannot write the run directory {path}: {error.strerror}") from error


def discard_run(path: Path) -> None:
    """Take back what `create_run` wrote, where nothing else has been written since."""
    if (path / STATE).exists() or (path / RECORD).exists():
        return
    with suppress(OSError):
        (path / CONFIG).unlink()
        # Not what others put there; names that were carried over are written anew.
        regions_file(path).unlink(missing_ok=True)
        path.rmdir()


def resume_run(path: Path, config: Config | None) -> Config:
    """Read the configuration of a run that is to go on.

    Args:
        path: Run directory.
        config: Configuration given again; None: the run's own.

    Raises:
        ConfigError: If there is no run, it was begun with the previous version, or the given
            configuration is another one.
    """
    if not (path / CONFIG).exists():
        raise ConfigError(f"no run to resume in {path}; start it without --resume")
    _refuse_previous(path)
    # A default may be left out of the file.
    saved = spell_out(load_config(path / CONFIG))
    keys = () if config is None else changed_settings(config, saved)
    if keys:
        raise ConfigError(
            f"{path} was started with another configuration (differs in {', '.join(keys)}); resume "
            f"it with {path / CONFIG}"
        )
    return saved


def changed_settings(left: Config, right: Config) -> list[str]:
    """Name the dotted keys in which two runs differ; a default may be written out in one alone."""
    return differing_keys(spell_out(left), spell_out(right))


def _refuse_previous(path: Path) -> None:
    """Refuse to go on with a run of the previous version: its random draws may be others.

    Raises:
        ConfigError: If it is one.
    """
    begun = PREVIOUS if moved_keys(read_toml(path / CONFIG)) else None
    if (path / RECORD).exists():
        record = _read_record(path)
        begun = record["versions"]["fusseg"] if record["format_version"] == 1 else begun
    if begun is not None:
        raise ConfigError(
            f"{path} was begun with fusseg {begun} and cannot go on with {VERSION}; finish it with "
            "that version, or start a new run; a finished one can be used as it is"
        )


def read_run_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a run's configuration; one of the previous version has today's names afterwards.

    Args:
        path: Run directory.
        overrides: `section.key=value` each, on top of it, with today's names.

    Raises:
        ConfigError: If the folder is no run directory, or an override is wrong.
    """
    if not path.exists():
        raise ConfigError(f"there is no run directory {path}; correct the path")
    if path.is_file():
        raise ConfigError(f"{path} is a file; give the run directory that it is from")
    if not (path / CONFIG).exists():
        raise ConfigError(f"{path} is no run directory: it has no {CONFIG}")
    table = translate_settings(read_toml(path / CONFIG))
    return parse_config(merge_tables(table, parse_overrides(overrides)))


def save_record(path: Path, record: Record) -> None:
    """Write the record whole or not at all.

    Raises:
        DataError: If it cannot be written, for instance because the disk is full.
    """
    content = json.dumps(record, indent=1, allow_nan=False)
    _write(path / RECORD, content.encode())


def load_record(path: Path) -> Record:
    """Read a run's record; one of the previous version has today's form afterwards.

    Raises:
        DataError: If there is none, or it is damaged or of a newer version.
    """
    record = _read_record(path)
    try:
        return translate_record(record)
    except (ValueError, TypeError) as error:
        raise DataError(f"damaged record: {path / RECORD} ({error})") from error


def _read_record(path: Path) -> Record:
    try:
        record: Record = json.loads((path / RECORD).read_text())
        _check_version(record["format_version"], path / RECORD)
        for key in RECORD_KEYS:
            record[key]
    except FileNotFoundError:
        raise DataError(f"{path} has no {RECORD}") from None
    except OSError as error:
        raise DataError(f"cannot read {path / RECORD}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"damaged record: {path / RECORD} ({error})") from error
    return record


def save_state(path: Path, saved: SavedState) -> None:
    """Write the state after a round whole or not at all.

    Raises:
        DataError: If it cannot be written, for instance because the disk is full.
    """
    state = saved.state
    tensors = {
        **_model_tensors("", state.model),
        "mean_feature": state.plan.mean_feature,
    }
    for client_id, memory in saved.memories.items():
        prefix = f"own/{client_id}/"
        tensors |= _model_tensors(prefix, memory.model)
        tensors |= {f"{prefix}{_CARRIED}{name}": part for name, part in memory.carried.items()}
    metadata = {
        "format_version": FORMAT_VERSION,
        "fusseg": VERSION,
        "round_number": state.round_number,
        "num_steps": state.plan.num_steps,
        "agreed": dict(state.plan.agreed),
        "fingerprint": saved.fingerprint,
        "own_models": sorted(saved.memories),
        "client_digests": saved.client_digests,
        "held": saved.held,
    }
    content = save(
        # Copies: a client's own model may share its head with the global one.
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()},
        {"fusseg": json.dumps(metadata, sort_keys=True)},
    )
    _write(path / STATE, content)


def digest_state(path: Path) -> str:
    """SHA-256 of a run's state file, hex: which models these are.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return sha256((path / STATE).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path / STATE}: {error.strerror}") from error


def save_history(
    path: Path, round_number: int, centroids: Tensor, sent: Mapping[str, Tensor]
) -> None:
    """Keep the centroids of one round, for figures of how they moved.

    Args:
        path: Run directory.
        round_number: From 1.
        centroids: The global ones after the round.
        sent: Those the clients sent, by client; empty where none are sent.

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
    _write(path / HISTORY / f"round-{round_number:03d}.safetensors", content)


def load_history(
    path: Path, max_rounds: int | None = None, max_clients: int | None = None
) -> dict[int, dict[str, Tensor]]:
    """Read the centroids of the rounds kept: `global` and `client/ID`, by round.

    Args:
        path: Run directory.
        max_rounds: At most so many, spread evenly from the first to the last; None: all.
        max_clients: At most so many, likewise by name; None: all.

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


def spread_evenly(entries: Sequence[Entry], most: int | None) -> list[Entry]:
    """Take at most so many entries, from the first to the last in even steps."""
    if most is None or len(entries) <= most:
        return list(entries)
    last = max(1, most - 1)
    return [entries[place * (len(entries) - 1) // last] for place in range(most)]


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


def has_state(path: Path) -> bool:
    """Say whether a round is finished.

    Raises:
        DataError: If one was, and its state is gone.
    """
    if (path / STATE).exists():
        return True
    # A kill between record and state of the first round leaves one entry and nothing lost.
    if (path / RECORD).exists() and len(load_record(path)["rounds"]) > 1:
        raise DataError(f"{path / STATE} is gone, though rounds are finished; {_again(path)}")
    return False


def load_state(path: Path) -> SavedState:
    """Read the state after the last finished round.

    Raises:
        DataError: If there is none, or it is damaged or of a newer version.
    """
    if not has_state(path):
        raise DataError(f"{path} has no {STATE}: no round is finished yet")
    with _opened_state(path) as (metadata, opened):
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return _unpack_state(metadata, tensors)


def state_round(path: Path) -> int:
    """Read which round a run's state is of, without its weights; 0 where none is finished.

    Raises:
        DataError: As `load_state` and `has_state`.
    """
    if not has_state(path):
        return 0
    with _opened_state(path) as (metadata, _):
        return int(metadata["round_number"])


@contextmanager
def _opened_state(path: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """Open a state file: its metadata, and its tensors."""
    file = path / STATE
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = json.loads(opened.metadata()["fusseg"])
            _check_version(metadata["format_version"], file)
            yield translate_state(metadata), opened
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"damaged state: {file} ({error}); {_again(path)}") from error


def _again(path: Path) -> str:
    return (
        f"restore it from a copy, or train again: fusseg run {shlex.quote(str(path / CONFIG))} "
        "--out ANOTHER"
    )


def _is_empty(folder: Path) -> bool:
    # A kill while the configuration is being written leaves nothing but its temporary file.
    return all(is_temporary(entry) for entry in folder.iterdir())


def _write(file: Path, content: bytes) -> None:
    try:
        write_atomically(file, content)
    except OSError as error:
        raise DataError(
            f"cannot write {file}: {error.strerror}; mend it, then go on with --resume"
        ) from error


def _unpack_state(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SavedState:
    plan = TrainingPlan(
        num_steps=metadata["num_steps"],
        mean_feature=tensors["mean_feature"],
        agreed=dict(metadata["agreed"]),
    )
    state = GlobalState(metadata["round_number"], _read_model("", tensors), plan)
    memories = {name: _read_memory(f"own/{name}/", tensors) for name in metadata["own_models"]}
    digests, held = metadata["client_digests"], metadata.get("held", {})
    return SavedState(state, memories, metadata["fingerprint"], digests, held)


def _read_memory(prefix: str, tensors: Mapping[str, Tensor]) -> Memory:
    carried = {
        name.removeprefix(f"{prefix}{_CARRIED}"): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}{_CARRIED}")
    }
    return Memory(_read_model(prefix, tensors), carried)


def _model_tensors(prefix: str, model: Model) -> dict[str, Tensor]:
    head = {f"{prefix}head.{name}": weight for name, weight in model.head.items()}
    return {**head, f"{prefix}centroids": model.centroids}


def _read_model(prefix: str, tensors: Mapping[str, Tensor]) -> Model:
    start = f"{prefix}head."
    head = {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }
    centroids = tensors[f"{prefix}centroids"]
    _check_model(head, centroids)
    return Model(head, centroids)


def _check_model(head: HeadWeights, centroids: Tensor) -> None:
    code_dim, feature_dim = head["linear.weight"].shape
    expected = SegmentationHead(feature_dim, code_dim).state_dict()
    shapes = {name: weight.shape for name, weight in head.items()}
    if shapes != {name: weight.shape for name, weight in expected.items()}:
        raise ValueError(f"head of shapes {shapes}")
    if centroids.ndim != 2 or centroids.shape[1] != code_dim:
        raise ValueError(f"centroids of shape {tuple(centroids.shape)} for codes of {code_dim}")


def _check_version(version: int, file: Path) -> None:
    if version > FORMAT_VERSION:
        raise DataError(
            f"{file} has format version {version}, this fusseg reads up to {FORMAT_VERSION}; "
            "install a newer one"
        )
