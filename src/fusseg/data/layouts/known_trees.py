"""Recognizing folders laid out like Pascal VOC, ADE20K, YOLO, COCO, CamVid, MVTec AD and others."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from os import walk
from os.path import commonpath
from pathlib import Path

from fusseg.data.folders import visible
from fusseg.data.images import SUFFIXES
from fusseg.data.mask_files import (
    ENDINGS,
    are_no_class_indices,
    is_images_folder,
    is_masks_folder,
)

MVTEC, ADE_FULL = "MVTec AD", "ADE20K with its parts"
_DEPTH, _UP = 3, 3
"""Levels of folders below and above the given one that are searched."""
_MOST_FOLDERS = 2000
_MOST_PARTS = 100
"""Most sites for which commands are shown."""
_LOOKED_AT = 50
"""Number of masks to compare by name with the images."""


@dataclass(frozen=True)
class Part:
    """One folder of images, which becomes a site, and the masks that belong to it."""

    site: str
    images: Path
    masks: Path | None = None
    ending: str = ""
    """Ending of mask names after the stem of their image."""
    mixed: bool = False
    """Whether images and masks lie in one folder and differ only by the ending."""


@dataclass(frozen=True)
class Tree:
    """A known layout that fusseg does not read directly."""

    name: str
    place: Path
    """Folder that contains all of it."""
    parts: tuple[Part, ...]
    unread: str = ""
    """Suffix of labels that cannot be read: `.txt`, `.json`; empty: none."""


def find_tree(root: Path) -> Tree | None:
    """Look for a known layout in a folder, below it, or above it if the folder is part of one.

    Returns:
        The first one found; None if there is none, a folder cannot be read, or a name cannot be
        printed.
    """
    root = root.absolute()
    try:
        tree = _find_below(root) or _find_above(root)
    except OSError:
        return None
    # A command with a name that cannot be printed could not be shown.
    return tree if tree is not None and all(map(_is_printable, tree.parts)) else None


def lies_in_masks(root: Path) -> bool:
    """Tell whether a folder holds the masks of a known layout, or lies in such a folder."""
    root = root.absolute()
    if not any(is_masks_folder(name) for name in root.parts[-_UP:]):
        return False
    tree = find_tree(root)
    return tree is not None and any(
        part.masks is not None and not part.mixed and part.masks in (root, *root.parents)
        for part in tree.parts
    )


def _find_below(root: Path) -> Tree | None:
    level, looked_at = [root], 0
    for _ in range(_DEPTH + 1):
        found = [tree for tree in map(_match, level) if tree is not None]
        if found:
            return _join(found)
        looked_at += len(level)
        level = [folder for one in level for folder in _folders(one) if not _is_labels(folder)]
        if looked_at + len(level) > _MOST_FOLDERS:
            return None
    return None


def _find_above(root: Path) -> Tree | None:
    for place in list(root.parents)[:_UP]:
        tree = _match(place)
        if tree is None:
            continue
        for part in tree.parts:
            for folder in (part.images, part.masks):
                # The given folder may be one of these, contain one, or lie inside one.
                if folder is not None and (
                    folder in (root, *root.parents) or root in folder.parents
                ):
                    return tree
        return None
    return None


def _join(trees: list[Tree]) -> Tree:
    """Merge trees of the same kind into one, such as VOC2007 beside VOC2012."""
    first = trees[0]
    same = [tree for tree in trees if tree.name == first.name]
    if len(same) == 1:
        return first
    root = Path(commonpath([tree.place for tree in same]))
    parts = []
    for tree in same:
        place = "-".join(tree.place.relative_to(root).parts)
        for part in tree.parts:
            site = place if len(tree.parts) == 1 else f"{place}-{part.site}"
            parts.append(Part(site, part.images, part.masks, part.ending, part.mixed))
    return Tree(first.name, root, tuple(parts), first.unread)


def _match(place: Path) -> Tree | None:
    """Recognize the layout of a folder; None if it is unknown."""
    folders = _folders(place)
    if _is_category(place):
        return Tree(MVTEC, place.parent, (_category(place),))
    categories = tuple(_category(folder) for folder in folders if _is_category(folder))
    if categories:
        return Tree(MVTEC, place, categories)
    full = place / "images" / "ADE"
    if full.is_dir():
        return Tree(ADE_FULL, place, tuple(Part(one.name, one) for one in _folders(full)))
    labels = [folder for folder in folders if _is_labels(folder)]
    images = next((folder for folder in folders if is_images_folder(folder.name)), None)
    if images is not None and labels:
        return _apart(place, images, labels)
    if images is None:
        return _side_by_side(place, folders, labels) or _mixed(place)
    return None


def _is_category(folder: Path) -> bool:
    """Tell whether a folder is a category of MVTec AD."""
    return (folder / "train" / "good").is_dir() and (folder / "test").is_dir()


def _category(folder: Path) -> Part:
    masks = folder / "ground_truth"
    return Part(folder.name, folder, masks if masks.is_dir() else None, "_mask")


def _apart(place: Path, images: Path, labels: list[Path]) -> Tree | None:
    """Match `images/[SPLIT]` beside `annotations/[SPLIT]`, as in VOC, ADE20K and YOLO."""
    parts, below = [], [one for label in labels for one in _with_folders(label)]
    for folder in _with_images(images):
        inside = folder.relative_to(images)
        site = "-".join(inside.parts) or place.name
        ends = dict.fromkeys((inside, Path(inside.name)))
        parts.append(_pair(site, folder, [one / end for one in below for end in ends]))
    return _tree(place, images, labels, parts)


def _side_by_side(place: Path, folders: list[Path], labels: list[Path]) -> Tree | None:
    """Match `train` beside `train_masks`, `trainannot` or `annotations/train`, as in CamVid."""
    filled = [folder for folder in folders if not _is_labels(folder) and _has_images(folder)]
    if not labels:
        return None
    parts = []
    for folder in filled:
        name = folder.name.lower()
        own = [one for one in labels if one.name.lower().startswith(name)]
        shared = [one / folder.name for one in labels] + (labels if len(filled) == 1 else [])
        parts.append(_pair(folder.name, folder, own + shared))
    return _tree(place, None, labels, parts)


def _mixed(place: Path) -> Tree | None:
    """Match one folder of images and masks that differ only by their endings."""
    stems = {path.stem for path in islice(_files(place), 10 * _LOOKED_AT)}
    for ending in ENDINGS:
        masks = {stem for stem in stems if stem.endswith(ending)}
        images = {stem.removesuffix(ending) for stem in masks} & stems
        if images and 3 * len(images) >= len(stems) - len(masks):
            part = Part(place.name, place, place, ending, mixed=True)
            return Tree("", place, (part,))
    return None


def _tree(place: Path, images: Path | None, labels: list[Path], parts: list[Part]) -> Tree | None:
    if not 0 < len(parts) <= _MOST_PARTS:
        return None
    unread = "" if any(part.masks for part in parts) else _kind_of_labels(labels)
    names = {"annotations": "ADE20K"} if images is not None else {}
    name = next((names[one.name] for one in labels if one.name in names), "")
    if images is not None and images.name == "JPEGImages":
        name = "Pascal VOC"
    elif unread:
        name = {".txt": "YOLO", ".json": "COCO"}.get(unread, "")
    elif images is None and any(one.name.endswith("annot") for one in labels):
        name = "CamVid"
    return Tree(name, place, tuple(parts), unread)


def _pair(site: str, images: Path, candidates: list[Path]) -> Part:
    """Find the folder with the most files named like the images plus one common ending."""
    stems = {path.stem for path in _files(images)}
    best: tuple[int, bool, Path, str] | None = None
    for folder in candidates:
        if not folder.is_dir():
            continue
        endings: Counter[str] = Counter()
        for mask in islice(_files(folder), _LOOKED_AT):
            endings.update([one for one in ("", *ENDINGS) if _without(mask.stem, one) in stems][:1])
        for ending, count in endings.most_common(1):
            found = (count, not are_no_class_indices(folder.parts), folder, ending)
            if best is None or found[:2] > best[:2]:
                best = found
    return Part(site, images) if best is None else Part(site, images, best[2], best[3])


def _without(stem: str, ending: str) -> str | None:
    return stem.removesuffix(ending) if stem.endswith(ending) else None


def _kind_of_labels(labels: list[Path]) -> str:
    """Return the suffix of labels that are not masks: that of the first one in the folders."""
    for folder in labels:
        for _, _, names in islice(walk(folder), _LOOKED_AT):
            for name in names:
                if Path(name).suffix.lower() in (".txt", ".json", ".xml"):
                    return Path(name).suffix.lower()
    return ""


def _with_folders(folder: Path) -> list[Path]:
    """List a folder of labels and those one or two levels below, as `labels/sem_seg/masks`."""
    below = _folders(folder)[:_MOST_PARTS]
    return [folder, *below, *islice((two for one in below for two in _folders(one)), _MOST_PARTS)]


def _with_images(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    if _has_images(folder):
        yield folder
    if depth:
        for one in _folders(folder):
            yield from _with_images(one, depth - 1)


def _is_printable(part: Part) -> bool:
    return f"{part.site}{part.images}{part.masks}".isprintable()


def _has_images(folder: Path) -> bool:
    return next(_files(folder), None) is not None


def _files(folder: Path) -> Iterator[Path]:
    """List image files, sorted so that the result is the same on every machine."""
    return (path for path in visible(folder) if path.suffix.lower() in SUFFIXES)


def _folders(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_dir()]


def _is_labels(folder: Path) -> bool:
    return is_masks_folder(folder.name)
