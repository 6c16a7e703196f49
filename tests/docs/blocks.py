"""Fenced blocks of the documentation, and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import click
from typer.main import get_command

from fusseg.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]

_FENCE = re.compile(r"^(`{3,})(\S*)[^\n]*\n(.*?)^\1[ ]*$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run:?(.*?)-->\n\Z")
_SPAN = re.compile(r"`(fusseg [^`]+)`")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    """Of the fence, from 1."""
    language: str
    text: str
    not_run: str | None
    """Why it cannot be run; None: it is run."""

    @property
    def place(self):
        return f"{self.page}:{self.line}"


def page_name(page):
    return page.relative_to(ROOT).as_posix()


def read_blocks(page):
    text = page.read_text(encoding="utf-8")
    blocks = []
    for found in _FENCE.finditer(text):
        before = text[: found.start()]
        mark = _NOT_RUN.search(before)
        blocks.append(
            Block(
                page=page_name(page),
                line=before.count("\n") + 1,
                language=found[2],
                text=found[3],
                not_run=mark[1].strip() if mark else None,
            )
        )
    return blocks


def outside_of_fences(page):
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks_of(language):
    return [block for page in PAGES for block in read_blocks(page) if block.language == language]


def commands_of(block):
    """Commands of a shell block: comments and blank lines gone, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", block.text)
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def words_of(command):
    """Words of a command that starts fusseg, without its comment; None for other commands."""
    words = shlex.split(command, comments=True)
    return words[1:] if words[:1] == ["fusseg"] else None


def commands_in_text(page):
    """Commands in the sentences and tables of a page, which may leave arguments out."""
    text = re.sub(r"\s+", " ", outside_of_fences(page)).replace("\\|", "|")
    return _SPAN.findall(text)


def find_command(words):
    """The command that words start, its name, and what is left of them."""
    command, name, rest = get_command(app), "fusseg", list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in command.commands:
            raise click.UsageError(f"no command {name!r}")
        command = command.commands[name]
    return command, name, rest


def check_options(command, words):
    """Refuse options that a command does not have.

    Raises:
        click.UsageError: If there is one.
    """
    known = {option for part in command.params for option in part.opts} | {"--help"}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    if not given <= known:
        raise click.UsageError(f"no option {sorted(given - known)[0]}")


def parse(words):
    """Read a command as the command line would, and run nothing.

    Raises:
        click.UsageError: If there is no such command, option or argument, or one is missing.
    """
    command, name, rest = find_command(words)
    if isinstance(command, click.Group):  # its options act as soon as they are read
        check_options(command, rest)
        return
    try:
        command.make_context(name, rest)
    except click.exceptions.Exit:  # --help
        return
