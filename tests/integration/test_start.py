"""What a command does not need it does not import: starting takes time at every site."""

import subprocess
import sys

import pytest

HEAVY = (
    "dask",
    "jinja2",
    "matplotlib",
    "onnxruntime",
    "scipy",
    "sklearn",
    "torch._inductor",
    "transformers",
)


def imported_by(code):
    """Names of heavy packages that a fresh process has imported after running some code."""
    shown = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", shown], check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_the_commands_are_listed_without_torch_or_numpy():
    code = "import sys, fusseg.cli.app\nassert not {'torch', 'numpy'} & set(sys.modules)"
    assert imported_by(code) == []


@pytest.mark.parametrize(
    "module", ["fusseg.cli.run", "fusseg.cli.evaluate", "fusseg.evaluation.held_out"]
)
def test_a_command_begins_without_heavy_packages(module):
    assert imported_by(f"import {module}") == []


def test_a_site_answers_without_heavy_packages():
    pytest.importorskip("flwr", reason="needs fusseg[flower]")
    assert imported_by("import fusseg.deployment.site.client_app") == []


def test_a_filterbank_needs_no_transformers():
    code = "from fusseg.features.backbones import load_backbone\nload_backbone('filterbank')"
    assert imported_by(code) == []
