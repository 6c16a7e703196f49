"""Run the cells of the training-free anchors, and leave a run directory like any other run."""

import time
from dataclasses import replace
from pathlib import Path

from fusseg.bench.grid import Anchor
from fusseg.config.file import dump_config
from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError
from fusseg.core.files import write_atomically
from fusseg.core.randomness import round_generator
from fusseg.features.extraction import wait_for
from fusseg.federation.baselines import features_anchor, pca_anchor, sample_features
from fusseg.federation.hello import agree, say_hello
from fusseg.federation.state import GlobalState
from fusseg.federation.strategies import resolve
from fusseg.runs.directory import CONFIG, save_record
from fusseg.runs.model_scores import GLOBAL, score_models
from fusseg.runs.prepare import Prepared, prepare
from fusseg.runs.record import describe_skipped, new_record
from fusseg.runs.saved_state import SavedState, save_state
from fusseg.segmentation.assignment import build_segmenter
from fusseg.segmentation.objective import Model, no_estimate, no_numbers
from fusseg.segmentation.training import TrainingPlan

_PARTY = "/anchors"
"""Party that names the random source of the anchors; no site has a slash in its name."""


def run_anchor(config: Config, anchor: Anchor, run_dir: Path, cache: Path) -> None:
    """Fit an anchor to the training images, score it, and write a run directory.

    Args:
        config: Data, backbone, seed and sizes; the settings of training are not used.
        anchor: Which anchor.
        run_dir: Run directory; an interrupted anchor starts again.
        cache: Folder of the feature cache.

    Raises:
        FussegError: If the configuration, the data or the folder cannot be used.
    """
    prepared = wait_for(prepare(config, cache))
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(run_dir / CONFIG, dump_config(config).encode())
    except OSError as error:
        raise ConfigError(f"cannot write the run directory {run_dir}: {error.strerror}") from error
    num_images = {client.client_id: len(client.features) for client in prepared.clients}
    record = new_record(run_dir, config, prepared.backbone, num_images, prepared.center)
    plan = _plan(config, prepared)
    started = time.perf_counter()
    model = _fit(config, anchor, prepared, plan)
    trained = time.perf_counter()
    final = score_models({GLOBAL: build_segmenter(model, plan.mean_feature)}, prepared.shown)
    record |= {
        "anchor": anchor,
        "trained": None,
        "final": final,
        "skipped_images": describe_skipped(prepared.skipped),
        "seconds": {
            "extract": prepared.seconds,
            "train": trained - started,
            "evaluate": time.perf_counter() - trained,
        },
    }
    # For every reader of run directories this run is finished.
    state = GlobalState(resolve(config).num_rounds, model, plan)
    save_state(run_dir, SavedState(state, {}, prepared.backbone.fingerprint))
    # The record comes last: a cell with scores counts as finished.
    save_record(run_dir, record)


def _plan(config: Config, prepared: Prepared) -> TrainingPlan:
    protocol, center = resolve(config), prepared.center
    # Nothing is trained: the objective needs no numbers.
    silent = replace(
        protocol.local.objective, estimated=no_numbers, estimate=no_estimate, given=no_numbers
    )
    protocol = replace(protocol, local=replace(protocol.local, objective=silent))
    hellos = [say_hello(client, protocol, center=center) for client in prepared.clients]
    return agree(hellos, protocol, prepared.backbone.fingerprint, center=center)


def _fit(config: Config, anchor: Anchor, prepared: Prepared, plan: TrainingPlan) -> Model:
    generator = round_generator(config.seed, 0, _PARTY)
    points = sample_features(prepared.clients, plan.mean_feature, generator)
    if anchor == "features":
        return features_anchor(points, config.model.num_clusters, generator)
    return pca_anchor(points, config.model.num_clusters, config.model.code_dim, generator)
