"""The model file: one safetensors file with all that is needed to use a model, without pickle."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fusseg.config.file import parse_config
from fusseg.config.schema import SEEN, BackboneConfig, DataConfig, Grid
from fusseg.core.errors import DataError, FussegError
from fusseg.core.files import write_atomically
from fusseg.core.version import VERSION
from fusseg.runs.regions import Color, NamedCluster
from fusseg.runs.taught_classes import NamedClassifier
from fusseg.segmentation.assignment import Segmenter
from fusseg.segmentation.classifier import Classifier, check_classifier
from fusseg.segmentation.head import HeadWeights, SegmentationHead, build_head
from fusseg.segmentation.objective import check_regions

FORMAT_VERSION = 4
"""Newest version that is read. Version 4 is written only if labels taught the model classes,
version 3 only if clusters are merged, and version 2 only if images are decoded in a way that 1 did
not know, so that an older fusseg does not misread them."""
KEY = "fusseg"
"""Key of the metadata, which is a JSON object; see docs/share.md."""
BackboneKind = Literal["filterbank", "package", "hub", "folder", "onnx"]
_DECODED = ("white_level", "alpha_channel")
_HEAD, _CENTROIDS, _MEAN, _REGIONS = "head.", "centroids", "mean_feature", "region_of"
_WEIGHT, _BIAS = "classifier.weight", "classifier.bias"


@dataclass(frozen=True)
class BackboneNeed:
    """The backbone that a model needs, and where to get it."""

    kind: BackboneKind
    name: str
    """`filterbank`, `efficientnet-lite2`, an id on the hub, or the name of a folder or file without
    its path."""
    fingerprint: str
    feature_dim: int
    stride: int
    file_sha256: str | None = None
    """SHA-256 of the ONNX file, as `sha256sum` prints it; None: it is no ONNX file."""
    grid: Grid | None = None
    """Rows and columns of the ONNX file's tokens; None: it returns a map."""


@dataclass(frozen=True)
class Artifact:
    """Content of a model file."""

    segmenter: Segmenter
    backbone: BackboneNeed
    data: DataConfig
    """How images were decoded and resized in training; other settings are not saved."""
    clusters: tuple[NamedCluster, ...] | None
    """Name and color of every region; None: they have no names."""
    training: Mapping[str, Any]
    """How the model was trained; see docs/share.md."""
    classes: NamedClassifier | None = None
    """Classes that labels taught; None: there are none."""


def save_artifact(path: Path, artifact: Artifact) -> None:
    """Write a model atomically; the same model gives the same bytes.

    Raises:
        DataError: If the file cannot be written.
    """
    tensors = _tensors(artifact)
    decoded = {
        name: getattr(artifact.data, name)
        for name in _DECODED
        if getattr(artifact.data, name) != getattr(DataConfig(), name)
    }
    described = decoded | {
        "image_size": artifact.data.image_size,
        "fit": artifact.data.fit,
        "interpolation": artifact.data.interpolation,
        "training": artifact.training,
        "format_version": 2 if decoded else 1,
        "fusseg": VERSION,
        "num_clusters": artifact.segmenter.num_clusters,
        "code_dim": artifact.segmenter.head.code_dim,
        "backbone": describe_backbone(artifact.backbone),
        "clusters": artifact.clusters and [asdict(cluster) for cluster in artifact.clusters],
    }
    if artifact.segmenter.region_of is not None:
        described["format_version"] = 3
        described["num_regions"] = artifact.segmenter.num_regions
    if artifact.classes is not None:
        described["format_version"] = FORMAT_VERSION
        described["classes"] = describe_classes(artifact.classes)
    # Through JSON once, so that what is hashed equals what is read: lists, not tuples.
    metadata = json.loads(json.dumps(described))
    metadata["sha256"] = _digest(metadata, tensors)
    try:
        write_atomically(path, save(tensors, {KEY: json.dumps(metadata, sort_keys=True)}))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def describe_backbone(need: BackboneNeed) -> dict[str, Any]:
    """Describe a backbone as JSON; `grid` is left out if it is None."""
    described = asdict(need)
    if need.grid is None:
        del described["grid"]
    return described


def describe_classes(classes: NamedClassifier | None) -> dict[str, Any] | None:
    """Describe taught classes as JSON; the tensors of the classifier go beside it."""
    if classes is None:
        return None
    return {
        "names": classes.names,
        "colors": classes.colors,
        "unknown_below": classes.classifier.unknown_below,
    }


def load_artifact(path: Path) -> Artifact:
    """Read a model and check that the file is complete.

    Raises:
        DataError: If the file does not exist, is no model, has a newer version, or is damaged.
    """
    metadata, tensors = _read(path)
    version = metadata.get("format_version")
    # Before the digest, because a newer version may compute it otherwise.
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise DataError(
            f"{path} has format version {version}, this fusseg {VERSION} reads up to "
            f"{FORMAT_VERSION}; install a newer one"
        )
    if metadata.pop("sha256", None) != _digest(metadata, tensors):
        raise DataError(
            f"{path} is damaged: its content does not have the SHA-256 it was written with; "
            "fetch it again"
        )
    try:
        return _unpack(metadata, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, FussegError) as error:
        raise DataError(f"{path} is not a model that fusseg wrote: {error}") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise DataError(f"there is no file {path}; write one with fusseg pack")
    try:
        with safe_open(path, framework="pt") as opened:
            written = (opened.metadata() or {}).get(KEY)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = None if written is None else json.loads(written)
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} is damaged or not a safetensors file: {error}") from error
    if not isinstance(metadata, dict) or "backbone" not in metadata:
        raise DataError(
            f"{path} is not a model of fusseg: its metadata does not describe one; write one with "
            "fusseg pack RUN_DIR"
        )
    return metadata, tensors


def _tensors(artifact: Artifact) -> dict[str, Tensor]:
    segmenter, classes = artifact.segmenter, artifact.classes
    head = {f"{_HEAD}{name}": weight for name, weight in segmenter.head.state_dict().items()}
    tensors = head | {_CENTROIDS: segmenter.centroids, _MEAN: segmenter.mean_feature}
    if segmenter.region_of is not None:
        tensors[_REGIONS] = segmenter.region_of
    if classes is not None:
        tensors |= {_WEIGHT: classes.classifier.weight, _BIAS: classes.classifier.bias}
    return {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}


def _digest(metadata: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """Hash the metadata and every tensor's name, type, shape and bytes."""
    digest = sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _unpack(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Artifact:
    seen = {name: metadata[name] for name in SEEN if name not in _DECODED or name in metadata}
    need = _need(metadata["backbone"])
    segmenter = _segmenter(tensors, need)
    return Artifact(
        segmenter=segmenter,
        backbone=need,
        data=parse_config({"data": seen}).data,
        clusters=_clusters(metadata["clusters"], segmenter.num_regions),
        training=dict(metadata["training"]),
        classes=_classes(metadata.get("classes"), tensors, need.feature_dim),
    )


def _classes(
    entry: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], feature_dim: int
) -> NamedClassifier | None:
    if entry is None:
        return None
    names = entry["names"]
    if not all(isinstance(name, str) and name.isprintable() for name in names):
        raise ValueError("names of classes must be text on one line")
    if len(entry["colors"]) != len(names):
        raise ValueError(f"{len(entry['colors'])} colors for {len(names)} classes")
    unknown = float(entry["unknown_below"])
    classifier = Classifier(tensors[_WEIGHT], tensors[_BIAS], unknown)
    check_classifier(classifier, len(names), feature_dim)
    return NamedClassifier(classifier, tuple(names), tuple(map(_color, entry["colors"])))


def _need(entry: Mapping[str, Any]) -> BackboneNeed:
    _check_choice(entry["kind"], BackboneKind)
    texts = (entry["name"], entry["fingerprint"], entry["file_sha256"] or "")
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise ValueError("text that describes the backbone must be on one line")
    if not all(type(entry[name]) is int and entry[name] > 0 for name in ("feature_dim", "stride")):
        raise ValueError("channels and stride of the backbone must be integers above 0")
    grid = entry.get("grid")
    if isinstance(grid, list):
        rows, columns = grid
        grid = (rows, columns)
    if grid not in (None, "square") and not all(type(side) is int for side in grid):
        raise ValueError(f"grid {grid!r} of the backbone")
    return BackboneNeed(**{**entry, "grid": BackboneConfig(grid=grid).grid})


def _check_choice(value: object, choices: object) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{value!r} is none of {get_args(choices)}")


def _segmenter(tensors: Mapping[str, Tensor], need: BackboneNeed) -> Segmenter:
    head: HeadWeights = {
        name.removeprefix(_HEAD): tensor
        for name, tensor in tensors.items()
        if name.startswith(_HEAD)
    }
    centroids, mean = tensors[_CENTROIDS], tensors[_MEAN]
    code_dim = head["linear.weight"].shape[0]
    with torch.device("meta"):
        expected = SegmentationHead(need.feature_dim, code_dim).state_dict()
    wanted = {name: weight.shape for name, weight in expected.items()}
    if {name: weight.shape for name, weight in head.items()} != wanted:
        raise ValueError(f"head of other shapes than {need.feature_dim} channels to {code_dim}")
    _check_centroids(centroids, code_dim)
    if mean.shape != (need.feature_dim,):
        raise ValueError(f"mean feature of shape {tuple(mean.shape)}")
    region_of = tensors.get(_REGIONS)
    if region_of is not None:
        check_regions(region_of, len(centroids))
    for name, tensor in tensors.items():
        if name == _REGIONS:
            continue
        if tensor.dtype != torch.float32 or not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} must be finite float32")
    # The centroids are at unit length: dividing again could change their last bits.
    return Segmenter(build_head(head), centroids, mean, region_of)


def _check_centroids(centroids: Float[Tensor, "..."], code_dim: int) -> None:
    if centroids.ndim != 2 or centroids.shape[1] != code_dim or not 2 <= len(centroids) <= 255:
        raise ValueError(f"centroids of shape {tuple(centroids.shape)} for codes of {code_dim}")
    lengths = torch.linalg.vector_norm(centroids, dim=1)
    if not torch.allclose(lengths, torch.ones_like(lengths), atol=1e-4):
        raise ValueError("centroids must have unit length")


def _clusters(entries: Any, num_regions: int) -> tuple[NamedCluster, ...] | None:  # noqa: ANN401
    if entries is None:
        return None
    if sorted(entry["cluster"] for entry in entries) != list(range(num_regions)):
        raise ValueError("names must be given to every region once")
    names = [entry["name"] for entry in entries]
    if not all(isinstance(name, str) and name.isprintable() for name in names):
        raise ValueError("names must be text on one line")
    return tuple(
        NamedCluster(int(entry["cluster"]), entry["name"], _color(entry["color"]))
        for entry in entries
    )


def _color(values: Any) -> Color:  # noqa: ANN401
    red, green, blue = values
    if not all(type(value) is int and 0 <= value <= 255 for value in values):
        raise ValueError(f"color {values!r}")
    return red, green, blue
