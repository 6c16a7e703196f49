"""A trained model as its users meet it: an image in, named regions out."""

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
from fusseg.segmentation.assignment import Segmenter as Model
from fusseg.segmentation.assignment import encode

DEFAULT_OPTIONS = PredictOptions()


@dataclass(frozen=True)
class Source:
    """From where a segmenter is loaded, and how: as given to `Segmenter.load`."""

    path: Path
    site: str | None
    backbone: str | None


@dataclass(frozen=True)
class Segmenter:
    """Backbone, model, scale and names: all that turns an image into named regions.

    It is pickled by path: another process loads it from there, and refuses one that has changed.
    """

    name: str
    """Of the run."""
    digest: str
    """SHA-256 of the state of the run, hex."""
    site: str | None
    """Whose model; None: the global one."""
    round_number: int
    """Of the last finished round."""
    data: DataConfig
    """How images were decoded and seen in training."""
    backbone: Backbone
    model: Model
    regions: Regions
    stored_values: tuple[Mapping[str, Any], ...] = ()
    """What the files of training held, as in the record; empty: unknown."""
    source: Source | None = None
    """None: it was not loaded from a path, and cannot be pickled."""

    @classmethod
    def load(
        cls, path: Path | str, site: str | None = None, *, backbone: str | None = None
    ) -> "Segmenter":
        """Load the model of a run, or of a file, with the names that its regions were given.

        Args:
            path: Run directory, or a file that `fusseg pack` wrote.
            site: Whose model, where each site of a run has its own.
            backbone: For a file: this machine's copy, as in `backbone.name`; None: the filter bank,
                or the id on the hub that the file names.

        Raises:
            ConfigError: If the folder is no run, the backbone is another one or has to be given,
                the names are wrong, or a site is needed and not given, given and not needed, or
                unknown.
            DataError: If no round is finished, or the state or file is damaged.
        """
        source = Source(Path(path).absolute(), site, backbone)
        if Path(path).is_file():
            run, named = load_model(Path(path), backbone)
            segmenter = segmenter_of(run, pick_segmenter(run, site))
        elif backbone is not None:
            raise ConfigError(f"the run {path} names its backbone; drop {backbone!r}")
        else:
            run = load_run(Path(path))
            segmenter = segmenter_of(run, pick_segmenter(run, site), site)
            named = load_regions(Path(path), segmenter.model.num_clusters, site)
        return replace(segmenter, source=source, regions=named or segmenter.regions)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where the model is and which one it is, and the names, which may differ.

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
        """Give itself: it never changes."""
        return self

    def __deepcopy__(self, _: object) -> "Segmenter":
        """Give itself: it never changes."""
        return self

    def with_regions(self, regions: Regions) -> "Segmenter":
        """Name the regions otherwise."""
        return replace(self, regions=regions)

    def numbered(self) -> "Segmenter":
        """Call the regions by the number of their cluster."""
        return self.with_regions(numbered_regions(self.model.num_clusters))

    def predict(
        self, image: np.ndarray | Path | str, options: PredictOptions = DEFAULT_OPTIONS
    ) -> Segmentation:
        """Segment an image of any size, at its own size.

        Args:
            image: RGB in [0, 255] of shape (height, width, 3), or an image file.
            options: Scale, tiles and refinement.

        Raises:
            ConfigError: If the options do not suit the image or the backbone.
            DataError: If the image cannot be read, is no such array, or its features are not
                finite.
        """
        if isinstance(image, Path | str):
            path = Path(image)
            item = Item(site="", stem=path.stem, split="", image=path)
            image = load_image(item, decoding_of(self.data))
        _check_image(image)
        return segment_images(self, [image], options)[0]


def from_pretrained(source: str | Path, backbone: str | None = None) -> Segmenter:
    """Load a model from the Hugging Face hub, or from a file or folder of this machine.

    Args:
        source: OWNER/NAME on the hub, a model file, or a folder that holds `model.safetensors`.
            What is there as a path goes before the hub.
        backbone: This machine's copy, as in `backbone.name`: `onnx:PATH`, a folder or an id. None:
            the filter bank, or the id on the hub that the model names.

    Raises:
        ConfigError: If the hub has no such model, or the backbone has to be given, cannot be
            loaded, or is another one.
        DataError: If the file is no model, of a newer format version, or damaged.
    """
    return Segmenter.load(find_model(source), backbone=backbone)


def segmenter_of(run: TrainedRun, model: Model, site: str | None = None) -> Segmenter:
    """Make a segmenter of one of a run's models, its regions called by their number."""
    return Segmenter(
        name=run.name,
        digest=run.digest,
        site=site,
        round_number=run.rounds_done,
        data=run.config.data,
        backbone=run.backbone,
        model=model,
        regions=numbered_regions(model.num_clusters),
        stored_values=run.stored_values,
    )


def segment_image(
    image: UInt8[np.ndarray, "height width 3"], run: TrainedRun, segmenter: Model
) -> UInt8[np.ndarray, "height width"]:
    """Segment a whole image at its own size; `Segmenter.predict` without names and options.

    Args:
        image: RGB.
        run: Backbone and scale.
        segmenter: One of the run's.

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
    """Segment images; those that the backbone sees whole and at one size share a forward pass.

    Args:
        segmenter: With its names.
        images: RGB.
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
    """Load what was pickled, once for all tasks of a process that bring it along."""
    segmenter = Segmenter.load(source.path, source.site, backbone=source.backbone)
    if _identify(segmenter) != identity:
        raise DataError(
            f"the model at {source.path} is not the one that was pickled: its state, backbone or "
            "settings have changed since; load it again with Segmenter.load"
        )
    return segmenter


def _unpickle(source: Source, identity: str, regions: Regions) -> Segmenter:
    return _load_again(source, identity).with_regions(regions)


def _identify(segmenter: Segmenter) -> str:
    """Hash all that a prediction depends on but the names of regions."""
    model = segmenter.model
    described = (segmenter.digest, segmenter.data, segmenter.backbone.fingerprint)
    digest = sha256(repr(described).encode())
    weights = {**model.head.state_dict(), "centroids": model.centroids, "mean": model.mean_feature}
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def encode_seen(
    segmenter: Segmenter, seen: Sequence[Pixels]
) -> Float[Tensor, "images height width code"]:
    """Encode images of one size, as the backbone is to see them.

    Raises:
        DataError: If the features are not finite.
    """
    batch = torch.from_numpy(np.ascontiguousarray(np.stack(seen)))
    features = segmenter.backbone.extract(batch)
    codes = []
    for one in features:
        # Rounded as in the cache, so that a prediction is what the evaluation saw.
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
    """Give every pixel of an image its region; the backbone saw it at another size."""
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
