import re

import pytest

from fusseg.config.schema import Config, FederationConfig
from fusseg.core.errors import DataError
from fusseg.federation.strategies import resolve
from fusseg.runs.finished_rounds import (
    check_not_behind,
    check_same_round,
    recorded_round,
    rewind_record,
)
from fusseg.runs.record import DEPLOYMENT, SIMULATION

ROUNDS = [{"round": 1}, {"round": 2}, {"round": 3}]


def settle(**federation):
    return resolve(Config(federation=FederationConfig(**federation)))


def record(rounds=ROUNDS, engine=SIMULATION, **more):
    return {"rounds": list(rounds), "engine": engine, **more}


def test_a_record_ends_with_its_last_round():
    assert recorded_round(record()) == 3
    assert recorded_round(record([])) == 0


def test_an_adapted_run_begins_with_the_round_it_was_made_of():
    adapted = {"adapted": {"steps": 3}, "start": {"round": 7}}
    assert recorded_round(record([], **adapted)) == 7
    assert recorded_round(record([{"round": 8}], **adapted)) == 8
    # A federation that starts from a model counts from 1.
    assert recorded_round(record([], adapted=None, start={"round": 7})) == 0


def test_an_anchor_has_no_rounds_and_suits_any_state(tmp_path):
    anchor = record([], anchor="pca")
    assert recorded_round(anchor) is None
    check_same_round(tmp_path, anchor, 10)
    check_not_behind(tmp_path, anchor, 10)


@pytest.mark.parametrize("rounds", [[{}], [{"round": None}], [3]])
def test_rounds_without_numbers_are_damage(rounds):
    with pytest.raises(DataError, match=r"^damaged record: its rounds cannot be read \("):
        recorded_round(record(rounds))


def test_record_and_state_of_one_round_agree(tmp_path):
    check_same_round(tmp_path, record(), 3)
    check_same_round(tmp_path, record([]), 0)


@pytest.mark.parametrize(("saved", "said"), [(2, "is of round 2"), (0, "there is no state")])
@pytest.mark.parametrize(("engine", "command"), [(SIMULATION, "run"), (DEPLOYMENT, "serve")])
def test_a_record_that_is_ahead_is_refused_with_the_command_that_mends_it(
    tmp_path, saved, said, engine, command
):
    run_dir = tmp_path / "my run"
    with pytest.raises(DataError) as caught:
        check_same_round(run_dir, record(engine=engine), saved)
    assert f"{run_dir / 'record.json'} ends with round 3, but " in str(caught.value)
    assert said in str(caught.value)
    assert f"fusseg {command} --resume --out '{run_dir}'" in str(caught.value)
    check_not_behind(run_dir, record(engine=engine), saved)


@pytest.mark.parametrize("check", [check_same_round, check_not_behind])
def test_a_record_that_is_behind_is_refused_and_not_resumed(tmp_path, check):
    message = f"{tmp_path / 'record.json'} ends with round 3, but state.safetensors is of round 4"
    with pytest.raises(DataError, match=f"^{re.escape(message)}: .*; restore the file") as caught:
        check(tmp_path, record(), 4)
    assert "--resume" not in str(caught.value)


def test_what_came_after_the_saved_round_is_dropped():
    protocol = settle(rounds=2, lloyd_rounds=1, keep="last")
    scores = {"trained": {"mean_iou": 0.5}, "final": {"mean_iou": 0.6}}
    whole, cut, early = (record(**scores) for _ in range(3))
    rewind_record(whole, 3, protocol)
    assert whole == record(**scores)
    rewind_record(cut, 2, protocol)
    assert cut == record(ROUNDS[:2], trained=scores["trained"], final=None)
    rewind_record(early, 1, protocol)
    assert early == record(ROUNDS[:1], trained=None, final=None)


def test_rounds_of_an_adapted_run_are_dropped_by_their_number():
    protocol = settle(rounds=8)
    found = record([{"round": 7}, {"round": 8}], trained=None, final={})
    rewind_record(found, 7, protocol)
    assert found["rounds"] == [{"round": 7}]
