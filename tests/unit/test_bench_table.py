import csv
import io
import json
from pathlib import Path

import pytest

from fusseg.bench.cell_results import Result, Scores, join_results
from fusseg.bench.cells import Cell
from fusseg.bench.conditions import _SETTINGS, settings_section
from fusseg.bench.distances import Distances
from fusseg.bench.grid import Column, Grid, Method
from fusseg.bench.output import Bench, to_csv, to_markdown, write_tables
from fusseg.bench.table import table_sections
from fusseg.config.schema import Config
from fusseg.report.bench_page import PageFigure, PageTable, render_bench
from fusseg.report.drawings import ladder_png
from fusseg.report.formatting import ABSENT
from fusseg.runs.directory import FORMAT_VERSION, RECORD
from fusseg.runs.record_form import Record


def result(trained=None, finished=None, bytes_sent=0.0, seconds=1.0, kept=None):
    found = {"trained": trained, "finished": finished, "kept": kept}
    scores = {
        phase: Scores(value, value + 0.5, {"north": value}, value / 2)
        for phase, value in found.items()
        if value is not None
    }
    return Result(scores, float(bytes_sent), float(seconds))


def make_grid(**more):
    settings = {
        "title": "T",
        "config": {},
        "columns": (Column("3", {}), Column("6", {})),
        "methods": (Method("a", {}), Method("b", {}), Method("c", {}, "pca", ("3",))),
        "seeds": (0, 1),
        "references": ("a",),
        "published": {"a": {"3": 21.12}},
    }
    return Grid(**(settings | more))


RESULTS = {
    ("a", "3"): {0: result(0.10, 0.20, 1000, 30), 1: result(0.12, 0.24, 3000, 50)},
    ("b", "3"): {0: result(0.11, 0.30), 1: result(0.15, 0.30)},
    ("c", "3"): {0: result(0.25), 1: result(0.25)},
    ("a", "6"): {0: result(0.5, 0.5)},
}


def sections_by_heading(grid, results, methods=("a", "b", "c")):
    return {section.heading: section for section in table_sections(grid, methods, results)}


def texts(section):
    return [[entry.text for entry in row] for row in section.rows]


def test_distances_are_a_section_and_a_table_of_their_own(tmp_path):
    grid = make_grid(distances=True, published=None)
    found = {"3": Distances(3, 2.0, 0.5, 0.25), "6": Distances(6, 1.0, None, 0.125)}
    write_tables(Bench(grid, (), tmp_path, "bench x", (), (), found), {}, [])
    markdown = (tmp_path / "table.md").read_text()
    assert "| 3 | 3 | 2.0 | 0.500 | 0.250 |" in markdown
    assert f"| 6 | 6 | 1.0 | {ABSENT} | 0.125 |" in markdown
    rows = list(csv.DictReader(io.StringIO((tmp_path / "distances.csv").read_text())))
    assert [row["classes"] for row in rows] == ["0.5", ""]
    assert rows[0]["column"] == "3"
    without = make_grid(published=None)
    write_tables(Bench(without, (), tmp_path / "other", "bench x", ()), {}, [])
    assert "How different" not in (tmp_path / "other" / "table.md").read_text()
    assert not (tmp_path / "other" / "distances.csv").exists()


def test_the_ladder_is_drawn_where_cells_are_missing():
    png = ladder_png({"a": [[0.5, 0.6], []], "b": [[], [0.2]], "c": [[], []]}, ["i.i.d.", "worse"])
    assert png.startswith(b"\x89PNG")


def test_scores_are_mean_and_spread_in_percent_beside_the_papers():
    section = sections_by_heading(make_grid(), RESULTS)["mIoU"]
    assert section.header == (
        "method",
        "3, trained",
        "3, + finish",
        "3, trained, STEGO's mIoU",
        "3, + finish, STEGO's mIoU",
        "3, paper",
        "6, trained",
        "6, + finish",
    )
    # Std of 10, 12: sqrt(2); of 20, 24: sqrt(8); of 11, 15: sqrt(8).
    half = 2 * ["50.00 (1 of 2 seeds)"]
    assert texts(section) == [
        ["a", "11.00 ± 1.41", "22.00 ± 2.83", "5.50 ± 0.71", "11.00 ± 1.41", "21.12", *half],
        ["b", "13.00 ± 2.83", "30.00 ± 0.00", "6.50 ± 1.41", "15.00 ± 0.00", ABSENT]
        + 2 * ["missing"],
        ["c", "25.00 ± 0.00", ABSENT, "12.50 ± 0.00", ABSENT, ABSENT, ABSENT, ABSENT],
    ]
    assert "a class that no label has counts as 0" in section.note


def test_the_best_of_each_column_is_marked_but_not_the_papers():
    section = sections_by_heading(make_grid(), RESULTS)["mIoU"]
    best = [
        (row[0].text, column)
        for row in section.rows
        for column, entry in enumerate(row)
        if entry.best
    ]
    assert best == [("a", 6), ("a", 7), ("b", 2), ("b", 4), ("c", 1), ("c", 3)]


def test_differences_are_paired_and_a_row_without_finish_enters_both():
    section = sections_by_heading(make_grid(), RESULTS)["mIoU against a"]
    # b - a trained: 1, 3 points, std sqrt(2), standard error 1; finished: 10, 6, std sqrt(8), 2.
    # c - a trained: 15, 13; finished: 5, 1. Student's t at 1 degree of freedom: 12.706.
    assert texts(section) == [
        ["b", "+2.00 ± 12.71", "+8.00 ± 25.41", "missing", "missing"],
        ["c", "+14.00 ± 12.71", "+3.00 ± 25.41", ABSENT, ABSENT],
    ]
    assert "over n = 2 seeds ± half the width of its 95 % confidence interval" in section.note


def test_differences_over_fewer_seeds_than_asked_for_say_so():
    results = RESULTS | {("b", "3"): {1: result(0.15, 0.30)}}
    section = sections_by_heading(make_grid(), results)["mIoU against a"]
    assert texts(section)[0][1] == "+3.00 (1 of 2 seeds)"


def test_negative_differences_of_one_seed_have_a_sign_and_no_error():
    results = {("a", "3"): {0: result(0.5)}, ("b", "3"): {0: result(0.25)}}
    grid = make_grid(columns=(Column("3", {}),), seeds=(0,), published=None)
    section = sections_by_heading(grid, results)["mIoU against a"]
    assert section.header == ("method", "3")
    assert texts(section)[0] == ["b", "\N{MINUS SIGN}25.00"]


def test_rows_with_and_without_a_choice_are_compared_by_the_models_they_end_with():
    grid = make_grid(columns=(Column("3", {}),), seeds=(0,), published=None)
    results = {
        ("a", "3"): {0: result(0.25, kept=0.5)},
        ("b", "3"): {0: result(0.125, 0.25)},
        ("c", "3"): {0: result(0.75)},
    }
    found = sections_by_heading(grid, results)
    assert found["mIoU"].header == ("method", "3, trained", "3, + finish", "3, kept")
    assert texts(found["mIoU"])[0] == ["a", "25.00", ABSENT, "50.00"]
    assert "Kept: the start or the last model" in found["mIoU"].note
    # b without a choice ends with its finish, c with its training; a has no score of a finish.
    minus = "\N{MINUS SIGN}"
    assert texts(found["mIoU against a"]) == [
        ["b", f"{minus}12.50", ABSENT, f"{minus}25.00"],
        ["c", "+50.00", ABSENT, "+25.00"],
    ]


def test_cost_is_the_mean_per_run():
    section = sections_by_heading(make_grid(), RESULTS)["Cost"]
    assert texts(section)[0] == ["a", "2.0 kB", "40.0 s", "0 B", "1.0 s"]


def test_runs_with_other_held_out_sites_are_averaged_and_their_sites_kept():
    joined = join_results(
        [
            Result({"trained": Scores(0.2, 0.4, {"north": 0.2}, 0.1)}, 100.0, 2.0),
            Result({"trained": Scores(0.4, 0.8, {"south": 0.4}, 0.2)}, 300.0, 4.0),
        ]
    )
    assert abs(joined.scores["trained"].mean_iou - 0.3) < 1e-12
    assert abs(joined.scores["trained"].pixel_accuracy - 0.6) < 1e-12
    assert joined.scores["trained"].mean_iou_stego == pytest.approx(0.15)
    assert joined.scores["trained"].sites == {"north": 0.2, "south": 0.4}
    assert (joined.bytes_sent, joined.seconds) == (200, 3)


def test_markdown_has_one_table_per_section_with_the_best_bold():
    grid = make_grid(columns=(Column("3", {}),), seeds=(0,), references=(), published=None)
    results = {("a", "3"): {0: result(0.5)}, ("b", "3"): {0: result(0.25)}}
    text = to_markdown("T", "fusseg bench x", table_sections(grid, ("a", "b"), results)[:1])
    assert text == (
        "# T\n\n    fusseg bench x\n\n## mIoU\n\n"
        "Percent, mean ± standard deviation over seeds; the best of a column is bold.\n\n"
        "| method | 3 |\n|---|---|\n| a | **50.00** |\n| b | 25.00 |\n"
    )


def make_cell(**more):
    settings = {
        "column": "3",
        "method": "a, b",
        "seed": 1,
        "held_out": "north",
        "config": Config(),
        "anchor": None,
        "path": Path("x"),
    }
    return Cell(**(settings | more))


def test_csv_has_one_line_per_cell_and_score():
    text = to_csv(make_grid(), {make_cell(): result(0.1, 0.2, 1000, 30)})
    rows = list(csv.reader(io.StringIO(text)))
    place = ["a, b", "3", "1", "north"]
    assert rows == [
        ["method", "column", "seed", "held_out", "phase", "site", "score", "value"],
        [*place, "trained", "", "mean_iou", "0.1"],
        [*place, "trained", "", "mean_iou_stego", "0.05"],
        [*place, "trained", "", "pixel_accuracy", "0.6"],
        [*place, "trained", "north", "mean_iou", "0.1"],
        [*place, "finished", "", "mean_iou", "0.2"],
        [*place, "finished", "", "mean_iou_stego", "0.1"],
        [*place, "finished", "", "pixel_accuracy", "0.7"],
        [*place, "finished", "north", "mean_iou", "0.2"],
        [*place, "", "", "bytes_sent", "1000.0"],
        [*place, "", "", "seconds", "30.0"],
        ["a", "3", "", "", "published", "", "mean_iou", "0.2112"],
    ]


def test_settings_that_differ_between_columns_stand_side_by_side():
    grid = make_grid()
    cells = [
        make_cell(),
        make_cell(column="6", config=Config(seed=1)),
    ]
    section = settings_section(grid, cells)
    rows = {row[0]: row[1:] for row in texts(section)}
    assert section.header == ("setting", "3", "6")
    assert rows["K"] == ["27", "27"]
    assert rows["seeds"] == ["0, 1", "0, 1"]
    assert rows["CRF"] == ["no", "no"]
    assert set(rows) >= {name for name, _ in _SETTINGS}


SHIFTS = {"shift_self": 0.25, "shift_neighbor": 0.5, "shift_random": -0.125}


@pytest.mark.parametrize(
    ("agreed", "held_out", "shown"),
    [
        (SHIFTS, "", "0.250, 0.500, -0.125 (seed 1)"),
        (SHIFTS, "north", "0.250, 0.500, -0.125 (seed 1, north held out)"),
        ({}, "", ABSENT),
        ({"threshold": 0.5}, "", ABSENT),
    ],
)
def test_the_shifts_of_one_run_are_not_passed_off_as_those_of_all(
    agreed, held_out, shown, tmp_path
):
    record = dict.fromkeys(Record.__required_keys__) | {
        "format_version": FORMAT_VERSION,
        "versions": {},
        "backbone": {"fingerprint": "f00d"},
        "clients": [{"client_id": "a", "num_images": 5}, {"client_id": "b", "num_images": 7}],
        "hello": {"local_steps": 3, "agreed": agreed},
    }
    (tmp_path / RECORD).write_text(json.dumps(record))
    cells = [make_cell(path=tmp_path, held_out=held_out), make_cell(seed=2)]
    section = settings_section(make_grid(columns=(Column("3", {}),)), cells)
    rows = {row[0]: row[1] for row in texts(section)}
    assert rows["shifts used"] == shown
    assert rows["clients: images"] == "2: 5, 7"


def test_the_encoder_and_all_processors_of_a_column_are_named(tmp_path):
    cells = []
    for seed, processor in enumerate(("EPYC (model 1)", "EPYC (model 17)", "EPYC (model 1)", None)):
        record = dict.fromkeys(Record.__required_keys__) | {
            "format_version": FORMAT_VERSION,
            # The last is of a version that did not keep it.
            "versions": {"threads": 1, "torch": "2.13.0"}
            | ({} if processor is None else {"processor": processor}),
            "backbone": {"fingerprint": "f00d"},
        }
        path = tmp_path / str(seed)
        path.mkdir()
        (path / RECORD).write_text(json.dumps(record))
        cells.append(make_cell(path=path, seed=seed))
    cells.append(make_cell(path=tmp_path / "not run"))
    section = settings_section(make_grid(columns=(Column("3", {}),)), cells)
    rows = {row[0]: row[1] for row in texts(section)}
    assert rows["SHA-256 of the encoder"] == "f00d"
    assert rows["processor"] == f"EPYC (model 1) / EPYC (model 17) / {ABSENT}"
    assert (rows["threads"], rows["torch"]) == ("1", "2.13.0")


def test_the_page_holds_tables_figures_and_failures_and_no_reference():
    page = render_bench(
        "A <b>",
        "fusseg bench x",
        {"cell 1": "disk full"},
        [PageTable("mIoU", "note", ("method", "3"), [[("a", False), ("50.00", True)]])],
        [PageFigure("curves", b"png")],
    )
    assert "A &lt;b&gt;" in page
    assert "cell 1: disk full" in page
    assert '<td class="best">50.00</td>' in page
    assert '<img src="data:image/png;base64,cG5n" alt="curves">' in page
    assert "http://" not in page
    assert "https://" not in page
