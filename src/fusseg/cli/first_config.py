"""A first configuration for a folder of images: chosen by its content, written as TOML."""

import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w

from fusseg.config.compute import choose_compute
from fusseg.config.file import parse_config
from fusseg.config.presets import DEFAULT, find_preset
from fusseg.config.schema import BackboneConfig, Config, DataConfig, EvaluationConfig
from fusseg.data.checks.survey import (
    choose_size,
    choose_split_sites,
    choose_splits,
    find_layout,
    sites_of_split,
)
from fusseg.data.items import Dataset
from fusseg.data.layouts import open_dataset
from fusseg.data.partitions.small_clients import MIN_IMAGES, small_sites
from fusseg.data.selection import select_training
from fusseg.features.backbones import load_backbone
from fusseg.features.backbones.efficientnet import EFFICIENTNET, INSTALL, ORIGIN

NUM_CLUSTERS = 8
"""Number of regions if no classes are named."""
FEWEST_STEPS, MOST_STEPS = 20, 200
"""Bounds of the steps per round; between them, a round is one pass over the largest site."""

_TEMPLATE = """\
# Written by fusseg init{preset}.
# A run writes every other key, with its default, to its config.toml.
seed = 0

[data]
{data}

[backbone]
{backbone}

[model]
{model}

[local]
{local}

[federation]
{federation}
{evaluation}"""
_REMARK_COLUMN = 32
_BACKBONE = BackboneConfig()


def choose_config(
    root: Path,
    chosen: BackboneConfig = _BACKBONE,
    num_clusters: int | None = None,
    preset: str = DEFAULT,
) -> Config:
    """Choose settings for a folder of images by what the folder holds.

    Args:
        root: Folder of sites, of images, or of a known data set.
        chosen: Name and grid of the backbone.
        num_clusters: Number of regions; None: one per named class, or a guess without names.
        preset: Name of the settings that do not depend on the images.

    Raises:
        ConfigError: If the folder, the backbone or the preset does not exist, or the number is out
            of range.
        DataError: If there is no image, or none can be read.
    """
    settings = parse_config(find_preset(preset))
    data = find_layout(root)
    dataset = open_dataset(data)
    backbone = load_backbone(chosen.name, choose_compute(Config().compute), chosen.grid)
    size = choose_size(dataset.items, backbone.stride)
    data = replace(data, image_size=backbone.only_size((min(size), min(size))) or size)
    data = _choose_held_out(data, dataset)
    labeled = any(item.mask is not None for item in dataset.items)
    known = NUM_CLUSTERS if dataset.classes is None else len(dataset.classes.names)
    largest = max(Counter(item.client for item in dataset.items).values())
    steps = math.ceil(largest / settings.local.batch_size)
    regions = known if num_clusters is None else num_clusters
    return replace(
        settings,
        data=data,
        backbone=chosen,
        model=replace(settings.model, num_clusters=regions),
        local=replace(settings.local, steps=min(max(steps, FEWEST_STEPS), MOST_STEPS)),
        evaluation=EvaluationConfig(
            at_sites=labeled and not data.held_out_sites, every=1 if labeled else 0
        ),
    )


def _choose_held_out(data: DataConfig, dataset: Dataset) -> DataConfig:
    """Choose which sites and splits train, and which are held out."""
    splits, split_sites = choose_splits(dataset), choose_split_sites(dataset)
    if splits is not None:
        held_out = sites_of_split(dataset, splits[1])
        data = replace(
            data, train_split=splits[0], held_out_split=splits[1], held_out_sites=held_out
        )
    elif split_sites is not None:
        training, held_out_site = split_sites
        others = len(dataset.sites) > len(training) + 1
        data = replace(
            data, train_sites=training if others else (), held_out_sites=(held_out_site,)
        )
    small = small_sites(dataset, data)
    if small:
        enough = {item.client for item in select_training(dataset, data)} - small.keys()
        data = replace(data, train_sites=tuple(sorted(enough)))
    return data


def describe_config(
    config: Config, sites: Sequence[str], preset: str = DEFAULT, *, guessed: bool
) -> str:
    """Write a chosen configuration as TOML, with a remark on what each setting is for.

    Args:
        config: Result of `choose_config`.
        sites: Names of all sites.
        preset: That of `choose_config`; its settings are written out.
        guessed: Whether the number of regions is a guess.
    """
    data, (height, width) = config.data, config.data.image_size
    settings = [
        f"layout = {_value(data.layout)}",
        f"root = {_value(data.root)}",
        _row(f"image_size = [{height}, {width}]", "height, width that the backbone sees"),
    ]
    left_out: list[str] = []
    if data.train_sites:
        left_out = [site for site in sites if site not in data.train_sites]
        settings.append(
            _row(
                f"train_sites = {_values(data.train_sites)}",
                f"each with at least {MIN_IMAGES} images to train on",
            )
        )
    if data.held_out_sites:
        settings.append(f"held_out_sites = {_values(data.held_out_sites)}")
    splits = {key: getattr(data, key) for key in ("train_split", "held_out_split")}
    settings += [f"{key} = {_value(split)}" for key, split in splits.items() if split]
    held_out = ""
    if len(sites) > 1 and not data.held_out_sites:
        held_out = f"held_out_sites = {_values((left_out or sites)[-1:])}"
    if held_out and not config.evaluation.at_sites:
        settings.append(_row(f"# {held_out}", "sites that do not train, to score or look at"))
    clusters = "how many regions to tell apart" + ("; fusseg suggest-k guesses" if guessed else "")
    steps = f"training steps of each site per round, of {config.local.batch_size} images"
    rows = {
        "model": [_row(f"num_clusters = {config.model.num_clusters}", clusters)],
        "local": [_row(f"steps = {config.local.steps}", steps)],
        "federation": [
            f"strategy = {_value(config.federation.strategy)}",
            f"rounds = {config.federation.rounds}",
        ],
    }
    more = find_preset(preset)
    return _TEMPLATE.format(
        preset="" if preset == DEFAULT else f" --preset {preset}",
        data="\n".join(settings),
        backbone=_describe_backbone(config.backbone),
        evaluation=_describe_evaluation(config.evaluation, held_out),
        **{name: _section(name, chosen, more.get(name, {})) for name, chosen in rows.items()},
    )


def _section(name: str, rows: Sequence[str], more: Mapping[str, Any]) -> str:
    """Write a section: its rows, then what a preset says beyond them."""
    written = tomllib.loads("\n".join(rows))
    rest = {key: value for key, value in more.items() if key not in written}
    added = tomli_w.dumps({name: rest}).removeprefix(f"[{name}]\n")
    return "\n".join([*rows, added]).rstrip()


def _describe_backbone(backbone: BackboneConfig) -> str:
    row = _row(f"name = {_value(backbone.name)}", _remark(backbone.name))
    if backbone.name == _BACKBONE.name:
        offer = _row(f"# for photographs: name = {_value(EFFICIENTNET)}", f"{ORIGIN};")
        row = f"{offer}\n{_row('#', INSTALL)}\n{row}"
    if backbone.grid is None:
        return row
    grid = '"square"' if backbone.grid == "square" else str(list(backbone.grid))
    return f"{row}\n" + _row(f"grid = {grid}", "where the tokens of the file lie in the image")


def _describe_evaluation(evaluation: EvaluationConfig, held_out: str) -> str:
    if evaluation.every == 0:
        row = _row("every = 0", "label-free figures after the last round only; 1: after each")
    elif evaluation.at_sites:
        row = _row("at_sites = true", "score on masks of training images; training reads none")
        if held_out:
            # The two exclude each other, so this must not look like a line to uncomment.
            row += (
                f"\n# To score on sites that do not train, remove at_sites and set data.{held_out}"
            )
    else:
        return ""
    return f"\n[evaluation]\n{row}\n"


def _row(setting: str, remark: str) -> str:
    return f"{setting:<{_REMARK_COLUMN}} # {remark}"


def _remark(name: str) -> str:
    if name == EFFICIENTNET:
        return ORIGIN
    if name == "filterbank":
        return "color and texture, needs no weights"
    return "frozen; its features are kept in the cache"


def _value(text: str) -> str:
    """Write a string as TOML."""
    return tomli_w.dumps({"value": text}).partition(" = ")[2].strip()


def _values(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_value, texts))}]"
