"""What the documentation says exists: keys, defaults, links, functions, tests, record fields."""

import ast
import importlib
import json
import re
import tomllib
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
import torch
from typed_form import check_form, form_fields

from fusseg.config.file import load_config, to_table
from fusseg.config.presets import find_preset
from fusseg.config.previous_version import MOVED_KEYS
from fusseg.config.schema import Config, LocalConfig
from fusseg.core.version import VERSION
from fusseg.data.items import Classes, Item
from fusseg.data.stored import Stored, sum_up
from fusseg.evaluation.held_out import Evaluation, score_sites
from fusseg.evaluation.quality import Quality
from fusseg.features.backbones.filterbank import load_filterbank
from fusseg.features.pipeline import Skipped
from fusseg.federation.noise import Guarantee
from fusseg.federation.rounds import Answers, Round
from fusseg.federation.state import Candidate, ClientUpdate, GlobalState, Hello, Total
from fusseg.federation.strategies import resolve
from fusseg.runs.model_scores import describe_evaluations
from fusseg.runs.record import (
    Incident,
    RoundLog,
    describe_candidates,
    describe_hello,
    describe_round,
    describe_skipped,
    new_record,
)
from fusseg.runs.record_form import Record
from fusseg.segmentation.objective import Model
from fusseg.segmentation.objectives import OBJECTIVES, spell_out
from fusseg.segmentation.training import TrainingPlan

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("**/*.md")),
]
CONFIGURATIONS = sorted([*ROOT.glob("examples/*.toml"), *ROOT.glob("benchmarks/*.toml")])

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
ROW = re.compile(r"^\| `([\w.\[\]]+)` \| ([^|]*) \|", re.MULTILINE)
TEST = re.compile(r"tests/[\w/]+\.py::\w+")
DOTTED = re.compile(r"`([a-z_]\w*(?:\.\w+)+)`")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def sections(page, level):
    """Heading and text of each section of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    parts = re.split(rf"^{'#' * level} (.+)$", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def flatten(table, prefix=""):
    """Dotted keys and values of nested tables."""
    found = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        found |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def true_defaults():
    local = LocalConfig(tables={name: {} for name in OBJECTIVES})
    values = flatten(to_table(spell_out(Config(local=local))))
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
    }


def documented_defaults():
    found = {}
    for heading, text in sections("docs/configuration.md", 2):
        section = re.fullmatch(r"`\[([\w.]+)\]`", heading)
        if section is None and heading != "Top level":
            continue
        prefix = f"{section[1]}." if section else ""
        for key, cell in ROW.findall(text):
            name = f"{prefix}{key}"
            assert name not in found
            code = cell.strip().strip("`")
            found[name] = None if code == "unset" else tomllib.loads(f"value = {code}")["value"]
    return found


def test_every_key_that_moved_is_documented_where_it_was_and_where_it_is():
    for page in ("docs/configuration.md", "CHANGELOG.md"):
        rows = re.findall(
            r"^ *\| `((?:local|federation)\.\w+)` \| `([\w.]+)` \|$",
            (ROOT / page).read_text(),
            re.MULTILINE,
        )
        assert dict(rows) == MOVED_KEYS, page


def test_every_key_is_documented_with_its_default_and_no_other():
    documented, defaults = documented_defaults(), true_defaults()
    assert documented == defaults
    # 0 == 0.0 and 1 == True, but they are written otherwise.
    assert {key: type(value) for key, value in documented.items()} == {
        key: type(value) for key, value in defaults.items()
    }


def test_the_settings_of_the_paper_are_documented_and_no_other():
    (text,) = (text for name, text in sections("docs/configuration.md", 2) if name == "Presets")
    (block,) = re.findall(r"^```toml$(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert tomllib.loads(block) == find_preset("paper")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page):
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} in {page.name}"
        if anchor:
            assert anchor in anchors(file), f"{target} in {page.name}"


@cache
def anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=name_of)
def test_shipped_configurations_load(path):
    assert load_config(path) != Config()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_functions_and_keys_exist(page):
    keys = true_defaults().keys()
    if page.name in ("CHANGELOG.md", "configuration.md"):
        keys |= MOVED_KEYS.keys()
    sections_of_keys = {key.partition(".")[0] for key in keys}
    for name in DOTTED.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        first = name.partition(".")[0]
        if name.endswith(".toml"):  # federation.toml is a file
            continue
        if first == "fusseg":
            assert look_up(name) is not None
        elif first in sections_of_keys and page.name != "record.md":  # it has fields of these names
            assert name in keys, f"{name} in {page.name} is no key"


def look_up(name):
    """Import the longest module of a dotted name and look up the rest."""
    module, *rest = name.split(".")
    found = importlib.import_module(module)
    for part in rest:
        module = f"{module}.{part}"
        if not hasattr(found, part):
            importlib.import_module(module)
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_tests_exist(page):
    for name in TEST.findall(page.read_text(encoding="utf-8")):
        path, _, test = name.partition("::")
        assert test in functions_of(ROOT / path), f"{name} in {page.name}"


@cache
def functions_of(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_rule_of_the_method_names_its_code_and_its_tests():
    rules = sections("docs/method.md", 3)
    assert len(rules) > 25
    for heading, text in rules:
        body = re.split(r"^## ", text, flags=re.MULTILINE)[0]
        assert re.search(r"^- Code: `fusseg\.", body, re.MULTILINE), heading
        assert re.search(r"^- Tests:[^`]*`tests/", body, re.MULTILINE), heading


def test_the_citation_names_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {VERSION}\n" in text


def test_every_equation_has_its_place():
    headings = " ".join(heading for heading, _ in sections("docs/method.md", 3))
    groups = re.findall(r"\(Eq\. ([\d, ]+)\)", headings)
    assert {int(number) for group in groups for number in group.split(",")} == set(range(3, 13))


def test_every_field_of_the_record_is_documented_and_no_other():
    documented = documented_fields()
    assert len(documented) == len(set(documented))
    assert set(documented) == set(field_names(example_record()))


def test_the_typed_form_of_the_record_has_the_documented_fields():
    # Scores before the Lloyd finish are documented as those after it.
    fields = {re.sub(r"^trained\..*", "trained", name) for name in form_fields(Record)}
    names = r"(?<=\.)(CLASS|SITE)\b|(?<=^hello\.agreed\.)\w+"
    assert {re.sub(names, "*", name) for name in documented_fields()} == fields


def test_the_package_describes_a_record_in_its_typed_form():
    check_form(json.loads(json.dumps(example_record())), Record, "record")


def documented_fields():
    text = (ROOT / "docs/record.md").read_text(encoding="utf-8")
    text = text[text.index("## `record.json`") : text.index("## `state.safetensors`")]
    return re.findall(r"^\| `([\w.\[\]]+)` \| [^|]*\|$", text, re.MULTILINE)


def field_names(value, prefix=""):
    """Fields of a record, with `[]` for the entries of a list."""
    if isinstance(value, dict) and value:
        return [
            name
            for key, part in value.items()
            for name in field_names(part, f"{prefix}.{key}" if prefix else key)
        ]
    if isinstance(value, list) and value:
        return [name for part in value for name in field_names(part, f"{prefix}[]")]
    return [prefix]


def example_record():
    """A record as the package describes it, of one client with its own model."""
    agreed = {"shift_self": 0.1, "shift_neighbor": 0.2, "shift_random": 0.3}
    plan = TrainingPlan(num_steps=1, mean_feature=torch.zeros(2), agreed=agreed)
    hello = Hello("a", 2, torch.zeros(2), 2, agreed, "f", "1", 1.0)
    protocol = resolve(Config())
    finished = (Answers(protocol.tasks(1)[0], (ClientUpdate("a", 2, loss=0.5),)),)
    total = Total(("a", "b"), 4, 0.5, {}, {})
    hidden = (Answers(protocol.tasks(1)[0], (), total),)
    state = GlobalState(1, Model({}, torch.zeros(2, 2)), plan)
    scores = score_sites({"SITE": [torch.tensor([[3, 0], [0, 5]])]})
    evaluation = Evaluation(Quality(torch.ones(2) / 2, 0.5, 0.5), scores)
    found = describe_evaluations({"a": evaluation}, Classes(("CLASS", "CLASS")))
    skipped = Skipped(Item("a", "1", "", Path("1.png")), "image is empty")
    log = RoundLog({}, [Incident("a", "train", "no answer")])
    record = new_record(Path("run"), Config(), load_filterbank(), {"a": 2}, center=True)
    return record | {
        # By their own names, which docs/configuration.md has.
        "settings": {},
        "anchor": "pca",
        "start": {"path": "runs/a", "name": "a", "round": 1, "state_digest": "d"},
        "adapted": {
            "steps": 1,
            "min_cosine": 0.8,
            "before": found,
            "names_kept_mean_iou": 0.5,
            "regions": [{"cosine": 0.9, "share_before": 0.5, "share_after": 0.5, "state": "moved"}],
        },
        "hello": {
            **describe_hello([hello], plan, {"b": "too far"}, sent=True),
            "differing_classes": {"CLASS": ["a"]},
        },
        "num_images": 4,
        "noise": asdict(Guarantee("image", 7.9, 1e-6, 2.4, 12, "nobody lies")),
        "rounds": [
            describe_round(Round(state, exchanges), found, 1.0, protocol, log)
            for exchanges in (finished, hidden)
        ],
        "candidates": describe_candidates([Candidate("trained", 0.5, 0.1, kept=True)]),
        "final": found,
        "taught": {
            "mean_iou": 0.5,
            "pixel_accuracy": 0.5,
            "per_class_iou": {"CLASS": 0.5},
            "unknown_share": 0.1,
            "num_labeled_images": 1,
            "positions_per_class": {"CLASS": 9},
            "lacking": ["sky"],
            "shrinkage": 0.1,
            "temperature": 4.0,
            "left_out_mean_iou": 0.5,
        },
        "skipped_images": describe_skipped([skipped]),
        "stored_values": sum_up([Stored("a", gray=True, largest=65535, white=65535, highest=4095)]),
    }
