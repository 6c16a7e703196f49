"""What the page on own entries shows, and what only its readers would notice."""

from blocks import ROOT, read_blocks


def test_the_page_shows_the_script_as_it_is_shipped():
    shown = [block.text for block in read_blocks(ROOT / "docs" / "extending.md") if block.not_run]
    script = ROOT / "examples" / "extending" / "own_strategy.py"
    assert shown == [script.read_text(encoding="utf-8")]
