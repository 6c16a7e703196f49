"""A strategy is one file, and so is an objective: nothing else in the package names one."""

import ast
from pathlib import Path

import pytest

import fusseg
from fusseg.config.schema import FederationConfig, LocalConfig
from fusseg.federation.strategies import STRATEGIES
from fusseg.segmentation.objectives import OBJECTIVES

SOURCE = Path(fusseg.__file__).parent
STRATEGY_FOLDER, OBJECTIVE_FOLDER = "federation/strategies", "segmentation/objectives"

EXCEPTED = ("bench/", "config/presets.py", "config/previous_version.py")
"""Experiments and presets choose strategies, and names of the previous version are translated."""
DEFAULTS = {
    ("config/schema.py", FederationConfig().strategy),
    ("config/schema.py", LocalConfig().objective),
}
"""What is chosen where nothing is said."""
HOMONYMS = {
    # The section of the configuration.
    ("config/file.py", "local"),
    ("cli/first_config.py", "local"),
    # Where training starts.
    ("config/schema.py", "pca"),
    # How a cache keeps features.
    ("features/cache/codecs.py", "pca"),
    # A Lloyd step, and the phase in the record, whatever the strategy.
    ("federation/lloyd_steps.py", "lloyd"),
}
"""Other things of the same name."""


def module_of(name):
    """File that a strategy or objective of this name lies in."""
    return name.replace("-", "_")


def sources():
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix()
        if not place.startswith(EXCEPTED):
            yield place, ast.parse(path.read_text())


def docstrings(tree):
    """Strings that stand alone: they describe, and nothing is decided by them."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def literals(tree):
    """Strings that the code works with."""
    described = docstrings(tree)
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in described
    ]


def imported(tree):
    """Dotted names that a file imports, in each of the ways to write it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def named_outside(folder, names):
    """Where names of a table stand as strings, or its modules are imported: file and name."""
    package = "fusseg." + folder.replace("/", ".")
    found = []
    for place, tree in sources():
        texts, modules = literals(tree), imported(tree)
        for name in names:
            if place in (f"{folder}/__init__.py", f"{folder}/{module_of(name)}.py"):
                continue
            found += [(place, name)] * texts.count(name)
            # One strategy of the package may build on another.
            if f"{package}.{module_of(name)}" in modules and not place.startswith(folder):
                found.append((place, name))
    return found


@pytest.mark.parametrize(
    ("folder", "table"), [(STRATEGY_FOLDER, STRATEGIES), (OBJECTIVE_FOLDER, OBJECTIVES)]
)
def test_nothing_names_one_but_its_own_file_and_the_table(folder, table):
    found = named_outside(folder, table)
    others = [place for place in found if place not in HOMONYMS]
    assert sorted(others) == sorted(DEFAULTS & set(found))
    assert found.count(("federation/lloyd_steps.py", "lloyd")) <= 1


@pytest.mark.parametrize(
    ("folder", "table"), [(STRATEGY_FOLDER, STRATEGIES), (OBJECTIVE_FOLDER, OBJECTIVES)]
)
def test_each_is_a_file_of_its_own(folder, table):
    files = {path.stem for path in (SOURCE / folder).glob("*.py")} - {"__init__"}
    assert files == {module_of(name) for name in table}


def test_what_is_looked_for_is_found():
    tree = ast.parse('"""fedavg"""\nfrom fusseg.a import stego\nname = "fedavg"\nother = "pca "\n')
    assert literals(tree) == ["fedavg", "pca "]
    assert imported(tree) == {"fusseg.a", "fusseg.a.stego"}
