"""The root folder of a data set, and listing files in its folders."""

from collections.abc import Iterable
from pathlib import Path

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError


def data_root(config: DataConfig, layout: str) -> Path:
    """Find the root folder of the data.

    Args:
        config: Settings with the root.
        layout: What is expected there, as the end of an error message.

    Raises:
        ConfigError: If no root is set.
        DataError: If it does not exist or is not a folder.
    """
    if not config.root:
        raise ConfigError("data.root is not set; give the folder that holds the sites")
    root = Path(config.root)
    if not root.exists():
        looked = "" if root.is_absolute() else f", looked for at {root.absolute()}"
        raise DataError(
            f"data.root does not exist: {config.root!r}{looked}; correct data.root, for a run in "
            f"its config.toml (a relative path starts at the working directory); {layout}"
        )
    if not root.is_dir():
        raise DataError(f"data.root is not a folder: {config.root!r}; {layout}")
    return root


def files_by_stem(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Map the stems of files with some suffixes to their paths; empty if there is no folder.

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
    """Map file names without a common ending to their paths; empty if there is no folder.

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
    """Return a path, but refuse a name that cannot be printed or written to a record.

    Raises:
        DataError: If it is not valid UTF-8.
    """
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"a name is not valid UTF-8, rename it: {str(path)!a}") from error
    return path


def visible(folder: Path) -> list[Path]:
    """List the entries of a folder, sorted by name, without hidden ones such as `._x.jpg`."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
