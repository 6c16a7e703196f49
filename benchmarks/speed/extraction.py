"""Rows about extraction: compared with the backbone alone on preloaded images, and in bfloat16."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cosine_similarity

from benchmarks.speed.rows import Figures, Limit, SpeedRow, missing_row, speed_row
from benchmarks.speed.sizes import Setting
from benchmarks.speed.timing import time_alternately
from fusseg.config.compute import Compute, has_bfloat16
from fusseg.config.schema import BackboneConfig, Config, DataConfig
from fusseg.data.images import decoding_of, fit_image, load_image
from fusseg.data.layouts import open_dataset
from fusseg.data.synthetic.scenes import Scene, draw_scene
from fusseg.features.backbones import Backbone, load_backbone
from fusseg.features.extraction import extract_features, wait_for
from fusseg.features.views import View, training_views

HIDDEN = Limit("ratio", 1 / 0.9, says="at least 0.9 of the backbone's throughput")
ALIKE = Limit("ratio", 0.999, at_least=True, says="cosine above 0.999")
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class _Images:
    """The same images as files and as input of the backbone."""

    config: Config
    pixels: UInt8[Tensor, "images height width 3"]

    def views(self, backbone: Backbone) -> tuple[View, ...]:
        return training_views(open_dataset(self.config.data).items, backbone, self.config)


def filterbank_rows(setting: Setting) -> list[SpeedRow]:
    """Measure extraction with the filter bank, which has no weights."""
    images = _write_images(setting, setting.sizes.extracted_images)
    return [_row(setting, images, load_backbone("filterbank"), "filterbank")]


def vit_rows(setting: Setting) -> list[SpeedRow]:
    """Measure extraction with a ViT of random weights, in both precisions."""
    hidden, layers = setting.sizes.vit
    folder = setting.folder / "vit"
    write_vit(folder, hidden, layers, setting.sizes.side)
    return _rows(setting, str(folder), f"ViT of {layers} layers")


def given_backbone_rows(setting: Setting) -> list[SpeedRow]:
    """Measure extraction with the backbone named on the command line."""
    if setting.backbone is None:
        size = f"{setting.sizes.side}x{setting.sizes.side}"
        reason = "no backbone with weights was given; --backbone onnx:PATH"
        return [missing_row("extraction, given backbone", size, HIDDEN, reason)]
    return _rows(setting, setting.backbone, "given backbone")


def write_vit(folder: Path, hidden: int, layers: int, side: int) -> None:
    """Write a ViT with random weights, in the file format of the Hugging Face hub."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden,
        patch_size=8,
        image_size=side,
    )
    model = ViTModel(config, add_pooling_layer=False)
    config.save_pretrained(folder)
    # `save_pretrained` would draw a progress bar.
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


def _rows(setting: Setting, name: str, label: str) -> list[SpeedRow]:
    """Measure a backbone in float32, and in bfloat16 if device and backbone support it."""
    device = setting.torch_device
    images = _write_images(setting, setting.sizes.slow_images)
    exact = load_backbone(name, Compute(device, torch.float32))
    rows = [_row(setting, images, exact, f"{label}, float32")]
    row_name = f"extraction, {label}, bfloat16"
    size = f"{len(images.pixels)} images of {setting.sizes.side}x{setting.sizes.side}"
    if not has_bfloat16(device):
        reason = f"{setting.device} multiplies no bfloat16 in hardware"
        return [*rows, missing_row(row_name, size, HIDDEN, reason)]
    narrow = load_backbone(name, Compute(device, torch.bfloat16))
    if narrow.precision == "float32":
        reason = "this kind of backbone runs in the precision of its file"
        return [*rows, missing_row(row_name, size, HIDDEN, reason)]
    rows.append(_row(setting, images, narrow, f"{label}, bfloat16"))
    features = _forward(exact, images.pixels)
    cosine = cosine_similarity(features, _forward(narrow, images.pixels), dim=1)
    note = f"mean cosine to float32 over all positions; the lowest {float(cosine.min()):.5f}"
    figures = Figures(ratio=float(cosine.mean()))
    name = f"{row_name}, features"
    return [
        *rows,
        speed_row(name, size, figures, ALIKE, note, (setting.device, setting.sizes.name)),
    ]


def _row(setting: Setting, images: _Images, backbone: Backbone, label: str) -> SpeedRow:
    views = images.views(backbone)

    def extract() -> None:
        with tempfile.TemporaryDirectory(dir=setting.folder) as cache:
            wait_for(extract_features(views, backbone, 1, Path(cache)))

    stage, floor = time_alternately(
        [extract, lambda: _forward(backbone, images.pixels)], setting.sizes.repeats
    )
    count = len(images.pixels)
    figures = Figures(stage.seconds / count, floor.seconds / count, peak_bytes=stage.peak_bytes)
    return speed_row(
        f"extraction, {label}",
        f"{count} JPEG images, {setting.sizes.side}x{setting.sizes.side}",
        figures,
        HIDDEN,
        f"per image, {backbone.feature_dim} channels; floor: the backbone on preloaded images; "
        f"{floor.seconds / stage.seconds:.2f} of its throughput",
        (setting.device, setting.sizes.name),
    )


def _forward(
    backbone: Backbone, pixels: UInt8[Tensor, "images height width 3"]
) -> Float[Tensor, "images dim h w"]:
    with torch.inference_mode():
        return torch.cat([backbone.extract(image[None]) for image in pixels])


def _write_images(setting: Setting, count: int) -> _Images:
    """Draw scenes, write them as JPEG files, and read them as extraction does."""
    root = Path(tempfile.mkdtemp(dir=setting.folder))
    folder = root / "site" / "images"
    folder.mkdir(parents=True)
    for index in range(count):
        pixels, _ = draw_scene(Scene("pipes", "yard", index, 0))
        Image.fromarray(pixels).save(folder / f"{index:06d}.jpg", quality=_JPEG_QUALITY)
    size = (setting.sizes.side, setting.sizes.side)
    config = Config(data=DataConfig(root=str(root), image_size=size), backbone=BackboneConfig())
    data = config.data
    seen = [
        torch.from_numpy(
            fit_image(
                load_image(item, decoding_of(data)), data.image_size, data.fit, data.interpolation
            ).copy()
        )
        for item in open_dataset(data).items
    ]
    return _Images(config, torch.stack(seen))
