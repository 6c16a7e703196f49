"""Every row of the table of speed at tiny sizes, for structure and sanity and never for time."""

import json
import operator
import signal
import time
from pathlib import Path
from typing import get_args

import onnx
import pytest
from benchmarks.speed.__main__ import main
from benchmarks.speed.explanations import Quantity
from benchmarks.speed.measuring import SpeedOptions, measure_speed
from benchmarks.speed.memory_meter import anonymous_bytes
from benchmarks.speed.rows import Status
from benchmarks.speed.sizes import FULL, QUICK, Setting, Sizes
from benchmarks.speed.suite import Measurement, list_measurements
from onnx import TensorProto, helper

ROOT = Path(__file__).parents[2]

TINY = Sizes(
    name="tiny",
    repeats=1,
    side=32,
    extracted_images=2,
    slow_images=2,
    vit=(16, 1),
    feature_dims=(8,),
    client_images=8,
    steps=2,
    round_clients=2,
    round_steps=2,
    round_dim=8,
    small_clients=3,
    small_dim=8,
    small_steps=2,
    pooled_clients=8,
    moments_dim=80,
    neighbor_images=40,
    neighbor_dim=8,
    neighbor_repeats=1,
    memory_images=(8, 16),
    onnx_images=8,
    memory_steps=1,
    scored_images=2,
    scored_dim=8,
    started_processes=1,
)
MEASUREMENTS = {measurement.name: measurement for measurement in list_measurements(TINY)}


@pytest.fixture
def encoder(tmp_path):
    """Write an ONNX file that averages 8 x 8 pixels into features."""
    shape = ("batch", 3, "height", "width"), ("batch", 3, "h", "w")
    pool = helper.make_node("AveragePool", ["i"], ["o"], kernel_shape=[8, 8], strides=[8, 8])
    graph = helper.make_graph(
        [pool],
        "encoder",
        [helper.make_tensor_value_info("i", TensorProto.FLOAT, shape[0])],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, shape[1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "encoder.onnx")
    return f"onnx:{tmp_path / 'encoder.onnx'}"


@pytest.fixture
def setting(tmp_path, encoder):
    folder = tmp_path / "measured"
    folder.mkdir()
    return Setting(TINY, "cpu", encoder, folder)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_every_measurement_gives_rows_with_figures_that_can_be(name, setting):
    rows = MEASUREMENTS[name].measure(setting)
    assert rows
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.status in get_args(Status)
        assert row.size
        assert row.target
        if row.status == "not measurable here":
            assert row.note
            continue
        for figure in (row.seconds, row.floor_seconds, row.ratio, row.gflop, row.gflop_per_second):
            assert figure is None or 0 <= figure < 1e6
        assert any(getattr(row, quantity) is not None for quantity in get_args(Quantity))
        if row.floor_seconds is not None:
            assert row.ratio == pytest.approx(row.seconds / row.floor_seconds)
        if row.peak_bytes is not None and "memory beyond" not in row.note:
            assert 2**24 < row.peak_bytes < 2**34


def test_rows_that_need_weights_or_a_gpu_say_so_where_there_are_none(setting):
    bare = Setting(TINY, "cpu", None, setting.folder)
    for name in ("extraction, given backbone", "memory, given backbone"):
        for row in MEASUREMENTS[name].measure(bare):
            assert (row.status, row.seconds) == ("not measurable here", None)
            assert "--backbone onnx:PATH" in row.note
    gpu = MEASUREMENTS["small clients in one step"].measure(bare)[0]
    assert (gpu.status, gpu.target) == ("not measurable here", "ratio at least 5")
    assert "needs CUDA" in gpu.note


def test_clients_in_one_step_end_at_the_weights_of_clients_one_after_another(setting):
    rows = MEASUREMENTS["small clients in one step"].measure(setting)
    [same] = [row for row in rows if row.name.endswith("cpu, same results")]
    assert same.status == "met"
    assert same.ratio < 1e-4


def test_full_and_quick_sizes_measure_the_same_rows():
    names = [[measurement.name for measurement in list_measurements(s)] for s in (FULL, QUICK)]
    assert names[0] == names[1]


def test_a_measurement_that_fails_is_listed_with_its_traceback_and_stops_no_other(tmp_path, capsys):
    out = tmp_path / "speed.json"
    options = SpeedOptions(out, "python -m benchmarks.speed")
    chosen = (
        Measurement("broken", operator.index),
        MEASUREMENTS["extraction, given backbone"],
    )
    assert not measure_speed(options, TINY, chosen)
    content = json.loads(out.read_text())
    assert [row["name"] for row in content["rows"]] == ["extraction, given backbone"]
    [failure] = content["failures"]
    assert failure["name"] == "broken"
    assert "TypeError: 'Setting' object cannot be interpreted as an integer" in failure["traceback"]
    assert content["complete"] is True
    assert "1 rows: 1 not measurable here" in out.with_suffix(".md").read_text()
    shown = capsys.readouterr()
    assert "[1 of 2] broken: failed" in shown.out
    assert "TypeError" in shown.err


@pytest.mark.skipif(anonymous_bytes() is None, reason="memory is read from /proc of Linux")
def test_the_command_writes_what_is_there_after_ctrl_c(start_cli, tmp_path):
    out = tmp_path / "speed.json"
    process = start_cli("--quick", "--json", out, module="benchmarks.speed", cwd=ROOT)
    line, deadline = "", time.monotonic() + 120
    while "[1 of" not in line:
        line = process.stdout.readline()
        assert line, "it ended before the first row"
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"stopped; what was measured is in {out}" in output
    assert "Traceback" not in output
    content = json.loads(out.read_text())
    assert content["complete"] is False
    assert content["rows"][0]["name"] == "extraction, filterbank"
    assert "Interrupted" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "tpu"), "--device must be one of cpu, cuda, got 'tpu'"),
        (("--json", "speed.md"), "--json must not end in .md, got speed.md"),
    ],
)
def test_options_that_cannot_be_used_are_refused(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_option_of_a_grid_is_unknown(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--seeds", "2"])
    assert "unrecognized arguments: --seeds" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["speed", "speed --quick --json speed.json", "--json=speed.json speed"]
)
def test_the_former_command_names_its_replacement(cli, words):
    code, _, errors = cli("bench", *words.split())
    assert code == 2
    assert "python -m benchmarks.speed" in errors


def test_an_option_of_speed_is_none_of_a_grid(cli):
    code, _, errors = cli("bench", "table1", "--quick")
    assert code == 2
    assert "No such option" in errors
