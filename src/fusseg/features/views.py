"""How the backbone sees an image: at which size, cut or whole, mirrored or not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fusseg.config.schema import Config, EvaluationConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.images import decoding_of, image_shape
from fusseg.data.items import Item
from fusseg.features.backbones import Backbone, check_image_size
from fusseg.features.cache.codecs import check_cache
from fusseg.features.cache.store import FeatureSettings


@dataclass(frozen=True, slots=True)
class View:
    """One image, and all that decides its features besides its bytes."""

    item: Item
    settings: FeatureSettings


def check_views(config: Config, backbone: Backbone) -> None:
    """Refuse sizes that the backbone does not take, and a cache that its channels do not fill.

    Raises:
        ConfigError: If the size does not suit the backbone, `backbone.cache` its channels, or it
            takes one size only and images are to be seen whole.
    """
    check_cache(config.backbone, backbone.feature_dim)
    check_image_size(backbone, config.data.image_size)
    if config.evaluation.image_size is not None:
        check_image_size(backbone, config.evaluation.image_size, "evaluation.image_size")
    only = backbone.only_size(config.data.image_size)
    if config.evaluation.whole and only is not None:
        raise ConfigError(
            f"backbone {backbone.name!r} takes images of {list(only)} only and cannot see them "
            "whole; set evaluation.whole to false"
        )


def training_views(items: Sequence[Item], backbone: Backbone, config: Config) -> tuple[View, ...]:
    """View training images, all at `data.image_size`.

    Raises:
        ConfigError: If the size does not suit the backbone, or `backbone.cache` its channels.
    """
    settings = _settings(backbone, config)
    return tuple(View(item, settings) for item in items)


def held_out_views(items: Sequence[Item], backbone: Backbone, config: Config) -> tuple[View, ...]:
    """View held-out images: cut to `evaluation.image_size`, or whole.

    Raises:
        ConfigError: If the size does not suit the backbone, `backbone.cache` its channels, or it
            takes one size only and images are to be seen whole.
    """
    settings, size = _settings(backbone, config), config.evaluation.image_size
    if size is not None:
        settings = replace(settings, image_size=size)
    if not config.evaluation.whole:
        return tuple(View(item, settings) for item in items)
    return tuple(View(item, _uncut(item, settings, backbone.stride)) for item in items)


def mirror(view: View) -> View:
    """View the same pixels, left and right exchanged."""
    return View(view.item, replace(view.settings, mirrored=not view.settings.mirrored))


def with_mirrored(views: Sequence[View], evaluation: EvaluationConfig) -> tuple[View, ...]:
    """List all that the evaluation of some views needs features of."""
    return (*views, *map(mirror, views)) if evaluation.flip else tuple(views)


def whole_size(shape: tuple[int, int], shorter: int, stride: int) -> tuple[int, int]:
    """Find the size of an image that is seen whole: its aspect ratio, in whole strides.

    Args:
        shape: Height and width of the image.
        shorter: What its shorter side becomes, in pixels.
        stride: Both sides become the nearest multiples of it.
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
        # The extraction cannot read it either, and skips it with its reason.
        return settings
    size = whole_size(shape, min(settings.image_size), stride)
    return replace(settings, image_size=size, fit="stretch")
