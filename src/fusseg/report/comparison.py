"""Compare two or more runs: group them, find the settings that differ, and list caveats."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusseg.config.file import differing_keys, flatten, to_table
from fusseg.config.schema import Config
from fusseg.core.portable_paths import without_folders_in
from fusseg.report import formatting
from fusseg.report.numbers import Spread, latest_scores, num_regions, spread

SEED = "seed"


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs."""

    key: str
    """Letter of the run in figures and tables."""
    name: str
    """Its folder, with as many parents as needed to distinguish it from the others."""
    config: Config
    record: Mapping[str, Any]
    link: str | None
    """Path of its own report, relative to the page; None if it has none."""

    @property
    def scores(self) -> Mapping[str, Any] | None:
        """The final scores, or those of the last scored round."""
        return latest_scores(self.record)

    @property
    def num_regions(self) -> int:
        """Number of regions, K."""
        return num_regions(self.record)

    @property
    def held_out(self) -> bool:
        """Whether the scored images are held out; otherwise they are the training images."""
        return bool(self.config.data.held_out_sites)


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in their seeds."""

    runs: tuple[ComparedRun, ...]
    seeds: Mapping[int, ComparedRun]
    """The run that counts for each seed; repeats are left out, as they would reduce the standard
    deviation."""
    settings: Mapping[str, str]
    """Settings that differ between groups, by dotted key."""
    mean_iou: Spread | None
    pixel_accuracy: Spread | None


def group_runs(runs: Sequence[ComparedRun]) -> list[RunGroup]:
    """Group runs that differ only in their seeds, in the order of their first runs."""
    groups: list[list[ComparedRun]] = []
    for run in runs:
        alike = [
            group for group in groups if set(differing_keys(group[0].config, run.config)) <= {SEED}
        ]
        if alike:
            alike[0].append(run)
        else:
            groups.append([run])
    keys = [key for key in changed_keys([group[0] for group in groups]) if key != SEED]
    return [_join(group, keys) for group in groups]


def _join(runs: Sequence[ComparedRun], keys: Sequence[str]) -> RunGroup:
    seeds = _by_seed(runs)
    return RunGroup(
        runs=tuple(runs),
        seeds=seeds,
        settings={key: setting(runs[0], key) for key in keys},
        mean_iou=_spread(seeds.values(), "mean_iou"),
        pixel_accuracy=_spread(seeds.values(), "pixel_accuracy"),
    )


def _by_seed(runs: Sequence[ComparedRun]) -> dict[int, ComparedRun]:
    """Choose one run of each seed: preferably finished and scored, then the first."""
    picked: dict[int, ComparedRun] = {}
    for run in sorted(runs, key=lambda run: (run.scores is None, run.record["final"] is None)):
        picked.setdefault(run.config.seed, run)
    return picked


def changed_keys(runs: Sequence[ComparedRun]) -> list[str]:
    """List the settings that differ between runs, in the order of the configuration."""
    changed = {key for run in runs[1:] for key in differing_keys(runs[0].config, run.config)}
    # Not every run has every key: an objective's table exists only if the objective is used.
    keys = dict.fromkeys(key for run in runs for key in flatten(to_table(run.config)))
    return [key for key in keys if key in changed]


def setting(run: ComparedRun, key: str) -> str:
    """Format one setting of a run."""
    value = without_folders_in(flatten(to_table(run.config))).get(key)
    if value is None or value in ("", ()):
        return formatting.ABSENT
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def class_table(runs: Sequence[ComparedRun]) -> dict[str, list[float | None]]:
    """List the IoU of each class in all runs, None if a run does not have the class."""
    found = [(run.record["final"] or {}).get("per_class_iou") or {} for run in runs]
    names = {name: None for classes in found for name in classes}
    return {name: [classes.get(name) for classes in found] for name in names}


def site_table(runs: Sequence[ComparedRun]) -> dict[str, list[float | None]]:
    """List the mIoU of each scored site in all runs, None if a run does not have the site."""
    found = [(run.record["final"] or {}).get("sites") or {} for run in runs]
    names = sorted({name for sites in found for name in sites})
    return {name: [sites.get(name, {}).get("mean_iou") for sites in found] for name in names}


def find_caveats(runs: Sequence[ComparedRun]) -> list[str]:
    """List the reasons why scores are less comparable than the table suggests."""
    return [*_unlike_scores(runs), *_unlike_runs(runs), *_single_runs(runs)]


def _unlike_scores(runs: Sequence[ComparedRun]) -> list[str]:
    caveats = []
    data = [key for key in changed_keys(runs) if key.startswith("data.")]
    if data or _differ(_scored_images(run) for run in runs):
        named = f" ({', '.join(data)})" if data else ""
        caveats.append(
            f"The data differ{named}: the runs did not learn from, or are not scored on, the same "
            "images."
        )
    classes = [set((run.record["final"] or {}).get("per_class_iou") or ()) for run in runs]
    for run, own in zip(runs, classes, strict=True):
        missing = sorted(set().union(*classes) - own)
        if own and missing:
            caveats.append(
                f"{run.key} has no class {formatting.listing(missing)}: its mIoU is over fewer "
                "classes."
            )
    protocols = [run.record.get("protocol") or {} for run in runs]
    names = sorted({name for protocol in protocols for name in protocol})
    unlike = [name for name in names if _differ(protocol.get(name) for protocol in protocols)]
    if unlike:
        caveats.append(f"The scores are computed differently ({', '.join(unlike)}).")
    return caveats


def _unlike_runs(runs: Sequence[ComparedRun]) -> list[str]:
    caveats = []
    if _differ(run.num_regions for run in runs):
        caveats.append("The number of regions differs: matching them with classes depends on it.")
    if _differ(run.record["backbone"]["fingerprint"] for run in runs):
        caveats.append("The backbones differ: differences are not due to the training alone.")
    for group in group_runs(runs):
        for run in group.runs:
            counted = group.seeds[run.config.seed]
            if run.key != counted.key:
                caveats.append(
                    f"{run.key} repeats {counted.key}: the same settings and the same seed. It is "
                    "left out of the mean and of the number of seeds."
                )
    return caveats


def _single_runs(runs: Sequence[ComparedRun]) -> list[str]:
    caveats = []
    for run in runs:
        final, rounds = run.record["final"], run.record["rounds"]
        if final is None:
            last = rounds[-1]["round"] if rounds else 0
            caveats.append(f"{run.key} is not finished: round {last} is its last.")
        elif final["mean_iou"] is None:
            why = "its held-out images carry no labels"
            if not run.held_out:
                why = "nothing is held out, and no label of a training image was read"
            caveats.append(f"{run.key} has no scores: {why}.")
        elif final["models"]:
            num = formatting.plural(len(final["models"]), "client")
            caveats.append(f"{run.key} is scored by the mean over the models of its {num}.")
    return caveats


def _scored_images(run: ComparedRun) -> dict[str, int] | None:
    final = run.record["final"]
    if final is None:
        return None
    return {site: result["num_images"] for site, result in final["sites"].items()}


def _differ(values: Any) -> bool:  # noqa: ANN401 - any iterable of JSON
    found = [value for value in values if value is not None]
    return any(value != found[0] for value in found[1:])


def _spread(runs: Iterable[ComparedRun], name: str) -> Spread | None:
    return spread([run.scores[name] if run.scores else None for run in runs])
