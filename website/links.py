"""Links of the pages that lead out of docs/: what they name becomes a page of the site.

So the site is whole without a network and without the repository. The texts themselves keep the
links that lead somewhere on disk.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
}
"""Files beside docs/ that have a place of their own in the navigation."""
SHOWN = "files"
UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
LISTED = {".md", ".toml", ".service", ".conf"}
LANGUAGES = {".toml": "toml", ".py": "python", ".service": "ini", ".conf": "nginx"}

_FENCE = re.compile(r"(^```.*?^```[ ]*$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_ADDRESS = re.compile(r"[a-z]+:")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for everything outside of docs/ that a page links to, and what that links to."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    waiting += ["CHANGELOG.md", "CONTRIBUTING.md"]
    seen = set(waiting)
    while waiting:
        origin = waiting.pop()
        text = _text_of(origin)
        if not origin.startswith("docs/"):
            place = _place_of(origin)
            content = UNSEARCHED + text if place.startswith(SHOWN) else text
            files.append(File.generated(config, place, content=content))
        new = sorted(set(_targets(text, origin)) - seen)
        seen.update(new)
        waiting.extend(new)
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead the links of a page to places of the site."""
    origin = _origin_of(page.file.src_uri)

    def lead(link: re.Match[str]) -> str:
        target = _target(link, origin)
        if target is None:
            return link[0]
        if _is_source(target):
            return link[1]
        folder = PurePosixPath(page.file.src_uri).parent.as_posix()
        text = _title_of(target) if link[1].endswith(".md") else link[1]
        return f"[{text}]({relpath(_place_of(target), folder)}{link[3] or ''})"

    return _outside_of_fences(markdown, lambda text: _LINK.sub(lead, text))


def _outside_of_fences(markdown: str, change: Callable[[str], str]) -> str:
    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def _targets(markdown: str, origin: str) -> Iterator[str]:
    for link in _LINK.finditer(_FENCE.sub("", markdown)):
        target = _target(link, origin)
        if target and not target.startswith("docs/") and not _is_source(target):
            yield target


def _target(link: re.Match[str], origin: str) -> str | None:
    """What a link names, relative to the repository; None for addresses and for no such thing."""
    if _ADDRESS.match(link[2]):
        return None
    folder = origin if (ROOT / origin).is_dir() else PurePosixPath(origin).parent
    target = normpath(folder / PurePosixPath(link[2]))
    # mkdocs itself warns of links that lead nowhere
    return target if (ROOT / target).exists() and not target.startswith("..") else None


def _is_source(target: str) -> bool:
    """The package's own code is in the reference, where it has one."""
    return target.split("/")[0] == "src" and (ROOT / target).is_dir()


def _place_of(target: str) -> str:
    """Path of the page in the site."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    if target in PAGES:
        return PAGES[target]
    if (ROOT / target).is_dir():
        return f"{SHOWN}/{target}/index.md"
    return f"{SHOWN}/{target}" if target.endswith(".md") else f"{SHOWN}/{target}.md"


def _origin_of(place: str) -> str:
    """What the page at a place shows, relative to the repository."""
    shown = {page: file for file, page in PAGES.items() if file != "README.md"}
    if place in shown:
        return shown[place]
    if not place.startswith(f"{SHOWN}/"):
        return f"docs/{place}"
    target = place.removeprefix(f"{SHOWN}/")
    shorter = (target, target.removesuffix(".md"), target.removesuffix("/index.md"))
    return next(name for name in shorter if (ROOT / name).exists())


def _title_of(target: str) -> str:
    """Heading of a page, which its links show in place of the file's name."""
    return _text_of(target).split("\n", 1)[0].removeprefix("# ")


def _text_of(origin: str) -> str:
    path = ROOT / origin
    if path.is_dir():
        return f"# `{origin}`\n\n" + "".join(_lines(path, path.rglob("*")))
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    if path.suffix == ".ipynb":
        return "\n".join(_cells(text))
    return f"# `{origin}`\n\n```{LANGUAGES.get(path.suffix, 'text')}\n{text}```\n"


def _cells(notebook: str) -> Iterator[str]:
    for cell in json.loads(notebook)["cells"]:
        text = "".join(cell["source"]).rstrip("\n")
        yield f"```python\n{text}\n```\n" if cell["cell_type"] == "code" else f"{text}\n"


def _lines(folder: Path, paths: Iterable[Path]) -> Iterator[str]:
    for path in sorted(paths):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.suffix in LISTED:
            yield f"- [{name}]({name})\n"
