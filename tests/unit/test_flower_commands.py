"""What Flower's processes are given; that they work is tested in tests/deployment."""

import subprocess
import sys
import tomllib

import pytest

pytest.importorskip("flwr", reason="Flower is not installed")

from fusseg.core.errors import FederationError
from fusseg.deployment import flower
from fusseg.deployment.flower import LoopbackServer


def test_processes_get_no_variables_but_those_they_need(monkeypatch, tmp_path):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    monkeypatch.setenv("CLOUD_SECRET", "x")
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("FUSSEG_OWN_SCRIPT", "/srv/other.py")
    monkeypatch.setenv("FUSSEG_OWN_MODULE", "other")
    variables = flower.environment(tmp_path, tmp_path / "programs")
    # the script is the one that the command was started as, whatever a shell says
    assert not {"FUSSEG_OWN_SCRIPT", "FUSSEG_OWN_MODULE"} & set(variables)
    assert "HTTPS_PROXY" not in variables
    # nor one of the system's settings, which some systems have besides
    assert variables["NO_PROXY"] == "*"
    assert "CLOUD_SECRET" not in variables
    # results depend on the number of threads
    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables["PATH"] == str(tmp_path / "programs")
    assert variables["FLWR_HOME"] == str(tmp_path)
    assert variables["FLWR_TELEMETRY_ENABLED"] == "0"
    assert variables["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert variables["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"


def test_the_folder_of_programs_holds_the_starter_and_one_app(tmp_path):
    flower.link_programs(tmp_path, "flwr-clientapp", "fusseg.deployment.own_app:run_client_app")
    programs = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert sorted(programs) == ["flower-superexec", "flwr-clientapp"]
    # -P: modules are not looked for in the working directory.
    assert all(text.startswith(f"#!{sys.executable} -P\n") for text in programs.values())
    assert (
        "run_site_superexec('fusseg.deployment.own_app:run_client_app')"
        in (programs["flower-superexec"])
    )
    done = subprocess.run(
        [str(tmp_path / "flwr-clientapp"), "--help"], capture_output=True, text=True, check=True
    )
    assert "--runtime-api-address" in done.stdout


def test_the_superlink_listens_on_the_loopback_interface_and_shares_a_secret(tmp_path):
    server = LoopbackServer(tmp_path / "home", 4711, tmp_path / "ca.crt")
    command = flower.superlink_command(
        server, tmp_path / "server.crt", tmp_path / "server.key", tmp_path / "secret"
    )
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "--enable-supernode-auth" in command
    assert command[command.index("--isolation") + 1] == "process"
    assert "--superexec-auth-secret-file" in command
    flower.write_connection(server)
    written = tomllib.loads((tmp_path / "home" / "config.toml").read_text())["superlink"]
    assert written[written["default"]]["address"] == "127.0.0.1:4711"


def test_a_command_that_fails_says_what_flower_said(tmp_path):
    (tmp_path / "ca.crt").write_text("no certificate")
    server = LoopbackServer(tmp_path / "home", 9, tmp_path / "ca.crt")
    flower.write_connection(server)
    with pytest.raises(FederationError, match="flwr"):
        flower.list_nodes(server)


def test_paths_that_flower_would_misread_are_refused(tmp_path):
    assert flower.quote(tmp_path) == f'"{tmp_path}"'
    for sign in ('"', "\\", "\n"):
        with pytest.raises(FederationError, match="no path with quotes or backslashes"):
            flower.quote(tmp_path / f"a{sign}b")
