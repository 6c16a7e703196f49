"""The page that compares runs: what it groups, what it warns of, where it leads."""

import copy
from dataclasses import replace

import pytest

from fusseg.config.schema import Config
from fusseg.report.compare_page import render_comparison
from fusseg.report.comparison import ComparedRun, changed_keys, find_caveats, group_runs

HELD_OUT = replace(Config(), data=replace(Config().data, held_out_sites=("west",)))
SCORES = {"mean_iou": 0.5, "pixel_accuracy": 0.75}


def make_record(**more):
    final = {
        **SCORES,
        "per_class_iou": {"sky": 0.25, "pole": 0.75},
        "sites": {"west": {**SCORES, "num_images": 4}},
        "models": [],
    }
    return {
        "seed": 0,
        "command": "fusseg run a/config.toml",
        "strategy": "fedavg",
        "num_clusters": 3,
        "backbone": {"fingerprint": "ab"},
        "clients": [{"client_id": "north", "num_images": 2}],
        "hello": {"bytes_up": 100, "bytes_down": 200},
        "rounds": [
            {
                "round": n,
                "mean_iou": n / 10,
                "pixel_accuracy": n / 5,
                "loss": -n / 4,
                "bytes_up": 1_000,
                "bytes_down": 2_000,
            }
            for n in (1, 2)
        ],
        "protocol": {"flip": False},
        "seconds": {"train": 3.0},
        "skipped_images": [],
        "final": final,
        **more,
    }


def make_run(key, config=None, record=None, link=None):
    return ComparedRun(key, f"run {key}", config or Config(), record or make_record(), link)


def with_final(**more):
    record = copy.deepcopy(make_record())
    record["final"].update(more)
    return record


def with_strategy(name):
    config = Config()
    return replace(config, federation=replace(config.federation, strategy=name))


def test_runs_that_differ_in_their_seeds_alone_are_one_group_with_mean_and_deviation():
    other = with_strategy("lloyd")
    runs = [
        make_run("A"),
        make_run("B", other),
        make_run("C", replace(Config(), seed=1), with_final(mean_iou=0.7)),
    ]
    first, second = group_runs(runs)
    assert [run.key for run in first.runs] == ["A", "C"]
    assert first.mean_iou.mean == pytest.approx(0.6)
    assert first.mean_iou.std == pytest.approx(0.2 / 2**0.5)
    assert first.settings == {"federation.strategy": Config().federation.strategy}
    assert second.settings == {"federation.strategy": "lloyd"}
    assert second.mean_iou.std is None
    assert set(changed_keys(runs)) == {"seed", "federation.strategy"}


def test_runs_of_the_same_data_and_settings_need_no_warning():
    assert (
        find_caveats([make_run("A"), make_run("B", replace(Config(), seed=1), make_record(seed=1))])
        == []
    )


@pytest.mark.parametrize(
    ("record", "warning"),
    [
        (
            with_final(sites={"east": {**SCORES, "num_images": 4}}),
            "The data differ: the runs did not learn from, or are not scored on, the same images.",
        ),
        (
            with_final(per_class_iou={"sky": 0.5}),
            "B has no class pole: its mIoU is over fewer classes.",
        ),
        (make_record(protocol={"flip": True}), "The scores are computed differently (flip)."),
        (
            make_record(num_clusters=5),
            "The number of regions differs: matching them with classes depends on it.",
        ),
        (
            make_record(backbone={"fingerprint": "cd"}),
            "The backbones differ: differences are not due to the training alone.",
        ),
        (make_record(final=None), "B is not finished: round 2 is its last."),
        (
            with_final(mean_iou=None, per_class_iou=None),
            "B has no scores: its held-out images carry no labels.",
        ),
        (
            with_final(models=[{"client_id": "north", **SCORES}]),
            "B is scored by the mean over the models of its 1 client.",
        ),
    ],
)
def test_what_makes_scores_less_comparable_is_said(record, warning):
    other = replace(HELD_OUT, federation=with_strategy("lloyd").federation)
    assert warning in find_caveats([make_run("A", HELD_OUT), make_run("B", other, record)])


def test_a_run_that_repeats_another_does_not_count_as_a_seed():
    other = replace(Config(), seed=1)
    runs = [make_run("A"), make_run("B"), make_run("C", other, with_final(mean_iou=0.7))]
    (group,) = group_runs(runs)
    assert [run.key for run in group.runs] == ["A", "B", "C"]
    assert (group.mean_iou.num, group.pixel_accuracy.num) == (2, 2)
    assert group.mean_iou.mean == pytest.approx(0.6)
    assert group.mean_iou.std == pytest.approx(0.2 / 2**0.5)
    (warning,) = find_caveats(runs)
    assert warning == (
        "B repeats A: the same settings and the same seed. It is left out of the mean and of the "
        "number of seeds."
    )
    page = render_comparison(runs, "c")
    assert '<th scope="row">A, B, C</th><td class="number">2</td>' in page


def test_of_repeated_runs_a_finished_one_counts():
    runs = [make_run("A", record=make_record(final=None)), make_run("B", record=make_record())]
    (group,) = group_runs(runs)
    assert group.mean_iou.mean == 0.5
    assert any(caveat.startswith("A repeats B: ") for caveat in find_caveats(runs))


SCORED_NAMES = {
    (HELD_OUT, HELD_OUT): ("held-out images", "held-out site"),
    (Config(), Config()): ("training images", "site"),
    (HELD_OUT, Config()): ("scored images", "site"),
}


@pytest.mark.parametrize("configs", SCORED_NAMES)
def test_the_page_says_held_out_only_where_something_is(configs):
    images, site = SCORED_NAMES[configs]
    runs = [make_run(key, config) for key, config in zip("AB", configs, strict=True)]
    page = render_comparison(runs, "c")
    assert f"mIoU on the {images}, per round" in page
    assert f"<h2>mIoU per {site}</h2>" in page
    assert f"<caption>mIoU per {site}, the best of each in bold</caption>" in page
    assert f"the mean of the {site}s&#39; mIoU" in page or f"the mean of the {site}s' mIoU" in page
    if site == "site":
        assert "held-out" not in page


def test_a_run_without_labels_has_none_of_its_training_images_read():
    runs = [make_run("A"), make_run("B", HELD_OUT, with_final(mean_iou=None))]
    runs[0].record["final"]["mean_iou"] = None
    caveats = find_caveats(runs)
    assert (
        "A has no scores: nothing is held out, and no label of a training image was read."
        in caveats
    )
    assert "B has no scores: its held-out images carry no labels." in caveats


def test_the_page_holds_scores_traffic_settings_links_and_the_command():
    runs = [
        make_run("A", link="a%20b/report.html"),
        make_run("B", with_strategy("lloyd"), with_final(mean_iou=0.6)),
    ]
    page = render_comparison(runs, "fusseg report a b --out <x>")
    for text in (
        '<a href="a%20b/report.html">run A</a>',
        "no report.html",
        "0.600",
        "2,100",
        "4,200",
        "<code>federation.strategy</code>",
        "fusseg report a b --out &lt;x&gt;",
        'id="mean-iou-curves',
        'id="loss-curves',
    ):
        assert text in page, text
    assert page == render_comparison(runs, "fusseg report a b --out <x>")


def test_runs_without_a_round_or_labels_can_be_compared():
    empty = make_record(final=None, rounds=[])
    page = render_comparison([make_run("A", record=empty), make_run("B", record=empty)], "c")
    assert "A is not finished: round 0 is its last." in page
    assert 'id="curves"' not in page


def test_a_choice_is_no_round_and_no_point_of_a_curve():
    record = make_record()
    choice = {**record["rounds"][0], "round": 3, "phase": "choice", "loss": None, "mean_iou": 0.9}
    record["rounds"].append(choice)
    page = render_comparison([make_run("A", record=record), make_run("B")], "c")
    assert page.count('<td class="number">2</td></tr>') == 2
    assert "round 2, mIoU: 0.2000" in page
    assert "round 3" not in page


def test_names_from_outside_stay_text():
    record = with_final(per_class_iou={"<script>": 0.5})
    page = render_comparison([make_run("A", record=record), make_run("B", record=record)], "c")
    assert page.count("<script>") == 1


def test_report_compares_runs_from_the_command_line(cli, make_sites, make_config, tmp_path):
    root = make_sites()
    for seed in (0, 1):
        cli("run", make_config(root), "--out", tmp_path / f"run {seed}", "--set", f"seed={seed}")
    runs = [tmp_path / "run 0", tmp_path / "run 1"]
    out = tmp_path / "pages" / "both.html"
    code, printed, _ = cli("report", *runs, "--out", out)
    assert code == 0
    assert printed == f"comparison: {out}\n"
    page = out.read_text()
    assert '<a href="../run%200/report.html">run 0</a>' in page
    assert '<td class="number">2</td>' in page
    assert "Compare with care" not in page

    code, _, err = cli("report", runs[0], runs[0])
    assert code == 2
    assert f"{runs[0]} is given twice; name each run once" in err
    code, _, err = cli("report", runs[0], root)
    assert code == 2
    assert f"{root} is not a run directory: it has no config.toml" in err
    code, _, err = cli("report", runs[0], "--out", out)
    assert code == 2
    assert "--out names the page that compares two or more runs" in err
    code, _, err = cli("report", *runs, "--out", root)
    assert code == 2
    assert f"cannot write {root}: " in err
