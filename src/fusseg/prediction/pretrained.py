"""Models that somebody shared, ready to segment."""

from pathlib import Path

from fusseg.export.hub import find_model
from fusseg.prediction.segmenter import Segmenter


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
