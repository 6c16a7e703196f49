"""Shell commands that turn a known tree into a folder of sites, with links; nothing is moved."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from shlex import quote

import numpy as np

from fusseg.core.errors import DataError
from fusseg.data.folders import visible
from fusseg.data.images import SUFFIXES
from fusseg.data.layouts.known_trees import ADE_FULL, MVTEC, Part, Tree
from fusseg.data.mask_files import read_mask

_LOOKED_AT = 20
"""Number of masks to read."""
_BLACK_AND_WHITE = frozenset((0, 255))

_MVTEC = """\
for file in {images}; do
  test -f "$file" || continue
  rest=${{file#"$from"/}}; site=${{rest%%/*}}; rest=${{rest#*/}}
  stem=$(printf %s "${{rest%.*}}" | tr / -)
  mkdir -p "$to/$site/images" "$to/$site/masks"
  ln -s "$file" "$to/$site/images/$stem.${{file##*.}}"
  printf '"%s","%s",%s\\n' "$stem" "$site" "${{rest%%/*}}" >> "$to/splits.csv"
done
for file in {masks}; do
  test -f "$file" || continue
  rest=${{file#"$from"/}}; site=${{rest%%/*}}; rest=${{rest#*/ground_truth/}}
  stem=$(printf %s "${{rest%_mask.*}}" | tr / -)
  ln -s "$file" "$to/$site/masks/test-$stem.${{file##*.}}"
done"""


def describe_tree(tree: Tree) -> str:
    """Describe the layout of a folder, and the commands that make a folder of sites from it."""
    target = free_name(f"{tree.place.name}-sites")
    text = f"{tree.place} is laid out like {tree.name}"
    if not tree.name:
        text = f"images and masks are laid out differently in {tree.place}"
    text += f", not as ROOT/SITE/images and ROOT/SITE/masks{_remark(tree)}. "
    text += "These commands make a folder of links with that layout and leave the data unchanged:"
    lines = "\n".join(link_commands(tree, target)).split("\n")
    return "\n".join([text, *(f"  {line}" for line in lines), f"  fusseg check {quote(target)}"])


def link_commands(tree: Tree, target: str) -> Iterator[str]:
    """Write commands for a POSIX shell, to be run in the working directory.

    Args:
        tree: The recognized tree.
        target: Folder to create there; it must not exist yet.
    """
    if tree.name == MVTEC:
        yield from _mvtec(tree, target)
    elif tree.name == ADE_FULL:
        for part in tree.parts:
            folder = quote(f"{target}/{part.site}/images")
            yield f"mkdir -p {folder}"
            yield (f"find {quote(str(part.images))} -name '*.jpg' -exec ln -s {{}} {folder} ';'")
    else:
        for part in tree.parts:
            yield from _links(part, f"{target}/{part.site}")
    if _are_black_and_white(tree):
        names = '["good", "defect"]' if tree.name == MVTEC else '["background", "foreground"]'
        file = quote(f"{target}/classes.toml")
        yield f"printf '%s\\n' 'names = {names}' 'values = [0, 255]' > {file}"


def free_name(name: str) -> str:
    """Append a number to a name if it is taken in the working directory."""
    names = (name, *(f"{name}-{number}" for number in range(2, 1000)))
    return next(one for one in names if not Path(one).exists())


def _links(part: Part, site: str) -> Iterator[str]:
    if part.mixed:
        yield f"mkdir -p {quote(f'{site}/images')} {quote(f'{site}/masks')}"
        yield (
            f"for file in {quote(str(part.images))}/*; do case $file in *{part.ending}.*) ;; *) "
            f'ln -s "$file" {quote(f"{site}/images")};; esac; done'
        )
    else:
        yield f"mkdir -p {quote(site)}"
        yield f"ln -sn {quote(str(part.images))} {quote(f'{site}/images')}"
    if part.masks is None:
        return
    if not part.ending:
        yield f"ln -sn {quote(str(part.masks))} {quote(f'{site}/masks')}"
        return
    folder = quote(f"{site}/masks")
    yield f"mkdir -p {folder}"
    yield (
        f"for file in {quote(str(part.masks))}/*{part.ending}.*; do name=${{file##*/}}; "
        f'ln -s "$file" {folder}/"${{name%{part.ending}.*}}.${{name##*.}}"; done'
    )


def _mvtec(tree: Tree, target: str) -> Iterator[str]:
    every = len(tree.parts) > 1
    site = "*" if every else quote(tree.parts[0].site)
    at = f'"$from"/{site}'
    yield f"from={quote(str(tree.place))}; to={quote(target)}"
    yield 'mkdir "$to"'
    yield 'echo stem,site,split > "$to/splits.csv"'
    yield _MVTEC.format(
        images=f"{at}/train/*/* {at}/test/*/*", masks=f"{at}/ground_truth/*/*_mask.*"
    )


def _remark(tree: Tree) -> str:
    if tree.name == ADE_FULL:
        return "; its masks are colors, which cannot be read; those of the scene parsing set can"
    if tree.unread:
        return f"; its labels ({tree.unread}) are not masks and cannot be read"
    if tree.name != MVTEC and not any(part.masks for part in tree.parts):
        return "; masks are left out, because none has the name of an image"
    return ""


def _are_black_and_white(tree: Tree) -> bool:
    """Tell whether masks hold only 0 and 255; by default, 255 would be ignored."""
    values: set[int] = set()
    for mask in islice(_masks(tree), _LOOKED_AT):
        try:
            values.update(np.unique(read_mask(mask)).tolist())
        except DataError:
            continue
    return 255 in values and values <= _BLACK_AND_WHITE


def _masks(tree: Tree) -> Iterator[Path]:
    for part in tree.parts:
        folders = [part.masks] if part.masks is not None else []
        if tree.name == MVTEC:
            folders = [path for one in folders for path in visible(one) if path.is_dir()]
        for folder in folders:
            for path in visible(folder):
                if path.suffix.lower() in SUFFIXES and path.stem.endswith(part.ending):
                    yield path
