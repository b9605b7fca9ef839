"""The Compositional Index: one number per family over the tasks of a pattern (Zhang et al., ICML 2023, 2210.07661).

    z     = (x - mean) / deviation of a metric, sign turned where lower is better: positive is better
    task  = mean of z over the task's metrics (and, in CAB, over its data sets, each with its own metrics)
    index = mean over the pattern's tasks;     Delta = index - vanilla's index

CAB's mean and deviation are frozen: those of the families of 2022, by which later ones are judged. For our own records
they are taken over the families that are compared, once per table, and written beside it. An index says how a family
stands among those families and nothing else: it moves when the families change. Differences from CAB:
    perplexities count by their logarithm, else one bad family hides the differences between all good ones
    `eager` (vanilla once more) and `none` (the control) are judged, but do not set the scale
    a family that lacks a task has no index, and a task with fewer than three families has no z
    the interval is that of the mean over seeds of each seed's index, where a family has the same seeds in all tasks;
    the mean and deviation are held fixed in it
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cab.report.load import canonical, differences, settings_name
from cab.report.rows import Group, Row, ranks
from cab.report.stats import t_interval

CONTROLS = ("eager", "none")
FEWEST = 3
"""Families: the z-scores of two are +-0.71, whatever they score."""
Scores = Mapping[str, Mapping[str, float]]
"""Task -> metric -> what one family scores. What it lacks is absent."""
Seeds = Mapping[int, Mapping[str, float]]
"""Seed -> metric -> score."""


@dataclass(frozen=True)
class Standard:
    """What a metric is measured by."""

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
        whole = all(name in own for name in metrics)
        found[task] = statistics.fmean(each.z(own[name]) for name, each in metrics.items()) if whole else None
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
    rows: dict[str, Row] = field(default_factory=dict)
    """By task."""
    label: str = ""
    tasks: dict[str, float | None] = field(default_factory=dict)
    index: float | None = None
    n: int | None = None
    """Seeds; None where they are not the same in all tasks."""
    interval: tuple[float, float] | None = None
    delta: float | None = None
    rank: int | None = None
    tie: bool = False

    @property
    def missing(self) -> list[str]:
        """The tasks without a score, and why."""
        return [self._reason(task) for task, score in self.tasks.items() if score is None]

    def _reason(self, task: str) -> str:
        if task not in self.rows:
            return f"{task} (no record)"
        status = self.rows[task].status
        return f"{task} ({'no score in a metric' if status == 'ok' else status})"


@dataclass
class Composite:
    """The table of one pattern at one size."""

    pattern: str
    size: str
    groups: dict[str, Group] = field(default_factory=dict)
    """The records of each task: of one data set, with one set of settings."""
    standards: dict[str, dict[str, Standard]] = field(default_factory=dict)
    judges: dict[str, list[Row]] = field(default_factory=dict)
    """The rows over which a task's standards are taken."""
    entries: list[Entry] = field(default_factory=list)
    """Best first; none where no task has enough families."""
    notes: list[str] = field(default_factory=list)
    """What is not in it, and why."""


def composites(groups: Iterable[Group]) -> list[Composite]:
    """A table for each pattern and size, from ranked groups."""
    found: dict[tuple[str, str], dict[str, list[Group]]] = {}
    for group in groups:
        found.setdefault((group.pattern, group.size), {}).setdefault(group.task, []).append(group)
    return [_composite(Composite(*key), tasks) for key, tasks in sorted(found.items())]


def parts(made: Iterable[Composite]) -> dict[int, float]:
    """The task score of each row that is part of an index, by the row's `id`."""
    return {
        id(entry.rows[task]): score
        for table in made
        for entry in table.entries
        for task, score in entry.tasks.items()
        if score is not None
    }


def _composite(made: Composite, tasks: Mapping[str, Sequence[Group]]) -> Composite:
    for task, candidates in sorted(tasks.items()):
        group = max(candidates, key=_weight)
        if len(candidates) > 1:
            others = ", ".join(name_of(other) for other in candidates if other is not group)
            made.notes.append(f"{task}: of {len(candidates)} tables {name_of(group)} counts, not {others}")
        _add_task(made, task, group)
    for task, group in made.groups.items():
        for row in group.rows:
            options = row.first.identity.get("attention")
            _entry(made, row.attention, options if isinstance(options, Mapping) else {}).rows[task] = row
    _label(made.entries)
    for entry in made.entries:
        _judge(entry, made)
    vanilla = [entry.index for entry in made.entries if entry.attention == "vanilla"]
    for entry in made.entries:
        if len(vanilla) == 1 and vanilla[0] is not None and entry.index is not None:
            entry.delta = entry.index - vanilla[0]
    made.entries.sort(key=lambda entry: (entry.index is None, -(entry.index or 0.0), entry.label))
    turned = [entry.interval and (-entry.interval[1], -entry.interval[0]) for entry in made.entries]
    for entry, (rank, tie) in zip(made.entries, ranks(turned), strict=True):
        entry.rank, entry.tie = rank, tie
    return made


def _add_task(made: Composite, task: str, group: Group) -> None:
    """Takes the task in, or says why there is nothing to judge by."""
    judges = _judges(group)
    families = sorted({row.attention for row in judges})
    if len(families) < FEWEST:
        beside = ", ".join(f"`{name}`" for name in CONTROLS)
        has = f"{len(families)} ({', '.join(families)})" if families else "none"
        made.notes.append(f"{task}: {FEWEST} families beside {beside} are needed, there are {has}")
        return
    standards = {}
    for name, better in _metrics(group).items():
        values = [_mean(seeds, name) for row in judges if (seeds := _seeds(row, group))]
        standard = Standard.of(values, better)
        if standard.deviation > 0:
            standards[name] = standard
        else:
            made.notes.append(f"{task}: all families score the same {name}, which is left out")
    if standards:
        made.groups[task], made.standards[task], made.judges[task] = group, standards, judges


def _judges(group: Group) -> list[Row]:
    return [row for row in group.rows if row.attention not in CONTROLS and _seeds(row, group)]


def _metrics(group: Group) -> dict[str, str]:
    return group.first.result.get("better") or {}


def _seeds(row: Row, group: Group) -> Seeds | None:
    """Every metric of every seed; None where one is missing."""
    found = {}
    for record in row.records:
        scores = record.result.get("metrics") or {}
        values = {name: scaled(name, scores.get(name)) for name in _metrics(group)}
        whole = {name: value for name, value in values.items() if value is not None}
        if record.status != "ok" or not whole or len(whole) < len(values):
            return None
        found[record.cell["seed"]] = whole
    return found


def scaled(metric: str, value: Any) -> float | None:
    """On the scale on which it counts; None where it is no finite number of that scale."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if not is_logarithmic(metric):
        return float(value)
    return math.log(value) if value > 0 else None


def is_logarithmic(metric: str) -> bool:
    return metric.endswith("perplexity")


def _mean(seeds: Seeds, metric: str) -> float:
    return statistics.fmean(values[metric] for values in seeds.values())


def _weight(group: Group) -> tuple[Any, ...]:
    """Of several tables of a task that with most families counts, then most seeds, then the newest."""
    judges = _judges(group)
    started = max(record.provenance.get("started") or "" for row in group.rows for record in row.records)
    seeds = sum(len(row.records) for row in judges)
    return len({row.attention for row in judges}), seeds, started, name_of(group)


def name_of(group: Group) -> str:
    """Data and settings, as leaderboard.csv names them."""
    return f"data {(group.data_hash or 'unknown')[:12]} settings {settings_name(group.first)}"


def _entry(made: Composite, attention: str, options: Mapping[str, Any]) -> Entry:
    for entry in made.entries:
        if entry.attention == attention and canonical(entry.options) == canonical(options):
            return entry
    made.entries.append(Entry(attention, options))
    return made.entries[-1]


def _label(entries: Sequence[Entry]) -> None:
    """Names the entries, with the options that differ where a family has several."""
    for name in {entry.attention for entry in entries}:
        alike = [entry for entry in entries if entry.attention == name]
        texts = differences(entry.options for entry in alike) if len(alike) > 1 else [""]
        for entry, text in zip(alike, texts, strict=True):
            entry.label = f"{name} ({text})" if text else name


def _judge(entry: Entry, made: Composite) -> None:
    found = {task: seeds for task, row in entry.rows.items() if (seeds := _seeds(row, made.groups[task]))}
    means = {task: {name: _mean(seeds, name) for name in made.standards[task]} for task, seeds in found.items()}
    entry.tasks = task_scores(means, made.standards)
    entry.index = index(entry.tasks)
    if entry.index is None or len({frozenset(seeds) for seeds in found.values()}) != 1:
        return
    each = [
        index(task_scores({task: seeds[seed] for task, seeds in found.items()}, made.standards))
        for seed in next(iter(found.values()))
    ]
    entry.n = len(each)
    entry.interval = t_interval([value for value in each if value is not None])
