"""What the pages show runs as it stands there."""

import json
import re
import tomllib

import click
import folders
import pytest
from blocks import (
    PAGES,
    blocks_of,
    check_options,
    commands_in_text,
    commands_of,
    find_command,
    outside_of_fences,
    page_name,
    parse,
    read_blocks,
    words_of,
)
from running import run_line

from fusseg.bench.grid_file import load_grid
from fusseg.config.file import parse_config
from fusseg.config.schema import Config
from fusseg.data.class_file import read_classes
from fusseg.runs.regions import read_named

LANGUAGES = {"sh", "python", "toml", "text", "json", "xml", "math"}
INDENTED = re.compile(r"^(?: {4,}|\t)(?:fusseg|pip|make|python|dask|hf|curl) .*$", re.MULTILINE)

each_page = pytest.mark.parametrize("page", PAGES, ids=page_name)


def each(language):
    return pytest.mark.parametrize("block", blocks_of(language), ids=lambda block: block.place)


def test_every_page_has_its_folder_and_no_other():
    assert set(folders.PAGES) == {page_name(page) for page in PAGES}


@pytest.mark.docs
@each_page
def test_blocks_run_from_top_to_bottom(page, shared, run_command, tmp_path, monkeypatch):
    entry = folders.PAGES[page_name(page)]
    runnable = [
        block
        for block in read_blocks(page)
        if block.language in ("sh", "python") and block.not_run is None
    ]
    if not runnable:
        return
    cache = tmp_path / "cache" if entry.own_cache else shared / "cache"
    folder = tmp_path / "folder"
    folder.mkdir()
    entry.prepare(shared, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FUSSEG_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "200")
    space = {"__name__": "__main__"}
    for block in runnable:
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), space)
        else:
            for command in commands_of(block):
                run_line(command, entry.smaller, run_command, block.place)
    assert [name for name in entry.leaves if not (folder / name).is_file()] == []


@each("sh")
def test_commands_have_these_options_and_arguments(block):
    for command in commands_of(block):
        words = words_of(command)
        if words is not None:
            try:
                parse(words)
            except click.UsageError as error:
                pytest.fail(f"{block.place}: {command}: {error.format_message()}")


@each_page
def test_commands_in_sentences_exist_with_their_options(page):
    for text in commands_in_text(page):
        words = text.split()[1:]
        if not words[0].islower():  # `fusseg COMMAND`
            continue
        for name in words[0].split("|"):
            command, _, rest = find_command([name, *words[1:]])
            check_options(command, rest)


@each("python")
def test_python_blocks_are_python(block):
    compile(block.text, block.place, "exec")


def test_json_blocks_are_json():
    for block in blocks_of("json"):
        json.loads(block.text)


@each("toml")
def test_toml_blocks_load(block, tmp_path):
    table = tomllib.loads(block.text)
    path = tmp_path / "block.toml"
    path.write_text(block.text, encoding="utf-8")
    (tmp_path / "mine.toml").write_text(folders.CONFIGURATION)
    if "methods" in table:
        assert load_grid(path, *table.get("presets", {}))
    elif "regions" in table:
        named = len(table["regions"])
        assert len(read_named(path, named)) == named
    elif isinstance(table.get("names"), list):
        assert read_classes(path).names == tuple(table["names"])
    elif table.keys() <= Config.__dataclass_fields__.keys():
        assert isinstance(parse_config(table), Config)


@each_page
def test_every_fence_names_its_language(page):
    for block in read_blocks(page):
        assert block.language in LANGUAGES, block.place


@each_page
def test_what_is_not_run_has_a_reason_and_stands_above_a_block_that_could_be(page):
    marks = re.findall(r"^<!-- not run", page.read_text(encoding="utf-8"), re.MULTILINE)
    marked = [block for block in read_blocks(page) if block.not_run is not None]
    assert len(marks) == len(marked), "a mark stands on the line above a fence"
    for block in marked:
        assert len(block.not_run) > 5, f"{block.place} has no reason"
        assert block.language in ("sh", "python"), block.place


@each_page
def test_no_command_stands_outside_of_a_fence(page):
    assert INDENTED.findall(outside_of_fences(page)) == []
