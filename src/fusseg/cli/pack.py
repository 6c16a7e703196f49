"""The command `fusseg pack`: a run's model as one file."""

from pathlib import Path

from fusseg.core.errors import ConfigError
from fusseg.core.visible_text import say
from fusseg.export.artifact import save_artifact
from fusseg.export.opening import describe_need
from fusseg.export.packing import pack_run
from fusseg.runs.load import load_run


def run_pack(run_dir: Path, out: Path, site: str | None, *, with_sites: bool) -> None:
    """Write a run's model as one file and print what the file holds.

    Args:
        run_dir: Run directory.
        out: File to write.
        site: Site that the model belongs to, if each site has its own.
        with_sites: Name the training sites in the file.

    Raises:
        ConfigError: If the file has another suffix, or as `load_run` and `pack_run`.
        DataError: If the file cannot be written, or as `load_run` and `pack_run`.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"a model file is named *.safetensors, got --out {out}")
    artifact = pack_run(load_run(run_dir), run_dir, site, with_sites=with_sites)
    save_artifact(out, artifact)
    segmenter = artifact.segmenter
    say(f"{out}: {segmenter.num_regions} regions, {out.stat().st_size:,} bytes")
    say(f"its backbone is not in it: {describe_need(artifact.backbone)}")
