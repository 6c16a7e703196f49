"""ClientApps as forks of one process that has imported torch, Flower and fusseg."""

import json
import multiprocessing.forkserver
import os
import sys
import time

import pytest

pytest.importorskip("flwr", reason="Flower is not installed")
if sys.platform != "linux":
    pytest.skip("apps are forked on Linux only", allow_module_level=True)

from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec

from fusseg.deployment.site.warm_apps import WarmExecutor

PROBE = """
import json, os, sys, time

def write():
    warm = "torch" in sys.modules and "fusseg.deployment.site.client_app" in sys.modules
    found = {"arguments": sys.argv, "pid": os.getpid(), "parent": os.getppid(), "warm": warm}
    folder = os.environ["PROBE_FOLDER"]
    path = os.path.join(folder, sys.argv[sys.argv.index("--token") + 1])
    with open(path + ".part", "w") as file:
        json.dump(found, file)
    os.rename(path + ".part", path)
    if "last" in path:
        time.sleep(600)
"""


@pytest.fixture
def executor(tmp_path, monkeypatch):
    (tmp_path / "warm_probe.py").write_text(PROBE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PROBE_FOLDER", str(tmp_path))
    return WarmExecutor("warm_probe:write")


def spec(token, task_type=TaskType.CLIENT_APP, **more):
    settings = {
        "runtime_api_address": "127.0.0.1:9",
        "insecure": True,
        "root_certificates_path": None,
        "runtime_dependency_install": False,
        "parent_pid": os.getpid(),
        "suppress_output": False,
        "task_id": 1,
    }
    return ExecutionSpec(task_type=task_type, token=token, **settings | more)


def written(path):
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    return json.loads(path.read_text())


def test_apps_are_forks_of_one_process_that_has_imported_everything(executor, tmp_path):
    executor.launch(spec("first"))
    executor.launch(spec("last", insecure=False, root_certificates_path="ca.crt", parent_pid=None))
    first, last = written(tmp_path / "first"), written(tmp_path / "last")
    assert first["warm"]
    assert last["warm"]
    assert first["pid"] != last["pid"]
    assert first["parent"] == last["parent"] != os.getpid()
    own = ["--insecure", "--parent-pid", str(os.getpid())]
    begin = ["flwr-clientapp", "--runtime-api-address", "127.0.0.1:9", "--token"]
    assert first["arguments"] == [*begin, "first", *own]
    assert last["arguments"] == [*begin, "last", "--root-certificates", "ca.crt"]
    executor.close()
    until = time.monotonic() + 60
    while executor._running:
        assert time.monotonic() < until
        time.sleep(0.05)
        executor.reconcile()
    with pytest.raises(ProcessLookupError):
        os.kill(last["pid"], 0)


# Flower drops the programs that it starts.
@pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_a_warm_process_an_app_starts_as_a_program(executor, monkeypatch, tmp_path):
    program = tmp_path / "flwr-clientapp"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    # Too long for a socket.
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", str(long))
    server = multiprocessing.forkserver.ForkServer()
    monkeypatch.setattr(multiprocessing.forkserver, "_forkserver", server)
    for name in ("ensure_running", "connect_to_new_process"):
        monkeypatch.setattr(multiprocessing.forkserver, name, getattr(server, name))
    executor.launch(spec("cold"))
    until = time.monotonic() + 60
    while not (tmp_path / "arguments").exists() or not (tmp_path / "arguments").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    assert "--token cold" in (tmp_path / "arguments").read_text()


def test_other_kinds_of_tasks_have_no_program(executor, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        executor.launch(spec("model", TaskType.MODEL))
