"""Sites by another column of the table of splits: a camera, a season, a cluster of colors."""

from dataclasses import replace
from pathlib import Path

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.items import Dataset
from fusseg.data.splits import KIND
from fusseg.data.tables import read_table

PREFIX = "column:"


def give_to_column(dataset: Dataset, config: DataConfig) -> Dataset:
    """Give each image to the value that it has in the column of `data.partition`, if it names one.

    Raises:
        ConfigError: If no column is named after the colon, or the layout has no table.
        DataError: If the table cannot be read, lacks the column, gives an image two values, or
            gives some image none.
    """
    if not config.partition.startswith(PREFIX):
        return dataset
    column = config.partition.removeprefix(PREFIX)
    if not column or not config.root:
        mend = f"name a column of {config.splits}" if config.root else "set data.root"
        raise ConfigError(f"data.partition {config.partition!r} needs a table of splits; {mend}")
    path = Path(config.root) / config.splits
    values = _values(path, column)
    without = [item for item in dataset.items if not values.get((item.site, item.stem))]
    if without:
        raise DataError(
            f"{len(without)} of {len(dataset.items)} images have no value in the column "
            f"{column!r}, image {without[0].stem!r} of site {without[0].site!r} first; add what "
            f"is missing, or choose another data.partition: {path}"
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
    """Refuse a name that no folder could have.

    Raises:
        DataError: If there is a slash in it.
    """
    if "/" in client:
        raise DataError(
            f"client {client!r} on line {line} has a slash in its name; rename it: {path}"
        )
