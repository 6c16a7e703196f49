"""The server's own data: a backbone, and held-out images if it has any."""

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from fusseg.config.compute import choose_compute, set_threads
from fusseg.config.schema import Config
from fusseg.data.class_map import read_class_map
from fusseg.data.findings import Finding
from fusseg.data.layouts import open_dataset
from fusseg.data.selection import select_held_out
from fusseg.data.stored import doubt_stored
from fusseg.evaluation.held_out import HeldOut, gather_held_out
from fusseg.features.backbones import Backbone, load_backbone
from fusseg.features.extraction import Progress, extract_features
from fusseg.features.pipeline import Skipped
from fusseg.features.views import check_views, held_out_views, with_mirrored
from fusseg.federation.strategies import resolve
from fusseg.runs.prepare import check_scored, is_centered


@dataclass(frozen=True)
class PreparedServer:
    """The backbone and the held-out images of a server."""

    backbone: Backbone
    center: bool
    """Whether the mean feature is subtracted before any cosine."""
    held_out: HeldOut | None
    """None if the server has no images."""
    skipped: tuple[Skipped, ...]
    seconds: float

    @property
    def feature_dim(self) -> int:
        """Channels of the features."""
        return self.backbone.feature_dim

    def positions(self, config: Config) -> int:
        """Number of positions in the feature map of a training image."""
        height, width = config.data.image_size
        return (height // self.backbone.stride) * (width // self.backbone.stride)


def prepare_server(
    config: Config, cache: Path
) -> Generator[Progress | Finding, None, PreparedServer]:
    """Load the backbone, and extract the features of held-out images that the cache lacks.

    Yields:
        Findings about the images, and the progress of the extraction, image by image.

    Raises:
        ConfigError: If the configuration names something that does not exist.
        DataError: If held-out images cannot be used.
    """
    check_scored(config)
    if config.teach.class_map:
        # It is needed after the sites' extraction, which may take hours.
        read_class_map(Path(config.teach.class_map))
    set_threads(config.compute)
    backbone = load_backbone(
        config.backbone.name, choose_compute(config.compute), config.backbone.grid
    )
    check_views(config, backbone)
    resolve(config, deployed=True, feature_dim=backbone.feature_dim)
    center = is_centered(config, backbone)
    if not config.data.held_out_sites:
        return PreparedServer(backbone, center, None, (), 0.0)
    dataset = open_dataset(config.data)
    items = select_held_out(dataset, config.data)
    yield from doubt_stored(items, config.data)
    views = held_out_views(items, backbone, config)
    wanted = with_mirrored(views, config.evaluation)
    started = time.perf_counter()
    features = yield from extract_features(wanted, backbone, config.backbone.batch_size, cache)
    seconds = time.perf_counter() - started
    held_out = gather_held_out(views, features, dataset.classes, config.evaluation)
    return PreparedServer(backbone, center, held_out, features.skipped, seconds)
