"""Checking how files store their values: the used part of the range, and transparency.

A file does not say what its values mean: 12 bits in a 16-bit file look nearly black, and near
infrared after RGB looks like transparency, until the settings say otherwise. This module only
warns; it does not scale anything.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypedDict

import numpy as np

from fusseg.config.schema import DataConfig
from fusseg.core.errors import DataError
from fusseg.data.decoding import holds_more
from fusseg.data.findings import Finding
from fusseg.data.images import Decoding, decoding_of, read_raster
from fusseg.data.items import Item
from fusseg.data.raster import GRAY_ALPHA, Raster

PER_SITE, IN_ALL = 8, 400
"""Most images to look at before a run: of one site, and of all sites (but at least two of each)."""
_LEAST_CLIPPED = 0.01
"""Least share of values above the white level that is reported."""
_LEAST_LEVELS, _LOOKED_AT = 32, 2_000_000
"""Least number of values in a band that is a picture, and about how many pixels are looked at."""
_ALL_OF_AN_IMAGE, _MOST_OF_AN_IMAGE, _LEAST_SHARE = 0.9, 0.5, 0.1
"""Shares of the pixels that are neither opaque nor clear. The first is of all pixels. For a rough
band, the second is of the pixels that are not clear, and the third is the least share of all."""
_ROUGH, _ROUGH_SHARE = 2.5 / 255, 0.2
"""Second difference of neighbors above that of a soft shadow, and its least share in a picture."""


class StoredValues(TypedDict):
    """What the training images of one kind of file hold, as a record describes it."""

    gray: bool
    """Whether they are gray; otherwise RGB."""
    largest: int
    """Largest value of the file's type."""
    white: int
    """Value that counts as white."""
    highest: int
    """Highest value that occurs in the colors, except the type's largest."""


@dataclass(frozen=True)
class Stored:
    """How one image's file stores its values."""

    site: str
    gray: bool
    largest: int
    """Largest value of the file's type."""
    white: int
    """Value that counts as white."""
    highest: int
    """Highest value of the colors, except the type's largest, which often marks missing pixels."""
    clipped: float = 0.0
    """Share of the colors' values above the white level, except the type's largest."""
    alpha_varies: bool = False
    """Whether its transparency varies over the image, like a picture."""

    @property
    def depth(self) -> int:
        """Bits of the file's type."""
        return self.largest.bit_length()

    @property
    def kind(self) -> str:
        """Name of this kind of file."""
        return f"{self.depth}-bit {'gray' if self.gray else 'RGB'}"


def look_at(raster: Raster, decoding: Decoding, site: str = "") -> Stored:
    """Look at all values of an image.

    Args:
        raster: The image as stored.
        decoding: Meaning of its values.
        site: Site that it comes from.
    """
    white = decoding.white_of(raster)
    gray = raster.num_bands <= GRAY_ALPHA
    if raster.largest == white == 255:
        return Stored(site, gray, 255, 255, 255, alpha_varies=_varies(raster))
    colors = raster.values[:, :, :-1] if raster.has_alpha else raster.values
    counts = np.bincount(colors.ravel(), minlength=raster.largest + 1)[: raster.largest]
    found = np.flatnonzero(counts)
    return Stored(
        site=site,
        gray=gray,
        largest=raster.largest,
        white=white,
        # An image with no other values is white.
        highest=int(found[-1]) if len(found) else raster.largest,
        clipped=float(counts[white + 1 :].sum() / colors.size),
        alpha_varies=_varies(raster),
    )


def look_over(items: Sequence[Item], decoding: Decoding) -> list[Stored]:
    """Look at some images of each site; files with plain 8-bit colors are not decoded.

    Args:
        items: Images of any sites; unreadable ones are skipped.
        decoding: Meaning of their values.
    """
    by_site: dict[str, list[Item]] = defaultdict(list)
    # Crops of one image are looked at once.
    for item in {item.image: item for item in items}.values():
        if isinstance(item.image, Path):
            by_site[item.site].append(item)
    each = min(PER_SITE, max(2, IN_ALL // max(1, len(by_site))))
    found = []
    for site, there in sorted(by_site.items()):
        for item in there[:: -(-len(there) // each)]:
            assert isinstance(item.image, Path)
            try:
                if holds_more(item.image):
                    found.append(look_at(read_raster(item), decoding, site))
                else:
                    found.append(Stored(site, False, 255, 255, 255))
            except DataError:
                # The extraction of its features reports why it is skipped.
                continue
    return found


def judge_stored(images: Sequence[Stored], decoding: Decoding) -> Iterator[Finding]:
    """Warn of sites with files that use only a part of their range, or exceed the white level.

    Args:
        images: Images of all sites.
        decoding: Meaning of their values.
    """
    groups: dict[tuple[str, str], list[Stored]] = defaultdict(list)
    for image in images:
        groups[image.site, image.kind].append(image)
    ranges = [_join(group) for _, group in sorted(groups.items())]
    for one in ranges:
        if _is_partial(one):
            yield Finding("warning", one.site or one.kind, _describe_partial(one, ranges))
        elif one.clipped > _LEAST_CLIPPED:
            text = (
                f"{one.clipped:.0%} of the values of {one.kind} images, up to {one.highest}, lie "
                f"above data.white_level = {one.white} and become white; raise it"
            )
            yield Finding("warning", one.site or one.kind, text)
    yield from _judge_alpha(images, decoding)


def doubt_stored(items: Sequence[Item], data: DataConfig) -> Iterator[Finding]:
    """Look at some images and warn, as `look_over` and `judge_stored` do."""
    decoding = decoding_of(data)
    yield from judge_stored(look_over(items, decoding), decoding)


def sum_up(images: Sequence[Stored]) -> list[StoredValues]:
    """Describe each kind of file over all sites, for a record; it names no site."""
    groups: dict[tuple[bool, int, int], list[Stored]] = defaultdict(list)
    for image in images:
        groups[image.gray, image.largest, image.white].append(image)
    return [
        {"gray": gray, "largest": largest, "white": white, "highest": _join(group).highest}
        for (gray, largest, white), group in sorted(groups.items())
    ]


def judge_unlike(
    images: Sequence[Stored], trained: Sequence[Mapping[str, Any]], decoding: Decoding
) -> Iterator[Finding]:
    """Warn if images use another part of the range than the training images.

    Args:
        images: Images that a model is used on.
        trained: Result of `sum_up` in training; empty: unknown, the whole range is assumed.
        decoding: Meaning of their values, as in training.
    """
    shares = [one["highest"] / one["white"] for one in trained if one["highest"]] or [1.0]
    groups: dict[str, list[Stored]] = defaultdict(list)
    for image in images:
        groups[image.kind].append(image)
    for kind, group in sorted(groups.items()):
        one = _join(group)
        if not one.highest:
            continue
        share = min(1.0, one.highest / one.white)
        nearest = min(shares, key=lambda other: abs(math.log(min(1.0, other) / share)))
        if not 0.5 <= min(1.0, nearest) / share <= 2:
            text = (
                f"these images use 0 to {one.highest} of {one.white}, {share:.0%} of the range, "
                f"while the training images used {min(1.0, nearest):.0%}; regions may be wrong; "
                "scale the values as in training"
            )
            if share < nearest:
                text += f", by {_times(one, nearest)}"
            yield Finding("warning", kind, text)
    yield from _judge_alpha(images, decoding)


def _times(one: Stored, share: float) -> int:
    """Find the power of two that scales an image's values to a share of the range."""
    return 1 << round(math.log2(share * one.white / one.highest))


def _join(group: Sequence[Stored]) -> Stored:
    first = group[0]
    return Stored(
        first.site,
        first.gray,
        first.largest,
        first.white,
        highest=max(image.highest for image in group),
        clipped=fmean(image.clipped for image in group),
    )


def _is_partial(one: Stored) -> bool:
    """Tell whether a bit or more of the range is unused; two or more if the range was set."""
    if one.depth <= 8 or not one.highest:
        return False
    return one.highest * (2 if one.white == one.largest else 4) <= one.white


def _describe_partial(one: Stored, ranges: Sequence[Stored]) -> str:
    bits = one.highest.bit_length()
    said = f"{one.kind} images use 0 to {one.highest} of {one.white} ({bits} bits) and become dark"
    alike = [other for other in ranges if other.kind == one.kind and other.highest]
    most = max(other.highest.bit_length() for other in alike)
    if most > bits:
        full = next(other for other in alike if other.highest.bit_length() == most)
        said += f"; site {full.site} uses {most} bits, and all sites share one white level"
        remedy = f"multiply the values of this site's files by {1 << (most - bits)}"
        if most == one.depth or one.white < one.largest:
            return f"{said}: {remedy}"
        return f"{said}: {remedy}, and set data.white_level = {_advise(ranges)}"
    return f"{said}; set data.white_level = {_advise(ranges)}"


def _advise(ranges: Sequence[Stored]) -> str:
    """Return the white level that fits all files of more than 8 bits, as a TOML value."""
    deep = [one for one in ranges if one.depth > 8 and one.highest]
    levels = {
        bands: (1 << max(one.highest.bit_length() for one in deep if one.gray == gray)) - 1
        for bands, gray in ((1, True), (3, False))
        if any(one.gray == gray for one in deep)
    }
    if len(set(levels.values())) == 1:
        return str(next(iter(levels.values())))
    return "{" + ", ".join(f"{bands} = {level}" for bands, level in levels.items()) + "}"


def _judge_alpha(images: Sequence[Stored], decoding: Decoding) -> Iterator[Finding]:
    if decoding.alpha_channel == "ignore":
        return
    sites: dict[str, list[Stored]] = defaultdict(list)
    for image in images:
        sites[image.site].append(image)
    for site, there in sorted(sites.items()):
        varying = sum(image.alpha_varies for image in there)
        if varying:
            text = (
                f"in {varying} of {len(there)} images the last band is flagged as "
                "transparency but varies over most of the image, as near infrared does; images are "
                'blended onto white by it; set data.alpha_channel = "ignore" if it is another band'
            )
            yield Finding("warning", site or "alpha", text)


def _varies(raster: Raster) -> bool:
    """Tell whether the last band looks like a picture, not like transparency.

    Transparency is clear, opaque, or smooth in between: a soft shadow is smooth, and a smooth edge
    covers little of an image.
    """
    if not raster.has_alpha:
        return False
    # Whole rows, because neighbors are compared.
    step = -(-raster.values[:, :, -1].size // _LOOKED_AT)
    alpha = raster.values[::step, :, -1].astype(np.int32)
    between = (alpha > 0) & (alpha < raster.largest)
    if np.count_nonzero(np.bincount(alpha[between])) < _LEAST_LEVELS:
        return False
    if between.mean() > _ALL_OF_AN_IMAGE:
        return True
    # Where satellite images have no data, all bands are zero.
    if between.sum() <= _MOST_OF_AN_IMAGE * (alpha > 0).sum() or between.mean() < _LEAST_SHARE:
        return False
    bend = np.abs(alpha[:, 2:] - 2 * alpha[:, 1:-1] + alpha[:, :-2]) / raster.largest
    inside = between[:, 2:] & between[:, 1:-1] & between[:, :-2]
    rough = bend[inside] > _ROUGH
    return bool(rough.size) and float(rough.mean()) > _ROUGH_SHARE
