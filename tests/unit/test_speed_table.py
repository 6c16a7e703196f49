import json
from dataclasses import replace

import pytest
from benchmarks.speed.machine import Machine, machine_text, rate_text
from benchmarks.speed.rows import SpeedRow
from benchmarks.speed.suite import Measured
from benchmarks.speed.table import SpeedTable, row_texts, seconds_text, to_json, write_table

MACHINE = Machine(
    processor="Some CPU",
    cores=2,
    threads=2,
    memory_bytes=16 * 2**30,
    bfloat16=True,
    accelerator="",
    versions={"torch": "2.13", "python": "3.11.7"},
    gflop_per_second={"float32": 150.0, "bfloat16": 500.0},
)
STEP = SpeedRow(
    "a step", "D' = 8", 0.05, 0.04, 1.25, "ratio at most 1.3", "met", "", 100 * 2**20, 3.0, 150.0
)
NO_GPU = SpeedRow(
    "clients | gpu", "18", None, None, None, "ratio at least 5", "not measurable here", "no CUDA"
)
TABLE = SpeedTable(
    command="python -m benchmarks.speed",
    sizes="full",
    device="cpu",
    date="2026-01-02",
    machine=MACHINE,
    measured=(
        Measured("step", (STEP,)),
        Measured("clients", (NO_GPU,)),
        Measured("broken", (), "Traceback: division by zero"),
    ),
    complete=True,
)
FIELDS = {"name", "size", "seconds", "floor_seconds", "ratio", "target", "status", "note"}


def test_the_json_file_holds_every_row_with_its_fields_the_machine_and_the_failures():
    content = json.loads(to_json(TABLE))
    assert [row["name"] for row in content["rows"]] == ["a step", "clients | gpu"]
    for row in content["rows"]:
        assert row.keys() == FIELDS | {"peak_bytes", "gflop", "gflop_per_second"}
    assert content["rows"][0]["ratio"] == 1.25
    assert content["rows"][1]["seconds"] is None
    assert content["machine"]["processor"] == "Some CPU"
    assert content["failures"] == [{"name": "broken", "traceback": "Traceback: division by zero"}]
    assert (content["sizes"], content["device"], content["complete"]) == ("full", "cpu", True)


def test_the_markdown_file_stands_beside_the_json_file_and_names_the_machine(tmp_path):
    written = write_table(tmp_path / "new" / "speed-here.json", TABLE)
    assert written == (tmp_path / "new/speed-here.json", tmp_path / "new/speed-here.md")
    text = written[1].read_text()
    assert "Some CPU, 2 cores, 2 threads; 16 GiB of memory; bfloat16 in hardware" in text
    assert "150 GFLOP/s in float32 and 500 GFLOP/s in bfloat16" in text
    assert "2 rows: 1 met, 1 not measurable here." in text
    assert (
        "| a step | 50 ms | 40 ms | 1.25 | ratio at most 1.3 | met | 3 | 20 ms | 100 MiB |" in text
    )
    assert "| clients \\| gpu | 18 | no CUDA |" in text
    assert "Traceback: division by zero" in text
    assert "Interrupted" not in text
    assert json.loads(written[0].read_text())["rows"]


def test_an_interrupted_run_says_so(tmp_path):
    _, markdown = write_table(tmp_path / "speed.json", replace(TABLE, complete=False))
    assert "Interrupted: not all rows were measured." in markdown.read_text()


def test_a_machine_that_tells_little_is_described_by_what_it_tells():
    silent = replace(MACHINE, memory_bytes=None, bfloat16=False, accelerator="Some GPU")
    assert machine_text(silent) == (
        "Some CPU, 2 cores, 2 threads; Some GPU; no bfloat16 in hardware; torch 2.13, "
        "Python 3.11.7."
    )
    assert rate_text(silent).startswith("Reference product 1936x768x768: 150 GFLOP/s")


def test_what_does_not_apply_is_a_dash():
    assert row_texts(NO_GPU)[1:4] == ("\N{EN DASH}",) * 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.345, "12.3 s"), (1.0, "1 s"), (0.01234, "12.3 ms"), (2e-6, "0.002 ms")],
)
def test_time_is_in_milliseconds_below_a_second(seconds, text):
    assert seconds_text(seconds) == text
