import torch
from hypothesis import given
from hypothesis import strategies as st

from fusseg.config_file import differing_keys, parse_config
from fusseg.federation.state import GlobalState
from fusseg.runs import (
    RECORD_KEYS,
    SavedState,
    create_run,
    load_record,
    load_state,
    read_run_config,
    resume_run,
    save_record,
    save_state,
)
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.training import Model, TrainingPlan

numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
site_names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1
)


@given(
    numbers_drawn=st.tuples(st.integers(0, 2**31), st.integers(1, 1000)),
    shift=st.tuples(numbers, numbers, numbers),
    sites=st.lists(site_names, max_size=4, unique=True),
    fingerprint=texts,
)
def test_saving_and_loading_a_state_changes_nothing(
    numbers_drawn, shift, sites, fingerprint, tmp_path_factory, seeded, same_bits
):
    seed, round_number = numbers_drawn
    generator = seeded(seed)

    def draw_model():
        head = initial_head(4, 3, generator)
        centroids = torch.randn(5, 3, generator=generator)
        centroids[0, 0], centroids[1, 1] = 1e-42, -0.0
        return Model(head, centroids)

    plan = TrainingPlan(round_number, torch.randn(4, generator=generator), shift)
    state = GlobalState(round_number, draw_model(), plan)
    saved = SavedState(state, {site: draw_model() for site in sites}, fingerprint)
    path = tmp_path_factory.mktemp("run")
    save_state(path, saved)
    found = load_state(path)
    assert found.state.round_number == round_number
    assert found.state.plan.num_steps == round_number
    assert found.state.plan.shift == shift
    assert torch.equal(found.state.plan.mean_feature, plan.mean_feature)
    assert same_bits(found.state.model, state.model)
    assert found.own_models.keys() == saved.own_models.keys()
    assert all(same_bits(found.own_models[site], saved.own_models[site]) for site in sites)
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
            {
                "dropout": shares,
                "shift": st.just("auto") | st.lists(numbers, min_size=3, max_size=3),
            },
            optional={"epochs": st.floats(1e-3, 1e3)},
        ),
        "federation": st.fixed_dictionaries({"strategy": texts, "weighted": st.booleans()}),
    }
)


@given(table=tables)
def test_a_run_is_repeated_with_the_configuration_it_was_started_with(table, tmp_path_factory):
    config = parse_config(table)
    path = tmp_path_factory.mktemp("run")
    create_run(path, config)
    assert read_run_config(path) == config
    assert resume_run(path, config) == config
    assert differing_keys(config, read_run_config(path)) == []


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(record=st.dictionaries(texts, values, max_size=4))
def test_saving_and_loading_a_record_changes_nothing(record, tmp_path_factory):
    record = dict.fromkeys(RECORD_KEYS) | record | {"format_version": 1}
    path = tmp_path_factory.mktemp("run")
    save_record(path, record)
    assert load_record(path) == record
