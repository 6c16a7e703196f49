"""The folder that a data set lies in, and what is listed of it."""

from collections.abc import Iterable
from pathlib import Path

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError


def data_root(config: DataConfig, layout: str) -> Path:
    """Find the folder of the data.

    Args:
        config: Where it is.
        layout: What is expected there, as the end of an error message.

    Raises:
        ConfigError: If no root is set.
        DataError: If it is not there, or no folder.
    """
    if not config.root:
        raise ConfigError("data.root is not set; give the folder that holds the sites")
    root = Path(config.root)
    if not root.exists():
        looked = "" if root.is_absolute() else f", looked for at {root.absolute()}"
        raise DataError(
            f"data.root does not exist: {config.root!r}{looked}; correct data.root, that of a run "
            f"in its config.toml (a relative path starts at the working directory); {layout}"
        )
    if not root.is_dir():
        raise DataError(f"data.root is not a folder: {config.root!r}; {layout}")
    return root


def files_by_stem(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Map the stems of the files of some kinds to their paths; empty where there is no folder.

    Raises:
        DataError: If two files share a stem, or a name is not valid UTF-8.
    """
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for path in visible(folder):
        if path.suffix.lower() in suffixes:
            other = found.setdefault(named(path).stem, path)
            if other != path:
                raise DataError(
                    f"two files share the stem {path.stem!r}, {other.name} and {path.name}; "
                    f"rename one: {folder}"
                )
    return found


def files_by_ending(folder: Path, ending: str) -> dict[str, Path]:
    """Map what stands before an ending of file names to their paths; empty without the folder.

    Raises:
        DataError: If a name is not valid UTF-8.
    """
    if not folder.is_dir():
        return {}
    return {
        named(path).name.removesuffix(ending): path
        for path in visible(folder)
        if path.name.endswith(ending)
    }


def named(path: Path) -> Path:
    """Refuse a name that could neither be printed nor written to a record.

    Raises:
        DataError: If it is not valid UTF-8.
    """
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"a name is not valid UTF-8, rename it: {str(path)!a}") from error
    return path


def visible(folder: Path) -> list[Path]:
    """List what is in a folder, by name, without hidden entries such as `._x.jpg`."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
