"""Where a loaded model comes from, and which one it is, so that another process can load it too."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fusseg.segmentation.assignment import Segmenter


@dataclass(frozen=True)
class Source:
    """From where a segmenter is loaded, and how: as given to `Segmenter.load`."""

    path: Path
    site: str | None
    backbone: str | None


def identify(model: Segmenter, *described: object) -> str:
    """Hash all that a prediction depends on but the names of regions.

    Args:
        model: Its weights count.
        described: What else counts, by its `repr`.
    """
    digest = sha256(repr(described).encode())
    weights = {**model.head.state_dict(), "centroids": model.centroids, "mean": model.mean_feature}
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
