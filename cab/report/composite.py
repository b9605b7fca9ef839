"""The Compositional Index: one number per family over the tasks of a pattern (Zhang et al., ICML 2023, 2210.07661).

    z     = (x - mean) / deviation of a metric, with its sign changed where lower is better: positive is better
    task  = mean of z over the task's metrics (in CAB also over its data sets, each with its own metrics)
    index = mean over the pattern's tasks;     Delta = index - vanilla's index

CAB's mean and deviation are fixed: those of the families of 2022. For our own records they are taken over the families
of the table, and written beside it. An index compares a family with those families only: it changes when they change.
Differences from CAB:
    perplexities count by their logarithm, so that one bad family does not hide the differences between good ones
    `eager` (the same function as vanilla) and the controls (`none`, `local`) have an index, but do not set the scale
    a table that does not tell attentions apart (`cab.report.verdict`) does not count
    a family that lacks a task has no index, and a task with fewer than three families has no z
    the interval is that of the mean over seeds of each seed's index, where a family has the same seeds in all tasks;
    mean and deviation are held fixed in it
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cab.report.controls import CONTROLS
from cab.report.groups import Group, ranks
from cab.report.load import started
from cab.report.oriented import scaled
from cab.report.settings import canonical, labels, options
from cab.report.stats import Interval, t_interval
from cab.report.variant import Variant

NOT_IN_SCALE = ("eager", *CONTROLS)
"""Families that do not set the scale."""
FEWEST = 3
"""Families: the z-scores of two are +-0.71, whatever they score."""
Scores = Mapping[str, Mapping[str, float]]
"""Task -> metric -> score of one family, without what it lacks."""
Seeds = Mapping[int, Mapping[str, float]]
"""Seed -> metric -> score."""


@dataclass(frozen=True)
class Standard:
    """Mean and deviation of a metric over families."""

    mean: float
    deviation: float
    better: str

    @classmethod
    def of(cls, values: Sequence[float], better: str) -> Standard:
        return cls(statistics.fmean(values), statistics.stdev(values), better)

    def z(self, value: float) -> float:
        z = (value - self.mean) / self.deviation
        return z if self.better == "higher" else -z


Standards = Mapping[str, Mapping[str, Standard]]


def task_scores(scores: Scores, standards: Standards) -> dict[str, float | None]:
    """One number per task of `standards`; None where any of its metrics is missing."""
    found: dict[str, float | None] = {}
    for task, metrics in standards.items():
        own = scores.get(task, {})
        complete = all(name in own for name in metrics)
        found[task] = statistics.fmean(each.z(own[name]) for name, each in metrics.items()) if complete else None
    return found


def index(tasks: Mapping[str, float | None]) -> float | None:
    """The mean over tasks; None where any is missing."""
    values = [value for value in tasks.values() if value is not None]
    return statistics.fmean(values) if values and len(values) == len(tasks) else None


@dataclass
class Entry:
    """One family with one set of options, in all tasks of a table."""

    attention: str
    options: Mapping[str, Any]
    variants: dict[str, Variant] = field(default_factory=dict)
    """By task."""
    label: str = ""
    tasks: dict[str, float | None] = field(default_factory=dict)
    """Score of each task."""
    index: float | None = None
    n: int | None = None
    """Seeds; None where they are not the same in all tasks."""
    interval: Interval | None = None
    """Of the index."""
    delta: float | None = None
    rank: int | None = None
    tie: bool = False

    @property
    def missing(self) -> list[str]:
        """The tasks without a score, and why."""
        found = []
        for task, score in self.tasks.items():
            if score is None:
                status = self.variants[task].status if task in self.variants else "no record"
                found.append(f"{task} ({'no score in a metric' if status == 'ok' else status})")
        return found


@dataclass
class Composite:
    """The table of one pattern at one size."""

    pattern: str
    size: str
    groups: dict[str, Group] = field(default_factory=dict)
    """The group of each task."""
    standards: dict[str, dict[str, Standard]] = field(default_factory=dict)
    references: dict[str, list[Variant]] = field(default_factory=dict)
    """The variants that set a task's standards."""
    entries: list[Entry] = field(default_factory=list)
    """Best first; none where no task has enough families."""
    notes: list[str] = field(default_factory=list)
    """What is left out, and why."""

    def families(self, task: str) -> str:
        """The rows that set a task's standards."""
        return ", ".join(sorted(variant.label for variant in self.references[task]))


def composites(groups: Iterable[Group]) -> list[Composite]:
    """A table for each pattern and size, from ranked groups. Writes the task scores into their variants."""
    found: dict[tuple[str, str], dict[str, list[Group]]] = {}
    for group in groups:
        found.setdefault((group.pattern, group.size), {}).setdefault(group.task, []).append(group)
    return [_composite(Composite(*key), tasks) for key, tasks in sorted(found.items())]


def _composite(made: Composite, tasks: Mapping[str, Sequence[Group]]) -> Composite:
    for task, every in sorted(tasks.items()):
        candidates = [group for group in every if group.verdict.tells_apart is not False]
        for group in every:
            if group not in candidates:
                made.notes.append(f"{task}: {_cannot_tell(group)} ({name_of(group)})")
        if not candidates:
            continue
        group = max(candidates, key=_weight)
        if len(candidates) > 1:
            others = ", ".join(name_of(other) for other in candidates if other is not group)
            made.notes.append(f"{task}: of {len(candidates)} tables {name_of(group)} counts, not {others}")
        _add_task(made, task, group)
    entries: dict[str, Entry] = {}
    for task, group in made.groups.items():
        for variant in group.variants:
            name = canonical([variant.attention, options(variant.first)])
            entry = entries.setdefault(name, Entry(variant.attention, options(variant.first)))
            entry.variants[task] = variant
    made.entries = list(entries.values())
    found = labels([entry.attention for entry in made.entries], [entry.options for entry in made.entries])
    for entry, label in zip(made.entries, found, strict=True):
        entry.label = label
        _score(entry, made)
    vanilla = [entry.index for entry in made.entries if entry.attention == "vanilla"]
    for entry in made.entries:
        if len(vanilla) == 1 and vanilla[0] is not None and entry.index is not None:
            entry.delta = entry.index - vanilla[0]
    made.entries.sort(key=lambda entry: (entry.index is None, -(entry.index or 0.0), entry.label))
    intervals = [entry.interval for entry in made.entries]
    for entry, (rank, tie) in zip(made.entries, ranks(intervals, "higher"), strict=True):
        entry.rank, entry.tie = rank, tie
    return made


def _cannot_tell(group: Group) -> str:
    control = group.verdict.strongest_control
    return f"vanilla is not better than {control} beyond the noise, the table does not tell attentions apart"


def _add_task(made: Composite, task: str, group: Group) -> None:
    """Adds the task, or a note on why it is left out."""
    references = _references(group)
    families = sorted({variant.attention for variant in references})
    if len(families) < FEWEST:
        beside = ", ".join(f"`{name}`" for name in NOT_IN_SCALE)
        has = f"{len(families)} ({', '.join(families)})" if families else "none"
        made.notes.append(f"{task}: {FEWEST} families beside {beside} are needed, there are {has}")
        return
    standards = {}
    for name, better in _metrics(group).items():
        values = [_mean(seeds, name) for variant in references if (seeds := _seeds(variant, group))]
        standard = Standard.of(values, better)
        if standard.deviation > 0:
            standards[name] = standard
        else:
            made.notes.append(f"{task}: all families score the same {name}, which is left out")
    if standards:
        made.groups[task], made.standards[task], made.references[task] = group, standards, references


def _references(group: Group) -> list[Variant]:
    return [variant for variant in group.variants if variant.attention not in NOT_IN_SCALE and _seeds(variant, group)]


def _metrics(group: Group) -> dict[str, str]:
    return group.first.result.get("better") or {}


def _seeds(variant: Variant, group: Group) -> Seeds | None:
    """Every metric of every seed; None where one is missing."""
    found = {}
    for record in variant.records:
        scores = record.result.get("metrics") or {}
        values = {name: scaled(name, scores.get(name)) for name in _metrics(group)}
        known = {name: value for name, value in values.items() if value is not None}
        if record.status != "ok" or not known or len(known) < len(values):
            return None
        found[record.cell["seed"]] = known
    return found


def _mean(seeds: Seeds, metric: str) -> float:
    return statistics.fmean(values[metric] for values in seeds.values())


def _weight(group: Group) -> tuple[Any, ...]:
    """Of several tables of a task that with most families counts, then most seeds, then the newest."""
    references = _references(group)
    newest = max(started(record) for variant in group.variants for record in variant.records)
    seeds = sum(len(variant.records) for variant in references)
    return len({variant.attention for variant in references}), seeds, newest, name_of(group)


def name_of(group: Group) -> str:
    """Data and settings, as leaderboard.csv names them."""
    return f"data {(group.data_hash or 'unknown')[:12]} settings {group.settings_name}"


def _score(entry: Entry, made: Composite) -> None:
    found = {task: seeds for task, each in entry.variants.items() if (seeds := _seeds(each, made.groups[task]))}
    means = {task: {name: _mean(seeds, name) for name in made.standards[task]} for task, seeds in found.items()}
    entry.tasks = task_scores(means, made.standards)
    for task, variant in entry.variants.items():
        variant.task_score = entry.tasks[task]
    entry.index = index(entry.tasks)
    if entry.index is None or len({frozenset(seeds) for seeds in found.values()}) != 1:
        return
    each = [
        index(task_scores({task: seeds[seed] for task, seeds in found.items()}, made.standards))
        for seed in next(iter(found.values()))
    ]
    entry.n = len(each)
    entry.interval = t_interval([value for value in each if value is not None])
