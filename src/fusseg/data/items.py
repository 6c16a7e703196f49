"""What a data set is made of: items with pixels behind them, and the classes of their masks."""

from dataclasses import dataclass
from pathlib import Path

from fusseg.data.geometry import Share
from fusseg.data.synthetic.scenes import Scene

Source = Path | Scene
"""Where pixels come from: a file, or a scene to be drawn."""


@dataclass(frozen=True)
class Crop:
    """Part of an image that stands for an image of its own."""

    name: str
    share: Share
    """Where it lies in the image."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of one site, or a part of one."""

    site: str
    """Where it lies: a folder, or what the layout has in its place."""
    stem: str
    split: str
    """Empty where the data set has no splits or does not list this image."""
    image: Source
    mask: Source | None = None
    """Read in evaluation, and to draw a Dirichlet partition; never in training."""
    client: str = ""
    """Who holds it; its site unless something else is said."""
    crop: Crop | None = None
    """Part of image and mask that is meant; None: all of them."""

    def __post_init__(self) -> None:
        """Give it to its site where no client is named."""
        if not self.client:
            object.__setattr__(self, "client", self.site)


NO_CLASS = -1
"""Class index of a pixel value that means nothing and must not occur."""


@dataclass(frozen=True)
class Classes:
    """Names of the pixel values of the masks."""

    names: tuple[str, ...]
    """In order of class index, which is the pixel value unless `index_of` says otherwise."""
    ignore_index: int | None = None
    """Class index that never counts."""
    colors: tuple[tuple[int, int, int], ...] | None = None
    """RGB in [0, 255], one per name."""
    index_of: tuple[int, ...] | None = None
    """Class index of each pixel value from 0 to 255, or `NO_CLASS`; None: the value itself."""
    advice: str = ""
    """What a value that is neither a class nor ignored hints at, and what to do."""


@dataclass(frozen=True)
class Dataset:
    """All images at hand, sorted by site and stem."""

    items: tuple[Item, ...]
    classes: Classes | None
    """None where nothing is labeled."""
    site_order: tuple[str, ...] = ()
    """Order in which neighboring sites form one client; empty: sorted."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Names that images are selected by, sorted: sites, or the values of a column."""
        return tuple(sorted({item.client for item in self.items}))
