"""The public interface of a trained model: an image in, named regions out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fusseg.config.compute import settle_in_child
from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.images import decoding_of, fit_image, load_image
from fusseg.data.items import Item
from fusseg.export.hub import find_model
from fusseg.export.opening import load_model
from fusseg.features.backbones import Backbone
from fusseg.prediction.refinement import refine_crf, refine_guided
from fusseg.prediction.segmentation import Segmentation, describe_areas
from fusseg.prediction.strips import assign_strips
from fusseg.prediction.tiling import Bands, Pixels, Track, code_bands, untracked
from fusseg.prediction.viewing import PredictOptions, Viewing, view_image
from fusseg.report.cluster_colors import numbered_regions
from fusseg.runs.load import TrainedRun, load_run, pick_segmenter
from fusseg.runs.regions import Regions, load_regions
from fusseg.runs.taught_classes import regions_of_classes
from fusseg.segmentation.assignment import Segmenter as Model
from fusseg.segmentation.assignment import encode, with_classes

DEFAULT_OPTIONS = PredictOptions()


@dataclass(frozen=True)
class Source:
    """Arguments of `Segmenter.load` that a segmenter was loaded with."""

    path: Path
    site: str | None
    backbone: str | None
    regions: bool


@dataclass(frozen=True)
class Segmenter:
    """Everything needed to turn an image into named regions: backbone, model, settings, names.

    Load one with `Segmenter.load` or `fusseg.from_pretrained`. It is pickled by its path: another
    process loads the model from there, and refuses one that has changed.

    Here a model is made by hand, from two clusters of the features of one image:

    >>> from fusseg.federation.baselines import features_anchor
    >>> from fusseg.features.backbones import load_backbone
    >>> from fusseg.segmentation.assignment import build_segmenter
    >>> image = np.zeros((64, 96, 3), np.uint8)
    >>> image[:, 48:] = 255
    >>> backbone = load_backbone("filterbank")
    >>> features = backbone.extract(torch.from_numpy(image[None]))[0].flatten(1).T
    >>> mean = features.mean(dim=0)
    >>> trained = features_anchor(features - mean, 2, torch.Generator().manual_seed(0))
    >>> model = build_segmenter(trained, mean)
    >>> data = DataConfig(image_size=(64, 96))
    >>> names = numbered_regions(2)
    >>> segmenter = Segmenter("halves", "", None, 0, data, backbone, model, names)
    >>> found = segmenter.predict(image)
    >>> found.regions.shape, found.shares
    ((64, 96), {0: 0.5, 1: 0.5})
    >>> bool(found.regions[0, 0] == found.regions[0, -1])
    False
    """

    name: str
    """Name of the run."""
    digest: str
    """SHA-256 of the state of the run, hex."""
    site: str | None
    """Site that the model belongs to; None: the global model."""
    round_number: int
    """Number of the last finished round."""
    data: DataConfig
    """How images were decoded and preprocessed in training."""
    backbone: Backbone
    model: Model
    regions: Regions
    stored_values: tuple[Mapping[str, Any], ...] = ()
    """Pixel formats of the training files, as in the record; empty: unknown."""
    source: Source | None = None
    """None: the segmenter was not loaded from a path and cannot be pickled."""

    @classmethod
    def load(
        cls,
        path: Path | str,
        site: str | None = None,
        *,
        backbone: str | None = None,
        regions: bool = False,
    ) -> "Segmenter":
        """Load the model of a run, or of a file, with the names of its regions or classes.

        Args:
            path: Run directory, or a file written by `fusseg pack`.
            site: Site to load the model of, if each site of the run has its own.
            backbone: For a file: this machine's copy of the backbone, as in `backbone.name`; None:
                the filter bank, or the id on the hub that the file names.
            regions: Whether to use label-free regions, though labels taught the model classes.

        Raises:
            ConfigError: If the folder is not a run, the backbone is a different one or has to be
                given, the names are invalid, or a site is unknown, missing, or given but not
                needed.
            DataError: If no round is finished, or the state or file is damaged.
        """
        source = Source(Path(path).absolute(), site, backbone, regions)
        if Path(path).is_file():
            run, named = load_model(Path(path), backbone)
        elif backbone is not None:
            raise ConfigError(f"the run {path} names its backbone; drop {backbone!r}")
        else:
            run = load_run(Path(path))
            named = load_regions(Path(path), pick_segmenter(run, site).num_regions, site)
        segmenter = segmenter_of(run, pick_segmenter(run, site), site)
        segmenter = replace(segmenter, source=source, regions=named or segmenter.regions)
        return segmenter if regions else segmenter.with_classes(run)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path and identity of the model, and the names of its regions.

        Raises:
            ConfigError: If it was not loaded from a path.
        """
        if self.source is None:
            raise ConfigError(
                "this segmenter was not loaded from a path and cannot be pickled; load one with "
                "Segmenter.load"
            )
        return _unpickle, (self.source, _identify(self), self.regions)

    def __copy__(self) -> "Segmenter":
        """Return itself: a segmenter is immutable."""
        return self

    def __deepcopy__(self, _: object) -> "Segmenter":
        """Return itself: a segmenter is immutable."""
        return self

    def with_regions(self, regions: Regions) -> "Segmenter":
        """Return a segmenter with other names of its regions."""
        return replace(self, regions=regions)

    def with_classes(self, run: TrainedRun) -> "Segmenter":
        """Return a segmenter with the classes that the run was taught, if it was taught some."""
        if run.classes is None:
            return self
        model = with_classes(self.model, run.classes.classifier)
        own = self.regions if model.uses_clusters else None
        named = regions_of_classes(run.classes.names, run.classes.colors, own)
        return replace(self, model=model, regions=named)

    def numbered(self) -> "Segmenter":
        """Return a segmenter with the regions named by their cluster numbers."""
        return self.with_regions(numbered_regions(self.model.num_regions))

    def predict(
        self, image: np.ndarray | Path | str, options: PredictOptions = DEFAULT_OPTIONS
    ) -> Segmentation:
        """Segment an image of any size, at its own size.

        Args:
            image: RGB array in [0, 255] of shape (height, width, 3), or an image file.
            options: Scale, tiles and refinement.

        Returns:
            The region of each pixel, with the names, shares and confidence of all regions.

        Raises:
            ConfigError: If the options do not suit the image or the backbone.
            DataError: If the image cannot be read, is not such an array, or its features are not
                finite.
        """
        if isinstance(image, Path | str):
            path = Path(image)
            item = Item(site="", stem=path.stem, split="", image=path)
            image = load_image(item, decoding_of(self.data))
        _check_image(image)
        return segment_images(self, [image], options)[0]


def from_pretrained(source: str | Path, backbone: str | None = None) -> Segmenter:
    """Load a shared model from the Hugging Face hub, or from a local file or folder.

    Args:
        source: OWNER/NAME on the hub, a model file, or a folder with a `model.safetensors`. An
            existing path takes precedence over the hub.
        backbone: This machine's copy of the backbone, as in `backbone.name`: `onnx:PATH`, a folder
            or an id. None: the filter bank, or the id on the hub that the model names.

    Raises:
        ConfigError: If the hub has no such model, or the backbone has to be given, cannot be
            loaded, or is a different one.
        DataError: If the file is not a model, is damaged, or has a newer format version.
    """
    return Segmenter.load(find_model(source), backbone=backbone)


def segmenter_of(run: TrainedRun, model: Model, site: str | None = None) -> Segmenter:
    """Make a segmenter from one of a run's models, with the regions named by their numbers."""
    return Segmenter(
        name=run.name,
        digest=run.digest,
        site=site,
        round_number=run.rounds_done,
        data=run.config.data,
        backbone=run.backbone,
        model=model,
        regions=numbered_regions(model.num_regions),
        stored_values=run.stored_values,
    )


def segment_image(
    image: UInt8[np.ndarray, "height width 3"], run: TrainedRun, segmenter: Model
) -> UInt8[np.ndarray, "height width"]:
    """Segment a whole image at its own size; like `Segmenter.predict`, without names and options.

    Args:
        image: RGB image.
        run: The run, with its backbone and settings.
        segmenter: One of the run's models.

    Returns:
        Cluster of each pixel.

    Raises:
        DataError: If the backbone's features are not finite.
    """
    return segmenter_of(run, segmenter).predict(image).regions


def segment_images(
    segmenter: Segmenter,
    images: Sequence[Pixels],
    options: PredictOptions,
    track: Track = untracked,
) -> list[Segmentation]:
    """Segment images; untiled images of one size share a forward pass of the backbone.

    Args:
        segmenter: Segmenter with its names.
        images: RGB images.
        options: Scale, tiles and refinement.
        track: Wraps the rows of tiles of each image.

    Raises:
        ConfigError: If the options do not suit an image or the backbone.
        DataError: If the features of an image are not finite.
    """
    settle_in_child()
    views = []
    for image in images:
        shape = (image.shape[0], image.shape[1])
        views.append(view_image(shape, segmenter.data, segmenter.backbone, options))
    if len(images) > 1 and len(set(views)) == 1 and views[0].tiling.num_tiles == 1:
        seen = [_fit(image, views[0], segmenter) for image in images]
        codes = encode_seen(segmenter, seen)
        return [
            _finish(segmenter, (image, small), views[0], options, iter([one]))
            for image, small, one in zip(images, seen, codes, strict=True)
        ]
    found = []
    for image, view in zip(images, views, strict=True):
        small, stride = _fit(image, view, segmenter), segmenter.backbone.stride
        bands = code_bands(
            small, view.tiling, stride, lambda tiles: encode_seen(segmenter, tiles), options.batch
        )
        bands = track(bands, len(view.tiling.starts[0]))
        found.append(_finish(segmenter, (image, small), view, options, bands))
    return found


@lru_cache(maxsize=2)
def _load_again(source: Source, identity: str) -> Segmenter:
    """Load a pickled segmenter, once for all tasks of a process that carry it."""
    segmenter = Segmenter.load(
        source.path, source.site, backbone=source.backbone, regions=source.regions
    )
    if _identify(segmenter) != identity:
        raise DataError(
            f"the model at {source.path} is not the one that was pickled: its state, backbone or "
            "settings have changed since; load it again with Segmenter.load"
        )
    return segmenter


def _unpickle(source: Source, identity: str, regions: Regions) -> Segmenter:
    return _load_again(source, identity).with_regions(regions)


def _identify(segmenter: Segmenter) -> str:
    """Hash everything that a prediction depends on, except the names of regions."""
    model = segmenter.model
    described = (segmenter.digest, segmenter.data, segmenter.backbone.fingerprint)
    digest = sha256(repr(described).encode())
    weights = {**model.head.state_dict(), "centroids": model.centroids, "mean": model.mean_feature}
    if model.region_of is not None:
        weights["region_of"] = model.region_of
    if model.classifier is not None:
        # Where a position is unknown is part of the state, whose digest is hashed above.
        weights |= {"classes": model.classifier.weight, "class_bias": model.classifier.bias}
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def encode_seen(
    segmenter: Segmenter, seen: Sequence[Pixels]
) -> Float[Tensor, "images height width code"]:
    """Encode images of one size that have already been resized for the backbone.

    Raises:
        DataError: If the features are not finite.
    """
    batch = torch.from_numpy(np.ascontiguousarray(np.stack(seen)))
    features = segmenter.backbone.extract(batch)
    codes = []
    for one in features:
        # Rounded as in the cache, so that predictions equal those of the evaluation.
        rounded = one.permute(1, 2, 0).half().float()
        if not bool(rounded.isfinite().all()):
            raise DataError("the backbone's features are not finite in float16")
        codes.append(encode(segmenter.model, rounded))
    return torch.stack(codes)


@torch.inference_mode()
def _finish(
    segmenter: Segmenter,
    pictures: tuple[Pixels, Pixels],
    view: Viewing,
    options: PredictOptions,
    bands: Bands,
) -> Segmentation:
    """Assign every pixel of an image to its region; the backbone may have seen another size."""
    image, seen = pictures
    model, regions = segmenter.model, segmenter.regions
    size, map_size = (image.shape[0], image.shape[1]), view.tiling.size
    if options.refine == "none":
        assigned = assign_strips(bands, map_size, size, model, regions)
    elif options.refine == "crf":
        assigned = refine_crf(image, bands, model, regions)
    else:
        assigned = refine_guided(image, seen, bands, map_size, model, regions)
    return describe_areas(assigned, regions, view)


def _fit(image: Pixels, view: Viewing, segmenter: Segmenter) -> Pixels:
    if image.shape[:2] == view.size:
        return image
    return fit_image(image, view.size, "stretch", segmenter.data.interpolation)


def _check_image(image: object) -> None:
    if not isinstance(image, np.ndarray):
        raise DataError(
            "an image must be an array of uint8 of shape (height, width, 3) or the path of a file, "
            f'got {type(image).__name__}; give np.asarray(image.convert("RGB")) for a PIL image'
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(
            "an image must be an array of uint8 of shape (height, width, 3), got "
            f"{image.dtype} of shape {image.shape}; give RGB in 0 to 255"
        )
