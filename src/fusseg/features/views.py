"""Views: how the backbone sees an image, with its size, cropped or whole, mirrored or not."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fusseg.config.schema import Config, EvaluationConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.images import decoding_of, image_shape
from fusseg.data.items import Item
from fusseg.features.backbones import Backbone, check_image_size, is_zoomable
from fusseg.features.cache.codecs import check_cache
from fusseg.features.cache.store import FeatureSettings

_SHARE = 4
"""One of so many of a client's images is also seen zoomed."""
_MOST = 64
"""Most images of a client that are also seen zoomed."""


@dataclass(frozen=True, slots=True)
class View:
    """One image, and everything else that determines its features."""

    item: Item
    settings: FeatureSettings


def check_views(config: Config, backbone: Backbone) -> None:
    """Refuse sizes that the backbone does not take, and a cache with too many components.

    Raises:
        ConfigError: If a size does not suit the backbone, `backbone.cache` does not suit its
            channels, or it takes only one size but `evaluation.whole` is set.
    """
    check_cache(config.backbone, backbone.feature_dim)
    check_image_size(backbone, config.data.image_size)
    if config.evaluation.image_size is not None:
        check_image_size(backbone, config.evaluation.image_size, "evaluation.image_size")
    only = backbone.only_size(config.data.image_size)
    if config.evaluation.whole and only is not None:
        raise ConfigError(
            f"backbone {backbone.name!r} takes only images of {list(only)} and cannot see images "
            "whole; set evaluation.whole to false"
        )


def training_views(items: Sequence[Item], backbone: Backbone, config: Config) -> tuple[View, ...]:
    """View training images, all at `data.image_size`.

    Raises:
        ConfigError: As `check_views`.
    """
    settings = _settings(backbone, config)
    return tuple(View(item, settings) for item in items)


def held_out_views(items: Sequence[Item], backbone: Backbone, config: Config) -> tuple[View, ...]:
    """View held-out images: fitted to `evaluation.image_size` (else `data.image_size`), or whole.

    Raises:
        ConfigError: As `check_views`.
    """
    settings, size = _settings(backbone, config), config.evaluation.image_size
    if size is not None:
        settings = replace(settings, image_size=size)
    if not config.evaluation.whole:
        return tuple(View(item, settings) for item in items)
    return tuple(View(item, _uncut(item, settings, backbone.stride)) for item in items)


def mirror(view: View) -> View:
    """View the same image mirrored, left to right."""
    return View(view.item, replace(view.settings, mirrored=not view.settings.mirrored))


def zoomed_views(training: Sequence[View], backbone: Backbone) -> tuple[View, ...]:
    """View the center of some training images of each client, enlarged, for the judge.

    There are none for a backbone that is not zoomable.
    """
    if not is_zoomable(backbone.name):
        return ()
    by_client: dict[str, list[View]] = defaultdict(list)
    for view in training:
        by_client[view.item.client].append(view)
    return tuple(
        View(views[place].item, replace(views[place].settings, zoomed=True))
        for views in by_client.values()
        for place in pick_images(len(views))
    )


def pick_images(num_images: int) -> list[int]:
    """Pick the images that are also seen zoomed: one in four, evenly spaced, at most 64.

    >>> pick_images(10)
    [0, 4, 9]

    Args:
        num_images: Number of a client's images, at least 1.
    """
    count = min(-(-num_images // _SHARE), _MOST)
    return [place * (num_images - 1) // max(1, count - 1) for place in range(count)]


def with_mirrored(views: Sequence[View], evaluation: EvaluationConfig) -> tuple[View, ...]:
    """List the views that an evaluation needs: with `evaluation.flip`, also mirrored ones."""
    return (*views, *map(mirror, views)) if evaluation.flip else tuple(views)


def whole_size(shape: tuple[int, int], shorter: int, stride: int) -> tuple[int, int]:
    """Find the size of an image that is seen whole: its aspect ratio, in whole strides.

    Args:
        shape: Height and width of the image.
        shorter: New length of the shorter side in pixels.
        stride: Both sides become the nearest multiples of it.

    Examples:
        >>> whole_size((480, 640), 320, 8)
        (320, 424)
    """
    scale = shorter / min(shape)
    height, width = (max(1, round(side * scale / stride)) * stride for side in shape)
    return height, width


def _settings(backbone: Backbone, config: Config) -> FeatureSettings:
    check_views(config, backbone)
    decoding = decoding_of(config.data)
    return FeatureSettings(
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        image_size=config.data.image_size,
        fit=config.data.fit,
        interpolation=config.data.interpolation,
        precision=backbone.precision,
        cache=config.backbone.cache,
        white_levels=decoding.white_levels,
        alpha_channel=decoding.alpha_channel,
    )


def _uncut(item: Item, settings: FeatureSettings, stride: int) -> FeatureSettings:
    try:
        shape = image_shape(item)
    except DataError:
        # The extraction cannot read it either; it skips the image and gives the reason.
        return settings
    size = whole_size(shape, min(settings.image_size), stride)
    return replace(settings, image_size=size, fit="stretch")
