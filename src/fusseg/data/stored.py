"""Which part of its range a site's files use, and bands that are taken for transparency.

Values say nothing of what they mean: 12 bits in a 16-bit file are nearly black, and near infrared
behind RGB is transparency, until somebody says so. Nothing is scaled by what is found here.
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
"""Images of a site that are looked at before a run, and of all sites but for two of each."""
_LEAST_CLIPPED = 0.01
"""Share of values above the white level that is worth saying."""
_LEAST_LEVELS, _LOOKED_AT = 32, 2_000_000
"""Values of transparency that are no haze, and about how many pixels are looked at."""
_ALL_OF_AN_IMAGE, _MOST_OF_AN_IMAGE, _LEAST_SHARE = 0.9, 0.5, 0.1
"""Share of the pixels that are neither opaque nor clear: of all; and, where they are rough, of
those that are not clear, and the least of all."""
_ROUGH, _ROUGH_SHARE = 2.5 / 255, 0.2
"""Second difference of neighbors that a soft shadow does not have, and how often a picture does."""


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
    """What one image's file holds."""

    site: str
    gray: bool
    largest: int
    """Largest value of the file's type."""
    white: int
    """Value that counts as white."""
    highest: int
    """Highest value that occurs in the colors, but for the type's largest, which often marks what
    is missing."""
    clipped: float = 0.0
    """Share of the colors' values above the white level, but for the type's largest."""
    alpha_varies: bool = False
    """Whether its transparency is everywhere another."""

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
        raster: As it is stored.
        decoding: What its values mean.
        site: Where it is from.
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
        # An image of nothing else is white.
        highest=int(found[-1]) if len(found) else raster.largest,
        clipped=float(counts[white + 1 :].sum() / colors.size),
        alpha_varies=_varies(raster),
    )


def look_over(items: Sequence[Item], decoding: Decoding) -> list[Stored]:
    """Look at some images of each site; those that hold plain 8-bit colors are not decoded.

    Args:
        items: Images of any sites; what cannot be read is passed over.
        decoding: What their values mean.
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
                # Whoever reads it for its features says why it is skipped.
                continue
    return found


def judge_stored(images: Sequence[Stored], decoding: Decoding) -> Iterator[Finding]:
    """Warn of sites whose files use a part of their range only, or go beyond the white level.

    Args:
        images: Of all sites.
        decoding: What their values mean.
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
    """Look over images and warn, as `look_over` and `judge_stored`."""
    decoding = decoding_of(data)
    yield from judge_stored(look_over(items, decoding), decoding)


def sum_up(images: Sequence[Stored]) -> list[StoredValues]:
    """Describe each kind of file over all sites, for a record: no name of a site is in it."""
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
    """Warn where images use another part of the range than those of training.

    Args:
        images: That a model is used on.
        trained: As `sum_up` wrote it; empty: unknown, and taken for the whole range.
        decoding: What their values mean, as in training.
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
                f"where those of training used {min(1.0, nearest):.0%}; regions may be wrong; "
                "scale the values as in training"
            )
            if share < nearest:
                text += f", by {_times(one, nearest)}"
            yield Finding("warning", kind, text)
    yield from _judge_alpha(images, decoding)


def _times(one: Stored, share: float) -> int:
    """Power of two that brings an image's values to a share of the range."""
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
    """Whether a bit or more of the range is unused; two, where somebody has chosen it."""
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
        said += f"; site {full.site} uses {most} bits, and one white level is for all sites"
        mend = f"multiply the values of this site's files by {1 << (most - bits)}"
        if most == one.depth or one.white < one.largest:
            return f"{said}: {mend}"
        return f"{said}: {mend}, and set data.white_level = {_advise(ranges)}"
    return f"{said}; set data.white_level = {_advise(ranges)}"


def _advise(ranges: Sequence[Stored]) -> str:
    """Write the white level that suits all files of more than 8 bits."""
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
    """Whether the last band looks like a picture: not clear, opaque or smooth where it is neither.

    A soft shadow is smooth, and a smooth edge covers little of an image.
    """
    if not raster.has_alpha:
        return False
    # Whole rows, since neighbors are compared.
    step = -(-raster.values[:, :, -1].size // _LOOKED_AT)
    alpha = raster.values[::step, :, -1].astype(np.int32)
    between = (alpha > 0) & (alpha < raster.largest)
    if np.count_nonzero(np.bincount(alpha[between])) < _LEAST_LEVELS:
        return False
    if between.mean() > _ALL_OF_AN_IMAGE:
        return True
    # Where satellite images have nothing, all bands are zero.
    if between.sum() <= _MOST_OF_AN_IMAGE * (alpha > 0).sum() or between.mean() < _LEAST_SHARE:
        return False
    bend = np.abs(alpha[:, 2:] - 2 * alpha[:, 1:-1] + alpha[:, :-2]) / raster.largest
    inside = between[:, 2:] & between[:, 1:-1] & between[:, :-2]
    rough = bend[inside] > _ROUGH
    return bool(rough.size) and float(rough.mean()) > _ROUGH_SHARE
