"""Starting a federation from the model of a saved run: same regions and names, other sites."""

from dataclasses import dataclass, replace
from pathlib import Path

from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, DataError
from fusseg.core.files import write_atomically
from fusseg.core.portable_paths import without_folders
from fusseg.federation.protocol import Protocol
from fusseg.federation.rounds import initial_state
from fusseg.federation.state import GlobalState
from fusseg.federation.strategies import resolve
from fusseg.runs.directory import load_record, read_run_config
from fusseg.runs.record_form import StartEntry
from fusseg.runs.regions import load_regions, regions_file
from fusseg.runs.saved_state import SavedState, digest_state, load_state
from fusseg.segmentation.head import wake_hidden
from fusseg.segmentation.training import TrainingPlan


@dataclass(frozen=True)
class Start:
    """The state before round 1, and the saved model that it starts from."""

    state: GlobalState
    origin: StartEntry | None
    """The saved model; None: the model was drawn at random."""


def start_state(config: Config, protocol: Protocol, plan: TrainingPlan, fingerprint: str) -> Start:
    """Draw the model that all clients start from, or load it from the run of `model.start`.

    Steps, shifts and mean feature are those that the new sites agreed on. The mean feature is that
    of the new images, so that the head still gets centered features. A hidden layer of zeros is
    replaced by a random one, because zeros could not be trained.

    Args:
        config: The new run's configuration.
        protocol: The new run's protocol.
        plan: What the new run's clients agreed on.
        fingerprint: Fingerprint of the new run's backbone.

    Raises:
        ConfigError: If the saved model does not fit the configuration.
        DataError: If it cannot be read.
    """
    drawn = initial_state(protocol, plan)
    if not config.model.start:
        return Start(drawn, None)
    run_dir = Path(config.model.start)
    saved = load_shared_model(run_dir)
    check_suits(saved, config, fingerprint, run_dir)
    _check_center(saved, run_dir, center=bool(plan.mean_feature.any()))
    _check_regions_kept(saved, protocol, run_dir)
    model = saved.state.model
    model = replace(model, head=wake_hidden(model.head, drawn.model.head))
    return Start(replace(drawn, model=model), describe_origin(run_dir, saved))


def check_start(config: Config, fingerprint: str, *, center: bool) -> None:
    """Check `model.start` before anything is written.

    Args:
        config: The new run's configuration; nothing is checked if the model is drawn.
        fingerprint: Fingerprint of the new run's backbone.
        center: Whether the mean feature is subtracted before any cosine.

    Raises:
        ConfigError: If the saved model does not fit the configuration.
        DataError: If it cannot be read.
    """
    if not config.model.start:
        return
    protocol = resolve(config)
    if not protocol.strategy.trains or protocol.keeps_own_models:
        raise ConfigError(
            f"model.start is {config.model.start!r}, but federation.strategy "
            f"{config.federation.strategy!r} with these switches does not train one model for all "
            "sites from a given one; leave model.start empty"
        )
    run_dir = Path(config.model.start)
    saved = load_shared_model(run_dir)
    check_suits(saved, config, fingerprint, run_dir)
    _check_center(saved, run_dir, center=center)
    _check_regions_kept(saved, protocol, run_dir)


def check_suits(saved: SavedState, config: Config, fingerprint: str, run_dir: Path) -> None:
    """Check that a saved model has the size and backbone of a configuration.

    Raises:
        ConfigError: If one of them differs.
    """
    num_clusters, code_dim = saved.state.model.centroids.shape
    wanted = (config.model.num_clusters, config.model.code_dim)
    if (num_clusters, code_dim) != wanted:
        raise ConfigError(
            f"{run_dir} has {num_clusters} centroids of {code_dim} channels, but model.num_clusters"
            f" is {wanted[0]} and model.code_dim {wanted[1]}; set them to {num_clusters} and "
            f"{code_dim}"
        )
    if fingerprint != saved.fingerprint:
        raise ConfigError(
            f"{run_dir} was trained on a backbone with fingerprint {saved.fingerprint[:16]}, but "
            f"{config.backbone.name} has {fingerprint[:16]}; set backbone.name to the "
            "backbone of that run"
        )


def _check_center(saved: SavedState, run_dir: Path, *, center: bool) -> None:
    there = bool(saved.state.plan.mean_feature.any())
    if there != center:
        raise ConfigError(
            f"{run_dir} was trained with backbone.center {str(there).lower()}, but here it is "
            f"{str(center).lower()}; set backbone.center to {str(there).lower()}"
        )


def _check_regions_kept(saved: SavedState, protocol: Protocol, run_dir: Path) -> None:
    """Refuse a map or names of regions that the rounds would make meaningless."""
    if protocol.merging:
        if regions_file(run_dir).exists():
            raise ConfigError(
                f"the regions of {run_dir} have names, but model.num_regions merges clusters to "
                "other regions in every round; remove model.num_regions to keep regions and names, "
                "or start from a copy of the run without regions.toml"
            )
    elif saved.state.model.region_of is not None and protocol.strategy.renumbers:
        raise ConfigError(
            f"{run_dir} has merged clusters, but federation.strategy {protocol.strategy_name!r} "
            "numbers the clusters anew in every round, so that their regions would be lost; set "
            "federation.strategy to 'lloyd', 'consensus' or 'fedavg', or set model.num_regions to "
            "merge them again"
        )


def load_shared_model(run_dir: Path) -> SavedState:
    """Load the state of a run in which all clients share one model.

    Raises:
        ConfigError: If the folder is no run, each client has its own model, or the names of the
            regions are wrong.
        DataError: If no round is finished, or the state is damaged.
    """
    config = read_run_config(run_dir)
    if resolve(config).keeps_own_models:
        raise ConfigError(
            f"each site of {run_dir} has its own model; use a run with one model for all sites"
        )
    saved = load_state(run_dir)
    # Wrong names would otherwise fail only in the report, after training.
    load_regions(run_dir, saved.state.model.num_regions)
    return saved


def describe_origin(run_dir: Path, saved: SavedState) -> StartEntry:
    """Describe a saved model: its run, its round, and a digest of its state."""
    return {
        "path": without_folders(str(run_dir)),
        "name": load_record(run_dir)["name"],
        "round": saved.state.round_number,
        "state_digest": digest_state(run_dir),
    }


def carry_names(source: Path, run_dir: Path) -> None:
    """Copy the names of a run's regions, if it has any, to another run with the same regions.

    Raises:
        DataError: If they cannot be copied.
    """
    names = regions_file(source)
    if not names.exists():
        return
    try:
        write_atomically(regions_file(run_dir), names.read_bytes())
    except OSError as error:
        raise DataError(f"cannot copy {names} to {run_dir}: {error.strerror}") from error
