"""The runner of blocks finds what it says it finds."""

import click
import folders
import pytest
from blocks import commands_of, parse, read_blocks, words_of
from running import run_line

PAGE = """\
# A page

<!-- not run: takes a day -->
```sh
# first
fusseg run a.toml \\
    --out runs/a     # then this

fusseg report runs/a
```

```python
print("```")
```
"""


@pytest.fixture
def blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("blocks.ROOT", tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    return read_blocks(tmp_path / "page.md")


def test_blocks_have_place_language_and_reason(blocks):
    assert [block.place for block in blocks] == ["page.md:4", "page.md:12"]
    assert [block.language for block in blocks] == ["sh", "python"]
    assert [block.not_run for block in blocks] == ["takes a day", None]


def test_commands_are_joined_and_lose_their_comments(blocks):
    first, second = commands_of(blocks[0])
    assert words_of(first) == ["run", "a.toml", "--out", "runs/a"]
    assert words_of(second) == ["report", "runs/a"]
    assert words_of("pip install fusseg") is None


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "runs/a", "photos", "--out", "regions", "--nosuch"],
        ["predict", "runs/a", "--out", "regions"],
        ["nosuch"],
        ["keys", "nosuch"],
        ["bench", "table1", "--seeds", "many"],
        ["--nosuch"],
    ],
)
def test_what_the_command_line_would_refuse_is_refused(words):
    with pytest.raises(click.UsageError):
        parse(words)


def test_reading_a_command_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in (["--version"], ["--install-completion"], ["run", "--help"]):
        parse(words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["fusseg report nowhere", "fusseg report nowhere | cat"])
def test_a_command_that_fails_fails_the_page(command, run_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match=r"page\.md:4: fusseg report nowhere"):
        run_line(command, folders.Page().smaller, run_command, "page.md:4")
