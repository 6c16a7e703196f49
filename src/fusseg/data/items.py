"""What a data set is made of: items with pixels behind them, and the classes of their masks."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fusseg.data.scenes import Scene

Source = Path | Scene
"""Where pixels come from: a file, or a scene to be drawn."""


@dataclass(frozen=True)
class Item:
    """One image of one site."""

    site: str
    stem: str
    split: str
    """Empty where the data set has no splits or does not list this image."""
    image: Source
    mask: Source | None = None
    """Read in evaluation only."""


@dataclass(frozen=True)
class Classes:
    """Names of the pixel values of the masks."""

    names: tuple[str, ...]
    """In order of pixel value."""
    ignore_index: int | None = None
    """Pixel value that never counts."""
    colors: tuple[tuple[int, int, int], ...] | None = None
    """RGB in [0, 255], one per name."""


@dataclass(frozen=True)
class Dataset:
    """All images at hand, sorted by site and stem."""

    items: tuple[Item, ...]
    classes: Classes | None
    """None where nothing is labeled."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, sorted."""
        return tuple(sorted({item.site for item in self.items}))


def select(dataset: Dataset, sites: Collection[str], split: str) -> tuple[Item, ...]:
    """Pick the items of some sites and one split (empty: every split), in the data set's order."""
    return tuple(
        item for item in dataset.items if item.site in sites and (not split or item.split == split)
    )
