"""One image as segmented by several models, with matching regions in the same color."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from fusseg.core.colors import colorize, spread_colors
from fusseg.data.images import fit_image, load_image
from fusseg.evaluation.held_out import HeldOut, segment_held_out
from fusseg.evaluation.scores import UNMATCHED
from fusseg.report.embedding import shrink_photo, shrink_regions
from fusseg.segmentation.assignment import Segmenter

Colors = UInt8[np.ndarray, "_ 3"]
Picture = UInt8[np.ndarray, "height width 3"]


def picture_regions(
    models: Mapping[str, Segmenter],
    shown: HeldOut,
    index: int,
    colors: Colors,
    matches: Sequence[int] | None = None,
) -> dict[str, Picture]:
    """Draw one image and its segmentation by each model.

    Args:
        models: One or two models, by the name of their picture.
        shown: The images.
        index: Index of the image.
        colors: Colors of the first model's regions.
        matches: The second model's region for each region of the first, or `UNMATCHED`; None:
            regions with the same number match.

    Returns:
        The photo as `Image`, then the regions of each model.
    """
    item, seen = shown.views[index].item, shown.views[index].settings
    photo = fit_image(
        load_image(item, seen.decoding), seen.image_size, seen.fit, seen.interpolation
    )
    pictures: dict[str, Picture] = {"Image": shrink_photo(photo)}
    for place, (name, segmenter) in enumerate(models.items()):
        if place == 1 and matches is not None:
            colors = matched_colors(colors, matches, segmenter.num_regions)
        regions = segment_held_out(segmenter, shown, index).numpy()
        pictures[name] = shrink_regions(colorize(regions, colors))
    return pictures


def matched_colors(
    colors: Colors, matches: Sequence[int], num_clusters: int
) -> UInt8[np.ndarray, "{num_clusters} 3"]:
    """Give each region of a second model the color of its match, and others colors of their own.

    Args:
        colors: Colors of the first model's regions.
        matches: As in `picture_regions`.
        num_clusters: Number of regions of the second model.
    """
    source = {other: cluster for cluster, other in enumerate(matches) if other != UNMATCHED}
    alone = [other for other in range(num_clusters) if other not in source]
    source |= {other: len(matches) + place for place, other in enumerate(alone)}
    extended = spread_colors(colors, len(colors) + len(alone))
    chosen: np.ndarray = extended[[source[k] for k in range(num_clusters)]]
    return chosen
