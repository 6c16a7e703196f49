"""What the pixel values of predictions are called, from wherever that is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fusseg.core.errors import ConfigError, DataError
from fusseg.core.toml_file import load_toml
from fusseg.export.annotations.images import Label
from fusseg.runs.regions import join_clusters, read_named

MOST_LABELS = 255
"""One of the 256 pixel values has to be left for what has no label."""


@dataclass(frozen=True)
class Names:
    """Labels, and which pixel value is which of them."""

    labels: tuple[Label, ...]
    places: UInt8[np.ndarray, "256"]
    """Place in the list of labels for each pixel value."""
    unknown: int
    """Stands in `places` for values without a label."""

    @property
    def described(self) -> str:
        """All values that have a label, for errors."""
        return ", ".join(map(str, np.flatnonzero(self.places != self.unknown)))


def names_from_list(labels: Mapping[int, Label]) -> Names:
    """Take the labels of pixel values.

    Raises:
        DataError: If two values have one name, or there are more than can be told apart.
    """
    unknown = MOST_LABELS
    if len(labels) > MOST_LABELS:
        raise DataError(f"labels must be at most {MOST_LABELS}, got {len(labels)}")
    places = np.full(MOST_LABELS + 1, unknown, np.uint8)
    taken: dict[str, int] = {}
    for place, (index, label) in enumerate(sorted(labels.items())):
        if label.name in taken:
            raise DataError(
                f"regions {taken[label.name]} and {index} are both called {label.name!r}; give "
                "regions.toml with --regions, where clusters of one name are one region"
            )
        taken[label.name] = index
        places[index] = place
    return Names(tuple(label for _, label in sorted(labels.items())), places, unknown)


def names_from_file(path: Path) -> Names:
    """Read a run's `regions.toml`; clusters of one name become one label.

    Raises:
        ConfigError: If the file cannot be read or is wrong.
    """
    regions = join_clusters(read_named(path, _count_clusters(path)))
    names = names_from_list(
        {region.index: Label(region.name, region.color) for region in regions.regions}
    )
    places = names.places.copy()
    for cluster, index in enumerate(regions.index_of):
        places[cluster] = names.places[index]
    return Names(names.labels, places, names.unknown)


def numbered_names(colors: UInt8[np.ndarray, "colors 3"]) -> Names:
    """Call regions by their numbers, where no names are known."""
    return names_from_list(
        {
            index: Label(f"region {index}", (int(color[0]), int(color[1]), int(color[2])))
            for index, color in enumerate(colors)
        }
    )


def _count_clusters(path: Path) -> int:
    """Count the entries; what is wrong with them is found when they are read."""
    try:
        entries = load_toml(path).get("regions")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"regions are not valid TOML ({error}): {path}") from error
    return len(entries) if isinstance(entries, list) else 0
