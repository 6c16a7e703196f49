import pytest
from PIL import Image

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.layouts import open_dataset
from fusseg.data.partitions import training_images
from fusseg.data.partitions.leave_one_out import leave_one_out
from fusseg.data.selection import select_held_out, select_training

TABLE = "stem,site,split,camera\n" + "".join(
    f"{stem},{site},{split},{camera}\n"
    for stem, site, split, camera in [
        ("1", "a", "train", "red"),
        ("2", "a", "train", "blue"),
        ("3", "a", "test", "blue"),
        ("1", "b", "train", "red"),
        ("2", "b", "train", "blue"),
        ("3", "b", "train", "green"),
        ("4", "b", "train", "green"),
    ]
)


@pytest.fixture
def root(tmp_path):
    """Sites a and b with a column that cuts across them."""
    for site, stems in {"a": "123", "b": "1234"}.items():
        (tmp_path / site / "images").mkdir(parents=True)
        for stem in stems:
            Image.new("RGB", (8, 8)).save(tmp_path / site / "images" / f"{stem}.png")
    (tmp_path / "splits.csv").write_text(TABLE)
    return tmp_path


def by_camera(root, **more):
    return DataConfig(root=str(root), partition="column:camera", **more)


def names(items):
    return [f"{item.client}:{item.site}{item.stem}" for item in items]


def refused(config, error=DataError):
    with pytest.raises(error) as caught:
        open_dataset(config)
    return str(caught.value)


def test_values_of_the_column_are_clients_and_are_selected_by(root):
    config = by_camera(root, held_out_sites=("blue",))
    dataset = open_dataset(config)
    assert dataset.sites == ("blue", "green", "red")
    expected = ["red:a1", "red:b1", "green:b3", "green:b4"]
    assert names(training_images(dataset, config)) == expected
    assert names(select_held_out(dataset, config)) == ["blue:a2", "blue:a3", "blue:b2"]
    named = by_camera(root, train_sites=("blue",), train_split="train")
    assert names(select_training(dataset, named)) == ["blue:a2", "blue:b2"]


def test_an_image_without_a_value_is_named(root):
    path = root / "splits.csv"
    path.write_text(TABLE.replace("3,a,test,blue\n", "3,a,test,\n").replace("1,b,train,red\n", ""))
    assert refused(by_camera(root)) == (
        "2 of 7 images have no value in the column 'camera', the first: image '3' of site 'a'; add "
        f"what is missing, or choose another data.partition: {path}"
    )


def test_an_unknown_column_is_named(root):
    assert refused(DataConfig(root=str(root), partition="column:colour")) == (
        "table of splits has no column 'colour' among stem, site, split, camera: "
        f"{root / 'splits.csv'}"
    )


def test_two_values_of_one_image_are_refused(root):
    path = root / "splits.csv"
    path.write_text(TABLE + "1,a,train,green\n")
    assert refused(by_camera(root)) == (
        "image '1' of site 'a' has 'red' and 'green' in the column 'camera', the latter on line "
        f"9; keep one: {path}"
    )


def test_a_value_with_a_slash_is_refused(root):
    path = root / "splits.csv"
    path.write_text(TABLE.replace("red", "red/1"))
    assert refused(by_camera(root)) == (
        f"client 'red/1' on line 2 has a slash in its name; rename it: {path}"
    )


def test_a_column_needs_a_name_and_a_table(root):
    assert refused(DataConfig(root=str(root), partition="column:"), ConfigError) == (
        "data.partition 'column:' needs a table of splits; name a column of splits.csv"
    )
    generated = DataConfig(layout="synthetic", partition="column:camera")
    assert refused(generated, ConfigError) == (
        "data.partition 'column:camera' needs a table of splits; set data.root"
    )
    (root / "splits.csv").unlink()
    assert refused(by_camera(root)) == (
        f"table of splits cannot be read (No such file or directory): {root / 'splits.csv'}"
    )


def test_a_column_decides_the_number_of_clients(root):
    config = by_camera(root, num_clients=2)
    with pytest.raises(ConfigError) as caught:
        training_images(open_dataset(config), config)
    assert str(caught.value) == (
        "data.num_clients is 2, but data.partition 'column:camera' decides how many clients there "
        "are; set it to 0"
    )


def test_each_value_is_held_out_in_turn(root):
    turns = leave_one_out(by_camera(root))
    assert {held: config.train_sites for held, config in turns.items()} == {
        "blue": ("green", "red"),
        "green": ("blue", "red"),
        "red": ("blue", "green"),
    }
    for held, config in turns.items():
        dataset = open_dataset(config)
        assert {item.client for item in select_held_out(dataset, config)} == {held}
        assert held not in {item.client for item in select_training(dataset, config)}
