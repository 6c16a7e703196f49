from xml.etree import ElementTree as ET

import pytest

from fusseg.report import figures
from fusseg.report.svg import COLORS, plain, text_width

ROUNDS = [
    {
        "round": number,
        "mean_iou": None if number == 2 else number / 10,
        "loss": -number / 10,
        "clients": [
            {"client_id": "north", "loss": -number / 5},
            {"client_id": "_south", "loss": -number / 20},
        ],
    }
    for number in (1, 2, 3)
]

TRAFFIC = [
    {"round": 1, "bytes_up": 2_000, "bytes_down": 4_000},
    {"round": 2, "bytes_up": 0, "bytes_down": 1_500},
]


def _tips(svg):
    return [title.text for title in ET.fromstring(svg).iter("title")]


def _texts(svg):
    return [text.text for text in ET.fromstring(svg).iter("text")]


def _all_figures():
    return {
        "miou": figures.mean_iou_curve(ROUNDS),
        "loss": figures.loss_curves(ROUNDS),
        "classes": figures.class_bars({"sky": 0.5, "pole": None}),
        "clusters": figures.cluster_bars([0.25, 0.75], ["0 → sky", "1 (unmatched)"]),
        "traffic": figures.traffic_bars(TRAFFIC),
    }


def test_the_curve_shows_only_rounds_that_were_scored():
    assert _tips(figures.mean_iou_curve(ROUNDS)) == [
        "round 1, mIoU: 0.1000",
        "round 3, mIoU: 0.3000",
    ]


def test_every_client_has_its_own_line_and_the_mean_another():
    tips = _tips(figures.loss_curves(ROUNDS))
    for expected in (
        "north",
        "_south",
        "round 2, loss of north: -0.4000",
        "round 2, loss of _south: -0.1000",
        "round 2, mean loss: -0.2000",
    ):
        assert tips.count(expected) == 1


def test_a_client_that_missed_a_round_has_no_point_there():
    rounds = [ROUNDS[0], {**ROUNDS[1], "clients": ROUNDS[1]["clients"][:1]}]
    tips = _tips(figures.loss_curves(rounds))
    assert "round 1, loss of _south: -0.0500" in tips
    assert not any("round 2, loss of _south" in tip for tip in tips)


def test_long_trainings_are_drawn_without_a_mark_per_round():
    rounds = [{**ROUNDS[0], "round": number} for number in range(1, 42)]
    assert _tips(figures.mean_iou_curve(rounds)) == []


def test_clients_share_one_color_where_there_are_more_than_colors():
    few = [{"clients": [{"client_id": name} for name in "fedcba"]}]
    many = [{"clients": [{"client_id": name} for name in "abcdefg"]}]
    assert figures.client_series(few)["b"] == "series-2"
    assert set(figures.client_series(many).values()) == {"chart-muted"}


def test_class_bars_run_from_best_to_worst_and_end_with_absent_classes():
    texts = _texts(figures.class_bars({"pole": None, "car": 0.0, "sky": 0.5}))
    assert [text for text in texts if text in ("sky", "car", "pole")] == ["sky", "car", "pole"]
    assert {"0.500", "0.000", "does not occur"} <= set(texts)


def test_cluster_bars_run_from_largest_to_smallest():
    texts = _texts(figures.cluster_bars([0.25, 0.75], ["a", "b"]))
    assert [text for text in texts if text in ("a", "b")] == ["b", "a"]
    assert {"25.0 %", "75.0 %"} <= set(texts)


def test_the_bytes_of_each_round_are_drawn_by_direction_in_their_natural_unit():
    svg = figures.traffic_bars(TRAFFIC)
    assert _tips(svg) == [
        "round 1: 2,000 bytes sent",
        "round 2: 0 bytes sent",
        "round 1: 4,000 bytes received",
        "round 2: 1,500 bytes received",
    ]
    assert "kB" in _texts(svg)
    assert "2,000 sent and 5,500 received in all" in svg


def test_long_trainings_still_tell_clients_apart_by_a_few_marks():
    rounds = [{**ROUNDS[0], "round": number} for number in range(1, 83)]
    tips = _tips(figures.loss_curves(rounds))
    assert "round 1, loss of north: -0.2000" in tips
    assert "round 2, loss of north: -0.2000" not in tips
    assert sum("loss of north" in tip for tip in tips) == 28


def test_figures_take_their_colors_and_font_from_the_page():
    for svg in _all_figures().values():
        assert "var(--chart-" in svg
        assert "font-family" not in svg
        assert not any(color in svg for color in COLORS.values())


def test_ids_are_unique_over_all_figures_and_all_references_resolve():
    elements = [element for svg in _all_figures().values() for element in ET.fromstring(svg).iter()]
    ids = [element.get("id") for element in elements if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in elements:
        if "href" in element.attrib:
            assert element.attrib["href"].removeprefix("#") in ids
        if "clip-path" in element.attrib:
            assert element.attrib["clip-path"][5:-1] in ids


def test_figures_name_no_address():
    for svg in _all_figures().values():
        assert "http" not in svg
        assert "<style" not in svg


def test_the_same_numbers_give_the_same_figure():
    assert _all_figures() == _all_figures()


@pytest.mark.parametrize(
    "name", ["$\\frac{1", "<script>", "天空", "a\nb\x00", "🚲", "\udce9", "_x"]
)
def test_names_from_outside_are_drawn_as_plain_text(name):
    svg = figures.class_bars({name: 0.5})
    assert plain(name) in _texts(svg)
    assert "<script" not in svg


def test_long_names_are_cut():
    assert plain("x" * 23) == "x" * 21 + "…"
    assert plain("x" * 22) == "x" * 22


def test_wide_letters_take_more_room():
    assert text_width("天") > text_width("a")


def test_a_choice_is_no_point_of_the_curve_and_has_its_name_in_the_traffic():
    choice = {**ROUNDS[0], "round": 4, "phase": "choice", "bytes_up": 5, "bytes_down": 6}
    assert _tips(figures.mean_iou_curve([*ROUNDS, choice])) == [
        "round 1, mIoU: 0.1000",
        "round 3, mIoU: 0.3000",
    ]
    svg = figures.traffic_bars([*TRAFFIC, choice])
    assert "choice: 5 bytes sent" in _tips(svg)
    assert "choice" in _texts(svg)


def test_the_number_on_the_curve_is_that_of_the_kept_model():
    assert "0.300" in _texts(figures.mean_iou_curve(ROUNDS))
    kept = _texts(figures.mean_iou_curve(ROUNDS, start_kept=True))
    assert "0.100" in kept
    assert "0.300" not in kept
