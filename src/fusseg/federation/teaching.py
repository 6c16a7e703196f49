"""Teaching: class statistics of the labels that some clients have, after the last round (ours).

Two exchanges of sums. In the first, each client sends, per class, the number and the sum of its
labeled features, and the sum of all their outer products. In the second, each client leaves out its
images in turn, classifies them by the sums of all others, and sends counts, from which the server
chooses the shrinkage. The classifier is that of the pooled labels, in any partition.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fusseg.config.schema import Config, TeachConfig
from fusseg.core.errors import FederationError
from fusseg.federation.checks import counts_of_classes, trials_of_classes
from fusseg.federation.parts import Part
from fusseg.federation.protocol import Gathered, Protocol, Task, Work
from fusseg.federation.state import GlobalState, Taught
from fusseg.segmentation.classifier import (
    SHRINKAGES,
    TEMPERATURES,
    USUAL_TEMPERATURE,
    Chosen,
    ClassSums,
    Trials,
    add_trials,
    choose_numbers,
    fit_classifier,
    lacking_classes,
    no_trials,
    sum_classes,
    try_without,
)
from fusseg.segmentation.objective import Model
from fusseg.segmentation.training import ClassNames

TEACH = "teach"
"""Name of the last round in the record, in which clients send class statistics."""
CLASS_SUMS = "class_sums"
"""What clients receive to leave out their images in turn: the sums of all clients."""
MOST_LABELS = 255
"""Most classes, with the regions of unknown pixels, that an 8-bit image can hold."""
_MOST_LEFT_OUT = 64
"""Most images that a client leaves out in turn."""


def teaching_tasks(config: Config) -> tuple[Task, ...]:
    """List the exchanges of the last round; none unless `federation.teach` is set."""
    if not config.federation.teach:
        return ()
    if config.teach.shrinkage == "auto":
        return (replace(_SUMS, conclude=keep_sums), _TRIALS)
    return (replace(_SUMS, conclude=conclude_sums),)


def agree_on_classes(
    classes_of: Mapping[str, Sequence[str]], joined: Mapping[str, str]
) -> ClassNames:
    """List the classes of all clients, in the order in which the clients, by id, name them.

    >>> agree_on_classes({"north": ["road", "sky"], "south": ["Road", "car"]}, {"Road": "road"})
    (('road', ('Road', 'road')), ('sky', ('sky',)), ('car', ('car',)))

    Args:
        classes_of: Classes of each client; empty without labels.
        joined: Names of classes by other names that clients use for them.

    Returns:
        Each class, with all names that clients use for it, sorted.
    """
    used: dict[str, set[str]] = {}
    for _, names in sorted(classes_of.items()):
        for name in names:
            used.setdefault(joined.get(name, name), set()).add(name)
    return tuple((name, tuple(sorted(names))) for name, names in used.items())


def differing_classes(
    classes_of: Mapping[str, Sequence[str]], joined: Mapping[str, str]
) -> dict[str, list[str]]:
    """Name the clients that have each class which other clients with labels lack.

    >>> differing_classes({"north": ["road", "sky"], "south": ["Road", "sky"], "west": []}, {})
    {'road': ['north'], 'Road': ['south']}

    Args:
        classes_of: As in `agree_on_classes`.
        joined: As in `agree_on_classes`.
    """
    labeled = {client: names for client, names in sorted(classes_of.items()) if names}
    clients: dict[str, list[str]] = {}
    for client, names in labeled.items():
        for name in dict.fromkeys(joined.get(name, name) for name in names):
            clients.setdefault(name, []).append(client)
    return {name: have for name, have in clients.items() if len(have) < len(labeled)}


def check_classes(classes: ClassNames, settings: TeachConfig, num_clusters: int) -> None:
    """Refuse a federation in which there are too few classes to teach, or too many for an image.

    Args:
        classes: Classes of all clients.
        settings: Whether pixels may be unknown: regions follow the classes then.
        num_clusters: Number of clusters, as in `model.num_clusters`.

    Raises:
        FederationError: If there are fewer than 2 classes, or more than 255 labels.
    """
    if len(classes) < 2:
        found = ", ".join(name for name, _ in classes) or "none"
        raise FederationError(
            "federation.teach is set, but the clients' masks have fewer than 2 classes "
            f"({found}); add masks at a client, or set federation.teach to false"
        )
    labels = len(classes) + (num_clusters if settings.unknown_below > 0 else 0)
    if labels > MOST_LABELS:
        raise FederationError(
            f"the clients have {len(classes)} classes, which with teach.unknown_below "
            f"{settings.unknown_below:g} and model.num_clusters {num_clusters} makes {labels} "
            f"labels, more than the {MOST_LABELS} of an image; set teach.unknown_below to 0, or "
            "lower model.num_clusters"
        )


def number_classes(own: Sequence[str], classes: ClassNames) -> list[int]:
    """Give a client's own classes the numbers of the federation; -1: it is not taught.

    >>> number_classes(["sky", "Road", "car"], (("road", ("Road", "road")), ("sky", ("sky",))))
    [1, 0, -1]
    """
    numbers = {name: number for number, (_, names) in enumerate(classes) for name in names}
    return [numbers.get(name, -1) for name in own]


def sum_parts(state: GlobalState, _protocol: Protocol) -> dict[str, Part]:
    """Describe the class statistics."""
    classes, dim = len(state.plan.classes), len(state.plan.mean_feature)
    check = counts_of_classes()
    return {
        "counts": Part((classes,), torch.int64, "sum", check, bounded=False),
        "first": Part((classes, dim), torch.float64, "sum", bounded=False),
        "second": Part((dim, dim), torch.float64, "sum", bounded=False),
        "images": Part((), torch.int64, "sum", bounded=False),
    }


def measure_classes(work: Work) -> dict[str, Tensor]:
    """Sum the features of the client's labeled positions, by class (client's side)."""
    parts = sum_parts(work.state, work.protocol)
    sums = {
        name: torch.zeros([side or 0 for side in part.shape], dtype=part.dtype)
        for name, part in parts.items()
    }
    for features, labels in _labeled(work):
        if len(labels) == 0:
            continue
        found = sum_classes(features, labels, len(work.state.plan.classes))
        sums["counts"] += found.counts
        sums["first"] += found.first
        sums["second"] += found.second
        sums["images"] += 1
    return sums


def trial_parts(state: GlobalState, _protocol: Protocol) -> dict[str, Part]:
    """Describe the counts of the left-out images."""
    classes = len(state.plan.classes)
    check = trials_of_classes()
    shape = (len(SHRINKAGES), len(TEMPERATURES))
    return {
        "confusion": Part(
            (len(SHRINKAGES), classes, classes), torch.int64, "sum", check, bounded=False
        ),
        "likelihood": Part(shape, torch.float64, "sum", bounded=False),
    }


def measure_trials(work: Work) -> dict[str, Tensor]:
    """Leave out up to 64 of the client's labeled images in turn, evenly spaced (client's side)."""
    num_classes = len(work.state.plan.classes)
    total = _as_sums(work.state.class_sums)
    trials = no_trials(num_classes)
    places = [place for place, found in enumerate(_labeled(work)) if len(found[1])]
    count = min(len(places), _MOST_LEFT_OUT)
    kept = {places[number * (len(places) - 1) // max(1, count - 1)] for number in range(count)}
    for place, (features, labels) in enumerate(_labeled(work)):
        if place in kept:
            others = total.without(sum_classes(features, labels, num_classes))
            trials = add_trials(trials, try_without(others, features, labels))
    return {"confusion": trials.confusion, "likelihood": trials.likelihood}


def keep_sums(gathered: Gathered) -> GlobalState:
    """Keep the class statistics of all clients for the next exchange."""
    return replace(gathered.state, class_sums=dict(gathered.totals))


def conclude_trials(gathered: Gathered) -> GlobalState:
    """Choose shrinkage and temperature, and make the classifier (server's side)."""
    totals = gathered.totals
    chosen = choose_numbers(Trials(totals["confusion"], totals["likelihood"]))
    return _teach(gathered.state, chosen, gathered.protocol.teach)


def conclude_sums(gathered: Gathered) -> GlobalState:
    """Make the classifier with the shrinkage that is given (server's side)."""
    settings = gathered.protocol.teach
    assert settings.shrinkage != "auto"
    chosen = Chosen(settings.shrinkage, USUAL_TEMPERATURE, None)
    return _teach(keep_sums(gathered), chosen, settings)


def _teach(state: GlobalState, chosen: Chosen, settings: TeachConfig) -> GlobalState:
    taught = fit_classes(state.plan.classes, state.class_sums, chosen, settings.unknown_below)
    return replace(state, class_sums={}, taught=taught)


def fit_classes(
    classes: ClassNames, totals: Mapping[str, Tensor], chosen: Chosen, unknown_below: float
) -> Taught:
    """Make the classifier of all classes that have enough labeled positions.

    Args:
        classes: All classes of the clients.
        totals: The class statistics of all clients.
        chosen: Shrinkage and temperature.
        unknown_below: As in `teach.unknown_below`.
    """
    counts = totals["counts"].tolist()
    lacking = set(lacking_classes(counts))
    kept = [place for place in range(len(classes)) if place not in lacking]
    names = [name for name, _ in classes]
    taught = Taught(
        names=tuple(names[place] for place in kept),
        lacking=tuple(names[place] for place in sorted(lacking)),
        positions=tuple(counts[place] for place in kept),
        num_images=int(totals["images"]),
        chosen=chosen,
    )
    if len(kept) < 2:
        return taught
    # Positions of lacking classes stay in the sum of products; they are a handful.
    sums = ClassSums(totals["counts"][kept], totals["first"][kept], totals["second"])
    classifier = fit_classifier(sums, chosen.shrinkage, chosen.temperature)
    return replace(taught, classifier=replace(classifier, unknown_below=unknown_below))


def _as_sums(totals: Mapping[str, Tensor]) -> ClassSums:
    return ClassSums(totals["counts"], totals["first"], totals["second"])


def _labeled(work: Work) -> Iterator[tuple[Tensor, Tensor]]:
    """Read the labeled positions of each of the client's images, with the federation's classes."""
    labeled, plan = work.client.labeled, work.state.plan
    if labeled is None:
        return iter(())
    return labeled.images(plan.mean_feature, number_classes(labeled.classes, plan.classes))


def _same_model(gathered: Gathered) -> Model:
    return gathered.state.model


_SUMS = Task("class-sums", sum_parts, measure_classes, _same_model, receives=(), shared=True)
_TRIALS = Task(
    "left-out-images",
    trial_parts,
    measure_trials,
    _same_model,
    receives=(CLASS_SUMS,),
    shared=True,
    conclude=conclude_trials,
)
