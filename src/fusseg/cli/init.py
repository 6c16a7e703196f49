"""The command `fusseg init`: a configuration to start from, written by a look at the images."""

import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusseg.cli.first_config import choose_config, describe_config
from fusseg.cli.summaries import describe_finding
from fusseg.config.file import parse_config
from fusseg.config.presets import DEFAULT
from fusseg.config.schema import BackboneConfig, Config, Grid
from fusseg.core.errors import ConfigError
from fusseg.core.files import write_atomically
from fusseg.core.visible_text import say
from fusseg.data.checks.check_masks import doubt_masks
from fusseg.data.checks.survey import NUM_LOOKED_AT
from fusseg.data.checks.unused import find_unused
from fusseg.data.checks.unused_masks import find_unused_masks
from fusseg.data.findings import Finding, counted
from fusseg.data.items import Dataset
from fusseg.data.layouts import open_dataset
from fusseg.data.partitions.small_clients import MIN_IMAGES, MOST_NAMED, small_sites
from fusseg.data.selection import select_held_out, select_training
from fusseg.data.stored import doubt_stored


@dataclass(frozen=True)
class InitOptions:
    """Options of `fusseg init`."""

    root: Path
    out: Path
    backbone: str
    num_clusters: int | None
    """None: one region per named class, or a guess without named classes."""
    grid: Grid | None = None
    """As `backbone.grid`."""
    preset: str = DEFAULT
    """Name of the settings to write that do not depend on the images."""


def parse_grid(text: str | None) -> Grid | None:
    """Read how the tokens of an image are arranged: `square`, or ROWSxCOLUMNS.

    Raises:
        ConfigError: If the text is neither.
    """
    if text is None:
        return None
    if text == "square":
        return "square"
    rows, cross, columns = text.partition("x")
    if not (cross and rows.isdecimal() and columns.isdecimal()):
        raise ConfigError(f"--grid must be square or ROWSxCOLUMNS, such as 14x28, got {text!r}")
    return int(rows), int(columns)


def run_init(options: InitOptions) -> None:
    """Look at a folder and write a configuration that runs on it.

    Raises:
        ConfigError: If the file exists or cannot be written, or a setting is out of range.
        DataError: If the folder holds no images, or none of them can be read.
    """
    if options.out.exists():
        raise ConfigError(f"{options.out} already exists; give another --out, or delete it")
    backbone = BackboneConfig(name=options.backbone, grid=options.grid)
    config = choose_config(options.root, backbone, options.num_clusters, options.preset)
    dataset = open_dataset(config.data)
    num_training = len(select_training(dataset, config.data))
    num_held_out = len(select_held_out(dataset, config.data))
    guessed = options.num_clusters is None and dataset.classes is None
    text = describe_config(config, dataset.sites, options.preset, guessed=guessed)
    assert parse_config(tomllib.loads(text)) == config
    try:
        write_atomically(options.out, text.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {options.out}: {error.strerror}") from error
    for finding in _look_for_doubts(dataset, config):
        say(describe_finding(finding))
    _print_small(list(small_sites(dataset, config.data)), config)
    say(f"{counted(num_training, 'image')} train, {num_held_out} held out")
    file = shlex.quote(str(options.out))
    say(f"wrote {options.out}; read through it, then run:")
    say(f"  fusseg check {file}")
    say(f"  fusseg suggest-k {file}")
    say(f"  fusseg run {file} --out {shlex.quote(str(Path('runs') / options.out.stem))}")


def _look_for_doubts(dataset: Dataset, config: Config) -> Iterator[Finding]:
    looked_at = dataset.items[:: -(-len(dataset.items) // NUM_LOOKED_AT)]
    yield from find_unused(config.data)
    yield from find_unused_masks(dataset, config.data)
    yield from doubt_stored(dataset.items, config.data)
    yield from doubt_masks(looked_at, dataset.classes, config.data.root)


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
