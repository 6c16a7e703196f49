"""Wheel and sdist hold the package, all of it, and nothing else."""

import hashlib
import os
import re
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from installation import PROJECT, ROOT, lowest, requirements, run

from fusseg.core.version import VERSION

DATA = (
    "fusseg/py.typed",
    "fusseg/bench/presets/table1.toml",
    "fusseg/data/layouts/cocostuff27.csv",
    "fusseg/deployment/flower-app/pyproject.toml",
    "fusseg/report/report.css",
    "fusseg/report/report.html.j2",
    "fusseg/report/page.js",
)
MEANT = "src/fusseg/data/layouts/cocostuff27.csv"
"""The one file that shared data and the package have in common: the classes of a format."""
KEPT = "tests/previous_version/"
"""What fusseg 0.1.0 left behind, kept as test data: tensors belong there, and nowhere else."""
NEVER = {"__pycache__", ".git", ".venv", ".venv-package"}
NEVER_ON_TOP = {"runs", "dist", "site", "shared"}
"""Folders of builds and runs; packages below src may have these names."""


@pytest.fixture(scope="module")
def wheel_files(packages):
    with zipfile.ZipFile(packages.wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def sdist_files(packages):
    with tarfile.open(packages.sdist) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        return {
            str(PurePosixPath(member.name).relative_to(f"fusseg-{VERSION}")): archive.extractfile(
                member
            ).read()
            for member in members
        }


def test_the_wheel_is_the_source_folder_and_its_metadata(wheel_files):
    source = ROOT / "src"
    wanted = {
        path.relative_to(source).as_posix()
        for path in (source / "fusseg").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    about = f"fusseg-{VERSION}.dist-info/"
    assert {name for name in wheel_files if about not in name} == wanted
    assert all(wheel_files[name] or name.endswith("py.typed") for name in DATA)
    assert {name.removeprefix(about) for name in wheel_files if about in name} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_the_sdist_builds_the_wheel_that_the_checkout_builds(packages):
    assert packages.wheel.read_bytes() == packages.wheel_of_tree.read_bytes()


def test_the_sdist_has_what_one_needs_to_test_and_to_read(sdist_files):
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "PKG-INFO"}
    assert sdist_files.keys() >= wanted | {"constraints.txt", "pyproject.toml", "tests/conftest.py"}
    assert {"docs", "examples", "src", "tests"} <= {Path(name).parts[0] for name in sdist_files}


def test_the_sdist_has_nothing_that_a_build_or_a_run_leaves(sdist_files):
    parts = {part for name in sdist_files for part in Path(name).parts[:-1]}
    assert not parts & NEVER
    assert not {Path(name).parts[0] for name in sdist_files} & NEVER_ON_TOP
    left = [name for name in sdist_files if name.endswith((".pyc", ".whl", ".safetensors"))]
    assert not [name for name in left if not name.startswith(KEPT)]


def test_no_shared_data_or_weights_are_in_it(sdist_files):
    folders = [ROOT.parent / "shared" / name for name in ("data", "weights")]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip("there are no shared data beside this checkout")
    sizes = {len(content) for content in sdist_files.values()} - {0}
    digests = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size in sizes
    }
    found = {name: hashlib.sha256(content).hexdigest() for name, content in sdist_files.items()}
    assert [name for name, digest in found.items() if digest in digests] == [MEANT]


def test_the_metadata_are_those_of_the_project(packages):
    about = packages.metadata
    assert (about["Name"], about["Version"]) == ("fusseg", VERSION)
    assert about["Requires-Python"] == PROJECT["requires-python"]
    assert (about["License-Expression"], about["License-File"]) == ("Apache-2.0", "LICENSE")
    assert set(about.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert "Typing :: Typed" in about.get_all("Classifier")
    assert about.get_payload().startswith("# fusseg")


def test_the_page_about_installing_names_the_lowest_versions():
    page = (ROOT / "docs" / "install.md").read_text()
    rows = dict(re.findall(r"^\| ([a-z0-9-]+) \| ([0-9.]+)[;| ]", page, re.MULTILINE))
    assert rows == dict(line.split("==") for line in lowest(requirements()))


def test_twine_accepts_both(packages, tmp_path):
    files = packages.wheel, packages.sdist
    done = run(
        os.environ["FUSSEG_PACKAGE_PYTHON"],
        "-m",
        "twine",
        "check",
        "--strict",
        *files,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2
