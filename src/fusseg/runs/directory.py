"""A run directory: its configuration, its record, and the names of its other files."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from fusseg.config.file import (
    dump_config,
    merge_tables,
    parse_config,
    parse_overrides,
    read_toml,
)
from fusseg.config.previous_version import name_choices, translate_record, translate_settings
from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, DataError
from fusseg.core.files import is_temporary, write_atomically
from fusseg.runs.record_form import Record
from fusseg.runs.regions import regions_file
from fusseg.segmentation.objectives import spell_out

FORMAT_VERSION = 2
"""Version of record and state that is written, and the newest one that is read."""
CONFIG, RECORD, STATE, REPORT = "config.toml", "record.json", "state.safetensors", "report.html"


def check_new_run(path: Path) -> None:
    """Check that a new run directory would replace nothing.

    Raises:
        ConfigError: If there is a file or a folder with content at the path.
    """
    try:
        free = not path.exists() or (path.is_dir() and _is_empty(path))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if not free:
        unfinished = (path / CONFIG).exists() and not (path / REPORT).exists()
        resumed = ", or continue the run with --resume" if unfinished else ""
        raise ConfigError(f"{path} exists and is not overwritten; choose another --out{resumed}")


def create_run(path: Path, config: Config) -> None:
    """Create a run directory with its configuration, every key spelled out.

    Raises:
        ConfigError: If there is a file or a folder with content at the path, or the configuration
            cannot be written.
    """
    check_new_run(path)
    content = dump_config(spell_out(config)).encode()
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / CONFIG, content)
    except OSError as error:
        raise ConfigError(f"cannot write the run directory {path}: {error.strerror}") from error


def discard_run(path: Path) -> None:
    """Delete what `create_run` wrote, unless a round was saved since."""
    if (path / STATE).exists() or (path / RECORD).exists():
        return
    with suppress(OSError):
        (path / CONFIG).unlink()
        # Files of others stay; region names that were copied here are copied again.
        regions_file(path).unlink(missing_ok=True)
        path.rmdir()


def read_run_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a run's configuration; keys of the previous version are translated.

    Args:
        path: Run directory.
        overrides: Settings that replace those of the file, each as `section.key=value` with the
            names of this version.

    Raises:
        ConfigError: If the folder is not a run directory, or an override is wrong.
    """
    if not path.exists():
        raise ConfigError(f"there is no run directory {path}; correct the path")
    if path.is_file():
        raise ConfigError(f"{path} is a file; give the run directory that contains it")
    if not (path / CONFIG).exists():
        raise ConfigError(f"{path} is not a run directory: it has no {CONFIG}")
    table = name_choices(translate_settings(read_toml(path / CONFIG)))
    return parse_config(merge_tables(table, parse_overrides(overrides)))


def save_record(path: Path, record: Record) -> None:
    """Write the record atomically.

    Raises:
        DataError: If it cannot be written, for instance because the disk is full.
    """
    content = json.dumps(record, indent=1, allow_nan=False)
    write_run_file(path / RECORD, content.encode())


def load_record(path: Path) -> Record:
    """Read a run's record; one of the previous version is translated.

    Raises:
        DataError: If there is none, or it is damaged or of a newer version.
    """
    record = read_raw_record(path)
    try:
        # What is looked for is there; the values are those that the package wrote.
        return cast(Record, translate_record(record))
    except (ValueError, TypeError) as error:
        raise DataError(f"damaged record: {path / RECORD} ({error})") from error


def read_raw_record(path: Path) -> dict[str, Any]:
    """Read a run's record in the form of the version that wrote it.

    Raises:
        DataError: If there is none, or it is damaged or of a newer version.
    """
    try:
        record: dict[str, Any] = json.loads((path / RECORD).read_text())
        check_format_version(record["format_version"], path / RECORD)
        for key in Record.__annotations__:
            if key in Record.__required_keys__:
                record[key]
    except FileNotFoundError:
        raise DataError(f"{path} has no {RECORD}") from None
    except OSError as error:
        raise DataError(f"cannot read {path / RECORD}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"damaged record: {path / RECORD} ({error})") from error
    return record


def check_format_version(version: int, file: Path) -> None:
    """Check that a file is not of a newer version than this package reads.

    Raises:
        DataError: If it is.
    """
    if version > FORMAT_VERSION:
        raise DataError(
            f"{file} has format version {version}, this fusseg reads up to {FORMAT_VERSION}; "
            "install a newer one"
        )


def write_run_file(file: Path, content: bytes) -> None:
    """Write a file of a run directory atomically.

    Raises:
        DataError: If it cannot be written, for instance because the disk is full.
    """
    try:
        write_atomically(file, content)
    except OSError as error:
        raise DataError(
            f"cannot write {file}: {error.strerror}; fix this, then continue with --resume"
        ) from error


def _is_empty(folder: Path) -> bool:
    # A kill while the configuration is being written leaves nothing but its temporary file.
    return all(is_temporary(entry) for entry in folder.iterdir())
