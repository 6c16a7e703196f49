"""The command `fusseg extract`: features into the cache, without training."""

from collections.abc import Sequence
from pathlib import Path

from fusseg.cli.progress import Display, follow
from fusseg.cli.spreading import workers_at
from fusseg.config.file import load_config
from fusseg.runs.prepare import prepare


def run_extract(
    config_path: Path, overrides: Sequence[str], cache: Path, dask: str | None = None
) -> None:
    """Extract the features that the cache lacks, and print which images were skipped.

    Args:
        config_path: Configuration.
        overrides: Values of `--set`.
        cache: Feature cache.
        dask: Address of a Dask cluster that extracts; None: this machine does.

    Raises:
        FussegError: If the configuration, the data or the cluster cannot be used.
    """
    config = load_config(config_path, overrides)
    with workers_at(dask, [cache], [config]) as workers, Display() as display:
        prepared = follow(prepare(config, cache, workers), display)
        for skipped in prepared.skipped:
            display.line(f"skipped {skipped.item.site}/{skipped.item.stem}: {skipped.reason}")
        display.line(f"the features are in {cache} ({prepared.seconds:.1f} s)")
