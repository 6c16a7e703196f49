"""Saved partitions: a CSV file that says which client holds which image."""

from collections.abc import Sequence
from pathlib import Path

from fusseg.core.errors import DataError
from fusseg.data.items import Dataset, Item
from fusseg.data.layouts.columns import check_client
from fusseg.data.tables import TableRow, dump_table, read_table

COLUMNS = ("client", "site", "stem")
KIND = "partition"


def dump_partition(items: Sequence[Item]) -> str:
    """Write a table with one line per image, sorted by client, site and stem."""
    return dump_table(COLUMNS, sorted((item.client, item.site, item.stem) for item in items))


def read_partition(path: Path, items: Sequence[Item], dataset: Dataset) -> list[str]:
    """Find the client of each item in a saved partition.

    Args:
        path: The file.
        items: The training images; each must be in the file once.
        dataset: All images; the file may also name images that do not train.

    Raises:
        DataError: If the file cannot be read, names an image twice or one that does not exist, or
            lacks a training image.
    """
    known = {(item.site, item.stem) for item in dataset.items}
    rows: dict[tuple[str, str], TableRow] = {}
    for row in read_table(path, KIND, COLUMNS):
        image = (row.cells["site"], row.cells["stem"])
        where = f"image {image[1]!r} of site {image[0]!r} on line {row.line}"
        if image in rows:
            raise DataError(
                f"{where} is on line {rows[image].line} already; each image has one client: {path}"
            )
        if image not in known:
            raise DataError(
                f"{where} does not exist; write the partition again for this data: {path}"
            )
        if not row.cells["client"]:
            raise DataError(f"{where} has no client; name one: {path}")
        check_client(row.cells["client"], row.line, path)
        rows[image] = row
    without = [item for item in items if (item.site, item.stem) not in rows]
    if without:
        raise DataError(
            f"{len(without)} of {len(items)} training images are not in the partition, "
            f"the first: image {without[0].stem!r} of site {without[0].site!r}; add them, or write "
            f"the partition again: {path}"
        )
    return [rows[item.site, item.stem].cells["client"] for item in items]
