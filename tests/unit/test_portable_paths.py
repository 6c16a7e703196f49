import pytest

from fusseg.core.portable_paths import without_folders, without_folders_in


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/home/jane/a.toml", "a.toml"),
        ("/home/jane/", "jane"),
        ("fusseg run '/home/jane doe/a b.toml' --out /tmp/runs/a", "fusseg run 'a b.toml' --out a"),
        ("--set model.start='\"/mnt/x y/run\"'", "--set model.start='\"run\"'"),
        ("--set 'data.root=/mnt/x y/sites'", "--set 'data.root=sites'"),
        ("onnx:/models/encoder.onnx", "onnx:encoder.onnx"),
        (
            "file is broken (bad header): /data/north/images/3.png",
            "file is broken (bad header): 3.png",
        ),
        ("image '/data/a b/3.png' and /c/d.png, both", "image '3.png' and d.png, both"),
        ("runs/a ../b ./c and/or 1 / 2", "runs/a ../b ./c and/or 1 / 2"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ],
)
def test_absolute_paths_lose_their_folders(text, short):
    assert without_folders(text) == short


def test_settings_lose_the_folders_of_their_paths():
    settings = {
        "root": "/mnt/x y/sites",
        "backbone": {"name": "onnx:/models/encoder.onnx"},
        "lists": ("/a/b.txt", "c/d.txt"),
        "name": "facebook/dino-vits8",
        "rounds": 3,
    }
    assert without_folders_in(settings) == {
        "root": "sites",
        "backbone": {"name": "onnx:encoder.onnx"},
        "lists": ("b.txt", "c/d.txt"),
        "name": "facebook/dino-vits8",
        "rounds": 3,
    }
