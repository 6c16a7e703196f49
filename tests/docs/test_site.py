"""The documentation as a site: whole, without a network, and true to the program."""

import ast
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest
from blocks import ROOT, blocks_of
from typer.main import get_command

import fusseg
from fusseg.cli.app import app


class Fetched(HTMLParser):
    """Addresses that a browser fetches in order to show a page, and the ids of its parts."""

    def __init__(self):
        super().__init__()
        self.addresses = []
        self.ids = set()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.add(found.get("id"))
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.addresses.append(found["href"])
        self.addresses.extend(found[name] for name in ("src", "srcset") if found.get(name))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as make docs does."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
    return folder


def read(page):
    parser = Fetched()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def test_no_page_fetches_anything_from_another_place(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        for address in read(page).addresses:
            assert not re.match(r"(?:[a-z]+:)?//", address), f"{address} in {page.name}"
            base = site if address.startswith("/") else page.parent  # only 404.html does
            assert address.startswith("data:") or (base / address.lstrip("/")).exists(), address
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)]*", text) == [], sheet.name


def test_every_public_name_is_in_the_reference(site):
    ids = read(site / "reference" / "python.html").ids
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    for name in set(fusseg.__all__) - {"__version__"}:
        assert f"fusseg.{name}" in ids, name
    assert "fusseg.__version__" in text


def test_every_name_that_a_page_imports_is_in_the_reference(site):
    ids = {name for page in (site / "reference").glob("*.html") for name in read(page).ids}
    cells = json.loads((ROOT / "examples" / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    code += [block.text for block in blocks_of("python")]
    names = {name for text in code for name in imported(text)}
    assert len(names) > 15
    assert sorted(names - ids) == []


def imported(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fusseg"):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_every_command_and_option_is_in_the_reference(site):
    text = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    parts = dict(
        re.findall(r'<h[23] id="([\w-]+)">(.*?)(?=<h[23] id=|</article>)', text, re.DOTALL)
    )
    found = dict(leaves(get_command(app), "fusseg"))
    assert len(found) > 20
    for path, command in found.items():
        part = parts[path.replace(" ", "-")]
        for option in (name for given in command.params for name in given.opts):
            assert not option.startswith("--") or f"<code>{option}</code>" in part, (path, option)


def leaves(command, path):
    """Commands that are no groups, by what is typed for them."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, below in command.commands.items():
        if not below.hidden:
            yield from leaves(below, f"{path} {name}")


def test_formulas_are_set_without_a_script(site):
    text = (site / "method.html").read_text(encoding="utf-8")
    formulas = blocks_of("math")
    assert len(formulas) > 8
    assert text.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') == len(
        [block for block in formulas if Path(block.page).name == "method.md"]
    )
    set_formulas = re.findall(r"<math.*?</math>", text, re.DOTALL)
    assert [one for one in set_formulas if "&amp;" in one or "\\" in one] == []
