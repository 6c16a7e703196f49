"""The file `classes.map.toml`: one name for classes that several sites call differently."""

from pathlib import Path

from fusseg.core.errors import DataError
from fusseg.core.toml_file import load_toml

_FORM = 'write [classes] with lines such as "Road surface" = "road"'


def read_class_map(path: Path) -> dict[str, str]:
    """Read the names of classes by the other names that sites use for them.

    Raises:
        DataError: If the file cannot be read, has another table, or a name is not text, or is
            itself mapped to another name.
    """
    try:
        table = load_toml(path)
    except OSError as error:
        raise DataError(f"the map of classes cannot be read ({error.strerror}): {path}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"the map of classes is not valid TOML ({error}): {path}") from error
    names = table.pop("classes", None)
    if table or not isinstance(names, dict) or not names:
        found = ", ".join(table) or "no [classes]"
        raise DataError(f"the map of classes has {found}; {_FORM}: {path}")
    for own, name in names.items():
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise DataError(f"class {own!r} is mapped to {name!r}, not to a name; {_FORM}: {path}")
        if name in names and name != own:
            raise DataError(
                f"class {own!r} is mapped to {name!r}, which is mapped to {names[name]!r}; map "
                f"both to one name: {path}"
            )
    return {str(own): str(name) for own, name in names.items()}
