"""Sections of the table that list the settings behind its numbers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fusseg.bench.cells import Cell
from fusseg.bench.grid import Grid
from fusseg.bench.table import Entry, Section
from fusseg.config.file import flatten, to_table
from fusseg.core.portable_paths import without_folders_in
from fusseg.federation.strategies import find_strategy
from fusseg.report import formatting
from fusseg.runs.directory import RECORD, load_record
from fusseg.runs.record_form import ClientImages, HelloEntry
from fusseg.segmentation.objectives import spell_out

_SETTINGS: tuple[tuple[str, str], ...] = (
    ("data", "data.root"),
    ("data layout", "data.layout"),
    ("partition", "data.partition"),
    ("clients asked for", "data.num_clients"),
    ("Dirichlet alpha", "data.alpha"),
    ("other cameras", "data.cameras"),
    ("crops", "data.crops"),
    ("list of training images", "data.train_list"),
    ("list of held-out images", "data.held_out_list"),
    ("training sites", "data.train_sites"),
    ("training split", "data.train_split"),
    ("held-out sites", "data.held_out_sites"),
    ("held-out split", "data.held_out_split"),
    ("training resolution", "data.image_size"),
    ("evaluation resolution", "evaluation.image_size"),
    ("fit", "data.fit"),
    ("whole image scored", "evaluation.whole"),
    ("flip averaging", "evaluation.flip"),
    ("CRF", "evaluation.crf"),
    ("backbone", "backbone.name"),
    ("K", "model.num_clusters"),
    ("regions", "model.num_regions"),
    ("code channels", "model.code_dim"),
    ("whitening of the start", "model.whitening"),
    ("rounds", "federation.rounds"),
    ("Lloyd rounds of the finish", "federation.lloyd_rounds"),
    ("model that is kept", "federation.keep"),
    ("batch size", "local.batch_size"),
    ("shifts", "local.stego.shift"),
)


def settings_section(grid: Grid, cells: Sequence[Cell]) -> Section:
    """List the settings that the rows of a column share.

    Args:
        grid: The grid.
        cells: Its cells; clients and steps come from the records of the finished ones.
    """
    by_column = {
        column: _column_settings([cell for cell in cells if cell.column == column])
        for column in grid.column_names
    }
    rows = [("seeds", dict.fromkeys(by_column, ", ".join(map(str, grid.seeds))))]
    names = next(iter(by_column.values()))
    rows += [
        (name, {column: settings[name] for column, settings in by_column.items()}) for name in names
    ]
    return Section(
        "Settings",
        "Scores are of the model that the run ends with, never of the round that scores best. A "
        "row sets nothing but what its name says, listed below.",
        ("setting", *by_column),
        tuple((Entry(name), *map(Entry, values.values())) for name, values in rows),
    )


def methods_section(grid: Grid, methods: Sequence[str]) -> Section:
    """List the settings of each row."""
    rows = [
        (Entry(method.name), Entry(_settings_text(method.settings, method.anchor)))
        for method in grid.methods
        if method.name in methods
    ]
    return Section("Rows", "What each row sets.", ("method", "settings"), tuple(rows))


def _settings_text(settings: Mapping[str, Any], anchor: str | None) -> str:
    texts = [
        f"{key} = {_text(value)}" for key, value in without_folders_in(flatten(settings)).items()
    ]
    if anchor is not None:
        texts.insert(0, f"anchor {anchor}: no training")
    return ", ".join(texts) or "nothing"


def _column_settings(cells: Sequence[Cell]) -> dict[str, str]:
    shown = {name: _shared(cells, key) for name, key in _SETTINGS}
    shown |= _made_by(cells)
    first = _first_federation(cells)
    shown["clients: images"] = formatting.ABSENT
    shown["steps per client and round"] = formatting.ABSENT
    shown["shifts used"] = formatting.ABSENT
    if first is not None:
        cell, clients, hello = first
        counts = [client["num_images"] for client in clients]
        # With secure sums only the sum over the clients is known.
        listed = "hidden" if None in counts else ", ".join(map(str, counts))
        shown["clients: images"] = f"{len(clients)}: {listed}"
        shown["steps per client and round"] = str(hello["local_steps"])
        agreed = hello["agreed"].items()
        shifts = [f"{shift:.3f}" for name, shift in agreed if name.startswith("shift_")]
        if shifts:
            # Each run measures its own shifts.
            held_out = f", {cell.held_out} held out" if cell.held_out else ""
            shown["shifts used"] = f"{', '.join(shifts)} (seed {cell.seed}{held_out})"
    return shown


def _shared(cells: Sequence[Cell], key: str) -> str:
    return _distinct(_text(_settings_of(cell).get(key)) for cell in cells)


def _settings_of(cell: Cell) -> dict[str, Any]:
    flat = without_folders_in(flatten(to_table(spell_out(cell.config))))
    cameras = (cell.config.data.cameras or {}).items()
    return {**flat, "data.cameras": [f"{client} {camera}" for client, camera in cameras]}


def _made_by(cells: Sequence[Cell]) -> dict[str, str]:
    """Name the encoder and the machine, on which scores depend too, from the cells' records."""
    records = [load_record(cell.path) for cell in cells if (cell.path / RECORD).exists()]
    digests = (record["backbone"]["fingerprint"] for record in records)
    return {"SHA-256 of the encoder": _distinct(map(_text, digests))} | {
        name: _distinct(_text(record["versions"].get(key)) for record in records)
        for name, key in (("processor", "processor"), ("threads", "threads"), ("torch", "torch"))
    }


def _distinct(texts: Iterable[str]) -> str:
    """Join the distinct texts, in the order of their first appearance."""
    return " / ".join(dict.fromkeys(texts)) or formatting.ABSENT


def _first_federation(
    cells: Sequence[Cell],
) -> tuple[Cell, list[ClientImages], HelloEntry] | None:
    """Find a cell with several clients: the cell, its clients, and what they agreed on."""
    for cell in cells:
        pooled = find_strategy(cell.config.federation.strategy).pools_images
        if cell.anchor is None and not pooled and (cell.path / RECORD).exists():
            record = load_record(cell.path)
            if record["hello"] is not None:
                return cell, record["clients"], record["hello"]
    return None


def _text(value: Any) -> str:  # noqa: ANN401 - any setting
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ("", (), []):
        return formatting.ABSENT
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
