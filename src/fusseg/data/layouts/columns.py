"""Clients by another column of the table of splits: a camera, a season, a cluster of colors."""

from dataclasses import replace
from pathlib import Path

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.items import Dataset
from fusseg.data.splits import KIND
from fusseg.data.tables import read_table

PREFIX = "column:"


def give_to_column(dataset: Dataset, config: DataConfig) -> Dataset:
    """Make each image's value in a column its client, if `data.partition` names a column.

    Raises:
        ConfigError: If no column is named after the colon, or the layout has no table.
        DataError: If the table cannot be read, lacks the column, or gives an image two values or
            none.
    """
    if not config.partition.startswith(PREFIX):
        return dataset
    column = config.partition.removeprefix(PREFIX)
    if not column or not config.root:
        remedy = f"name a column of {config.splits}" if config.root else "set data.root"
        raise ConfigError(f"data.partition {config.partition!r} needs a table of splits; {remedy}")
    path = Path(config.root) / config.splits
    values = _values(path, column)
    without = [item for item in dataset.items if not values.get((item.site, item.stem))]
    if without:
        raise DataError(
            f"{len(without)} of {len(dataset.items)} images have no value in the column "
            f"{column!r}, the first: image {without[0].stem!r} of site {without[0].site!r}; add "
            f"what is missing, or choose another data.partition: {path}"
        )
    items = (replace(item, client=values[item.site, item.stem]) for item in dataset.items)
    return replace(dataset, items=tuple(items), site_order=())


def _values(path: Path, column: str) -> dict[tuple[str, str], str]:
    values: dict[tuple[str, str], str] = {}
    for row in read_table(path, KIND, ("stem", "site", column)):
        site, stem, value = row.cells["site"], row.cells["stem"], row.cells[column]
        other = values.setdefault((site, stem), value)
        if other != value:
            raise DataError(
                f"image {stem!r} of site {site!r} has {other!r} and {value!r} in the column "
                f"{column!r}, the latter on line {row.line}; keep one: {path}"
            )
        check_client(value, row.line, path)
    return values


def check_client(client: str, line: int, path: Path) -> None:
    """Refuse the name of a client that cannot be the name of a folder.

    Raises:
        DataError: If it contains a slash.
    """
    if "/" in client:
        raise DataError(
            f"client {client!r} on line {line} has a slash in its name; rename it: {path}"
        )
