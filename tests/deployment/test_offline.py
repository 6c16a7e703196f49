"""Nothing phones home: a whole federation runs where there is no network, and asks for no name."""

import subprocess
import sys
from pathlib import Path

import pytest

from fusseg.deployment import flower

NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc"]
HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]


@pytest.fixture
def offline(tmp_path):
    """Run a command without a network; the names it asked for."""
    probe = subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("no right to make network namespaces here")

    def run(*command, **settings):
        record = tmp_path / "names.txt"
        record.write_text("")
        wrapped = [*NAMESPACES, sys.executable, str(HERE / "offline.py"), str(record), *command]
        done = subprocess.run(wrapped, capture_output=True, text=True, check=False, **settings)
        return done, record.read_text().split()

    return run


def test_the_recorder_sees_a_name_that_is_asked_for(offline):
    code = "import socket; socket.getaddrinfo('telemetry.example', 443)"
    done, names = offline(sys.executable, "-c", code)
    assert done.returncode != 0
    assert "telemetry.example" in names


def test_flower_itself_would_ask(offline, tmp_path):
    """Without the variables that fusseg sets; else the test below would prove nothing."""
    kept = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "FLWR_HOME": str(tmp_path)}
    code = "from flwr.cli.app import app; app()"
    _, names = offline(sys.executable, "-c", code, "supernode", "--help", env=kept)
    assert any(name.endswith("flower.ai") for name in names)
    _, names = offline(
        sys.executable, "-c", code, "supernode", "--help", env={**kept, **flower.QUIET}
    )
    assert names == []


def test_a_whole_federation_asks_for_no_name(offline, tmp_path):
    demo = str(ROOT / "examples" / "deploy_demo.py")
    done, names = offline(sys.executable, demo, str(tmp_path / "runs"), cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "deployed and simulated model are identical" in done.stdout
    assert names == []
