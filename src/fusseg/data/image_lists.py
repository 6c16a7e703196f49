"""Lists of images: text files with one `stem` or `site/stem` per line that select a subset."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from fusseg.core.errors import DataError
from fusseg.data.items import Dataset, Item

Image = tuple[str, str]
"""Site and stem."""


def pick_listed(items: Sequence[Item], dataset: Dataset, path: str, key: str) -> tuple[Item, ...]:
    """Keep the items that a list names, in their order; all of them if no list is set.

    Args:
        items: Selected images; the list may also name other images of the data set.
        dataset: All images.
        path: The list; empty: none.
        key: Setting that holds the path, such as `data.train_list`.

    Raises:
        DataError: If the list cannot be read, names an image that does not exist or is at several
            sites, or names none of the items.
    """
    if not path:
        return tuple(items)
    listed = _read_list(Path(path), dataset, key)
    kept = tuple(item for item in items if (item.site, item.stem) in listed)
    if items and not kept:
        raise DataError(
            f"{key} names {len(listed)} images, but none of the {len(items)} images of the "
            f"chosen sites and split; choose another list, sites or split: {path}"
        )
    return kept


def _read_list(path: Path, dataset: Dataset, key: str) -> set[Image]:
    sites: dict[str, list[str]] = defaultdict(list)
    for item in dataset.items:
        sites[item.stem].append(item.site)
    found = [(line, entry, _matches(entry, sites)) for line, entry in _lines(path, key)]
    unknown = [(line, entry) for line, entry, matches in found if not matches]
    if unknown:
        line, entry = unknown[0]
        raise DataError(
            f"{key} names {len(found)} images, of which {len(unknown)} do not exist, the "
            f"first: {entry!r} on line {line}; write one stem or site/stem per line, without a "
            f"suffix: {path}"
        )
    for line, entry, matches in found:
        if len(matches) > 1:
            raise DataError(
                f"{key} names {entry!r} on line {line}, which exists at the sites "
                f"{', '.join(site for site, _ in matches)}; write site/stem: {path}"
            )
    return {match for _, _, matches in found for match in matches}


def _lines(path: Path, key: str) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{key} cannot be read ({error.strerror}): {path}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{key} is not UTF-8; save it as UTF-8: {path}") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    filled = [(number, line) for number, line in lines if line]
    if not filled:
        raise DataError(f"{key} names no image; write one stem per line: {path}")
    return filled


def _matches(entry: str, sites: Mapping[str, Sequence[str]]) -> list[Image]:
    site, slash, stem = entry.partition("/")
    if slash:
        return [(site, stem)] if site in sites.get(stem, ()) else []
    return [(found, entry) for found in sites.get(entry, ())]
