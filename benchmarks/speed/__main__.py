"""Measure every stage of fusseg against a floor: `python -m benchmarks.speed`."""

import argparse
import io
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fusseg.cli.app import refuse_tildes
from fusseg.cli.stopping import stopped_with
from fusseg.core.errors import FussegError
from fusseg.core.visible_text import say

INPUT_ERROR = 2


def main(arguments: Sequence[str]) -> int:
    """Run the measurements that the arguments ask for.

    Args:
        arguments: As on the command line, without the program's name.

    Returns:
        Exit code: 1 if a measurement failed, 2 if an option cannot be used.
    """
    options = _parser().parse_args(arguments)
    # As `fusseg` sets it, and for the same reason; it is read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from benchmarks.speed.measuring import SpeedOptions, run_speed

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    command = shlex.join(["python", "-m", "benchmarks.speed", *arguments])
    asked = SpeedOptions(options.json, command, options.device, options.quick, options.backbone)
    try:
        refuse_tildes(arguments)
        with stopped_with(f"stopped; what was measured is in {asked.json}"):
            return 0 if run_speed(asked) else 1
    except FussegError as error:
        say(f"error: {error}", error=True)
        return INPUT_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="Measure the speed and memory of every stage against a floor; "
        "docs/speed.md describes the table.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--quick", action="store_true", help="smaller sizes, within 3 minutes on 2 cores"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("runs") / "bench-speed" / "speed.json",
        metavar="FILE",
        help="file to write, with its table beside it as Markdown; default: %(default)s",
    )
    parser.add_argument(
        "--device", default="cpu", help="where training is measured: cpu (default) or cuda"
    )
    parser.add_argument("--backbone", help="also measure a backbone with weights: onnx:PATH")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
