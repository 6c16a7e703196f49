"""Errors from input: exit code 2, one clear line, no traceback, nothing half-written."""

import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from fusseg.core.errors import FussegError
from fusseg.runs.train import run_experiment


@pytest.fixture
def trained(cli, make_sites, make_config, tmp_path):
    """A finished run."""
    cli("run", make_config(make_sites()), "--out", tmp_path / "run")
    return tmp_path / "run"


def fails(outcome, message):
    code, _, err = outcome
    assert err == f"error: {message}\n"
    assert code == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("local.step=3", "unknown key 'local.step'; did you mean 'local.steps'?"),
        ("federation.rounds=0", "federation.rounds must be at least 1, got 0"),
        (
            "federation.strategy=fedcc",
            "unknown federation.strategy 'fedcc'; did you mean 'fedcc-kmeans'?",
        ),
        (
            "federation.distance=manhattan",
            "federation.distance must be 'cosine' or 'euclidean', got 'manhattan'",
        ),
        ("local.steps=many", "local.steps must be a whole number, got 'many'"),
        (
            "data.held_out_sites=['wst']",
            "unknown site 'wst' in data.held_out_sites; did you mean 'west'?",
        ),
        ("seed", "--set needs section.key=value, got 'seed'"),
        (
            "data.image_size=[64, 97]",
            "backbone 'filterbank' needs image sides that are multiples of 8, got [64, 97]; set "
            "data.image_size to [64, 96] or [64, 104]",
        ),
        ("backbone.name=filterbnk", "unknown backbone 'filterbnk'; did you mean 'filterbank'?"),
    ],
)
def test_a_wrong_setting_is_named_with_its_mend(
    cli, make_sites, make_config, tmp_path, setting, message
):
    config = make_config(make_sites())
    fails(cli("run", config, "--out", tmp_path / "run", "--set", setting), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_missing_configuration_is_named(cli, tmp_path, command):
    fails(
        cli(command, tmp_path / "no.toml"),
        f"cannot read the configuration {tmp_path / 'no.toml'}: No such file or directory",
    )


def test_an_existing_run_is_never_overwritten(cli, trained, make_sites, tmp_path):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    fails(
        cli("run", trained / "config.toml", "--out", trained),
        f"{trained} exists and is not overwritten; choose another --out",
    )
    after = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    assert after == before


def test_resume_wants_a_run_and_its_own_configuration(cli, trained, tmp_path):
    fails(
        cli("run", "--resume", "--out", tmp_path / "none"),
        f"no run to resume in {tmp_path / 'none'}; start it without --resume",
    )
    fails(
        cli("run", tmp_path / "config.toml", "--set", "seed=9", "--resume", "--out", trained),
        f"{trained} was started with another configuration (differs in seed); resume it with "
        f"{trained / 'config.toml'}",
    )


def test_resume_without_its_folder_is_a_usage_error(cli, make_sites, make_config):
    code, _, err = cli("run", make_config(make_sites()), "--resume")
    assert code == 2
    assert "--resume needs --out RUN_DIR" in err
    assert cli("run")[0] == 2


def test_a_damaged_state_is_refused_by_name(cli, trained, tmp_path):
    state = trained / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    for command in (
        ("run", "--resume", "--out", trained),
        ("predict", trained, tmp_path, "--out", tmp_path / "out"),
        ("evaluate", trained),
    ):
        code, _, err = cli(*command)
        assert code == 2
        assert err.startswith(f"error: damaged state: {state} (")


def test_a_configuration_that_was_edited_is_refused(cli, trained):
    file = trained / "config.toml"
    file.write_text(file.read_text().replace('fit = "crop"', 'fit = "stretch"'))
    fails(
        cli("run", "--resume", "--out", trained),
        f"{file} was edited: data.fit is 'stretch', but the run was started with 'crop'; set it "
        "back, or start a new run",
    )


def test_a_start_that_fails_leaves_the_place_free(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    (tmp_path / "file").touch()
    code, _, err = cli("run", config, "--out", tmp_path / "run", "--cache", tmp_path / "file")
    assert code == 2
    assert "cannot write the feature cache" in err
    assert not (tmp_path / "run").exists()
    assert cli("run", config, "--out", tmp_path / "run")[0] == 0


def test_a_path_that_is_no_folder_is_told_from_one_that_is_no_run(cli, tmp_path):
    missing, file = tmp_path / "missing", tmp_path / "model.safetensors"
    file.touch()
    fails(cli("evaluate", missing), f"there is no run directory {missing}; correct the path")
    fails(cli("evaluate", file), f"{file} is a file; give the run directory that contains it")


def test_a_folder_without_a_run_is_refused_by_name(cli, tmp_path):
    fails(cli("evaluate", tmp_path), f"{tmp_path} is not a run directory: it has no config.toml")
    fails(cli("report", tmp_path), f"{tmp_path} is not a run directory: it has no config.toml")


def test_predict_names_what_is_missing_or_would_collide(cli, trained, tmp_path):
    out = tmp_path / "out"
    fails(
        cli("predict", trained, tmp_path / "no.jpg", "--out", out),
        f"no such file or folder: {tmp_path / 'no.jpg'}",
    )
    (tmp_path / "empty").mkdir()
    fails(
        cli("predict", trained, tmp_path / "empty", "--out", out),
        f"no image in {tmp_path / 'empty'}; known are .jpg, .jpeg, .png, .tif, .tiff, .bmp, .webp",
    )
    twins = [tmp_path / "twin.png", tmp_path / "twin.jpg"]
    for twin in twins:
        twin.write_bytes(b"")
    fails(
        cli("predict", trained, *twins, "--out", out),
        f"{twins[0]} and {twins[1]} would both be written to twin.png; predict them into "
        "different folders",
    )
    assert not out.exists()


def test_predict_asks_for_a_site_only_where_each_has_its_own_model(
    cli, trained, make_config, tmp_path
):
    image = tmp_path / "sites" / "west" / "images" / "000.png"
    fails(
        cli("predict", trained, image, "--out", tmp_path / "out", "--site", "north"),
        "this run has one global model; drop --site north",
    )
    config = make_config(tmp_path / "sites", more='strategy = "local"')
    cli("run", config, "--out", tmp_path / "local")
    fails(
        cli("predict", tmp_path / "local", image, "--out", tmp_path / "out"),
        "each site of this run has its own model; choose one with --site: north, south",
    )
    fails(
        cli("predict", tmp_path / "local", image, "--out", tmp_path / "out", "--site", "nort"),
        "unknown site 'nort'; did you mean 'north'?",
    )
    assert (
        cli("predict", tmp_path / "local", image, "--out", tmp_path / "o", "--site", "north")[0]
        == 0
    )


def test_a_mask_with_a_value_that_is_no_class_is_named(cli, make_sites, make_config, tmp_path):
    root = make_sites()
    mask = root / "west" / "masks" / "000.png"
    (root / "classes.toml").write_text('names = ["gravel"]\n')
    code, _, err = cli("run", make_config(root), "--out", tmp_path / "run")
    assert code == 2
    assert err == (
        "error: mask has the values 1, neither a class (0 to 0) nor ignored; correct the mask, or "
        f"add names or an ignore_index to classes.toml: {mask}\n"
    )
    # It shows before anything is trained.
    assert not (tmp_path / "run" / "record.json").exists()


def test_another_backbone_than_the_runs_is_refused(cli, trained, tmp_path, make_sites):
    config = trained / "config.toml"
    state = trained / "state.safetensors"
    content = state.read_bytes()
    # The first digit of the fingerprint in the metadata stands for other weights.
    place = content.index(b'fingerprint\\": \\"') + len(b'fingerprint\\": \\"')
    other = b"0" if content[place : place + 1] != b"0" else b"1"
    state.write_bytes(content[:place] + other + content[place + 1 :])
    for command in (("evaluate", trained), ("run", config, "--resume", "--out", trained)):
        code, _, err = cli(*command)
        assert code == 2
        assert f"error: {trained} was trained on a backbone with fingerprint" in err
        assert err.endswith("restore its weights\n")


def test_an_unwritable_cache_is_named_with_its_mend(cli, make_sites, make_config, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = cli("extract", make_config(make_sites()), "--cache", tmp_path / "file")
    assert code == 2
    assert err.startswith(f"error: cannot write the feature cache {tmp_path / 'file'}")
    assert "choose another folder with --cache or FUSSEG_CACHE" in err


@pytest.mark.parametrize("command", ["predict", "bench", "join"])
def test_help_says_plainly_what_is_required_and_what_the_defaults_are(cli, command):
    code, out, _ = cli(command, "--help")
    assert code == 0
    assert "[required]" in out
    assert "[default: " in out or command == "join"
    assert "\\" not in out


def test_check_exits_with_1_where_a_run_would_fail(cli, make_sites, tmp_path):
    root = make_sites()
    code, out, _ = cli("check", root, "--image-size", "64x96")
    assert code == 0
    assert "18 images with filterbank at 64x96 take about" in out
    assert "a run would start" in out
    for image in (root / "north" / "images").glob("*.png"):
        image.write_bytes(b"")
    code, out, _ = cli("check", root, "--image-size", "64x96")
    assert code == 1
    assert "a run would fail" in out
    assert "north" in out
    (tmp_path / "empty").mkdir()
    code, out, _ = cli("check", tmp_path / "empty")
    assert code == 1
    assert out.count("no site found") == 1
    assert out.endswith("1 error, 0 warnings, 0 notes: a run would fail\n")
    fails(
        cli("check", root, "--image-size", "64"),
        "--image-size must be HEIGHTxWIDTH, such as 320x480, got '64'",
    )


def test_check_agrees_with_run(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites(), more='strategy = "fedcc"')
    code, out, _ = cli("check", config)
    assert code == 1
    assert "unknown federation.strategy 'fedcc'" in out


def test_a_bug_keeps_its_traceback(monkeypatch, cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    monkeypatch.setattr("fusseg.runs.train.resolve", None)
    with pytest.raises(TypeError):
        cli("run", config, "--out", tmp_path / "run")


def test_the_library_raises_what_the_command_line_prints(make_sites, tmp_path):
    with pytest.raises(FussegError, match="no run to resume"):
        list(run_experiment(None, tmp_path / "none", tmp_path / "cache", resume=True))
    with pytest.raises(FussegError, match=r"^a run needs a configuration unless it is resumed"):
        list(run_experiment(None, tmp_path / "none", tmp_path / "cache"))


def test_version_is_printed(cli):
    from fusseg import __version__

    assert cli("--version") == (0, f"fusseg {__version__}\n", "")


def test_predict_never_overwrites_an_image(cli, trained, tmp_path):
    images = tmp_path / "sites" / "west" / "images"
    before = {path: path.read_bytes() for path in images.iterdir()}
    fails(
        cli("predict", trained, images, "--out", images),
        f"the result of {images / '000.png'} would overwrite the image {images / '000.png'}; "
        "choose another --out",
    )
    assert {path: path.read_bytes() for path in images.iterdir()} == before


def test_predict_takes_no_result_for_an_image(cli, trained, tmp_path):
    images = tmp_path / "sites" / "west" / "images"
    for _ in range(2):
        _, out, _ = cli("predict", trained, images, "--out", images / "out")
        assert f"6 of 6 images are in {images / 'out'}" in out


def test_predict_bounds_what_the_backbone_sees_of_a_thin_image(cli, trained, tmp_path):
    Image.new("RGB", (2000, 3)).save(tmp_path / "thin.png")
    code, _, err = cli("predict", trained, tmp_path / "thin.png", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    with Image.open(tmp_path / "out" / "thin.png") as regions:
        assert regions.size == (2000, 3)


def test_resume_refuses_other_images_and_another_size_of_model(cli, trained, tmp_path):
    config = trained / "config.toml"
    text = config.read_text()
    config.write_text(text.replace("num_clusters = 2", "num_clusters = 3"))
    fails(
        cli("run", "--resume", "--out", trained),
        f"{config} was edited: model.num_clusters is 3, but the run was started with 2; set it "
        "back, or start a new run",
    )
    config.write_text(text)
    (tmp_path / "sites" / "north" / "images" / "000.png").unlink()
    fails(
        cli("run", "--resume", "--out", trained),
        f"site 'north' has other training images than when {trained} was started; restore them, "
        "or start a new run",
    )


@pytest.mark.parametrize("strategy", ["local", "fedcc-kmeans"])
def test_diverged_training_names_the_client_and_the_rates(
    cli, make_sites, make_config, tmp_path, strategy
):
    config = make_config(make_sites(), more=f'strategy = "{strategy}"')
    rate = "local.head_learning_rate=1e30"
    code, _, err = cli("run", config, "--set", rate, "--out", tmp_path / "run")
    assert code == 2
    assert err.startswith("error: training of client 'north' diverged in round 1 (loss ")
    assert err.endswith(
        "lower local.head_learning_rate (1e+30) or local.centroid_learning_rate (0.005)\n"
    )


def test_a_report_of_data_that_lost_their_masks_has_pictures_without_scores(cli, trained, tmp_path):
    shutil.rmtree(tmp_path / "sites" / "west" / "masks")
    code, out, err = cli("report", trained)
    assert (code, err) == (0, "")
    assert "no pictures" not in out


def test_evaluate_says_which_images_trained(cli, trained):
    _, out, _ = cli("evaluate", trained, "--sites", "north,west")
    assert "not held out: 6 of the scored images trained this run" in out
    _, out, _ = cli("evaluate", trained)
    assert "not held out" not in out


def test_a_state_of_another_shape_is_damaged(cli, trained, tmp_path):
    from safetensors.torch import load_file, safe_open, save_file

    state = trained / "state.safetensors"
    with safe_open(state, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(state)
    del tensors["head.hidden.weight"]
    save_file(tensors, state, metadata)
    code, _, err = cli("evaluate", trained)
    assert code == 2
    assert err.startswith(f"error: damaged state: {state} (head of shapes ")


def test_data_that_moved_are_found_where_config_toml_says(cli, trained, tmp_path):
    old, new = tmp_path / "sites", tmp_path / "elsewhere"
    old.rename(new)
    for command in (("evaluate", trained), ("run", "--resume", "--out", trained)):
        code, _, err = cli(*command)
        assert code == 2
        assert "correct data.root, for a run in its config.toml" in err
    config = trained / "config.toml"
    config.write_text(config.read_text().replace(str(old), str(new)))
    assert cli("evaluate", trained)[0] == 0
    assert cli("run", "--resume", "--out", trained)[0] == 0


def test_evaluate_blames_the_option_that_was_typed(cli, trained):
    fails(
        cli("evaluate", trained, "--sites", "wst"),
        "unknown site 'wst' in --sites; did you mean 'west'?",
    )


@pytest.mark.parametrize("argument", ["~", "~/x", "--out=~/x"])
def test_a_tilde_that_no_shell_expanded_is_refused(cli, argument):
    fails(
        cli("check", argument),
        f"{argument!r} has a ~ that the shell did not expand; write the path out, or leave out the "
        "quotes and the = before it",
    )


def test_a_misspelled_command_is_answered_once(cli):
    _, _, err = cli("rum")
    assert err.endswith("Error: No such command 'rum'; did you mean 'run'?\n")
    _, _, err = cli("keys", "srver")
    assert err.endswith("Error: No such command 'srver'; did you mean 'server'?\n")


def test_an_ascii_terminal_gets_a_question_mark_for_what_it_cannot_show(make_sites):
    root = make_sites(name="Prüfdaten")
    done = subprocess.run(
        [sys.executable, "-m", "fusseg", "check", str(root), "--image-size", "64x96"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert b"Pr?fdaten" in done.stdout
    assert done.stderr == b""


_PREDICT = """
import sys
from PIL import Image
from fusseg import FussegError, Segmenter
segmenter = Segmenter.load(sys.argv[1])
for image in (Image.new("RGB", (40, 40)), [[0]]):
    try:
        segmenter.predict(image)
    except FussegError as error:
        print(error)
"""


def test_an_image_that_is_no_array_is_refused_with_its_mend(trained):
    # In a process of its own: here, the checks of types come before.
    done = subprocess.run(
        [sys.executable, "-c", _PREDICT, str(trained)], capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert 'got Image; give np.asarray(image.convert("RGB")) for a PIL image' in first
    assert "got list;" in second
