"""Formulas, set as MathML when the site is built: no script and no font is fetched to read them."""

from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let a block of the language math become a formula."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "math", "class": "formula", "format": set_formulas}]
    return config


def set_formulas(source: str, _language: str, css_class: str, *_: Any, **__: Any) -> str:  # noqa: ANN401
    """Set a block as one displayed formula."""
    return f'<div class="{css_class}">{convert(source.strip(), display="block")}</div>'
