"""What the README shows runs as it stands there."""

import re
import shutil
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def test_the_python_example_trains_and_segments(make_sites, tmp_path, monkeypatch):
    make_sites(num_images=9, labeled=False, name="my_sites")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8)
    space = {"image": image}
    exec(compile(code, "README.md", "exec"), space)
    assert space["regions"].shape == (50, 70)
    assert space["regions"].max() < 8
    assert (tmp_path / "runs" / "mine" / "state.safetensors").exists()


def test_the_commands_run_in_the_order_shown(cli, make_sites, tmp_path, monkeypatch):
    root = make_sites(num_images=9, labeled=False, name="my_sites")
    other = make_sites(sites=("east",), num_images=3, name="other_sites")
    splits = "".join(f"{stem:03d},east,test\n" for stem in range(3))
    (other / "splits.csv").write_text("stem,site,split\n" + splits)
    shutil.copytree(root / "north" / "images", tmp_path / "new_images")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^fusseg (.*?)(?:\s+#.*)?$", readme, re.M)
    assert [command.split()[0] for command in commands] == [
        "check",
        "run",
        "name",
        "predict",
        "annotate",
        "evaluate",
        "report",
        "pack",
    ]
    for command in commands:
        code, _, err = cli(*command.split())
        assert (code, err) == (0, ""), command
    assert len(list((tmp_path / "regions").glob("*.png"))) == 9
