"""The command `fusseg push`: a run's model on the Hugging Face hub."""

from pathlib import Path

from fusseg.core.errors import ConfigError
from fusseg.core.visible_text import say
from fusseg.export.hub import Publication, push, write_repository
from fusseg.export.packing import pack_run
from fusseg.runs.load import load_run


def run_push(
    run_dir: Path,
    publication: Publication,
    site: str | None,
    dry_run: Path | None,
    *,
    with_sites: bool,
) -> None:
    """Send a run's model to the Hugging Face hub, or write what would be sent.

    Args:
        run_dir: Run directory.
        publication: Repository, license and picture of the model.
        site: Site that the model belongs to, if each site has its own.
        dry_run: Folder to write the files to, instead of sending them.
        with_sites: Name the training sites.

    Raises:
        ConfigError: If the hub refuses or cannot be reached, or as `load_run` and `pack_run`.
        DataError: If the files cannot be written, or as `load_run` and `pack_run`.
    """
    if dry_run is not None and dry_run.exists() and not _is_empty_folder(dry_run):
        raise ConfigError(f"--dry-run must be a new or empty folder, got {dry_run}; name another")
    artifact = pack_run(load_run(run_dir), run_dir, site, with_sites=with_sites)
    if dry_run is not None:
        for file in write_repository(dry_run, artifact, publication):
            say(f"{file}: {file.stat().st_size:,} bytes")
        say("nothing was sent")
        return
    say(f"sent: {push(artifact, publication)}")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
