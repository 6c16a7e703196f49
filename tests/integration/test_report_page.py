import copy
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from fusseg.report import formatting
from fusseg.report.centroid_map import project_rounds
from fusseg.report.page import GalleryEntry, PageContent, render_report

HOSTILE = "</title><script>alert('x')</script>\"onload=\"alert(1)"
CONFIG = 'seed = 3\n\n[data]\nroot = "<my sites>"\n'


def make_record():
    clients = [("north", 62), ("south", 1204)]
    rounds = [
        {
            "round": number,
            "loss": -0.1 - number / 77,
            "mean_iou": 0.1 + number / 70,
            "pixel_accuracy": 0.4 + number / 90,
            "bytes_up": 2 * (30_000 + number),
            "bytes_down": 2 * (40_000 + number),
            "seconds": 12.3 + number,
            "clients": [
                {
                    "client_id": name,
                    "num_images": num_images,
                    "loss": -0.1 - number / 77 + num_images / 9000,
                    "bytes_up": 30_000 + number,
                    "bytes_down": 40_000 + number,
                }
                for name, num_images in clients
            ],
        }
        for number in (1, 2, 3)
    ]
    return {
        "format_version": 2,
        "name": "two sites",
        "seed": 3,
        "command": "fusseg run config.toml --out 'my runs/a'",
        "versions": {"fusseg": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "threads": 2},
        "backbone": {
            "name": "filterbank",
            "fingerprint": "ab12cd34",
            "feature_dim": 120,
            "stride": 8,
            "centered": True,
        },
        "strategy": "fedcc-kmeans",
        "num_clusters": 3,
        "clients": [{"client_id": name, "num_images": num} for name, num in clients],
        "hello": {
            "local_steps": 25,
            "agreed": {"shift_self": 0.111, "shift_neighbor": 0.222, "shift_random": -0.333},
            "bytes_up": 12_345,
            "bytes_down": 4_321,
        },
        "rounds": rounds,
        "final": {
            "mean_iou": 0.2037,
            "pixel_accuracy": 0.5146,
            "per_class_iou": {"sky": 0.7123, "pole": None},
            "sites": {
                "south": {"mean_iou": 0.1876, "pixel_accuracy": 0.4811, "num_images": 19},
                "west": {"mean_iou": 0.2219, "pixel_accuracy": 0.5377, "num_images": 1171},
            },
            "confusion": [[90, 10], [5, 45], [20, 30]],
            "matching": [0, 1, -1],
            "models": [],
            "quality": {
                "cluster_share": [0.5, 0.25, 0.25],
                "mean_cosine": 0.8124,
                "mean_margin": 0.1031,
            },
        },
        "seconds": {"extract": 10.1, "train": 141.9, "evaluate": 5.2},
        "skipped_images": [{"site": "north", "image": "x.jpg", "reason": "the file is empty"}],
    }


def without_scores(record):
    record = copy.deepcopy(record)
    for entry in record["rounds"]:
        entry.update(mean_iou=None, pixel_accuracy=None)
    nothing = dict.fromkeys(
        ("mean_iou", "pixel_accuracy", "per_class_iou", "confusion", "matching")
    )
    record["final"].update(nothing)
    for site in record["final"]["sites"].values():
        site.update(mean_iou=None, pixel_accuracy=None)
    return record


def make_gallery(labeled=True):
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    flat = np.full((24, 32, 3), 77, np.uint8)
    label = flat if labeled else None
    return [
        GalleryEntry("west", "good", image, flat, label, 0.9 if labeled else None),
        GalleryEntry("west", "bad", image, flat, label, 0.1 if labeled else None),
        GalleryEntry("south", "unlabeled", image, flat, None, None),
    ]


class Page(HTMLParser):
    VOID = frozenset({"meta", "img", "input", "br", "link"})

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.stack = []
        self.visible = []
        self.feed(text)
        self.close()
        assert self.stack == []
        self.text = " ".join(" ".join(self.visible).split())

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.stack):
            self.visible.append(data)

    def attributes(self, name):
        return [element[name] for _, element in self.elements if name in element]

    def tags(self, tag):
        return [element for name, element in self.elements if name == tag]


@pytest.fixture(scope="module")
def html():
    return render_report(make_record(), CONFIG, PageContent(make_gallery(), {"sky": (1, 2, 3)}))


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_page_stands_alone(html, page):
    for name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
        for value in page.attributes(name):
            assert value.startswith(("data:image/", "#")), value
    for tag in ("link", "iframe", "object", "embed", "base", "form"):
        assert page.tags(tag) == []
    for address in ("http:", "https:", "//cdn", "@import", "url(h"):
        assert address not in html


def test_the_page_forbids_the_network_and_foreign_scripts(page):
    policies = [
        meta["content"]
        for meta in page.tags("meta")
        if "content-security-policy" in str(meta).lower()
    ]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; img-src data:;")
    assert "script-src 'sha256-" in policies[0]


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    for target in page.attributes("href") + page.attributes("for"):
        for part in target.split():
            assert part.removeprefix("#") in ids


def test_every_control_has_a_name(page):
    labeled = set(page.attributes("for"))
    for tag in ("select", "input"):
        for element in page.tags(tag):
            assert element["id"] in labeled
    assert all("alt" in image for image in page.tags("img"))
    assert all({"aria-label", "aria-hidden"} & set(svg) for svg in page.tags("svg"))


def test_every_score_and_loss_of_the_record_is_there(page):
    record = make_record()
    final = record["final"]
    scores = [final["mean_iou"], final["pixel_accuracy"], final["per_class_iou"]["sky"]]
    scores += [final["quality"]["mean_cosine"], final["quality"]["mean_margin"]]
    scores += record["hello"]["agreed"].values()
    for entry in [*record["rounds"], *final["sites"].values()]:
        scores += [entry["mean_iou"], entry["pixel_accuracy"]]
    losses = [part["loss"] for entry in record["rounds"] for part in [entry, *entry["clients"]]]
    texts = [formatting.score(value) for value in scores]
    texts += [formatting.loss(value) for value in losses]
    missing = [text for text in texts if text not in page.text]
    assert missing == []


def test_every_count_and_time_of_the_record_is_there(page):
    record = make_record()
    counts = [record["hello"]["bytes_up"], record["hello"]["bytes_down"]]
    for entry in record["rounds"]:
        for part in [entry, *entry["clients"]]:
            counts += [part["bytes_up"], part["bytes_down"]]
    counts += [client["num_images"] for client in record["clients"]]
    counts += [site["num_images"] for site in record["final"]["sites"].values()]
    texts = [formatting.count(value) for value in counts]
    times = [*record["seconds"].values(), *(entry["seconds"] for entry in record["rounds"])]
    texts += [formatting.duration(value) for value in times]
    texts += ["50.0 %", "25.0 %"]
    missing = [text for text in texts if text not in page.text]
    assert missing == []


def test_sums_of_what_was_sent_are_right(page):
    assert "Sum 1,266 192,357 244,333" in page.text
    assert "north 62 90,006 120,006" in page.text


def test_the_summary_names_the_run(page):
    assert (
        "2 sites (north and south; 1,266 images) together learned 3 regions without labels: "
        "strategy fedcc-kmeans , 3 rounds of 25 steps, backbone filterbank , seed 3."
    ) in page.text


def test_a_backbone_that_was_trained_with_labels_is_called_so():
    record = make_record()
    record["backbone"] |= {"name": "efficientnet-lite2", "origin": "trained with labels"}
    page = Page(render_report(record, CONFIG, PageContent()))
    assert "learned 3 regions without labels" in page.text
    assert "backbone efficientnet-lite2 (trained with labels), seed 3." in page.text
    assert "Its weights trained with labels" in page.text


def test_what_is_needed_to_repeat_the_run_is_there(page):
    assert "fusseg run config.toml --out 'my runs/a'" in page.text
    assert " ".join(CONFIG.split()) in page.text
    for text in ("0.1.0", "3.11.7", "2.13.0", "ab12cd34", "north x.jpg the file is empty"):
        assert text in page.text


def test_the_gallery_starts_with_the_worst_score(page):
    cards = page.tags("article")
    assert [card["data-stem"] for card in cards] == ["bad", "good", "unlabeled"]
    assert [card["data-score"] for card in cards] == ["0.1", "0.9", ""]
    assert len(page.tags("img")) == 2 * 3 + 2


def test_the_gallery_can_be_filtered_by_each_site(page):
    values = [option["value"] for option in page.tags("option")]
    assert values[3:] == [
        *("", "south", "west"),
        *("worst", "best", "name"),
        *("", "1 2 3"),
        *("slider", "aside"),
        *("wipe", "fade"),
    ]


def test_the_same_input_gives_the_same_bytes(html):
    again = render_report(make_record(), CONFIG, PageContent(make_gallery(), {"sky": (1, 2, 3)}))
    assert again == html


def test_names_from_outside_stay_text():
    record = make_record()
    record["name"] = record["command"] = record["backbone"]["name"] = HOSTILE
    record["clients"][0]["client_id"] = HOSTILE
    for entry in record["rounds"]:
        entry["clients"][0]["client_id"] = HOSTILE
    record["final"]["sites"] = {HOSTILE: record["final"]["sites"]["west"]}
    record["final"]["per_class_iou"] = {HOSTILE: 0.5, "pole": None}
    record["skipped_images"] = [{"site": HOSTILE, "image": HOSTILE, "reason": HOSTILE}]
    entry = make_gallery()[0]
    gallery = [GalleryEntry(HOSTILE, HOSTILE, entry.image, entry.regions, None, None)]
    page = Page(render_report(record, HOSTILE, PageContent(gallery, {HOSTILE: (0, 0, 0)})))
    assert len(page.tags("script")) == 1
    assert page.attributes("onload") == []
    assert page.text.count("<script>alert('x')</script>") > 10


def test_bytes_that_are_no_text_can_still_be_written():
    record = make_record()
    record["clients"][0]["client_id"] = "caf\udce9"
    render_report(record, CONFIG, PageContent()).encode("utf-8")


def test_without_labels_the_label_free_figures_stand_in():
    page = Page(
        render_report(
            without_scores(make_record()), CONFIG, PageContent(make_gallery(labeled=False))
        )
    )
    assert "The held-out images carry no labels, so there is no score." in page.text
    for text in ("Mean cosine 0.812", "Mean margin 0.103", "Largest region 50.0 %"):
        assert text in page.text
    assert "mIoU on the held-out images" not in page.text
    assert "west 1,171 \N{EN DASH} \N{EN DASH}" in page.text
    assert "None" not in page.text
    values = [option["value"] for option in page.tags("option")]
    assert values[3:] == ["", "south", "west", "name", "slider", "aside", "wipe", "fade"]
    assert "gallery-limit" not in page.attributes("id")


def test_an_interrupted_run_says_so_and_shows_its_last_scores():
    record = {**make_record(), "final": None}
    page = Page(render_report(record, CONFIG, PageContent()))
    assert (
        "This run is not finished. The page shows its state after round 3. "
        "Continue it with --resume"
    ) in page.text
    assert "Scores after round 3; the final evaluation is still to come." in page.text
    assert f"mIoU {formatting.score(0.1 + 3 / 70)}" in page.text
    assert "gallery-cards" not in page.attributes("id")


def test_a_run_without_a_round_has_a_page():
    record = {**make_record(), "final": None, "rounds": []}
    page = Page(render_report(record, CONFIG, PageContent()))
    assert "No round is complete yet." in page.text
    assert "There are no scores yet." in page.text
    assert "#training" not in page.attributes("href")


def test_models_of_single_clients_are_listed_and_the_shown_one_is_named():
    record = {**make_record(), "strategy": "local"}
    record["final"]["models"] = [
        {"client_id": "north", "mean_iou": 0.1571, "pixel_accuracy": 0.4012},
        {"client_id": "south", "mean_iou": 0.2503, "pixel_accuracy": 0.628},
    ]
    page = Page(render_report(record, CONFIG, PageContent()))
    assert "each learned, alone as a baseline, 3 regions without labels" in page.text
    assert (
        "The scores are the mean over the 2 models; confusion and matching are those of north"
    ) in page.text
    assert "north 0.157 0.401 south 0.250 0.628" in page.text
    assert "(model of north)" in page.text


def test_pooling_is_not_called_private():
    page = Page(render_report({**make_record(), "strategy": "centralized"}, CONFIG, PageContent()))
    assert "the images themselves would have to be sent" in page.text
    assert "leaves its site" not in page.text


def test_a_run_that_read_every_image_says_so():
    page = Page(render_report({**make_record(), "skipped_images": []}, CONFIG, PageContent()))
    assert "None: every image was read." in page.text


def test_classes_without_names_are_numbered():
    record = make_record()
    record["final"]["per_class_iou"] = None
    page = Page(render_report(record, CONFIG, PageContent()))
    assert "0 → class 0: 90.0 % class 0, 90 pixels" in page.attributes("title")


def test_the_confusion_is_a_table_of_percentages_whose_matches_are_named(page):
    assert "Region sky pole Pixels 0 → sky 90 matched 10 100 1 → pole 10 90 matched 50" in page.text
    assert "2 (unmatched) 40 60 50" in page.text


def test_scores_come_with_their_spread_over_sites(page):
    # (0.2219 - 0.1876) / sqrt(2) and the mean of both
    assert "Spread over sites ± 0.024 0.188 to 0.222 mIoU in 2 sites" in page.text
    assert "Mean 0.205 0.509 Standard deviation 0.024 0.040" in page.text


def test_scores_before_a_lloyd_finish_are_told_apart():
    record = {**make_record(), "trained": {"mean_iou": 0.1911, "pixel_accuracy": 0.4321}}
    page = Page(render_report(record, CONFIG, PageContent()))
    assert "Before the finish of Lloyd steps: mIoU 0.191, pixel accuracy 0.432." in page.text


def test_centroids_are_drawn_from_numbers_in_the_page_and_agreement_is_a_table():
    history = {
        1: {"global": torch.eye(3), "client/north": torch.eye(3), "client/<b>": -torch.eye(3)},
        2: {"global": torch.eye(3).flip(0)},
    }
    page = Page(
        render_report(make_record(), CONFIG, PageContent(centroids=project_rounds(history)))
    )
    (drawing,) = page.attributes("data-map")
    content = json.loads(drawing)
    assert content["clients"] == ["<b>", "north"]
    assert [entry["name"] for entry in content["rounds"]] == ["round 1", "round 2"]
    # the last round is a finish in which clients send none: the first is shown
    assert [slider["value"] for slider in page.tags("input")] == ["0"]
    assert "Round <b> north 1 0.000 1.000 2 \N{EN DASH} \N{EN DASH}" in page.text
    assert "2 of 3 rounds are shown." in page.text


def test_without_centroids_there_is_no_section_about_them(page):
    assert "#centroids" not in page.attributes("href")


@pytest.mark.parametrize("labeled", [True, False])
def test_where_nothing_is_held_out_the_page_names_training_images(labeled):
    record = make_record() if labeled else without_scores(make_record())
    content = PageContent(make_gallery(labeled), {"sky": (1, 2, 3)}, held_out=False)
    page = render_report(record, CONFIG, content)
    assert "held-out" not in page.lower()
    assert "<dt>Training images</dt>" in page
    assert "<p>3 training images" in page
    assert ("mIoU on the training images, per round" in page) is labeled
    assert ("no label of a training image was read, so there is no score" in page) is not labeled
    held_out = render_report(record, CONFIG, PageContent(make_gallery(labeled)))
    assert "<dt>Held-out images</dt>" in held_out
    assert "<p>3 held-out images" in held_out
    assert "training image" not in held_out


def make_chosen_record(kept="start"):
    """A run of three rounds of training, two starts and a choice."""
    record = make_record()
    for entry in record["rounds"]:
        entry["phase"] = "training"
    start = {**record["rounds"][0], "round": 0, "phase": "start", "loss": None, "mean_iou": 0.2037}
    choice = {**start, "round": 4, "phase": "choice", "bytes_up": 56, "bytes_down": 4_321}
    record["rounds"] = [start, *record["rounds"], choice]
    margin = 0.31 if kept == "start" else 0.45
    record["candidates"] = [
        {"name": "whitening 0", "agreement": 0.611, "margin": 0.3, "kept": kept == "start"},
        {"name": "whitening 0.5", "agreement": 0.522, "margin": 0.2, "kept": False},
        {"name": "trained", "agreement": 0.633, "margin": margin, "kept": kept == "trained"},
    ]
    record["trained"] = {"mean_iou": 0.1911, "pixel_accuracy": 0.4321}
    return record


def read_chosen(kept="start", **more):
    return Page(render_report({**make_chosen_record(kept), **more}, CONFIG, PageContent()))


def test_the_kept_model_is_named_with_the_reason_and_all_that_were_judged():
    text = read_chosen().text
    assert "Training did not improve on the start, which was kept: the trained model's" in text
    assert "Trained model, which was not kept: mIoU 0.191, pixel accuracy 0.432." in text
    assert "whitening 0 0.611 0.300 kept whitening 0.5 0.522 0.200" in text
    assert "trained model 0.633 0.310" in text
    text = read_chosen(kept="trained").text
    assert "The trained model was kept: its margin 0.450 is more than 5 % above" in text
    assert "whitening 0 0.611 0.300 round 1 began with it" in text
    # Then it has the scores on top of the page.
    assert "0.191" not in text


def test_a_choice_is_no_round_of_training():
    page = read_chosen()
    assert "3 rounds of 25 steps" in page.text
    assert "2 min 22 s for 3 rounds" in page.text
    assert f"choice {formatting.ABSENT} 0.204" in page.text
    assert "round 4" not in page.text
    curve = next(label for label in page.attributes("aria-label") if label.startswith("mIoU per"))
    assert curve == "mIoU per round, from 0.204 to 0.143; the first was kept"


def test_runs_without_judged_models_say_nothing_of_a_choice(page):
    for found in (page, read_chosen(candidates=[])):
        assert "kept" not in found.text
        assert "judged" not in " ".join(found.attributes("id"))


def test_the_map_of_centroids_ends_with_the_choice():
    history = {
        3: {"global": torch.eye(3), "client/north": torch.eye(3)},
        4: {"global": torch.eye(3).flip(0)},
    }
    content = PageContent(centroids=project_rounds(history))
    page = Page(render_report(make_chosen_record(), CONFIG, content))
    (drawing,) = page.attributes("data-map")
    names = [entry["name"] for entry in json.loads(drawing)["rounds"]]
    assert names == ["round 3", "the choice"]
