"""Use a trained run: segment images at their own size, or score it on other data."""

import io
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from fusseg.atomic import write_atomically
from fusseg.config import Config, DataConfig
from fusseg.data.datasets import open_dataset, select_held_out
from fusseg.data.images import SUFFIXES, fit_image, load_image
from fusseg.data.items import Dataset, Item, select
from fusseg.errors import ConfigError, DataError, nearest_name
from fusseg.evaluation.held_out import hold_out
from fusseg.experiment import final_models, score_models
from fusseg.features.backbones import Backbone, load_backbone
from fusseg.features.extraction import Progress, extract_features
from fusseg.federation.strategies import resolve_federation
from fusseg.record import GLOBAL, describe_skipped
from fusseg.report.colors import overlay, palette
from fusseg.runs import load_state, read_run_config
from fusseg.segmentation.segmenter import (
    Segmenter,
    assign,
    build_segmenter,
    encode,
    similarities,
)


@dataclass(frozen=True)
class TrainedRun:
    """A run's models, ready to segment."""

    config: Config
    backbone: Backbone
    segmenters: dict[str, Segmenter]
    """The global model under `GLOBAL`, or one per client (E or C off)."""


@dataclass(frozen=True)
class Predicted:
    """One image segmented and written."""

    source: Path
    regions: Path
    """Index PNG: pixel = region."""
    overlay: Path


@dataclass(frozen=True)
class NotPredicted:
    """One image that could not be read, and why."""

    source: Path
    reason: str


def load_run(run_dir: Path) -> TrainedRun:
    """Load what a run has learned up to its last finished round.

    Raises:
        ConfigError: If the folder is no run, or the backbone is not the one it was trained on.
        DataError: If no round is finished, or the state is damaged.
    """
    config = read_run_config(run_dir)
    saved = load_state(run_dir)
    backbone = load_backbone(config.backbone.name)
    if backbone.fingerprint != saved.fingerprint:
        raise ConfigError(
            f"{run_dir} was trained on a backbone with fingerprint {saved.fingerprint[:16]}, but "
            f"{config.backbone.name} has {backbone.fingerprint[:16]}; restore its weights"
        )
    models = final_models(saved, resolve_federation(config.federation))
    mean_feature = saved.state.plan.mean_feature
    segmenters = {name: build_segmenter(model, mean_feature) for name, model in models.items()}
    return TrainedRun(config, backbone, segmenters)


def pick_segmenter(run: TrainedRun, site: str | None) -> Segmenter:
    """Pick the global model, or one site's own where there is no global one.

    Raises:
        ConfigError: If a site is needed and not given, given and not needed, or unknown.
    """
    names = sorted(run.segmenters)
    if GLOBAL in run.segmenters:
        if site is not None:
            raise ConfigError(f"this run has one global model; drop --site {site}")
        return run.segmenters[GLOBAL]
    if site is None:
        raise ConfigError(
            f"each site of this run has its own model; choose one with --site: {', '.join(names)}"
        )
    if site not in run.segmenters:
        raise ConfigError(f"unknown site {site!r}; {nearest_name(site, names)}")
    return run.segmenters[site]


def segment_image(
    image: UInt8[np.ndarray, "height width 3"], run: TrainedRun, segmenter: Segmenter
) -> UInt8[np.ndarray, "height width"]:
    """Segment a whole image at its own size.

    The backbone sees it at the scale of training: as large as it needs to be to cover the training
    size (`fit = "crop"`, but nothing is cut off), or stretched to it, as for a backbone that takes
    one size only.

    Args:
        image: RGB.
        run: Backbone and scale.
        segmenter: One of the run's.
    """
    data, stride = run.config.data, run.backbone.stride
    size = data.image_size
    if data.fit == "crop" and run.backbone.image_size is None:
        scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
        size = (round(image.shape[0] * scale), round(image.shape[1] * scale))
    height, width = (max(stride, round(side / stride) * stride) for side in size)
    seen = fit_image(image, (height, width), "stretch", data.interpolation)
    with torch.inference_mode():
        features = run.backbone.extract(torch.from_numpy(seen)[None])[0].permute(1, 2, 0)
    # Rounded as in the cache, so that a prediction is what the evaluation saw.
    scores = similarities(segmenter, encode(segmenter, features.half().float()))
    return assign(scores, (image.shape[0], image.shape[1])).numpy()


def predict_images(
    run: TrainedRun, segmenter: Segmenter, sources: Iterable[tuple[Path, Path]], out: Path
) -> Iterator[Predicted | NotPredicted]:
    """Segment image files; each becomes an index PNG and an overlay JPEG.

    Args:
        run: A trained run.
        segmenter: One of the run's.
        sources: Each image and where it goes: a path below `out`, without suffix.
        out: Folder of the results.

    Yields:
        What was written, or why an image was skipped.

    Raises:
        DataError: If a result cannot be written.
    """
    colors = palette(segmenter.num_clusters)
    for source, place in sources:
        try:
            image = load_image(Item(site="", stem=source.stem, split="", image=source))
        except DataError as error:
            yield NotPredicted(source, str(error))
            continue
        regions = segment_image(image, run, segmenter)
        done = Predicted(source, out / f"{place}.png", out / f"{place}.overlay.jpg")
        try:
            done.regions.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(done.regions, _index_png(regions, colors))
            write_atomically(done.overlay, _encode(overlay(image, regions, colors), "JPEG"))
        except OSError as error:
            raise DataError(f"cannot write to {out}: {error.strerror}") from error
        yield done


def find_images(inputs: Sequence[Path]) -> list[tuple[Path, Path]]:
    """List the images of files and folders, with the relative place of each result.

    Files keep their stem; images of a folder, however deep, keep their path below it.

    Raises:
        DataError: If an input is not there, holds no image, or two results would share a name.
    """
    found: list[tuple[Path, Path]] = []
    for entry in inputs:
        if entry.is_dir():
            images = [
                path
                for path in sorted(entry.rglob("*"))
                if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
            ]
            if not images:
                raise DataError(f"no image in {entry}; known are {', '.join(SUFFIXES)}")
            found += [(path, path.relative_to(entry).with_suffix("")) for path in images]
        elif entry.exists():
            found.append((entry, Path(entry.stem)))
        else:
            raise DataError(f"no such file or folder: {entry}")
    taken: dict[Path, Path] = {}
    for source, place in found:
        if place in taken:
            raise DataError(
                f"{taken[place]} and {source} would both be written to {place}.png; predict them "
                "into different folders"
            )
        taken[place] = source
    return found


def evaluate_run(
    run: TrainedRun, data: DataConfig, cache: Path
) -> Generator[Progress, None, dict[str, Any]]:
    """Score a trained run on held-out data, with the run's backbone and image size.

    Args:
        run: A trained run.
        data: Where the held-out images are (all sites, where none is named); its size and fit are
            replaced by the run's.
        cache: Folder of the feature cache.

    Yields:
        Progress of the extraction.

    Returns:
        Scores as in the record's `final`, and `skipped_images`.

    Raises:
        ConfigError: If a site or split is unknown.
        DataError: If the data cannot be used.
    """
    used = run.config.data
    data = replace(data, image_size=used.image_size, fit=used.fit, interpolation=used.interpolation)
    dataset = open_dataset(data)
    if not data.held_out_sites:
        data = replace(data, held_out_sites=_sites_with(dataset, data.held_out_split))
    items = select_held_out(dataset, data)
    config = replace(run.config, data=data)
    features = yield from extract_features(items, run.backbone, config, cache)
    usable = [item for item in items if features.has(item)]
    held_out = hold_out(usable, features.of_items(usable), dataset.classes, data)
    scores = score_models(run.segmenters, held_out)
    return {**scores, "skipped_images": describe_skipped(features.skipped)}


def _sites_with(dataset: Dataset, split: str) -> tuple[str, ...]:
    known = tuple(site for site in dataset.sites if select(dataset, [site], split))
    # An unknown split is left to `select_held_out`, which names the known ones.
    return known or dataset.sites


def _index_png(
    regions: UInt8[np.ndarray, "height width"], colors: UInt8[np.ndarray, "clusters 3"]
) -> bytes:
    # A palette keeps the pixel values and lets any viewer show them in color.
    image = Image.fromarray(regions, mode="P")
    image.putpalette(colors.flatten().tolist())
    return _encode(image, "PNG")


def _encode(image: Image.Image | np.ndarray, kind: str) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    content = io.BytesIO()
    image.save(content, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return content.getvalue()
