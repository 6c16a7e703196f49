"""What a site stores on disk between messages, since Flower starts a process for each one."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fusseg.core.errors import DataError, FederationError
from fusseg.core.files import write_atomically
from fusseg.deployment.wire.offer import Offer, pack_offer, unpack_offer
from fusseg.deployment.wire.packet import Packet
from fusseg.federation.state import Memory
from fusseg.segmentation.objective import Model, check_regions

_SITE, _OFFER, _READY, _RUNS = "site.json", "offer.json", "ready.json", "runs"
_HEAD, _CARRIED, _CENTROIDS, _REGIONS = "head.", "carried.", "centroids", "region_of"
Kept = TypeVar("Kept")
_KEPT_ROUNDS = 5
"""Number of own models to keep: a restarted server repeats one round, not five."""


@dataclass(frozen=True)
class SiteSettings:
    """Decisions of the site's operator, which no server can change."""

    name: str
    data: str
    """The site's folder of images."""
    cache: str
    """Folder of the feature cache."""
    backbone: str | None = None
    """This site's copy of the server's backbone; None: only the filter bank is accepted."""
    pinned: str | None = None
    """Configuration file that the server's settings must agree with; None: any settings."""
    roster: str | None = None
    """File with the names and public keys of all sites, without which this site takes part in no
    secure sum, and with which it takes part in nothing else."""
    key: str | None = None
    """The site's private key, which signs its keys of secure sums."""


@dataclass(frozen=True)
class Preparation:
    """How far the features of an offer are extracted."""

    offer: str
    """Digest of the offer."""
    state: Literal["preparing", "ready", "refused"]
    reason: str = ""
    """Why the site refuses; may be sent to the server."""
    done: int = 0
    total: int = 0
    """Number of images."""


def save_settings(folder: Path, settings: SiteSettings) -> None:
    """Write the operator's decisions.

    Raises:
        DataError: If the folder cannot be written.
    """
    _write_json(folder / _SITE, asdict(settings))


def load_settings(folder: Path) -> SiteSettings:
    """Read the operator's decisions.

    Raises:
        DataError: If it is missing or damaged.
    """
    return _build(SiteSettings, folder / _SITE)


def save_offer(folder: Path, offer: Offer) -> None:
    """Store the current offer.

    Raises:
        DataError: If the folder cannot be written.
    """
    _write_json(folder / _OFFER, dict(pack_offer(offer).fields))


def load_offer(folder: Path) -> Offer | None:
    """Read the current offer; None if there is none, or one of another version.

    Raises:
        DataError: If it is damaged.
    """
    if not (folder / _OFFER).exists():
        return None
    try:
        return unpack_offer(Packet(_read_json(folder / _OFFER)))
    except FederationError:
        return None


def save_preparation(folder: Path, preparation: Preparation) -> None:
    """Store how far the features are extracted.

    Raises:
        DataError: If the folder cannot be written.
    """
    _write_json(folder / _READY, asdict(preparation))


def load_preparation(folder: Path, offer: Offer) -> Preparation:
    """Read how far the features of an offer are extracted; not begun if nothing is stored.

    Raises:
        DataError: If the file is damaged.
    """
    if (folder / _READY).exists():
        found = _build(Preparation, folder / _READY)
        if found.offer == offer.digest:
            return found
    return Preparation(offer.digest, "preparing")


def run_folder(folder: Path, run: str) -> Path:
    """Return the folder of a federation's run, which is named with letters and digits."""
    return folder / _RUNS / run


def save_memory(folder: Path, round_number: int, memory: Memory) -> None:
    """Store what stays with the site after a round, for its next one.

    Args:
        folder: Folder of the run.
        round_number: The round that produced it, from 1.
        memory: The site's own model, and what the objective carries over.

    Raises:
        DataError: If it cannot be written.
    """
    tensors = {f"{_HEAD}{name}": part for name, part in memory.model.head.items()}
    tensors |= {f"{_CARRIED}{name}": part for name, part in memory.carried.items()}
    tensors[_CENTROIDS] = memory.model.centroids
    if memory.model.region_of is not None:
        tensors[_REGIONS] = memory.model.region_of
    content = save({name: part.contiguous().clone() for name, part in tensors.items()})
    _write(_own_model(folder, round_number), content)
    # Counted, not computed from the round: a site does not take part in every round.
    kept = sorted(_own_models(folder).items())
    past = [path for number, path in kept if number <= round_number]
    for path in past[:-_KEPT_ROUNDS]:
        path.unlink(missing_ok=True)


def load_memory(folder: Path, round_number: int) -> Memory | None:
    """Read what stayed with the site before a round, also if the round is repeated.

    Args:
        folder: Folder of the run.
        round_number: The coming round. What this round or a later one has already stored is
            ignored.

    Raises:
        DataError: If the file is damaged.
    """
    kept = _own_models(folder)
    earlier = [number for number in kept if number < round_number]
    if not earlier and len(kept) >= _KEPT_ROUNDS:
        raise DataError(
            f"round {round_number} is to be repeated, but {folder} holds this site's models from "
            f"round {min(kept)} on only"
        )
    if not earlier:
        return None
    path = _own_model(folder, max(earlier))
    try:
        tensors = load_file(path)
        centroids, region_of = tensors.pop(_CENTROIDS), tensors.pop(_REGIONS, None)
        if region_of is not None:
            check_regions(region_of, len(centroids))
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise DataError(f"damaged model: {path} ({error})") from error
    model = Model(_named(tensors, _HEAD), centroids, region_of)
    return Memory(model, _named(tensors, _CARRIED))


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)
    }


def _own_model(folder: Path, round_number: int) -> Path:
    return folder / "own" / f"round-{round_number:05d}.safetensors"


def _own_models(folder: Path) -> dict[int, Path]:
    found = (folder / "own").glob("round-*.safetensors")
    return {int(path.stem.removeprefix("round-")): path for path in found}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write(path, json.dumps(content, indent=1).encode())


def _build(kind: type[Kept], path: Path) -> Kept:
    try:
        return kind(**_read_json(path))
    except TypeError as error:
        raise DataError(f"damaged file: {path} ({error}); remove it and restart") from error


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, content)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"damaged file: {path} ({error}); remove it and restart") from error
    if not isinstance(content, dict):
        raise DataError(f"damaged file: {path} (no object); remove it and restart")
    return content
