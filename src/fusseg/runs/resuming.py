"""Resuming a run, only with the configuration, backbone and images it was started with."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from fusseg.config.compute import choose_compute
from fusseg.config.file import differing_keys, load_config, read_toml
from fusseg.config.previous_version import PREVIOUS, moved_keys
from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError
from fusseg.core.version import VERSION
from fusseg.features.backbones import Backbone
from fusseg.federation.judge import TRAINED
from fusseg.federation.protocol import Protocol
from fusseg.runs.directory import CONFIG, RECORD, load_record, read_raw_record
from fusseg.runs.record import describe_settings
from fusseg.runs.record_form import Record
from fusseg.runs.saved_state import SavedState, has_state
from fusseg.segmentation.objectives import spell_out


def resume_run(path: Path, config: Config | None) -> Config:
    """Read the configuration of a run that is to be resumed.

    Args:
        path: Run directory.
        config: A configuration that must equal the run's; None: it is not compared.

    Raises:
        ConfigError: If there is no run, it was started with the previous version, or the given
            configuration differs.
    """
    if not (path / CONFIG).exists():
        raise ConfigError(f"no run to resume in {path}; start it without --resume")
    _refuse_previous(path)
    # The file may leave out defaults.
    saved = spell_out(load_config(path / CONFIG))
    keys = () if config is None else changed_settings(config, saved)
    if keys:
        raise ConfigError(
            f"{path} was started with another configuration (differs in {', '.join(keys)}); resume "
            f"it with {path / CONFIG}"
        )
    return saved


def changed_settings(left: Config, right: Config) -> list[str]:
    """Name the dotted keys in which two configurations differ, with defaults filled in."""
    return differing_keys(spell_out(left), spell_out(right))


def check_resumable(run_dir: Path, config: Config) -> None:
    """Check that a run has the settings and the precision with which it was started.

    Args:
        run_dir: Run directory; nothing is checked before its first finished round.
        config: Its current configuration.

    Raises:
        ConfigError: If a setting that decides results was edited, or `auto` stands for another
            precision on this machine.
        DataError: If the record is damaged, or the state is missing.
    """
    if not has_state(run_dir):
        return
    record = load_record(run_dir)
    begun, here = record["settings"], describe_settings(config)
    for name in sorted(begun.keys() | here.keys()):
        if begun.get(name) != here.get(name):
            raise ConfigError(
                f"{run_dir / CONFIG} was edited: {name} is {here.get(name)!r}, but the run was "
                f"started with {begun.get(name)!r}; set it back, or start a new run"
            )
    _check_precision(record, config, run_dir)


def check_not_ended(saved: SavedState, protocol: Protocol, run_dir: Path) -> None:
    """Refuse to go on with a run that has ended with its choice, or with teaching.

    Args:
        saved: Its state.
        protocol: The rules of its configuration, which may ask for more rounds by now.
        run_dir: Run directory.

    Raises:
        ConfigError: If rounds would follow either: the trained model may be gone.
    """
    state = saved.state
    chosen = any(candidate.name == TRAINED for candidate in state.candidates)
    # What `fusseg teach` has added is no round.
    taught = bool(protocol.teaching) and state.taught is not None
    if (taught or chosen) and state.round_number not in (protocol.last_scored, protocol.num_rounds):
        how = "teaching" if taught else "the choice between start and trained model"
        raise ConfigError(
            f"{run_dir} has ended with {how}, so no rounds can be added; train on from it: "
            f"fusseg run --from {shlex.quote(str(run_dir))} --out ANOTHER"
        )


def check_fingerprint(saved: SavedState, backbone: Backbone, run_dir: Path) -> None:
    """Check that a backbone is the one that a run was trained on.

    Raises:
        ConfigError: If the fingerprints differ.
    """
    if backbone.fingerprint != saved.fingerprint:
        raise ConfigError(
            f"{run_dir} was trained on a backbone with fingerprint {saved.fingerprint[:16]}, but "
            f"{backbone.name} has {backbone.fingerprint[:16]}; restore its weights"
        )


def check_same_images(saved: SavedState, found: Mapping[str, str], run_dir: Path) -> None:
    """Check that clients have the images with which a run was started.

    Args:
        saved: State of the run.
        found: Digest of each client's images; empty: this process does not know them.
        run_dir: Run directory.

    Raises:
        ConfigError: If a client has other images.
    """
    if not found:
        return
    for client_id in sorted(saved.client_digests.keys() | found.keys()):
        if saved.client_digests.get(client_id) != found.get(client_id):
            raise ConfigError(
                f"site {client_id!r} has other training images than when {run_dir} was "
                "started; restore them, or start a new run"
            )


def _refuse_previous(path: Path) -> None:
    """Refuse to resume a run of the previous version, which may draw other random numbers.

    Raises:
        ConfigError: If the run was started with the previous version.
    """
    begun = PREVIOUS if moved_keys(read_toml(path / CONFIG)) else None
    if (path / RECORD).exists():
        record = read_raw_record(path)
        begun = record["versions"]["fusseg"] if record["format_version"] == 1 else begun
    if begun is not None:
        raise ConfigError(
            f"{path} was started with fusseg {begun} and cannot be resumed with {VERSION}; finish "
            "it with that version, or start a new run; a finished run can be used as it is"
        )


def _check_precision(record: Record, config: Config, run_dir: Path) -> None:
    begun = record.get("compute", {}).get("precision", "float32")
    found = choose_compute(config.compute).precision_name
    if begun != found:
        raise ConfigError(
            f"{run_dir} was started in {begun} ({RECORD}), but compute.precision "
            f"{config.compute.precision!r} is {found} on this machine; resume it where it was "
            "started, or start a new run"
        )
