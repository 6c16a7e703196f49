"""The state of a run after a finished round: the file `state.safetensors`."""

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fusseg.config.previous_version import translate_state
from fusseg.core.errors import DataError
from fusseg.core.version import VERSION
from fusseg.federation.state import Candidate, GlobalState, Memory, Taught
from fusseg.federation.traffic import CLASSIFIER, name_classifier
from fusseg.runs.directory import (
    CONFIG,
    FORMAT_VERSION,
    RECORD,
    STATE,
    check_format_version,
    load_record,
    write_run_file,
)
from fusseg.segmentation.classifier import Chosen, Classifier, check_classifier
from fusseg.segmentation.head import HeadWeights, SegmentationHead
from fusseg.segmentation.objective import Model, check_regions
from fusseg.segmentation.training import TrainingPlan

_KEPT = "kept/"
"""Prefix of the tensors of the best model so far, if it is not the model itself."""
_CARRIED = "carried."
"""Prefix of the names of tensors that the objective left with a client."""
_OPTIMIZER = "optimizer."
"""Prefix of the names of the running averages of the server's optimizer."""


@dataclass(frozen=True)
class SavedState:
    """All that training needs to continue after a round, with the same bits."""

    state: GlobalState
    memories: dict[str, Memory]
    """What each client keeps between rounds; empty if clients keep nothing."""
    fingerprint: str
    """Fingerprint of the backbone."""
    client_digests: dict[str, str] = field(default_factory=dict)
    """Digest of the bytes of the images that each client trained on."""
    held: dict[str, dict[str, str]] = field(default_factory=dict)
    """What simulated clients have already, so that it is not sent again (`Traffic.held`)."""


def save_state(path: Path, saved: SavedState) -> None:
    """Write the state after a round atomically.

    Raises:
        DataError: If it cannot be written, for instance because the disk is full.
    """
    state = saved.state
    tensors = {
        **_model_tensors("", state.model),
        **_kept_tensors(state),
        "mean_feature": state.plan.mean_feature,
    }
    for average, weights in state.optimizer.items():
        tensors |= {f"{_OPTIMIZER}{average}.{name}": part for name, part in weights.items()}
    if state.taught is not None:
        tensors |= name_classifier(state.taught)
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
        "classes": state.plan.classes,
        "taught": None if state.taught is None else describe_taught(state.taught),
        "kept_is_model": state.kept is state.model,
        "candidates": [asdict(candidate) for candidate in state.candidates],
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
    write_run_file(path / STATE, content)


def digest_state(path: Path) -> str:
    """Compute the SHA-256 of a run's state file, as hex; it identifies the models.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return sha256((path / STATE).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path / STATE}: {error.strerror}") from error


def has_state(path: Path) -> bool:
    """Tell whether a round is finished.

    Raises:
        DataError: If the record names finished rounds, but the state is missing.
    """
    if (path / STATE).exists():
        return True
    # A kill between record and state of the first round leaves one entry; nothing is lost.
    if (path / RECORD).exists() and len(load_record(path)["rounds"]) > 1:
        raise DataError(f"{path / STATE} is missing, although rounds are finished; {_again(path)}")
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


def describe_taught(taught: Taught) -> dict[str, Any]:
    """Describe taught classes as JSON; the tensors of the classifier go beside it."""
    described = asdict(replace(taught, classifier=None))
    del described["classifier"]
    unknown = None if taught.classifier is None else taught.classifier.unknown_below
    return {**described, "unknown_below": unknown}


def read_taught(
    described: Mapping[str, Any], tensors: Mapping[str, Tensor], feature_dim: int
) -> Taught:
    """Read taught classes from what `describe_taught` made.

    Args:
        described: Their description.
        tensors: Tensors by name, with those of the classifier.
        feature_dim: Channels of the features.

    Raises:
        KeyError: If something is missing.
        TypeError: If something is of another type.
        ValueError: If the classifier does not fit the classes or the features.
    """
    names, classifier = tuple(map(str, described["names"])), None
    if described["unknown_below"] is not None:
        parts = _named(CLASSIFIER, tensors)
        unknown = float(described["unknown_below"])
        classifier = Classifier(parts["weight"], parts["bias"], unknown)
        check_classifier(classifier, len(names), feature_dim)
    positions = tuple(map(int, described["positions"]))
    if len(positions) != len(names):
        raise ValueError(f"{len(positions)} numbers of positions for {len(names)} classes")
    return Taught(
        names=names,
        lacking=tuple(map(str, described["lacking"])),
        positions=positions,
        num_images=int(described["num_images"]),
        chosen=Chosen(**described["chosen"]),
        classifier=classifier,
    )


def state_round(path: Path) -> int:
    """Read the round of a run's state without loading its weights; 0 if no round is finished.

    Raises:
        DataError: As for `load_state` and `has_state`.
    """
    if not has_state(path):
        return 0
    with _opened_state(path) as (metadata, _):
        return int(metadata["round_number"])


@contextmanager
def _opened_state(path: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """Open a state file and give its metadata and a reader of its tensors."""
    file = path / STATE
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = json.loads(opened.metadata()["fusseg"])
            check_format_version(metadata["format_version"], file)
            yield translate_state(metadata), opened
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"damaged state: {file} ({error}); {_again(path)}") from error


def _again(path: Path) -> str:
    return (
        f"restore it from a copy, or train again: fusseg run {shlex.quote(str(path / CONFIG))} "
        "--out ANOTHER"
    )


def _unpack_state(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SavedState:
    plan = TrainingPlan(
        num_steps=metadata["num_steps"],
        mean_feature=tensors["mean_feature"],
        agreed=dict(metadata["agreed"]),
        classes=tuple((name, tuple(names)) for name, names in metadata.get("classes", ())),
    )
    model, described = _read_model("", tensors), metadata.get("taught")
    dim = len(plan.mean_feature)
    taught = None if described is None else read_taught(described, tensors, dim)
    state = GlobalState(
        round_number=metadata["round_number"],
        model=model,
        plan=plan,
        candidates=tuple(Candidate(**noted) for noted in metadata.get("candidates", ())),
        kept=_read_kept(metadata, tensors, model),
        optimizer=_read_optimizer(tensors, model.head),
        taught=taught,
    )
    memories = {name: _read_memory(f"own/{name}/", tensors) for name in metadata["own_models"]}
    digests, held = metadata["client_digests"], metadata.get("held", {})
    return SavedState(state, memories, metadata["fingerprint"], digests, held)


def _kept_tensors(state: GlobalState) -> dict[str, Tensor]:
    """Name the tensors of the best model so far, unless it is the model itself."""
    if state.kept is None or state.kept is state.model:
        return {}
    return _model_tensors(_KEPT, state.kept)


def _read_kept(
    metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Model
) -> Model | None:
    if metadata.get("kept_is_model"):
        return model
    return _read_model(_KEPT, tensors) if f"{_KEPT}centroids" in tensors else None


def _read_memory(prefix: str, tensors: Mapping[str, Tensor]) -> Memory:
    return Memory(_read_model(prefix, tensors), _named(f"{prefix}{_CARRIED}", tensors))


def _read_optimizer(tensors: Mapping[str, Tensor], head: HeadWeights) -> dict[str, HeadWeights]:
    found: dict[str, HeadWeights] = {}
    for name, tensor in _named(_OPTIMIZER, tensors).items():
        average, _, weight = name.partition(".")
        found.setdefault(average, {})[weight] = tensor
    shapes = {name: weight.shape for name, weight in head.items()}
    for average, weights in found.items():
        if {name: weight.shape for name, weight in weights.items()} != shapes:
            raise ValueError(f"{_OPTIMIZER}{average} is not of the shapes of the head")
    return found


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the tensors whose name begins with a prefix, by the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _model_tensors(prefix: str, model: Model) -> dict[str, Tensor]:
    head = {f"{prefix}head.{name}": weight for name, weight in model.head.items()}
    tensors = {**head, f"{prefix}centroids": model.centroids}
    return (
        tensors if model.region_of is None else {**tensors, f"{prefix}region_of": model.region_of}
    )


def _read_model(prefix: str, tensors: Mapping[str, Tensor]) -> Model:
    head = _named(f"{prefix}head.", tensors)
    centroids = tensors[f"{prefix}centroids"]
    region_of = tensors.get(f"{prefix}region_of")
    _check_model(head, centroids)
    if region_of is not None:
        check_regions(region_of, len(centroids))
    return Model(head, centroids, region_of)


def _check_model(head: HeadWeights, centroids: Tensor) -> None:
    code_dim, feature_dim = head["linear.weight"].shape
    expected = SegmentationHead(feature_dim, code_dim).state_dict()
    shapes = {name: weight.shape for name, weight in head.items()}
    if shapes != {name: weight.shape for name, weight in expected.items()}:
        raise ValueError(f"head of shapes {shapes}")
    if centroids.ndim != 2 or centroids.shape[1] != code_dim:
        raise ValueError(f"centroids of shape {tuple(centroids.shape)} for codes of {code_dim}")
