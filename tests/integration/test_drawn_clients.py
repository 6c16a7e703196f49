"""A run in which only some clients take part in each round: progress, record, report."""

import pytest

from fusseg.config.file import load_config
from fusseg.federation.rounds import draw_participants
from fusseg.federation.state import ClientUpdate
from fusseg.federation.strategies import resolve
from fusseg.report.gallery import write_report
from fusseg.runs.directory import load_record
from fusseg.runs.engine import TrainingBegun
from fusseg.runs.history import load_history
from fusseg.runs.train import Finished, run_experiment

SITES = ("east", "north", "south")


@pytest.fixture
def config(make_sites, make_config):
    root = make_sites(sites=(*SITES, "west"), num_images=4)
    more = "clients_per_round = 2\nlloyd_rounds = 1"
    return load_config(make_config(root, more=more))


def test_progress_and_record_count_the_clients_that_take_part(config, tmp_path):
    events = list(run_experiment(config, tmp_path / "run", tmp_path / "cache"))
    (begun,) = (event for event in events if isinstance(event, TrainingBegun))
    updates = [event for event in events if isinstance(event, ClientUpdate)]
    assert (begun.updates_done, begun.num_updates, len(updates)) == (0, 8, 8)
    record = load_record(tmp_path / "run")
    assert [client["client_id"] for client in record["clients"]] == [*SITES]
    for entry in record["rounds"]:
        drawn = draw_participants(SITES, entry["round"], resolve(config))
        assert [client["client_id"] for client in entry["clients"]] == list(drawn)
        assert entry["bytes_up"] == sum(client["bytes_up"] for client in entry["clients"]) > 0
    trained = record["rounds"][0]
    losses = [client["loss"] for client in trained["clients"]]
    # four images each
    assert trained["loss"] == pytest.approx(sum(losses) / 2)


def test_progress_of_a_run_that_goes_on_counts_what_is_done(config, tmp_path):
    run = run_experiment(config, tmp_path / "run", tmp_path / "cache")
    updates = 0
    for event in run:
        updates += isinstance(event, ClientUpdate)
        if updates == 5:
            run.close()
    resumed = list(run_experiment(None, tmp_path / "run", tmp_path / "cache", resume=True))
    (begun,) = (event for event in resumed if isinstance(event, TrainingBegun))
    left = sum(isinstance(event, ClientUpdate) for event in resumed)
    assert (begun.updates_done, begun.num_updates, left) == (4, 8, 4)


def test_history_keeps_the_centroids_of_so_many_clients_and_no_more(config, tmp_path, monkeypatch):
    monkeypatch.setattr("fusseg.runs.finished_rounds._MOST_IN_HISTORY", 1)
    for _ in run_experiment(config, tmp_path / "run", tmp_path / "cache"):
        pass
    drawn = draw_participants(SITES, 1, resolve(config))
    history = load_history(tmp_path / "run")
    assert history[1].keys() == {"global", f"client/{drawn[0]}"}
    assert history[4].keys() == {"global"}


def test_the_report_shows_a_client_that_was_never_drawn(config, tmp_path):
    drawn = set(draw_participants(SITES, 1, resolve(config)))
    (left_out,) = set(SITES) - drawn
    rounds = ("federation.rounds=1", "federation.lloyd_rounds=0")
    short = load_config(tmp_path / "config.toml", rounds)
    *_, last = run_experiment(short, tmp_path / "run", tmp_path / "cache")
    assert isinstance(last, Finished)
    write_report(tmp_path / "run", short, last.record, last.saved, last.prepared.shown)
    page = (tmp_path / "run" / "report.html").read_text()
    row = page[page.index(f'<th scope="row">{left_out}</th>') :].split("</tr>")[0]
    assert row.count('<td class="number">0</td>') == 2
