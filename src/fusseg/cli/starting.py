"""The commands that a user starts from: a first configuration, and images for those without."""

import math
import shlex
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from fusseg.atomic import write_atomically
from fusseg.compute import choose_compute
from fusseg.config import Config, DataConfig
from fusseg.config_file import parse_config
from fusseg.data.datasets import open_dataset, select_held_out, select_training
from fusseg.data.findings import counted
from fusseg.data.items import Dataset
from fusseg.data.scene_folder import write_scenes
from fusseg.data.survey import choose_size, choose_splits, find_layout, sites_of_split
from fusseg.errors import ConfigError
from fusseg.features.backbones import load_backbone

NUM_CLUSTERS = 8
"""Regions where nothing tells how many."""
FEWEST_STEPS, MOST_STEPS = 20, 200
"""Steps per round; between them one pass over the largest site."""

_TEMPLATE = """\
# Written by fusseg init for {found}.
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
strategy = "fedcc-kmeans"
rounds = 10
"""
_AT_SITES = """
[evaluation]
at_sites = true                  # score on the masks of the training images; training reads none
"""
_REMARK_COLUMN = 32


@dataclass(frozen=True)
class StartOptions:
    """What the user said of the configuration to be written."""

    root: Path
    out: Path
    backbone: str
    num_clusters: int | None
    """None: the number of classes where they are named, else a guess."""


def run_init(options: StartOptions) -> None:
    """Look at a folder and write a configuration that runs on it.

    Raises:
        ConfigError: If the file is there already or cannot be written, or a setting cannot be.
        DataError: If the folder holds no images, or none of them can be read.
    """
    if options.out.exists():
        raise ConfigError(f"{options.out} is there already; give another --out, or remove it")
    data = find_layout(options.root)
    dataset = open_dataset(data)
    text = describe_start(options, data, dataset)
    config = parse_config(tomllib.loads(text))
    num_training = len(select_training(dataset, config.data))
    num_held_out = len(select_held_out(dataset, config.data))
    try:
        write_atomically(options.out, text.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {options.out}: {error.strerror}") from error
    file = shlex.quote(str(options.out))
    print(f"{counted(num_training, 'image')} train, {num_held_out} held out")
    print(f"wrote {options.out}; look it through, then:")
    print(f"  fusseg check {file}")
    print(f"  fusseg suggest-k {file}")
    print(f"  fusseg run {file} --out {shlex.quote(str(Path('runs') / options.out.stem))}")


def run_scenes(kind: str, out: Path, images: int, seed: int, held_out: str | None) -> None:
    """Write generated scenes as a folder of sites.

    Raises:
        ConfigError: If an option is out of range.
        DataError: If the folder is not empty, or cannot be written.
    """
    write_scenes(kind, out, images, seed, held_out)
    print(f"wrote {images} images a site, with masks; next: fusseg init {shlex.quote(str(out))}")


def describe_start(options: StartOptions, data: DataConfig, dataset: Dataset) -> str:
    """Write the configuration as TOML, with what each setting is for.

    Raises:
        DataError: If none of the images can be read.
    """
    backbone = load_backbone(options.backbone, choose_compute(Config().compute))
    height, width = backbone.image_size or choose_size(dataset.items, backbone.stride)
    labeled = any(item.mask is not None for item in dataset.items)
    splits = choose_splits(dataset)
    known = 0 if dataset.classes is None else len(dataset.classes.names)
    guessed = options.num_clusters is None and not known
    batch = Config().local.batch_size
    largest = max(Counter(item.client for item in dataset.items).values())
    remark = "how many regions to tell apart" + ("; fusseg suggest-k guesses" if guessed else "")
    text = _TEMPLATE.format(
        found=f"{counted(len(dataset.items), 'image')} of {counted(len(dataset.sites), 'site')}",
        data="\n".join(
            (
                f"layout = {_value(data.layout)}",
                f"root = {_value(data.root)}",
                _row(
                    f"image_size = [{height}, {width}]",
                    f"height, width for the backbone; multiples of {backbone.stride}",
                ),
                *_held_out(dataset, splits),
            )
        ),
        backbone=_row(f"name = {_value(options.backbone)}", _backbone_remark(options.backbone)),
        model=_row(f"num_clusters = {options.num_clusters or known or NUM_CLUSTERS}", remark),
        local=_row(
            f"steps = {min(max(math.ceil(largest / batch), FEWEST_STEPS), MOST_STEPS)}",
            f"training steps of each site per round, of {batch} images",
        ),
    )
    return text + _AT_SITES if labeled and splits is None else text


def _row(setting: str, remark: str) -> str:
    return f"{setting:<{_REMARK_COLUMN}} # {remark}"


def _held_out(dataset: Dataset, splits: tuple[str, str] | None) -> tuple[str, ...]:
    if splits is not None:
        training, held_out = splits
        return (
            f"train_split = {_value(training)}",
            f"held_out_sites = {_values(sites_of_split(dataset, held_out))}",
            f"held_out_split = {_value(held_out)}",
        )
    if len(dataset.sites) > 1:
        last = f"# held_out_sites = {_values(dataset.sites[-1:])}"
        return (_row(last, "sites that do not train, to score or look at"),)
    return ()


def _backbone_remark(name: str) -> str:
    if name == "filterbank":
        return "color and texture, needs no weights; facebook/dino-vits8 sees far more"
    return "frozen; its features are kept in the cache"


def _value(text: str) -> str:
    """Write a string as TOML."""
    return tomli_w.dumps({"value": text}).partition(" = ")[2].strip()


def _values(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_value, texts))}]"
