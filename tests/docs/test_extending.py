"""What the page on own entries shows, and what only its readers would notice."""

from blocks import ROOT, read_blocks

SCRIPTS = ("own_strategy.py", "own_objective.py")


def test_the_page_shows_the_scripts_as_they_are_shipped():
    shown = [block.text for block in read_blocks(ROOT / "docs" / "extending.md") if block.not_run]
    folder = ROOT / "examples" / "extending"
    assert shown == [(folder / name).read_text(encoding="utf-8") for name in SCRIPTS]


def test_each_script_has_fewer_than_sixty_lines():
    folder = ROOT / "examples" / "extending"
    assert all(len((folder / name).read_text().splitlines()) < 60 for name in SCRIPTS)
