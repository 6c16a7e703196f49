"""Judge without labels from the command line: the number of regions, and a run's quality."""

import re

import pytest


def test_a_number_of_regions_is_suggested_with_a_page(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites(num_images=8, labeled=False))
    page = tmp_path / "pages" / "k.html"
    code, out, err = cli("suggest-k", config, "--k", "2,3,5", "--out", page)
    assert (code, err) == (0, "")
    assert "16 training images of 2 sites" in out
    (suggested,) = re.findall(r"suggested: model.num_clusters = (\d+)", out)
    assert suggested in {"2", "3", "5"}
    text = page.read_text()
    assert "How many regions: config" in text
    assert text.count("<svg") == 3
    again = tmp_path / "again.html"
    cli("suggest-k", config, "--k", "2,3,5", "--out", again)
    assert again.read_text() == text.replace(page.name, again.name)


@pytest.mark.parametrize(
    ("numbers", "reason"), [("two", "--k takes whole numbers"), ("1,2", "must be from 2 to")]
)
def test_wrong_numbers_are_named(cli, make_sites, make_config, numbers, reason):
    code, _, err = cli("suggest-k", make_config(make_sites()), "--k", numbers)
    assert code == 2
    assert reason in err


def test_too_few_images_are_named(cli, make_sites, make_config):
    code, _, err = cli("suggest-k", make_config(make_sites(num_images=2)))
    assert code == 2
    assert "4 training images are too few" in err


def test_a_run_is_judged_alone_and_against_another_seed(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites(labeled=False))
    first, second = tmp_path / "run", tmp_path / "run-seed1"
    cli("run", config, "--out", first)
    code, out, err = cli("quality", first)
    assert (code, err) == (0, "")
    train = f"fusseg run {first}/config.toml --set seed=1 --out {second}"
    assert train in out
    shown = f"fusseg run config.toml --set seed=1 --out {second.name}"
    assert shown in (first / "quality.html").read_text()
    assert cli(*train.split()[1:])[0] == 0
    code, out, err = cli("quality", first, second, "--out", tmp_path / "both.html")
    assert (code, err) == (0, "")
    (index,) = re.findall(r"stability: adjusted Rand index (-?\d\.\d+)", out)
    assert -0.5 < float(index) <= 1
    page = (tmp_path / "both.html").read_text()
    assert "Least stable images" in page
    assert "Second run" in page


def test_runs_that_see_images_differently_are_not_compared(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites(labeled=False))
    cli("run", config, "--out", tmp_path / "a")
    cli("run", config, "--out", tmp_path / "b", "--set", "data.image_size=[48, 64]")
    code, _, err = cli("quality", tmp_path / "a", tmp_path / "b")
    assert code == 2
    assert "data.image_size is (64, 96) and (48, 64)" in err
    code, _, err = cli("quality", tmp_path / "a", tmp_path / "a")
    assert code == 2
    assert "is given twice" in err
