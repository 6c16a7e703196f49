"""Checking that predictions belong to their images, were not changed, and are of one model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fusseg.core.errors import DataError
from fusseg.data.decoding import read_file


@dataclass(frozen=True)
class Prediction:
    """An image and its index PNG."""

    name: str
    """Path of the image relative to the folder of images, with slashes."""
    image: Path
    regions: Path

    @property
    def description(self) -> Path:
        """The JSON beside the index PNG."""
        return self.regions.with_suffix(".json")


@dataclass(frozen=True)
class _Origin:
    """What a description says about the origin of its prediction; None: it does not say."""

    image: object = None
    """SHA-256 of the image file, hex."""
    png: object = None
    """SHA-256 of the index PNG, hex."""
    model: object = None
    """SHA-256 of the model and its site."""


def check_origins(predictions: Sequence[Prediction]) -> tuple[str, ...]:
    """Check that predictions were made of the images beside them.

    Returns:
        Doubts, one line each: index PNGs that were changed, predictions that do not name their
        image, predictions of several models.

    Raises:
        DataError: If an image is not the one that was predicted, or a file cannot be read.
    """
    origins = [_read_origin(prediction.description) for prediction in predictions]
    pairs = list(zip(predictions, origins, strict=True))
    others = [one for one, origin in pairs if _differs(origin.image, one.image, "image")]
    if others:
        raise DataError(
            f"{len(others)} of {len(predictions)} predictions are of other images than those "
            "beside them (their JSON has another image_sha256); predict them again, or give the "
            f"images that were predicted; the first: {others[0].regions} and {others[0].image}"
        )
    changed = [one for one, origin in pairs if _differs(origin.png, one.regions, "prediction")]
    unknown = [one for one, origin in pairs if origin.image is None]
    models = {origin.model for origin in origins} - {None}
    doubts = []
    if changed:
        doubts.append(
            f"index PNGs that were changed after the prediction: {len(changed)}, the first: "
            f"{changed[0].regions}"
        )
    if unknown:
        doubts.append(
            "predictions that do not say which image they are of (no image_sha256 in a JSON beside "
            f"them): {len(unknown)}, the first: {unknown[0].regions}; predict again to be sure"
        )
    if len(models) > 1:
        doubts.append(
            f"predictions of {len(models)} models, where a number is not the same region in all of "
            "them; predict all with one model"
        )
    return tuple(doubts)


def _read_origin(path: Path) -> _Origin:
    """Read the origin from a description; a missing or damaged description gives none."""
    try:
        described = json.loads(path.read_bytes())
        made_by = described.get("made_by", {})
        model = str((made_by["state"], made_by["site"])) if "state" in made_by else None
        return _Origin(described.get("image_sha256"), described.get("png_sha256"), model)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return _Origin()


def _differs(digest: object, path: Path, kind: str) -> bool:
    return digest is not None and digest != sha256(read_file(path, kind)).hexdigest()
