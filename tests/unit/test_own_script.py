"""Which script the processes of a deployment are told of, and what importing it does."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from fusseg.core.errors import ConfigError
from fusseg.deployment.own_script import MODULE, RUN_NAME, SCRIPT, import_own_script, own_variables

SAYS = """
import json
from fusseg.deployment.own_script import own_variables

if __name__ == "__main__":
    print(json.dumps(own_variables()))
"""
NOTES = """
import sys
from dataclasses import dataclass

sys.notes = ["imported", __name__, __file__]

@dataclass
class Own:
    size: int = 3

if __name__ == "__main__":
    sys.notes.append("run")
"""


@pytest.fixture
def notes(monkeypatch):
    """What a script of a test notes; paths and modules are as before after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "notes", [], raising=False)
    monkeypatch.delitem(sys.modules, RUN_NAME, raising=False)
    before = set(sys.modules)
    yield lambda: sys.notes
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def told(*arguments, cwd):
    """The variables that a program names for its processes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**environment, SCRIPT: "/stale.py"},
        cwd=cwd,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_a_script_is_named_by_its_absolute_path(tmp_path):
    script = write(tmp_path / "own" / "mine.py", SAYS)
    for called in (script, "own/mine.py", "own/../own/mine.py"):
        named = told(str(called), cwd=tmp_path)
        assert f'"{SCRIPT}": "{tmp_path}/' in named
        assert named.endswith('mine.py"}')


def test_a_module_is_named_with_its_file(tmp_path):
    script = write(tmp_path / "pack" / "mine.py", SAYS)
    assert told("-m", "pack.mine", cwd=tmp_path) == (
        f'{{"{SCRIPT}": "{script}", "{MODULE}": "pack.mine"}}'
    )


def test_the_program_itself_is_not_named(tmp_path, monkeypatch):
    code = "from fusseg.deployment.own_script import own_variables; print(own_variables())"
    assert told("-c", code, cwd=tmp_path) == "{}"
    write(tmp_path / "pack" / "__main__.py", SAYS)
    assert told("-m", "pack", cwd=tmp_path) == "{}"
    assert told("pack", cwd=tmp_path) == "{}"
    # python -m fusseg, and its file
    main = sys.modules["__main__"]
    package = Path(__file__).parents[2] / "src" / "fusseg"
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.setattr(main, "__file__", str(package / "__main__.py"), raising=False)
    assert own_variables() == {}


def test_the_installed_program_is_not_named_even_through_a_link(tmp_path, monkeypatch):
    program = Path(sys.executable).parent / "fusseg"
    if not program.exists():
        pytest.skip("fusseg is not installed beside this Python")
    link = tmp_path / "fusseg"
    link.symlink_to(program)
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    for path in (program, link):
        monkeypatch.setattr(main, "__file__", str(path), raising=False)
        assert own_variables() == {}
    other = write(tmp_path / "elsewhere" / "fusseg", SAYS)
    monkeypatch.setattr(main, "__file__", str(other))
    assert own_variables() == {SCRIPT: str(other)}


def test_without_the_variable_nothing_is_imported(notes):
    import_own_script({})
    import_own_script({MODULE: "json"})
    assert notes() == []
    assert RUN_NAME not in sys.modules


def test_a_script_is_imported_without_its_part_for_the_command(tmp_path, notes, monkeypatch):
    script = write(tmp_path / "mine", NOTES)
    monkeypatch.setenv(SCRIPT, str(script))
    import_own_script()
    assert notes() == ["imported", "__mp_main__", str(script)]
    own = sys.modules[RUN_NAME].Own
    assert sys.modules[own.__module__].Own is own
    # nothing is written beside it
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_module_of_a_package_is_imported_with_what_is_beside_it(tmp_path, notes):
    write(tmp_path / "lot" / "beside_it.py", "import sys\nsize = 7\n")
    script = write(tmp_path / "lot" / "mine.py", f"from .beside_it import size\n{NOTES}")
    import_own_script({SCRIPT: str(script), MODULE: "lot.mine"})
    assert notes()[:2] == ["imported", "__mp_main__"]
    assert sys.modules[RUN_NAME].size == 7


def test_modules_beside_a_script_are_found(tmp_path, notes, monkeypatch):
    write(tmp_path / "real" / "lies_beside.py", "word = 'found'\n")
    script = write(
        tmp_path / "real" / "mine.py", "import sys, lies_beside\nsys.notes = lies_beside.word\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    # as Python does, in the folder of the script that a link leads to
    link = elsewhere / "link.py"
    link.symlink_to(script)
    import_own_script({SCRIPT: str(link)})
    assert notes() == "found"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "FileNotFoundError"),
        ("def broken(:\n", r"SyntaxError.*line 1"),
        ("import no_such_module_here\n", "No module named 'no_such_module_here'"),
        ("raise SystemExit(2)\n", r"command does under if __name__ == \"__main__\":"),
    ],
)
def test_a_script_that_cannot_be_imported_is_named(text, said, tmp_path, notes):
    script = tmp_path / "mine.py"
    if text is not None:
        write(script, text)
    with pytest.raises(ConfigError, match=said) as caught:
        import_own_script({SCRIPT: str(script)})
    assert str(script) in str(caught.value)
    assert RUN_NAME not in sys.modules
    assert notes() == []


def test_a_module_that_is_gone_is_named(tmp_path, notes):
    script = tmp_path / "lot_that_is_gone" / "mine.py"
    with pytest.raises(ConfigError, match="lot_that_is_gone") as caught:
        import_own_script({SCRIPT: str(script), MODULE: "lot_that_is_gone.mine"})
    assert str(script) in str(caught.value)


def test_at_the_server_a_broken_script_is_a_stopped_event(tmp_path, notes, monkeypatch):
    pytest.importorskip("flwr", reason="Flower is not installed")
    from flwr.app import Context, RecordDict
    from flwr.serverapp import Grid

    from fusseg.deployment.server import server_app
    from fusseg.deployment.server.events import EventReader

    script = tmp_path / "mine.py"
    (tmp_path / "flower").mkdir()
    monkeypatch.setenv(SCRIPT, str(script))
    monkeypatch.setenv(server_app.RUN_DIR, str(tmp_path))
    monkeypatch.setenv(server_app.CACHE, str(tmp_path / "cache"))
    logger = logging.getLogger("fusseg")
    before = list(logger.handlers)
    events = EventReader(tmp_path)
    try:
        with pytest.raises(ConfigError):
            server_app.main(Mock(spec=Grid), Context(0, 1, {}, RecordDict(), {}))
    finally:
        for handler in set(logger.handlers) - set(before):
            logger.removeHandler(handler)
            handler.stream.close()
    (event,) = events.read()
    assert event.kind == "stopped"
    assert str(script) in event.text


def test_at_a_site_a_broken_script_is_a_failure_whose_reason_stays_there(
    tmp_path, notes, monkeypatch, caplog
):
    pytest.importorskip("flwr", reason="Flower is not installed")
    from flwr.app import Context, Message, RecordDict
    from flwr.supercore.task_identity import TaskIdentity

    from fusseg.deployment.site import client_app
    from fusseg.deployment.wire.messages import pack, unpack
    from fusseg.deployment.wire.packet import Packet

    script = write(tmp_path / "mine.py", "def broken(:\n")
    monkeypatch.setenv(SCRIPT, str(script))
    context = Context(0, 1, {client_app.SITE_DIR: str(tmp_path)}, RecordDict(), {})
    for name, number in (("run_id", 0), ("node_id", 1), ("task_id", 0)):
        monkeypatch.setattr(TaskIdentity, f"_{name}", number)
    message = Message(pack(Packet({"task": "hello", "round": 0})), 1, "query")
    fields = unpack(client_app.app(message, context).content).fields
    assert fields["state"] == "failed"
    assert "ConfigError" in fields["reason"]
    assert "mine.py" not in fields["reason"]
    assert str(script) in caplog.text
