"""The templates of the pages, and how they are filled."""

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined


def open_templates() -> Environment:
    """Make an environment that escapes all values and refuses names that are not given."""
    return Environment(
        loader=PackageLoader("fusseg.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def read_part(name: str) -> str:
    """Read a style sheet or script that goes into a page."""
    return (resources.files("fusseg.report") / name).read_text(encoding="utf-8")
