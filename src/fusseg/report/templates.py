"""Render the templates of the pages."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fusseg.core.portable_paths import without_folders
from fusseg.core.visible_text import visible
from fusseg.report import formatting

_FILTERS = ("score", "loss", "share", "count", "size", "duration", "listing", "plural")


@cache
def open_templates() -> Environment:
    """Make an environment that escapes all values and refuses undefined names.

    There is one, since it keeps the templates that it has compiled.
    """
    environment = Environment(
        loader=PackageLoader("fusseg.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in _FILTERS:
        environment.filters[name] = getattr(formatting, name)
    environment.filters["portable"] = without_folders
    return environment


def render_page(template: str, scripts: Sequence[str], **values: object) -> str:
    """Render a template that extends `base.html.j2`; only the given scripts may run on the page.

    Args:
        template: File name of the template.
        scripts: Files that are joined into the single script of the page.
        values: Variables of the template.
    """
    script = '"use strict";\n' + "\n".join(read_part(name) for name in scripts)
    digest = hashlib.sha256(script.encode()).digest()
    page = (
        open_templates()
        .get_template(template)
        .render(
            values,
            style=Markup(read_part("report.css")),
            script=Markup(script),
            script_hash=base64.b64encode(digest).decode("ascii"),
        )
    )
    return finish_page(page)


def finish_page(page: str) -> str:
    """Escape characters that hide or reorder text, and bytes that cannot be encoded."""
    return visible(page, keep="\n\t")


def read_part(name: str) -> str:
    """Read a style sheet or script to embed in a page."""
    return (resources.files("fusseg.report") / name).read_text(encoding="utf-8")
