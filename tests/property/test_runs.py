import tomllib

import torch
from hypothesis import given
from hypothesis import strategies as st

from fusseg.config.file import differing_keys, dump_config, parse_config, to_table
from fusseg.federation.state import GlobalState, Memory
from fusseg.runs.directory import create_run, load_record, read_run_config, save_record
from fusseg.runs.record_form import Record
from fusseg.runs.resuming import changed_settings, resume_run
from fusseg.runs.saved_state import SavedState, load_state, save_state
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model
from fusseg.segmentation.objectives import spell_out
from fusseg.segmentation.training import TrainingPlan

numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
site_names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1
)


@given(
    numbers_drawn=st.tuples(st.integers(0, 2**31), st.integers(1, 1000)),
    agreed=st.dictionaries(texts, numbers, max_size=3),
    carried=st.lists(site_names, max_size=2, unique=True),
    names=st.tuples(st.lists(site_names, max_size=4, unique=True), texts),
)
def test_saving_and_loading_a_state_changes_nothing(
    numbers_drawn, agreed, carried, names, tmp_path_factory, seeded, same_bits
):
    (seed, round_number), (sites, fingerprint) = numbers_drawn, names
    generator = seeded(seed)

    def draw_model():
        head = initial_head(4, 3, generator)
        centroids = torch.randn(5, 3, generator=generator)
        centroids[0, 0], centroids[1, 1] = 1e-42, -0.0
        return Model(head, centroids)

    def draw_memory():
        kept = {name: torch.randn(2, 3, generator=generator) for name in carried}
        return Memory(draw_model(), kept)

    plan = TrainingPlan(round_number, torch.randn(4, generator=generator), agreed)
    state = GlobalState(round_number, draw_model(), plan)
    saved = SavedState(state, {site: draw_memory() for site in sites}, fingerprint)
    path = tmp_path_factory.mktemp("run")
    save_state(path, saved)
    found = load_state(path)
    assert found.state.round_number == round_number
    assert found.state.plan.num_steps == round_number
    assert found.state.plan.agreed == agreed
    assert torch.equal(found.state.plan.mean_feature, plan.mean_feature)
    assert same_bits(found.state.model, state.model)
    assert found.memories.keys() == saved.memories.keys()
    for site, memory in saved.memories.items():
        kept = found.memories[site]
        assert same_bits(kept.model, memory.model)
        assert kept.carried.keys() == memory.carried.keys()
        assert all(torch.equal(kept.carried[name], part) for name, part in memory.carried.items())
    assert found.fingerprint == fingerprint


shares = st.floats(0, 0.99)
tables = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**63 - 1),
        "data": st.fixed_dictionaries(
            {
                "root": texts,
                "train_sites": st.lists(texts, max_size=3),
                "image_size": st.lists(st.integers(16, 5000), min_size=2, max_size=2),
                "fit": st.sampled_from(["crop", "stretch"]),
            }
        ),
        "backbone": st.fixed_dictionaries({"center": st.booleans() | st.just("auto")}),
        "local": st.fixed_dictionaries(
            {},
            optional={
                "epochs": st.floats(1e-3, 1e3),
                "stego": st.fixed_dictionaries(
                    {},
                    optional={
                        "dropout": shares,
                        "neighbors": st.integers(1, 10_000),
                        "shift": st.just("auto") | st.lists(numbers, min_size=3, max_size=3),
                    },
                ),
                "other": st.dictionaries(texts, texts | st.lists(numbers | texts)),
            },
        ),
        "federation": st.fixed_dictionaries({"strategy": texts, "aggregate_heads": st.booleans()}),
    }
)


@given(table=tables)
def test_a_run_is_repeated_with_the_configuration_it_was_started_with(table, tmp_path_factory):
    # A run is begun only where every table is of an objective.
    local = {name: value for name, value in table["local"].items() if name != "other"}
    config = parse_config(table | {"local": local})
    path = tmp_path_factory.mktemp("run")
    create_run(path, config)
    assert read_run_config(path) == spell_out(config)
    assert resume_run(path, config) == spell_out(config)
    assert resume_run(path, spell_out(config)) == spell_out(config)
    assert changed_settings(config, read_run_config(path)) == []


@given(table=tables)
def test_a_written_configuration_is_read_as_it_was(table):
    config = parse_config(table)
    assert parse_config(tomllib.loads(dump_config(config))) == config
    assert parse_config(to_table(config)) == config
    assert differing_keys(config, parse_config(table)) == []


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(record=st.dictionaries(texts, values, max_size=4))
def test_saving_and_loading_a_record_changes_nothing(record, tmp_path_factory):
    record = dict.fromkeys(Record.__required_keys__) | record | {"format_version": 2}
    path = tmp_path_factory.mktemp("run")
    save_record(path, record)
    assert load_record(path) == record
