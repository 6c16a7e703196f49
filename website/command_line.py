"""Generate the command-line page of the documentation from the commands themselves."""

from collections.abc import Iterator

import click
from mkdocs.structure.pages import Page
from typer.main import get_command

from fusseg.cli.app import app

PLACE = "reference/command-line.md"
MARK = "<!-- commands -->"
MORE = {
    "init": "tutorial.md",
    "scenes": "tutorial.md",
    "check": "data.md#fusseg-check",
    "partition": "data.md#partitions",
    "extract": "backbones.md#what-is-cached",
    "suggest-k": "quality.md#how-many-regions",
    "report": "report.md",
    "quality": "quality.md#how-clear-how-stable",
    "adapt": "new-sites.md",
    "predict": "predict.md",
    "name": "naming.md",
    "annotate": "annotations.md",
    "pack": "share.md",
    "push": "share.md",
    "export": "export.md",
    "serve": "deployment.md",
    "join": "deployment.md",
    "ledger": "privacy.md",
    "keys": "deployment.md",
    "bench": "bench.md",
    "cache": "backbones.md#what-is-cached",
}
"""The documentation page about each command that has one."""


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Replace the mark with all commands, their arguments and options."""
    return markdown.replace(MARK, describe_commands()) if page.file.src_uri == PLACE else markdown


def describe_commands() -> str:
    """Write all commands as Markdown, in the order of `fusseg --help`."""
    return "\n".join(_sections(click.Context(get_command(app), info_name="fusseg"), level=2))


def _sections(context: click.Context, level: int) -> Iterator[str]:
    command = context.command
    if context.parent is not None:
        yield from _describe(context, level)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                inner = click.Context(below, info_name=name, parent=context)
                yield from _sections(inner, level + (context.parent is not None))


def _describe(context: click.Context, level: int) -> Iterator[str]:
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"{'#' * level} `{context.command_path}`\n"
    more = f" [More](../{MORE[command.name]})" if command.name in MORE else ""
    yield f"{' '.join((command.help or '').split())}{more}\n"
    yield f"```text\n{usage}\n```\n"
    shown = [part for part in command.get_params(context) if _text_of(part, context)]
    shown = [part for part in shown if "--help" not in part.opts]
    if shown:
        yield "| argument or option | default | meaning |\n|---|---|---|"
        for part in sorted(shown, key=lambda part: isinstance(part, click.Option)):
            cells = (_name(part, context), _default(part, context), _text_of(part, context))
            yield f"| {' | '.join(cells)} |"
        yield ""


def _name(part: click.Parameter, context: click.Context) -> str:
    if not isinstance(part, click.Option):
        return f"`{part.make_metavar(context)}`"
    names = ", ".join(f"`{name}`" for name in [*part.opts, *part.secondary_opts])
    return names if part.is_flag else f"{names} `{part.make_metavar(context)}`"


def _default(part: click.Parameter, context: click.Context) -> str:
    if part.required:
        return "required"
    value = part.get_default(context)
    unset = value is None or value is False or value == () or value == []
    return "" if unset else f"`{value}`"


def _text_of(part: click.Parameter, context: click.Context) -> str:
    text = getattr(part, "help", None)
    if text is None:
        record = part.get_help_record(context)
        text = record[1] if record else ""
    return " ".join(text.split()).replace("|", "\\|")
