"""Entries of an operator's own script are known to the processes that train."""

import shutil
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "extending"
BOTH = """
import own_objective
import own_strategy
from fusseg.cli.app import main

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def started_as(make_federation):
    """Make a federation whose commands are started as a script that lies in its folder."""

    def make(text, *overrides):
        federation = make_federation(*overrides, sites=("north", "south"))
        for script in EXAMPLES.glob("own_*.py"):
            shutil.copy(script, federation.folder)
        (federation.folder / "mine.py").write_text(text)
        # as people type it: relative to the working directory
        federation.program = (sys.executable, "mine.py")
        return federation

    return make


def test_a_strategy_and_an_objective_of_own_scripts_end_in_the_bits_of_the_simulation(
    started_as, same_bits
):
    """Clients send one more statistic; the teacher of round 1 stays with them for round 2."""
    federation = started_as(
        BOTH,
        "federation.strategy=by-use",
        "local.objective=teacher",
        "local.teacher.momentum=0.5",
    )
    federation.join_all()
    federation.serve()
    assert federation.finish() == 0, federation.log("serve")
    found, expected = federation.final_state(), federation.simulate()
    assert found.round_number == expected.round_number == 2
    assert same_bits(found.model, expected.model)
    # each side imported its own copy; none was sent
    for folder in (federation.run_dir, *map(federation.state, federation.sites)):
        assert not list(folder.rglob("*mine*"))


def test_a_site_without_the_script_says_so_and_a_broken_one_names_it_to_its_site_only(started_as):
    federation = started_as(BOTH, "federation.strategy=by-use", "federation.rounds=1")
    own = federation.folder / "north.py"
    own.write_text(BOTH)
    federation.serve()
    federation.program = (sys.executable, "north.py")
    federation.join("north")
    federation.wait_for(lambda: "connecting" in federation.log("north"))
    own.write_text("def broken(:\n")
    federation.program = (sys.executable, "-m", "fusseg")
    federation.join("south")
    federation.wait_for_event("south: refused: the server's settings cannot be run: unknown")
    federation.wait_for_event("north: failed: the site failed with ConfigError")
    assert f"cannot import {own}" in (federation.state("north") / "supernode.log").read_text()
    said = [event["text"] for event in federation.events() if event["site"]]
    assert any("'by-use'" in text for text in said)
    assert not any("north.py" in text for text in said)
