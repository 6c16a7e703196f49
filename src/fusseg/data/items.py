"""Data sets: items, each an image with its mask, and the classes of the masks."""

from dataclasses import dataclass
from pathlib import Path

from fusseg.config.schema import Camera
from fusseg.data.geometry import Share
from fusseg.data.synthetic.scenes import Scene

Source = Path | Scene
"""Where pixels come from: a file, or a generated scene."""


@dataclass(frozen=True)
class Crop:
    """Part of an image that is treated as an image."""

    name: str
    share: Share
    """Its place in the image."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of one site, or a part of one."""

    site: str
    """Where it comes from: a folder, or the layout's equivalent, such as a city."""
    stem: str
    split: str
    """Empty if the data set has no splits or does not list this image."""
    image: Source
    mask: Source | None = None
    """Read in evaluation, and to draw a Dirichlet partition; never in training."""
    client: str = ""
    """Client that holds it; by default its site."""
    crop: Crop | None = None
    """Part of image and mask that is used; None: all of them."""
    camera: Camera | None = None
    """Camera that the image is seen through, in simulation; None: its own."""

    def __post_init__(self) -> None:
        """Set the client to the site if none is named."""
        if not self.client:
            object.__setattr__(self, "client", self.site)


NO_CLASS = -1
"""Class index of a pixel value that has no meaning and must not occur."""


@dataclass(frozen=True)
class Classes:
    """Classes of the masks: their names, colors and pixel values."""

    names: tuple[str, ...]
    """In order of class index, which is the pixel value unless `index_of` says otherwise."""
    ignore_index: int | None = None
    """Class index that is ignored."""
    colors: tuple[tuple[int, int, int], ...] | None = None
    """RGB in [0, 255], one per name."""
    index_of: tuple[int, ...] | None = None
    """Class index of each pixel value from 0 to 255, or `NO_CLASS`; None: the value itself."""
    advice: str = ""
    """Likely cause of a value that is neither a class nor ignored, and what to do about it."""


@dataclass(frozen=True)
class Dataset:
    """All images of a data set, sorted by site and stem."""

    items: tuple[Item, ...]
    classes: Classes | None
    """None if the classes are not known."""
    site_order: tuple[str, ...] = ()
    """Order of the sites in which neighbors are joined to clients; empty: sorted."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Names to select images by, sorted: sites, or the values of a column."""
        return tuple(sorted({item.client for item in self.items}))
