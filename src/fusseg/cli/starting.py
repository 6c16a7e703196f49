"""The commands that a user starts from: a first configuration, and images for those without."""

import math
import shlex
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tomli_w

from fusseg.config.compute import choose_compute
from fusseg.config.file import parse_config
from fusseg.config.schema import (
    BackboneConfig,
    Config,
    EvaluationConfig,
    Grid,
    LocalConfig,
    ModelConfig,
)
from fusseg.core.errors import ConfigError
from fusseg.core.files import write_atomically
from fusseg.core.visible_text import say
from fusseg.data.checks.check_masks import doubt_masks
from fusseg.data.checks.survey import (
    NUM_LOOKED_AT,
    choose_size,
    choose_split_sites,
    choose_splits,
    find_layout,
    sites_of_split,
)
from fusseg.data.checks.unused import find_unused
from fusseg.data.checks.unused_masks import find_unused_masks
from fusseg.data.findings import counted
from fusseg.data.layouts import open_dataset
from fusseg.data.partitions.small_clients import MIN_IMAGES, MOST_NAMED, small_sites
from fusseg.data.selection import select_held_out, select_training
from fusseg.data.stored import doubt_stored
from fusseg.data.synthetic.scene_folder import write_scenes
from fusseg.features.backbones import load_backbone

NUM_CLUSTERS = 8
"""Regions where nothing tells how many."""
FEWEST_STEPS, MOST_STEPS = 20, 200
"""Steps per round; between them one pass over the largest site."""

_TEMPLATE = """\
# Written by fusseg init.
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
strategy = {strategy}
rounds = {rounds}
{evaluation}"""
_REMARK_COLUMN = 32
_BACKBONE = BackboneConfig()


@dataclass(frozen=True)
class StartOptions:
    """What the user said of the configuration to be written."""

    root: Path
    out: Path
    backbone: str
    num_clusters: int | None
    """None: the number of classes where they are named, else a guess."""
    grid: Grid | None = None
    """As `backbone.grid`."""


def parse_grid(text: str | None) -> Grid | None:
    """Read how tokens lie in an image: `square`, or ROWSxCOLUMNS.

    Raises:
        ConfigError: If it is neither.
    """
    if text is None:
        return None
    if text == "square":
        return "square"
    rows, cross, columns = text.partition("x")
    if not (cross and rows.isdecimal() and columns.isdecimal()):
        raise ConfigError(f"--grid must be square or ROWSxCOLUMNS, such as 14x28, got {text!r}")
    return int(rows), int(columns)


def run_init(options: StartOptions) -> None:
    """Look at a folder and write a configuration that runs on it.

    Raises:
        ConfigError: If the file is there already or cannot be written, or a setting cannot be.
        DataError: If the folder holds no images, or none of them can be read.
    """
    if options.out.exists():
        raise ConfigError(f"{options.out} is there already; give another --out, or remove it")
    backbone = BackboneConfig(name=options.backbone, grid=options.grid)
    config = choose_config(options.root, backbone, options.num_clusters)
    dataset = open_dataset(config.data)
    num_training = len(select_training(dataset, config.data))
    num_held_out = len(select_held_out(dataset, config.data))
    guessed = options.num_clusters is None and dataset.classes is None
    text = describe_config(config, dataset.sites, guessed=guessed)
    assert parse_config(tomllib.loads(text)) == config
    try:
        write_atomically(options.out, text.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {options.out}: {error.strerror}") from error
    file = shlex.quote(str(options.out))
    looked_at = dataset.items[:: -(-len(dataset.items) // NUM_LOOKED_AT)]
    for finding in (
        *find_unused(config.data),
        *find_unused_masks(dataset, config.data),
        *doubt_stored(dataset.items, config.data),
        *doubt_masks(looked_at, dataset.classes, config.data.root),
    ):
        say(f"{finding.severity}: {finding.subject}: {finding.message}")
    _print_small(list(small_sites(dataset, config.data)), config)
    say(f"{counted(num_training, 'image')} train, {num_held_out} held out")
    say(f"wrote {options.out}; look it through, then:")
    say(f"  fusseg check {file}")
    say(f"  fusseg suggest-k {file}")
    say(f"  fusseg run {file} --out {shlex.quote(str(Path('runs') / options.out.stem))}")


def _print_small(small: Sequence[str], config: Config) -> None:
    if not small:
        return
    rule = f"fewer than the {MIN_IMAGES} training images that a site needs"
    if not config.data.train_sites:
        say(f"warning: each site has {rule}; add images before you run it")
        return
    more = f" and {len(small) - MOST_NAMED} more" if len(small) > MOST_NAMED else ""
    names = ", ".join(small[:MOST_NAMED]) + more
    say(f"warning: {rule}: {names}; left out of data.train_sites")


def run_scenes(kind: str, out: Path, images: int, seed: int, held_out: str | None) -> None:
    """Write generated scenes as a folder of sites.

    Raises:
        ConfigError: If an option is out of range.
        DataError: If the folder is not empty, or cannot be written.
    """
    write_scenes(kind, out, images, seed, held_out)
    say(f"wrote {images} images a site, with masks; next: fusseg init {shlex.quote(str(out))}")


def choose_config(
    root: Path, chosen: BackboneConfig = _BACKBONE, num_clusters: int | None = None
) -> Config:
    """Choose settings for a folder of images by what lies in it.

    Args:
        root: Folder of sites, of images, or of a known data set.
        chosen: Name and grid of the backbone.
        num_clusters: Regions; None: as many as classes are named, else a guess.

    Raises:
        ConfigError: If the folder or the backbone is not there, or the number cannot be.
        DataError: If there is no image, or none can be read.
    """
    data = find_layout(root)
    dataset = open_dataset(data)
    backbone = load_backbone(chosen.name, choose_compute(Config().compute), chosen.grid)
    size = choose_size(dataset.items, backbone.stride)
    data = replace(data, image_size=backbone.only_size((min(size), min(size))) or size)
    splits, split_sites = choose_splits(dataset), choose_split_sites(dataset)
    if split_sites is not None and splits is None:
        training, held_out_site = split_sites
        others = len(dataset.sites) > len(training) + 1
        data = replace(
            data, train_sites=training if others else (), held_out_sites=(held_out_site,)
        )
    if splits is not None:
        held_out = sites_of_split(dataset, splits[1])
        data = replace(
            data, train_split=splits[0], held_out_split=splits[1], held_out_sites=held_out
        )
    small = small_sites(dataset, data)
    if small:
        enough = {item.client for item in select_training(dataset, data)} - small.keys()
        data = replace(data, train_sites=tuple(sorted(enough)))
    labeled = any(item.mask is not None for item in dataset.items)
    known = NUM_CLUSTERS if dataset.classes is None else len(dataset.classes.names)
    largest = max(Counter(item.client for item in dataset.items).values())
    steps = math.ceil(largest / Config().local.batch_size)
    return Config(
        data=data,
        backbone=chosen,
        model=ModelConfig(num_clusters=known if num_clusters is None else num_clusters),
        local=LocalConfig(steps=min(max(steps, FEWEST_STEPS), MOST_STEPS)),
        evaluation=EvaluationConfig(
            at_sites=labeled and not data.held_out_sites, every=1 if labeled else 0
        ),
    )


def describe_config(config: Config, sites: Sequence[str], *, guessed: bool) -> str:
    """Write such a configuration as TOML, with what each setting is for.

    Args:
        config: What `choose_config` chose.
        sites: All that there are.
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
    return _TEMPLATE.format(
        data="\n".join(settings),
        backbone=_describe_backbone(config.backbone),
        model=_row(f"num_clusters = {config.model.num_clusters}", clusters),
        local=_row(f"steps = {config.local.steps}", steps),
        rounds=config.federation.rounds,
        strategy=_value(config.federation.strategy),
        evaluation=_describe_evaluation(config.evaluation, held_out),
    )


def _describe_backbone(backbone: BackboneConfig) -> str:
    row = _row(f"name = {_value(backbone.name)}", _remark(backbone.name))
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
            # One excludes the other, so that it must not look like a line to be taken in as it is.
            row += (
                f"\n# To score on sites that do not train, remove at_sites and set data.{held_out}"
            )
    else:
        return ""
    return f"\n[evaluation]\n{row}\n"


def _row(setting: str, remark: str) -> str:
    return f"{setting:<{_REMARK_COLUMN}} # {remark}"


def _remark(name: str) -> str:
    if name == "filterbank":
        return "color and texture, needs no weights; facebook/dino-vits8 sees far more"
    return "frozen; its features are kept in the cache"


def _value(text: str) -> str:
    """Write a string as TOML."""
    return tomli_w.dumps({"value": text}).partition(" = ")[2].strip()


def _values(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_value, texts))}]"
