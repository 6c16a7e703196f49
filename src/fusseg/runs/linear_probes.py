"""Linear probes of a trained run: how well its features and codes predict the labels."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.items import Classes, Dataset, Item
from fusseg.data.layouts import open_dataset
from fusseg.data.masks import infer_classes
from fusseg.data.selection import select_training
from fusseg.evaluation.held_out import HeldOut, hold_out, read_labels
from fusseg.evaluation.probe import linear_probe, majority_labels
from fusseg.features.extraction import Progress, extract_features
from fusseg.features.views import held_out_views, training_views
from fusseg.runs.load import TrainedRun, choose_scored
from fusseg.runs.model_scores import GLOBAL
from fusseg.segmentation.assignment import Segmenter, encode

Encoder = Callable[[Float[Tensor, "h w dim"]], Float[Tensor, "h w channels"]]


def probe_run(
    run: TrainedRun, data: DataConfig, cache: Path
) -> Generator[Progress, None, dict[str, Any]]:
    """Fit linear probes on the labeled training images of a run and score them on held-out images.

    Probes are fitted on frozen features and on the codes of each model, per position, without flip
    averaging or CRF.

    Args:
        run: A trained run.
        data: Images that are scored, as in `fusseg.runs.load.evaluate_run`.
        cache: Folder of the feature cache.

    Yields:
        Progress of the extraction.

    Returns:
        `mean_iou` and `pixel_accuracy` under `features` and `codes` (mean over the models), and for
        each client's own model under `models`.

    Raises:
        ConfigError: If a site or split is unknown, or the two data sets have different classes.
        DataError: If the data cannot be used, or training or held-out images have no labels.
    """
    config, scored, test_items = choose_scored(run, data)
    trained = open_dataset(run.config.data)
    train_items = _labeled(select_training(trained, run.config.data), "training")
    test_items = _labeled(test_items, "held-out")
    given = _known_classes(scored, trained)
    classes = infer_classes([*train_items, *test_items]) if given is None else given
    train_views = training_views(train_items, run.backbone, run.config)
    test_views = held_out_views(test_items, run.backbone, config)
    wanted = (*train_views, *test_views)
    features = yield from extract_features(wanted, run.backbone, config.backbone.batch_size, cache)
    train, test = (
        hold_out([view for view in views if features.has(view)], features.of_views(views), known)
        for views, known in (
            (train_views, trained.classes or classes),
            (test_views, scored.classes or classes),
        )
    )
    return _probe_models(run, train, test)


def _probe_models(run: TrainedRun, train: HeldOut, test: HeldOut) -> dict[str, Any]:
    labels = [_position_labels(images, run.backbone.stride) for images in (train, test)]
    classes = train.classes.names if train.classes else ()

    def probe(encoder: Encoder) -> dict[str, float]:
        fitted, scored = (
            (_Encoded(images, encoder), read)
            for images, read in zip((train, test), labels, strict=True)
        )
        found = linear_probe(fitted, scored, len(classes))
        return {"mean_iou": found.mean_iou, "pixel_accuracy": found.pixel_accuracy}

    models = {name: probe(_encoder(segmenter)) for name, segmenter in run.segmenters.items()}
    return {
        "features": probe(lambda features: features),
        "codes": {
            key: fmean(found[key] for found in models.values())
            for key in ("mean_iou", "pixel_accuracy")
        },
        "models": [
            {"client_id": name, **found} for name, found in models.items() if name != GLOBAL
        ],
    }


def _encoder(segmenter: Segmenter) -> Encoder:
    return lambda features: encode(segmenter, features)


@dataclass(frozen=True)
class _Encoded:
    """Feature maps or codes of images, computed on access."""

    images: HeldOut
    encoder: Encoder

    def __len__(self) -> int:
        return len(self.images.views)

    def __getitem__(self, image: int) -> Float[np.ndarray, "channels h w"]:
        codes = self.encoder(self.images.features.feature_map(image))
        return np.asarray(codes.permute(2, 0, 1).numpy())


def _position_labels(images: HeldOut, stride: int) -> list[UInt8[np.ndarray, "_ _"]]:
    """Read the most frequent class of each position of each image."""
    labels = (read_labels(images, index) for index in range(len(images.views)))
    return [majority_labels(found.numpy(), stride) for found in labels if found is not None]


def _labeled(items: Sequence[Item], kind: str) -> tuple[Item, ...]:
    labeled = tuple(item for item in items if item.mask is not None)
    if not labeled:
        raise DataError(
            f"a linear probe needs labels, but none of the {len(items)} {kind} images has a mask; "
            "leave --probe out"
        )
    return labeled


def _known_classes(*datasets: Dataset) -> Classes | None:
    given = [dataset.classes for dataset in datasets if dataset.classes is not None]
    names = [list(classes.names) for classes in given]
    if any(found != names[0] for found in names):
        raise ConfigError(
            f"a linear probe needs the same classes in training and scored images, got {names[1]} "
            f"and {names[0]}"
        )
    return given[0] if given else None
