"""Names of the pixel values of predictions: from descriptions, `regions.toml`, or numbered."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fusseg.core.errors import ConfigError, DataError
from fusseg.core.toml_file import load_toml
from fusseg.export.annotations.annotated_image import Label
from fusseg.runs.regions import join_clusters, read_named

MOST_LABELS = 255
"""Largest number of labels: one of the 256 pixel values is reserved for pixels without a label."""


@dataclass(frozen=True)
class Names:
    """Labels, and the label of each pixel value."""

    labels: tuple[Label, ...]
    places: UInt8[np.ndarray, "256"]
    """Index into the list of labels for each pixel value."""
    unknown: int
    """Index in `places` of values without a label."""

    @property
    def described(self) -> str:
        """All values that have a label, for error messages."""
        return ", ".join(map(str, np.flatnonzero(self.places != self.unknown)))


def names_from_list(labels: Mapping[int, Label]) -> Names:
    """Collect the labels of pixel values.

    Raises:
        DataError: If two values have the same name, or there are too many labels.
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
    """Count the entries; they are checked when they are read."""
    try:
        entries = load_toml(path).get("regions")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"regions are not valid TOML ({error}): {path}") from error
    return len(entries) if isinstance(entries, list) else 0
