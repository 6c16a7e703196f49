import json
import os
import re
import resource
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
import torch

from fusseg.core.errors import DataError
from fusseg.deployment.wire.ledger import (
    LEDGER,
    LedgerLine,
    TensorLine,
    append_line,
    describe_message,
    read_ledger,
    total_bytes,
)

FIELDS = {"task": "train", "round": 2, "loss": 0.5}
TENSORS = {
    "w": torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16),
    "counts": torch.tensor([4, 5]),
}


def line(tensors=TENSORS, fields=FIELDS, site="north", direction="to server"):
    return describe_message(site, direction, tensors, fields)


def digest(**more):
    return line(**more).sha256


def test_a_line_says_who_when_what_and_how_much():
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    found = line()
    assert before <= datetime.fromisoformat(found.time) <= datetime.now(UTC)
    assert (found.site, found.round, found.task, found.direction) == (
        "north",
        2,
        "train",
        "to server",
    )
    assert found.tensors == (
        TensorLine("counts", (2,), "int64", 16),
        TensorLine("w", (1, 3), "bfloat16", 6),
    )
    assert found.fields == FIELDS
    # Tensors 16 and 6, two numbers of 8 each, a word of 5.
    assert found.bytes == 16 + 6 + 2 * 8 + 5


def test_words_count_as_they_are_encoded():
    assert line({}, {"a": "Köln"}).bytes == 5


def test_the_digest_covers_names_shapes_types_and_values_in_order():
    expected = sha256()
    expected.update(b'["counts", [2], "int64"]')
    expected.update(bytes([4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]))
    expected.update(b'["w", [1, 3], "bfloat16"]')
    expected.update(bytes([0x80, 0x3F, 0x00, 0x40, 0x40, 0x40]))
    expected.update(b'{"loss": 0.5, "round": 2, "task": "train"}')
    assert digest() == expected.hexdigest()


def test_the_digest_is_the_same_at_both_ends():
    reverse = dict(reversed(TENSORS.items()))
    assert digest(tensors=reverse, fields=dict(reversed(FIELDS.items()))) == digest()
    assert digest(site="elsewhere", direction="to site") == digest()


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": {**TENSORS, "counts": torch.tensor([4, 6])}},
        {"tensors": {**TENSORS, "counts": torch.tensor([[4, 5]])}},
        {"tensors": {**TENSORS, "w": TENSORS["w"].float()}},
        {"tensors": {"v": TENSORS["w"], "counts": TENSORS["counts"]}},
        {"tensors": {"w": TENSORS["w"]}},
        {"fields": {**FIELDS, "loss": 0.25}},
        {"fields": {**FIELDS, "round": "2"}},
        {"fields": {"task": "train", "round": 2}},
        {"fields": {**FIELDS, "task": "train" + "x" * 200}},
    ],
)
def test_the_digest_changes_with_whatever_is_sent(change):
    assert digest(**change) != digest()


def test_a_long_word_is_shortened_and_still_counted_and_digested_whole():
    found = line({}, {"settings": "a" * 150 + "b"})
    assert found.fields == {"settings": "a" * 100 + "... (151 characters)"}
    assert found.bytes == 151
    assert found.sha256 != digest(tensors={}, fields={"settings": "a" * 150 + "c"})
    assert line({}, {"settings": "a" * 100}).fields == {"settings": "a" * 100}


def test_a_task_is_shortened_like_any_other_word():
    """It comes from the other end, and a line should stay one that people read."""
    found = line({}, {"task": "a" * 60_000})
    assert len(found.task) < 200
    assert found.bytes == 60_000


def test_what_names_no_round_or_task_is_of_round_0():
    found = line({}, {"state": "refused"})
    assert (found.round, found.task) == (0, "")


@pytest.mark.parametrize("value", ["x", "", float("nan"), float("inf"), "1e3", "9" * 5000])
def test_a_round_that_is_no_whole_number_is_noted_all_the_same(value):
    """It is noted before anything in it is checked."""
    assert line({}, {"round": value}).round == 0


def test_lines_are_read_back_in_their_order(tmp_path):
    lines = [line(), line({}, {"task": "hello", "round": 0, "text": "Köln\n\u2028\x85"})]
    for one in lines:
        append_line(tmp_path, one)
    assert read_ledger(tmp_path) == (lines, 0)
    assert (tmp_path / LEDGER).read_bytes().count(b"\n") == 2


def test_fields_that_are_not_finite_are_read_back(tmp_path):
    append_line(tmp_path, line({}, {"loss": float("inf")}))
    (found,), damaged = read_ledger(tmp_path)
    assert (found.fields, damaged) == ({"loss": float("inf")}, 0)


def test_only_its_owner_reads_a_ledger(tmp_path):
    before = os.umask(0)
    try:
        append_line(tmp_path, line())
    finally:
        os.umask(before)
    assert (tmp_path / LEDGER).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kept", [1, 50, -1])
def test_a_line_cut_short_by_a_crash_does_not_swallow_the_next(tmp_path, kept):
    path = tmp_path / LEDGER
    append_line(tmp_path, line())
    append_line(tmp_path, line())
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + kept] if kept > 0 else whole[:-2])
    last = line({}, FIELDS)
    append_line(tmp_path, last)
    lines, damaged = read_ledger(tmp_path)
    assert lines[0].sha256 == digest()
    assert lines[1:] == [last]
    assert damaged == 1


@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        b"[1]",
        b"3",
        b"{}",
        b"\xff\xfe",
        b'{"tensors": 5}',
        b'{"tensors": [5]}',
        b'{"tensors": [], "other": 1}',
    ],
)
def test_lines_that_cannot_be_read_are_counted(tmp_path, content):
    append_line(tmp_path, line())
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(content + b"\n\n")
    append_line(tmp_path, line())
    lines, damaged = read_ledger(tmp_path)
    assert [one.sha256 for one in lines] == [digest()] * 2
    assert damaged == 1


def test_a_line_that_does_not_fit_on_the_disk_is_an_error(tmp_path):
    """Half a line must not count as written: its message would leave."""
    append_line(tmp_path, line())
    size = (tmp_path / LEDGER).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal that comes with the error.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
    try:
        with pytest.raises(DataError, match=r"^cannot write the ledger .*ledger.jsonl: File too"):
            append_line(tmp_path, line())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_ledger_that_cannot_be_written_is_an_error(tmp_path):
    message = f"cannot write the ledger {tmp_path / 'none' / LEDGER}: No such file or directory"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        append_line(tmp_path / "none", line())


def test_a_folder_without_a_ledger_says_who_has_one(tmp_path):
    message = (
        f"{tmp_path} has no ledger.jsonl: only deployments send something (fusseg serve, fusseg "
        "join); record.json of a simulated run says how much it would have been"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        read_ledger(tmp_path)


def test_bytes_are_summed_by_site_and_direction():
    def sized(site, direction, size):
        return LedgerLine("", site, 1, "train", direction, (), {}, size, "")

    lines = [
        sized("b", "to site", 5),
        sized("a", "to server", 7),
        sized("b", "to site", 11),
        sized("b", "to server", 13),
    ]
    assert total_bytes(lines) == {
        "b": {"to site": 16, "to server": 13},
        "a": {"to site": 0, "to server": 7},
    }
    assert total_bytes([]) == {}


def test_a_line_is_one_json_object_whose_names_are_documented(tmp_path):
    append_line(tmp_path, line())
    assert list(json.loads((tmp_path / LEDGER).read_text())) == [
        "time",
        "site",
        "round",
        "task",
        "direction",
        "tensors",
        "fields",
        "bytes",
        "sha256",
    ]
