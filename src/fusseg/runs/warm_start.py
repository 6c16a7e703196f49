"""Start a federation from the model of a saved run: same regions, same names, other sites."""

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
from fusseg.runs.directory import SavedState, digest_state, load_record, load_state, read_run_config
from fusseg.runs.regions import load_regions, regions_file
from fusseg.segmentation.head import wake_hidden
from fusseg.segmentation.training import TrainingPlan


@dataclass(frozen=True)
class Origin:
    """Which saved model it was, as the record says it."""

    path: str
    """Run directory; its last part alone where it was given as an absolute path."""
    name: str
    """Of the run."""
    round: int
    """Its last finished round."""
    state_digest: str
    """SHA-256 of its state file, hex."""


@dataclass(frozen=True)
class Start:
    """The state before round 1, and where its model is from."""

    state: GlobalState
    origin: Origin | None
    """None where the model was drawn."""


def start_state(config: Config, protocol: Protocol, plan: TrainingPlan, fingerprint: str) -> Start:
    """Draw the model that all clients start from, or take it from the run of `model.start`.

    Steps, shifts and mean feature are those the new sites agreed on. The mean moves with the
    images: what the head sees is centered as it was in its own training. A hidden layer that is
    nothing but zeros is drawn, so that it can be trained.

    Args:
        config: The new run's configuration.
        protocol: Its rules.
        plan: What its clients agreed on.
        fingerprint: Of its backbone.

    Raises:
        ConfigError: If the saved model does not suit the configuration.
        DataError: If it cannot be read.
    """
    drawn = initial_state(protocol, plan)
    if not config.model.start:
        return Start(drawn, None)
    run_dir = Path(config.model.start)
    saved = load_shared_model(run_dir)
    check_suits(saved, config, fingerprint, run_dir)
    _check_center(saved, run_dir, center=bool(plan.mean_feature.any()))
    model = saved.state.model
    model = replace(model, head=wake_hidden(model.head, drawn.model.head))
    return Start(replace(drawn, model=model), describe_origin(run_dir, saved))


def check_start(config: Config, fingerprint: str, *, center: bool) -> None:
    """Refuse a `model.start` that no run can start from, before anything is written.

    Args:
        config: The new run's configuration; nothing is checked where the model is drawn.
        fingerprint: Of its backbone.
        center: Whether the mean feature is subtracted before any cosine.

    Raises:
        ConfigError: If the saved model does not suit the configuration.
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


def check_suits(saved: SavedState, config: Config, fingerprint: str, run_dir: Path) -> None:
    """Refuse a saved model of another size or backbone.

    Raises:
        ConfigError: If one differs.
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
            f"{config.backbone.name} has {fingerprint[:16]}; set backbone.name as there"
        )


def _check_center(saved: SavedState, run_dir: Path, *, center: bool) -> None:
    there = bool(saved.state.plan.mean_feature.any())
    if there != center:
        raise ConfigError(
            f"{run_dir} was trained with backbone.center {there}, but here it is {center}; set it "
            "as there"
        )


def load_shared_model(run_dir: Path) -> SavedState:
    """Load the state of a run whose clients share one model.

    Raises:
        ConfigError: If it is no run, each of its clients has its own model, or the names of its
            regions are wrong.
        DataError: If no round is finished, or the state is damaged.
    """
    config = read_run_config(run_dir)
    if resolve(config).keeps_own_models:
        raise ConfigError(
            f"each site of {run_dir} has its own model; take a run whose sites share one"
        )
    saved = load_state(run_dir)
    # Names that cannot be read would stop the report at the very end.
    load_regions(run_dir, len(saved.state.model.centroids))
    return saved


def describe_origin(run_dir: Path, saved: SavedState) -> Origin:
    """Say which model it was: the run, its round, and a digest of its state."""
    name, round_number = load_record(run_dir)["name"], saved.state.round_number
    return Origin(without_folders(str(run_dir)), name, round_number, digest_state(run_dir))


def carry_names(source: Path, run_dir: Path) -> None:
    """Copy the names of a run's regions, where it has any, to another run of the same regions.

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
