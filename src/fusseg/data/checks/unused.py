"""Find images that a run would not use: in the wrong place, or of a format that is not read."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from fusseg.config.schema import DataConfig
from fusseg.data.findings import Finding, counted
from fusseg.data.images import SUFFIXES
from fusseg.data.layouts.known_trees import find_tree
from fusseg.data.layouts.tree_links import describe_tree
from fusseg.data.mask_files import is_masks_folder

UNREAD = (".heic", ".heif", ".avif", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".jp2", ".gif")
"""Suffixes of common image formats that are not read."""


def find_unused(config: DataConfig) -> Iterator[Finding]:
    """Warn of images that the layouts `sites` and `images` do not use; nothing is raised."""
    if config.root and config.layout == "images":
        yield from _of_plain_folder(config.root)
    if config.root and config.layout == "sites":
        yield from _of_sites(config.root)


def _of_plain_folder(root: str) -> Iterator[Finding]:
    tree = find_tree(Path(root))
    if tree is not None and any(part.mixed for part in tree.parts):
        text = f"masks are read as images: {describe_tree(tree)}"
        yield Finding("warning", _printable(root), _printable(text))
    yield from _passed_over(files_below(Path(root)), root, "sub-folders")


def _of_sites(root: str) -> Iterator[Finding]:
    place, folders, names = next(os.walk(root), (root, [], []))
    visible = [Path(place, name) for name in sorted(folders) if _is_visible(name)]
    # Unlike `Path.is_dir`, this is false for a folder that may not be read.
    sites = [folder for folder in visible if os.path.isdir(folder / "images")]
    filled = (next(os.walk(folder / "images"), ("", [], []))[2] for folder in sites)
    if not any(map(_images_among, filled)) and find_tree(Path(root)) is not None:
        # The error that no site was found says what to do with the whole tree.
        return
    loose = [Path(name) for name in sorted(names) if _is_visible(name)]
    if _images(loose):
        text = f"{counted(len(_images(loose)), 'image')} outside of sites; move {{}} to SITE/images"
        yield _warning(root, text, len(_images(loose)))
    yield from _unread(loose, root)
    for folder in visible:
        if folder in sites:
            yield from _of_site(folder)
        elif not is_masks_folder(folder.name):
            yield from _of_other(folder)


def _of_site(folder: Path) -> Iterator[Finding]:
    files = files_below(folder / "images")
    if not any(len(path.parts) == 1 for path in _images(files)):
        yield _warning(folder.name, "no image in its folder 'images'; it is not a site")
    yield from _passed_over(files, folder.name, "folders below images/")
    _, _, names = next(os.walk(folder), ("", [], []))
    beside = len(_images_among(names))
    if beside:
        text = f"{counted(beside, 'image')} beside its folder 'images'; move {{}} into it"
        yield _warning(folder.name, text, beside)


def _of_other(folder: Path) -> Iterator[Finding]:
    """Look at a folder that is not a site; there may be many images below `SITE/Images`."""
    files = files_below(folder)
    images = _images(files)
    if images:
        parents = {path.parent for path in images}
        place = Path(folder.name) / (parents.pop() if len(parents) == 1 else "")
        text = (
            f"{counted(len(images), 'image')}, but no folder 'images'; it is not a site; "
            f"move {{}} to {folder.name}/images"
        )
        yield _warning(str(place), text, len(images))
    yield from _unread(files, folder.name)


def _passed_over(files: Sequence[Path], subject: str, where: str) -> Iterator[Finding]:
    """Look at a folder of images in which sub-folders are not read."""
    deeper = sum(len(path.parts) > 1 for path in _images(files))
    if deeper:
        verb = "is" if deeper == 1 else "are"
        text = f"{counted(deeper, 'image')} in {where} {verb} not used; move {{}} up"
        yield _warning(subject, text, deeper)
    yield from _unread(files, subject)


def _unread(files: Sequence[Path], subject: str) -> Iterator[Finding]:
    # Cameras write a raw file beside the JPEG of the same name: then no image is missing.
    read = {path.with_suffix("") for path in _images(files)}
    unread = [
        path for path in files if path.suffix.lower() in UNREAD and path.with_suffix("") not in read
    ]
    if unread:
        kinds = ", ".join(sorted({path.suffix.lower() for path in unread}))
        text = (
            f"{counted(len(unread), 'file')} of a format that is not read ({kinds}); "
            "convert {} to JPEG or PNG"
        )
        yield _warning(subject, text, len(unread))


def files_below(folder: Path) -> list[Path]:
    """List the visible files at any depth, relative to the folder; unreadable folders are empty.

    Folders of masks below it are left out. Links to folders are not followed below the top, because
    they could form a loop.
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if _is_visible(name) and not is_masks_folder(name)]
        found += [Path(place, name).relative_to(folder) for name in names if _is_visible(name)]
    return sorted(found)


def _images_among(names: Sequence[str]) -> list[Path]:
    return _images([Path(name) for name in names if _is_visible(name)])


def _images(files: Sequence[Path]) -> list[Path]:
    return [path for path in files if path.suffix.lower() in SUFFIXES]


def _is_visible(name: str) -> bool:
    return not name.startswith(".")


def _warning(subject: str, text: str, number: int = 1) -> Finding:
    """Put "it" or "them" for {}; a name that is not valid UTF-8 is printed with escapes."""
    filled = text.replace("{}", "it" if number == 1 else "them")
    return Finding("warning", _printable(subject), _printable(filled))


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
