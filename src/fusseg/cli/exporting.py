"""The commands that take a model out of its run as a file: pack and push."""

from dataclasses import dataclass
from pathlib import Path

from fusseg.core.errors import ConfigError
from fusseg.core.visible_text import say
from fusseg.export.artifact import Artifact, save_artifact
from fusseg.export.hub import Publication, push, write_repository
from fusseg.export.opening import describe_need
from fusseg.export.packing import pack_run
from fusseg.runs.load import load_run


@dataclass(frozen=True)
class Packed:
    """What of a run is packed."""

    run_dir: Path
    site: str | None
    """Whose model, where each site has its own."""
    with_sites: bool
    """Whether the names of the training sites go along."""


def run_pack(packed: Packed, out: Path) -> None:
    """Write a run's model as one file and say what is in it.

    Raises:
        ConfigError: If the file is named otherwise, or as `load_run` and `pack_run`.
        DataError: If it cannot be written, or as `load_run` and `pack_run`.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"a model file is named *.safetensors, got --out {out}")
    artifact = _pack(packed)
    save_artifact(out, artifact)
    segmenter = artifact.segmenter
    say(f"{out}: {segmenter.num_clusters} regions, {out.stat().st_size:,} bytes")
    say(f"its backbone is not in it: {describe_need(artifact.backbone)}")


def run_push(packed: Packed, publication: Publication, dry_run: Path | None) -> None:
    """Send a run's model to the Hugging Face hub, or write what would be sent.

    Raises:
        ConfigError: If the hub refuses or cannot be reached, or as `load_run` and `pack_run`.
        DataError: As `load_run` and `pack_run`, or if the files cannot be written.
    """
    if dry_run is not None and dry_run.exists() and not _is_empty_folder(dry_run):
        raise ConfigError(f"--dry-run must be a new or empty folder, got {dry_run}; name another")
    artifact = _pack(packed)
    if dry_run is not None:
        for file in write_repository(dry_run, artifact, publication):
            say(f"{file}: {file.stat().st_size:,} bytes")
        say("nothing was sent")
        return
    say(f"sent: {push(artifact, publication)}")


def _pack(packed: Packed) -> Artifact:
    run = load_run(packed.run_dir)
    return pack_run(run, packed.run_dir, packed.site, with_sites=packed.with_sites)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
