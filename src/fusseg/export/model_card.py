"""The model card: README.md of a model on the Hugging Face hub, written from the model file."""

from collections.abc import Mapping
from typing import Any

from fusseg.config.schema import WhiteLevel
from fusseg.export.artifact import Artifact
from fusseg.export.opening import describe_need, regions_of
from fusseg.features.backbones.efficientnet import ORIGIN
from fusseg.federation.strategies import STRATEGIES
from fusseg.runs.record import DEPLOYMENT
from fusseg.runs.regions import hex_color
from fusseg.runs.taught_classes import regions_of_classes
from fusseg.segmentation.assignment import Segmenter

MODEL_FILE, CARD, PREVIEW = "model.safetensors", "README.md", "preview"
"""Names of the files in a repository; the preview keeps its suffix."""
_METHOD = "[federated learning](https://arxiv.org/abs/2505.23292)"


def model_card(
    artifact: Artifact, repo_id: str, license_id: str | None, preview: str | None
) -> str:
    """Write the card as Markdown with the hub's YAML header.

    Args:
        artifact: The model.
        repo_id: Repository, as OWNER/NAME.
        license_id: Name of the license on the hub, such as `apache-2.0`; None: no license.
        preview: File name of a picture beside the card; None: no picture.
    """
    # Here and not above: a card is written only when a model is published.
    from huggingface_hub import ModelCardData

    header = ModelCardData(
        license=license_id or None,
        library_name="fusseg",
        pipeline_tag="image-segmentation",
        tags=["image-segmentation", "unsupervised-segmentation", "federated-learning", "fusseg"],
    )
    name = repo_id.rpartition("/")[2]
    parts = [
        f"---\n{header.to_yaml()}\n---\n",
        f"# {name}\n",
        f"A model for unsupervised semantic segmentation: it splits images into "
        f"{artifact.segmenter.num_regions} regions. {_origin(artifact.training)} "
        f"{_labels(artifact)}\n",
        *([f"![Regions of an image]({preview})\n"] if preview else []),
        _use(artifact, repo_id),
        _regions(artifact),
        "## Training\n\n" + _table(_training_rows(artifact)),
        "## Limits\n\n" + _limits(artifact.training),
    ]
    return "\n".join(part for part in parts if part)


def _origin(training: Mapping[str, Any]) -> str:
    clients = training.get("num_clients")
    strategy = STRATEGIES.get(str(training.get("strategy")))
    if strategy is not None and strategy.baseline:
        how = "as a baseline without a federation"
    elif training.get("engine") == DEPLOYMENT:
        how = f"by {_METHOD} at {clients} clients: their images stayed with them"
    else:
        how = f"by {_METHOD}, simulated on one machine with {clients} clients"
    parts = [f"It was trained with fusseg {how}."]
    if training.get("own_model_of_one_client"):
        parts.append("Each client kept a model of its own; this is one of them.")
    if training.get("adapted"):
        parts.append(
            "Afterwards its centroids were moved to other images; the clients and images below are "
            "those that the centroids were moved to."
        )
    if training.get("choice"):
        parts.append(training["choice"])
    return " ".join(parts)


def _labels(artifact: Artifact) -> str:
    text = "Training used no label."
    if artifact.backbone.kind == "package":
        text = f"Training used no label, but its frozen backbone was {ORIGIN}."
    if artifact.classes is not None:
        images = artifact.training.get("labeled_images")
        text += f" Afterwards, labels of {images} images taught it the classes below."
    return text


def _use(artifact: Artifact, repo_id: str) -> str:
    need = artifact.backbone
    apart = need.kind in ("onnx", "folder")
    given = {"onnx": "onnx:PATH", "folder": "FOLDER"}.get(need.kind)
    argument = f', backbone="{given}"' if apart else ""
    return (
        "## Use\n\n```python\nfrom fusseg import from_pretrained\n\n"
        f'segmenter = from_pretrained("{repo_id}"{argument})\n'
        'segmentation = segmenter.predict("image.jpg")\n'
        "segmentation.regions  # uint8, height x width: the region of each pixel\n"
        "segmentation.names    # what each region is called\n```\n\n"
        f"The backbone is not in the file. It needs {describe_need(need)}; its fingerprint is "
        f"`{need.fingerprint}`, and any other is refused.\n"
    )


def _regions(artifact: Artifact) -> str:
    regions, title = regions_of(artifact), "Regions"
    if artifact.classes is not None:
        # Without the regions of unknown pixels, which follow the classes.
        title = "Classes"
        regions = regions_of_classes(artifact.classes.names, artifact.classes.colors, None)
    if regions is None:
        return ""
    rows = [
        (str(region.index), _plain(region.name), f"`{hex_color(region.color)}`")
        for region in regions.regions
    ]
    lines = [f"| {' | '.join(row)} |\n" for row in rows]
    return f"## {title}\n\n| pixel value | name | color |\n|---|---|---|\n" + "".join(lines)


def _training_rows(artifact: Artifact) -> list[tuple[str, object]]:
    training, need = artifact.training, artifact.backbone
    data, (height, width) = artifact.data, artifact.data.image_size
    ignored = "ignored" if data.alpha_channel == "ignore" else None
    rows: list[tuple[str, object]] = [
        ("backbone", f"{need.name}, {need.feature_dim} channels, stride {need.stride}"),
        ("image size", f"{height} x {width} pixels, {data.fit}, {data.interpolation}"),
        ("value of white", _white(data.white_level)),
        ("transparency", ignored),
        ("regions, channels of a code", f"{artifact.segmenter.num_regions}, "
         f"{artifact.segmenter.head.code_dim}"),
        ("clusters that were merged to regions", _merged(artifact.segmenter)),
        ("strategy", training.get("strategy")),
        ("rounds", _rounds(training)),
        ("steps per round and client", training.get("local_steps")),
        ("clients", training.get("num_clients")),
        ("images", training.get("num_images")),
        ("seed", training.get("seed")),
        ("fusseg", (training.get("versions") or {}).get("fusseg")),
    ]  # fmt: skip
    rows += [
        (f"images of {_plain(site['name'])}", site["num_images"])
        for site in training.get("sites") or ()
    ]
    if training.get("mean_iou") is not None:
        scored = training.get("scored_images")
        rows += [
            ("mIoU on held-out images", f"{100 * training['mean_iou']:.1f} % of {scored} images"),
            ("pixel accuracy on them", f"{100 * training['pixel_accuracy']:.1f} %"),
        ]
    return [(name, value) for name, value in rows if value is not None]


def _merged(segmenter: Segmenter) -> str | None:
    return None if segmenter.region_of is None else str(segmenter.num_clusters)


def _white(level: WhiteLevel | None) -> str | None:
    if isinstance(level, dict):
        return ", ".join(f"{white} in files of {bands} bands" for bands, white in level.items())
    return None if level is None else str(level)


def _rounds(training: Mapping[str, Any]) -> str | None:
    done, planned = training.get("rounds"), training.get("rounds_planned")
    if done is None:
        return None
    return str(done) if planned in (None, done) else f"{done} of {planned} planned"


def _limits(training: Mapping[str, Any]) -> str:
    lines = [
        "Regions are patterns that the images have in common, not classes that somebody chose. "
        "Look at them before you rely on them.\n",
        "Images that look different from the training images are split too, without a warning.\n",
    ]
    if training.get("mean_iou") is None:
        lines.append("It was not scored: there were no labels to compare with.\n")
    else:
        lines.append(
            "For its score, regions were matched to classes afterwards, by the labels of held-out "
            "images that training never saw.\n"
        )
    return "".join(f"- {line}" for line in lines)


def _table(rows: list[tuple[str, object]]) -> str:
    lines = [f"| {name} | {_plain(str(value))} |\n" for name, value in rows]
    return "| what | value |\n|---|---|\n" + "".join(lines)


def _plain(text: str) -> str:
    """Escape a name, so that it is not read as Markdown or HTML."""
    for character in "\\`*_[]|":
        text = text.replace(character, f"\\{character}")
    return text.replace("<", "&lt;")
