"""Find the images to predict, and the paths of their results."""

import os
from collections.abc import Sequence
from pathlib import Path

from fusseg.core.errors import DataError
from fusseg.data.folders import named
from fusseg.data.images import SUFFIXES

_OVERLAY = ".overlay.jpg"


def find_images(inputs: Sequence[Path], out: Path | None = None) -> list[tuple[Path, Path]]:
    """List the images of files, folders and patterns, with the relative path of each result.

    Files keep their stem. Images in a folder, at any depth, keep their path below it; those of a
    pattern keep their path below its last folder without a wildcard. Files in the output folder are
    not inputs, and neither are results of other predictions unless they are named explicitly.

    Args:
        inputs: Image files, folders of them, and patterns such as `flight/**/*.tif`.
        out: Output folder; None: there are no results, and their paths may collide.

    Raises:
        DataError: If an input does not exist or contains no image, a name is not valid UTF-8, two
            results would share a name, or a result would overwrite an image.
    """
    found: list[tuple[Path, Path]] = []
    for entry in inputs:
        if entry.is_dir():
            images = _images_below(entry, "*", out)
            if not images:
                raise DataError(f"no image in {entry}; known are {', '.join(SUFFIXES)}")
            found += [(path, path.relative_to(entry).with_suffix("")) for path in images]
        elif entry.exists():
            found.append((entry, Path(entry.stem)))
        elif _is_pattern(entry):
            found += _matches(entry, out)
        else:
            raise DataError(f"no such file or folder: {entry}")
    # An image that matches both a pattern and a name is listed once.
    found = list(dict.fromkeys(found))
    for path, _ in found:
        named(path)
    if out is not None:
        _check_places(found, out)
    return found


def result_files(out: Path, place: Path) -> tuple[Path, Path, Path]:
    """Return the paths of the index PNG, the overlay and the description of an image.

    >>> [file.as_posix() for file in result_files(Path("out"), Path("day/road"))]
    ['out/day/road.png', 'out/day/road.overlay.jpg', 'out/day/road.json']
    """
    return out / f"{place}.png", out / f"{place}{_OVERLAY}", out / f"{place}.json"


def _is_pattern(entry: Path) -> bool:
    return any(sign in str(entry) for sign in "*?[")


def _matches(pattern: Path, out: Path | None) -> list[tuple[Path, Path]]:
    parts = pattern.parts
    fixed = next(number for number, part in enumerate(parts) if _is_pattern(Path(part)))
    root = Path(*parts[:fixed])
    images = _images_below(root, str(Path(*parts[fixed:])), out)
    if not images:
        raise DataError(f"no image matches {pattern}; known are {', '.join(SUFFIXES)}")
    return [(path, path.relative_to(root).with_suffix("")) for path in images]


def _images_below(folder: Path, pattern: str, out: Path | None) -> list[Path]:
    results = None if out is None or out.resolve() == folder.resolve() else out.resolve()
    found = folder.rglob(pattern) if pattern == "*" else folder.glob(pattern)
    return [
        path
        for path in sorted(found)
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and not (results is not None and path.resolve().is_relative_to(results))
        and path.is_file()
        and not _is_result(path)
    ]


def _is_result(path: Path) -> bool:
    """Recognize overlays, and index PNGs by the two files next to them."""
    if path.name.endswith(_OVERLAY):
        return True
    regions, *others = result_files(path.parent, Path(path.stem))
    # Unlike Path.exists, os.path.exists accepts names that are too long.
    return path == regions and all(map(os.path.exists, others))


def _check_places(found: Sequence[tuple[Path, Path]], out: Path) -> None:
    sources = {source.resolve(): source for source, _ in found}
    taken: dict[Path, Path] = {}
    for source, place in found:
        if place in taken:
            raise DataError(
                f"{taken[place]} and {source} would both be written to {place}.png; predict them "
                "into different folders"
            )
        taken[place] = source
        for result in result_files(out, place):
            if result.resolve() in sources:
                raise DataError(
                    f"the result of {source} would overwrite the image {result}; choose another "
                    "--out"
                )
