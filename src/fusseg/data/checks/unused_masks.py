"""Find masks and annotations that are not read: in the wrong place, or of another format."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from fusseg.config.schema import DataConfig
from fusseg.data import images, mask_files
from fusseg.data.checks.unused import files_below
from fusseg.data.findings import Finding, counted
from fusseg.data.folders import visible
from fusseg.data.items import Dataset, Item
from fusseg.data.layouts.cityscapes import LABEL_ENDING
from fusseg.data.mask_files import is_masks_folder

ANNOTATIONS = (".json", ".xml", ".geojson")
"""Suffixes of files that are taken for annotations in any folder."""

_KINDS = {*images.SUFFIXES, *ANNOTATIONS, ".npy", ".npz", ".mat", ".nii", ".gif", ".pgm", ".ppm"}
"""Suffixes of labels in a folder of labels; so is a `.txt` with the name of an image."""
_LISTED = (*mask_files.SUFFIXES, *mask_files.LOSSY_SUFFIXES)
_HOW = "a mask is a PNG or a lossless TIFF with the class index of each pixel"


def find_unused_masks(dataset: Dataset, config: DataConfig) -> Iterator[Finding]:
    """Warn of masks and annotations that are not read; nothing is raised.

    Files of images that have a mask are not reported, as a raw file beside its JPEG is not.

    Args:
        dataset: The images, with the masks that are read.
        config: Settings with layout and root.
    """
    find = _FINDERS.get(config.layout)
    if find is None:
        return
    with suppress(OSError):  # a folder that may not be read, or was removed meanwhile
        yield from find(Path(config.root), dataset)


def _in_sites(root: Path, dataset: Dataset) -> Iterator[Finding]:
    for site, group in groupby(dataset.items, key=lambda item: item.site):
        items, folder = list(group), root / site
        yield from _in_masks(folder / "masks", items)
        bare = _without_mask(items)
        if bare:
            target = f"masks are read from {folder / 'masks'}"
            yield from _in_others(folder, {"masks"}, target, bare)
            yield from _loose((folder, folder / "images"), site, target)
    bare = _without_mask(dataset.items)
    if bare:
        sites = {item.site for item in dataset.items}
        target = f"masks are read from {root / 'SITE' / 'masks'}"
        yield from _in_others(root, sites, target, bare)
        yield from _loose((root,), str(root), target)


def _in_plain_folder(root: Path, dataset: Dataset) -> Iterator[Finding]:
    bare = _without_mask(dataset.items)
    target = (
        'data.layout = "images" reads no masks; to score with them, move the images to '
        'ROOT/SITE/images, the masks to ROOT/SITE/masks, and set data.layout = "sites"'
    )
    if root.name == "images":
        target = (
            'data.layout = "images" reads no masks; to score with them, set data.layout = "sites" '
            f"and data.root to the folder above {str(root.parent)!r}; masks are then read from "
            f"{root.parent / 'masks'}"
        )
        yield from _in_others(root.parent, (), target, bare)
    yield from _in_others(root, (), target, bare)
    yield from _loose((root,), str(root), target)


def _in_cityscapes(root: Path, dataset: Dataset) -> Iterator[Finding]:
    bare = _without_mask(dataset.items)
    if not bare:
        return
    files = [root / "gtFine" / path for path in files_below(root / "gtFine")]
    passed = [
        path
        for path in files
        if not path.name.endswith(LABEL_ENDING) and _start_in(path.name, bare) is not None
    ]
    remedy = f"labels are read from gtFine/SPLIT/CITY/*{LABEL_ENDING}, as the package has them"
    if passed:
        endings = [path.name.removeprefix(str(_start_in(path.name, bare))) for path in passed]
        yield _warning(root / "gtFine", passed, endings, remedy)
    yield from _in_others(root, {"gtFine"}, remedy, bare)


def _in_coco(root: Path, dataset: Dataset) -> Iterator[Finding]:
    bare = _without_mask(dataset.items)
    if not bare:
        return
    for site, group in groupby(dataset.items, key=lambda item: item.site):
        yield from _in_masks(root / "stuffthingmaps" / site, list(group))
    remedy = (
        "pixel maps are read from stuffthingmaps/{train,val}2017/*.png, which "
        "stuffthingmaps_trainval2017.zip unpacks to"
    )
    yield from _in_others(root, {"stuffthingmaps"}, remedy, bare)


_FINDERS: dict[str, Callable[[Path, Dataset], Iterator[Finding]]] = {
    "sites": _in_sites,
    "images": _in_plain_folder,
    "cityscapes": _in_cityscapes,
    "coco-stuff": _in_coco,
}


def _in_masks(folder: Path, items: Sequence[Item]) -> Iterator[Finding]:
    """Look for files in a folder of masks that are not the mask of an item."""
    stems, bare = {item.stem for item in items}, _without_mask(items)
    files = files_below(folder)
    top = [path for path in files if len(path.parts) == 1]
    lost = [path for path in top if _is(path, _LISTED) and path.stem not in stems]
    if lost:
        stem = _start_in(lost[0].stem, stems)
        name = "" if stem is None else f", {stem}{lost[0].suffix}"
        yield Finding(
            "warning",
            _shown(folder),
            _shown(
                f"{counted(len(lost), 'mask')} without an image, the first: {lost[0].name!r}; "
                f"a mask has the name of its image{name}"
            ),
        )
    unread = [
        path
        for path in top
        if not _is(path, _LISTED) and _is_label(path, bare) and path.stem not in stems - bare
    ]
    if unread:
        yield _warning(folder, unread, [path.suffix.lower() for path in unread], _HOW)
    deeper = [
        path
        for path in files
        if len(path.parts) > 1 and _is_label(path, bare) and path.stem not in stems - bare
    ]
    if deeper:
        remedy = f"move them up into {folder}; {_HOW}"
        yield _warning(
            folder, deeper, [path.suffix.lower() for path in deeper], remedy, " below it"
        )


def _in_others(
    folder: Path, read: Collection[str], remedy: str, bare: Collection[str]
) -> Iterator[Finding]:
    """Look at folders that are named like folders of labels but are not read."""
    for place in visible(folder):
        if place.name in read or not is_masks_folder(place.name) or not place.is_dir():
            continue
        files = [path for path in files_below(place) if _is_label(path, bare)]
        if files:
            yield _warning(place, files, [path.suffix.lower() for path in files], remedy)


def _loose(folders: Sequence[Path], subject: str, remedy: str) -> Iterator[Finding]:
    """Look for annotations among the images and beside their folder."""
    files = [
        path
        for folder in folders
        for path in visible(folder)
        if _is(path, ANNOTATIONS) and path.is_file()
    ]
    if files:
        remedy = f"{remedy}; {_HOW}"
        yield _warning(Path(subject), files, [path.suffix.lower() for path in files], remedy)


def _without_mask(items: Sequence[Item]) -> set[str]:
    return {item.stem for item in items if item.mask is None}


def _is_label(path: Path, bare: Collection[str]) -> bool:
    return _is(path, _KINDS) or (_is(path, (".txt",)) and path.stem in bare)


def _is(path: Path, suffixes: Collection[str]) -> bool:
    return path.suffix.lower() in suffixes


def _start_in(name: str, stems: Collection[str]) -> str | None:
    """Find the longest stem that a name starts with."""
    return next((name[:end] for end in range(len(name), 0, -1) if name[:end] in stems), None)


def _warning(
    place: Path, files: Sequence[Path], kinds: Sequence[str], remedy: str, where: str = ""
) -> Finding:
    """Count files by kind; a name that is not valid UTF-8 is printed with escapes."""
    counts = ", ".join(f"{number} *{kind}" for kind, number in sorted(Counter(kinds).items()))
    verb = "is" if len(files) == 1 else "are"
    return Finding(
        "warning",
        _shown(place),
        _shown(
            f"{counted(len(files), 'label file')}{where} {verb} not read ({counts}), the first: "
            f"{str(files[0].name)!r}; {remedy}"
        ),
    )


def _shown(text: object) -> str:
    return str(text).encode(errors="backslashreplace").decode()
