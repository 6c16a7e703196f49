import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from fusseg.config.schema import Config, LocalConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.federation.state import GlobalState, Memory
from fusseg.runs.directory import (
    create_run,
    discard_run,
    load_record,
    read_run_config,
    save_record,
)
from fusseg.runs.record_form import Record
from fusseg.runs.resuming import resume_run
from fusseg.runs.saved_state import SavedState, has_state, load_state, save_state
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objectives import spell_out
from fusseg.segmentation.training import Model, TrainingPlan

AGREED = {"shift_self": 0.1, "shift_neighbor": 0.2, "shift_random": 0.3}


def expect_refusal(message, error, action, *arguments):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        action(*arguments)


def test_a_new_run_holds_its_configuration(tmp_path):
    config = Config(seed=3, local=LocalConfig(steps=5))
    create_run(tmp_path / "runs" / "one", config)
    assert read_run_config(tmp_path / "runs" / "one") == spell_out(config)
    assert [path.name for path in (tmp_path / "runs" / "one").iterdir()] == ["config.toml"]


def test_an_empty_folder_may_become_a_run(tmp_path):
    create_run(tmp_path, Config())
    assert read_run_config(tmp_path) == spell_out(Config())


@pytest.mark.parametrize("kind", ["run", "folder", "file"])
def test_what_is_there_is_not_overwritten(kind, tmp_path):
    path = tmp_path / "out"
    if kind == "run":
        create_run(path, Config())
    elif kind == "folder":
        path.mkdir()
        (path / "notes.txt").touch()
    else:
        path.touch()
    resumed = ", or continue the run with --resume" if kind == "run" else ""
    message = f"{path} exists and is not overwritten; choose another --out{resumed}"
    expect_refusal(message, ConfigError, create_run, path, Config(seed=1))


def test_a_run_that_did_not_begin_is_taken_back_and_no_other(tmp_path):
    path = tmp_path / "out"
    create_run(path, Config())
    discard_run(path)
    assert not path.exists()
    create_run(path, Config())
    (path / "notes.txt").touch()
    discard_run(path)
    assert [file.name for file in path.iterdir()] == ["notes.txt"]
    (path / "notes.txt").unlink()
    create_run(path, Config())
    (path / "record.json").write_text("{}")
    discard_run(path)
    assert (path / "config.toml").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "run"
    message = f"cannot write the run directory {path}: Not a directory"
    expect_refusal(message, ConfigError, create_run, path, Config())


def test_a_run_is_resumed_with_its_own_configuration(tmp_path):
    config = Config(seed=3)
    create_run(tmp_path, config)
    assert resume_run(tmp_path, None) == spell_out(config)
    assert resume_run(tmp_path, Config(seed=3)) == spell_out(config)


def test_a_run_is_resumed_whether_its_defaults_are_written_out_or_not(tmp_path):
    create_run(tmp_path, Config())
    assert read_run_config(tmp_path).local.tables["stego"]["dropout"] == 0.1
    given = Config(local=LocalConfig(tables={"stego": {"dropout": 0.1}}))
    assert resume_run(tmp_path, given) == spell_out(Config())
    other = Config(local=LocalConfig(tables={"stego": {"dropout": 0.2}}))
    with pytest.raises(ConfigError, match=r"differs in local\.stego\.dropout\)"):
        resume_run(tmp_path, other)


def test_a_run_is_not_resumed_with_another_configuration(tmp_path):
    create_run(tmp_path, Config(seed=3))
    message = (
        f"{tmp_path} was started with another configuration (differs in seed, local.steps); "
        f"resume it with {tmp_path / 'config.toml'}"
    )
    other = Config(seed=4, local=LocalConfig(steps=9))
    expect_refusal(message, ConfigError, resume_run, tmp_path, other)


def test_where_there_is_no_run_none_is_resumed(tmp_path):
    message = f"no run to resume in {tmp_path}; start it without --resume"
    expect_refusal(message, ConfigError, resume_run, tmp_path, None)


def test_a_folder_without_configuration_is_no_run(tmp_path):
    message = f"{tmp_path} is not a run directory: it has no config.toml"
    expect_refusal(message, ConfigError, read_run_config, tmp_path)


def test_a_record_is_read_back(tmp_path):
    record = dict.fromkeys(Record.__required_keys__) | {"format_version": 2}
    record["final"] = {"mean_iou": 0.1 + 0.2, "per_class_iou": [None, 1.0]}
    save_record(tmp_path, record)
    assert load_record(tmp_path) == record


def test_a_record_holds_no_number_that_json_lacks(tmp_path):
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        save_record(tmp_path, {"format_version": 1, "loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_record_is_named(tmp_path):
    message = f"{tmp_path} has no record.json"
    expect_refusal(message, DataError, load_record, tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("{}", "'format_version'"),
        ('{"format_version": 1}', "'name'"),
        ("[]", "list indices must be integers or slices, not str"),
    ],
)
def test_a_damaged_record_is_named(content, reason, tmp_path):
    (tmp_path / "record.json").write_text(content)
    message = f"damaged record: {tmp_path / 'record.json'} ({reason})"
    expect_refusal(message, DataError, load_record, tmp_path)


def test_a_version_that_is_no_number_is_damage(tmp_path):
    (tmp_path / "record.json").write_text('{"format_version": "1"}')
    start = re.escape(f"damaged record: {tmp_path / 'record.json'} (")
    with pytest.raises(DataError, match=f"^{start}"):
        load_record(tmp_path)


def test_a_record_of_a_newer_version_is_refused(tmp_path):
    save_record(tmp_path, {"format_version": 3})
    message = (
        f"{tmp_path / 'record.json'} has format version 3, this fusseg reads up to 2; install a "
        "newer one"
    )
    expect_refusal(message, DataError, load_record, tmp_path)


@pytest.fixture
def saved(seeded):
    def model(seed):
        return Model(initial_head(3, 2, seeded(seed)), torch.randn(4, 2, generator=seeded(seed)))

    plan = TrainingPlan(7, torch.tensor([0.1, 0.2, 0.3]), {"shift": 1 / 3, "other": -0.7})
    carried = {"average": torch.tensor([[0.5, 1 / 3]]), "steps": torch.tensor(7)}
    own = {"site a": Memory(model(1)), "b.c": Memory(model(2), carried)}
    held = {"b.c": {"plan": "0" * 32, "head": "1" * 32}}
    optimizer = {
        kind: {name: part.double() / 3 for name, part in initial_head(3, 2, seeded(3)).items()}
        for kind in ("mean", "square")
    }
    return SavedState(GlobalState(5, model(0), plan, optimizer=optimizer), own, "f" * 64, held=held)


def test_a_state_is_read_back_to_the_same_bits(saved, same_bits, tmp_path):
    save_state(tmp_path, saved)
    found = load_state(tmp_path)
    assert same_bits(found.state.model, saved.state.model)
    assert found.state.round_number == 5
    assert found.state.plan.num_steps == 7
    assert found.state.plan.agreed == {"shift": 1 / 3, "other": -0.7}
    assert torch.equal(found.state.plan.mean_feature, saved.state.plan.mean_feature)
    assert found.state.optimizer.keys() == {"mean", "square"}
    for kind, weights in saved.state.optimizer.items():
        kept = found.state.optimizer[kind]
        assert kept.keys() == weights.keys()
        assert all(kept[name].dtype == torch.float64 for name in weights)
        assert all(torch.equal(kept[name], part) for name, part in weights.items())
    assert found.fingerprint == "f" * 64
    assert found.held == saved.held
    assert found.memories.keys() == saved.memories.keys()
    for client_id, memory in saved.memories.items():
        kept = found.memories[client_id]
        assert same_bits(kept.model, memory.model)
        assert kept.carried.keys() == memory.carried.keys()
        assert all(torch.equal(kept.carried[name], part) for name, part in memory.carried.items())


@pytest.mark.parametrize("change", ["missing", "shape", "name"])
def test_averages_of_an_optimizer_that_do_not_fit_the_head_are_refused(change, saved, tmp_path):
    weights = dict(saved.state.optimizer["mean"])
    if change == "shape":
        weights["linear.bias"] = weights["linear.bias"][1:]
    else:
        part = weights.pop("linear.bias")
        weights |= {"other": part} if change == "name" else {}
    save_state(tmp_path, replace(saved, state=replace(saved.state, optimizer={"mean": weights})))
    with pytest.raises(DataError, match=r"damaged state: .*optimizer\.mean is not of the shapes"):
        load_state(tmp_path)


def test_a_later_state_replaces_the_earlier_one(saved, tmp_path):
    save_state(tmp_path, saved)
    save_state(tmp_path, replace(saved, memories={}, fingerprint="e"))
    found = load_state(tmp_path)
    assert (found.memories, found.fingerprint) == ({}, "e")
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_weights_that_share_memory_can_be_saved(saved, tmp_path):
    table = torch.arange(16.0).reshape(2, 8)
    shared = replace(saved.state, model=replace(saved.state.model, centroids=table[:, ::4].T))
    save_state(tmp_path, replace(saved, state=shared))
    assert load_state(tmp_path).state.model.centroids.tolist() == [[0.0, 8.0], [4.0, 12.0]]


def test_the_same_state_gives_the_same_file(saved, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    save_state(tmp_path / "1", saved)
    turned = dict(reversed(saved.memories.items()))
    save_state(tmp_path / "2", replace(saved, memories=turned))
    first = (tmp_path / "1" / "state.safetensors").read_bytes()
    assert first == (tmp_path / "2" / "state.safetensors").read_bytes()


def test_a_run_without_a_state_has_finished_no_round(tmp_path):
    message = f"{tmp_path} has no state.safetensors: no round is finished yet"
    expect_refusal(message, DataError, load_state, tmp_path)


def again(path):
    command = f"fusseg run {path / 'config.toml'} --out ANOTHER"
    return f"; restore it from a copy, or train again: {command}"


@pytest.mark.parametrize(("rounds", "lost"), [(0, False), (1, False), (2, True)])
def test_a_state_that_is_gone_is_told_from_one_that_never_was(rounds, lost, tmp_path):
    record = dict.fromkeys(Record.__required_keys__) | {
        "format_version": 1,
        "rounds": [{}] * rounds,
    }
    save_record(tmp_path, record)
    if lost:
        file = tmp_path / "state.safetensors"
        message = f"{file} is missing, although rounds are finished{again(tmp_path)}"
        expect_refusal(message, DataError, has_state, tmp_path)
    else:
        assert not has_state(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_state_is_named(kept, saved, tmp_path):
    save_state(tmp_path, saved)
    file = tmp_path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(
        DataError, match=f"^damaged state: {re.escape(str(file))} \\(.+\\); restore it"
    ):
        load_state(tmp_path)


def test_tensors_of_another_program_are_no_state(tmp_path):
    file = tmp_path / "state.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    message = f"damaged state: {file} ('NoneType' object is not subscriptable){again(tmp_path)}"
    expect_refusal(message, DataError, load_state, tmp_path)
    save_file({"x": torch.zeros(1)}, file, {"other": "{}"})
    expect_refusal(
        f"damaged state: {file} ('fusseg'){again(tmp_path)}", DataError, load_state, tmp_path
    )


def test_a_state_that_lacks_a_tensor_is_named(tmp_path):
    file = tmp_path / "state.safetensors"
    metadata = {"format_version": 2, "agreed": AGREED, "num_steps": 1, "round_number": 1}
    save_file({"centroids": torch.zeros(1, 1)}, file, {"fusseg": json.dumps(metadata)})
    expect_refusal(
        f"damaged state: {file} ('mean_feature'){again(tmp_path)}", DataError, load_state, tmp_path
    )


def test_a_state_of_a_newer_version_is_refused(tmp_path):
    file = tmp_path / "state.safetensors"
    save_file({"x": torch.zeros(1)}, file, {"fusseg": '{"format_version": 3}'})
    message = f"{file} has format version 3, this fusseg reads up to 2; install a newer one"
    expect_refusal(message, DataError, load_state, tmp_path)


def test_a_run_can_start_over_what_a_kill_left_of_its_configuration(tmp_path):
    (tmp_path / ".0123456789abcdef").write_text("half")
    create_run(tmp_path, Config())
    assert read_run_config(tmp_path) == spell_out(Config())


def test_a_record_that_cannot_be_written_names_the_file_and_the_fix(tmp_path):
    folder = tmp_path / "gone"
    message = f"cannot write {folder / 'record.json'}: No such file or directory; "
    with pytest.raises(DataError, match=f"^{re.escape(message)}.* --resume$"):
        save_record(folder, {})
