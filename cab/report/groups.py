"""Quality records as groups of variants that can be compared.

Group    variants with the same task, pattern, size, data hash and settings, apart from the family's own.
Rank     of variants with an interval (n >= 2). Those whose intervals overlap, directly or through others, share a rank.
Gain     over `none` in the same group: mean of the variant - mean of none, more is better, perplexities by their
         logarithm. Its interval is Welch's over the seeds of both.
Verdict  whether the group can tell attentions apart (`cab.report.verdict`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cab.report.controls import share_controls
from cab.report.efficiency_table import EfficiencyTable
from cab.report.oriented import oriented
from cab.report.predictors import Scored, strongest_predictor
from cab.report.settings import canonical, differences, labels, options, settings, settings_name
from cab.report.stats import Interval, difference
from cab.report.text import is_logarithmic
from cab.report.variant import Variant, data_hash, settled
from cab.report.verdict import Verdict, verdict
from cab.store.record import Record


@dataclass(eq=False)
class Group:
    """Equal to itself only, so that it can be a key."""

    task: str
    pattern: str
    size: str
    data_hash: str | None
    settings: dict[str, Any]
    variants: list[Variant] = field(default_factory=list, repr=False)
    """Best first, those without a mean last."""
    difference: str = ""
    """How its settings differ from those of other groups with the same task, pattern and size."""
    figure_name: str = ""
    """`lm_causal_self_smoke`, with settings and data where several groups have this task, pattern and size."""
    other_controls: list[Variant] = field(default_factory=list, repr=False)
    """The rows of `none` of groups that differ in the short convolution only."""
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def first(self) -> Record:
        """The record that stands for the group: headline, data and predictors are the same in all."""
        records = [variant.first for variant in self.variants]
        ended = [record for record in records if record.status == "ok"]
        return next(iter(ended or [record for record in records if record.result.get("data")]), records[0])

    @property
    def title(self) -> str:
        return f"{self.task}, {self.pattern.replace('_', ' ')}, {self.size}"

    @property
    def full_title(self) -> str:
        """With the difference from other groups."""
        return f"{self.title}, {self.difference}" if self.difference else self.title

    @property
    def settings_name(self) -> str:
        return settings_name(self.first)

    @property
    def headline(self) -> str | None:
        return self.first.result.get("headline")

    @property
    def better(self) -> str:
        return (self.first.result.get("better") or {}).get(self.headline, "lower")

    @property
    def score_label(self) -> str:
        return f"{(self.headline or 'score').replace('_', ' ')} ({self.better} is better)"

    @property
    def sign(self) -> float:
        """Times a score: more is better."""
        return 1.0 if self.better == "higher" else -1.0

    @property
    def strongest_predictor(self) -> Scored | None:
        return strongest_predictor(self.first.result)

    def missing_seeds(self, variant: Variant) -> list[int]:
        """The seeds that only other variants have."""
        return sorted({seed for each in self.variants for seed in each.seeds} - set(variant.seeds))

    @property
    def control(self) -> Variant | None:
        """The variant without attention, if there is exactly one."""
        found = [variant for variant in self.variants if variant.attention == "none"]
        return found[0] if len(found) == 1 else None

    @property
    def columns(self) -> dict[str, Any]:
        """The columns that name the group in a table."""
        return {
            "task": self.task,
            "pattern": self.pattern,
            "size": self.size,
            "data_hash": self.data_hash,
            "settings": self.settings_name,
            "difference": self.difference,
            "headline": self.headline,
            "better": self.better,
            "scale": "log" if is_logarithmic(self.headline) else "linear",
        }


def make_groups(records: Iterable[Record], efficiency: EfficiencyTable | None = None) -> list[Group]:
    """All quality records as ranked groups, in the order of their titles, with the efficiency of every variant."""
    found: dict[tuple[Any, ...], dict[str, list[Record]]] = {}
    settings_by_name: dict[str, dict[str, Any]] = {}
    without_data: list[Record] = []
    for record in records:
        settings_by_name.setdefault(settings_name(record), settings(record))
        if data_hash(record) is None:
            without_data.append(record)
        else:
            _add(found.setdefault(_key(record, data_hash(record)), {}), record)
    for record in without_data:  # ended before its data was known: belongs to every group with its settings
        keys = [key for key in found if key[:4] == _key(record, None)[:4]] or [_key(record, None)]
        for key in keys:
            _add(found.setdefault(key, {}), record)
    groups = [
        Group(task, pattern, size, content, settings_by_name[name], [settled(each) for each in families.values()])
        for (task, pattern, size, name, content), families in sorted(found.items(), key=lambda item: str(item[0]))
    ]
    _name(groups)
    for group in groups:
        for variant in group.variants:
            variant.records.sort(key=lambda record: (record.cell["seed"], record.hash))
        _label(group.variants)
        _rank(group)
        _compare_with_none(group)
        if efficiency:
            figures = efficiency.find([variant.first for variant in group.variants])
            for variant, each in zip(group.variants, figures, strict=True):
                variant.efficiency = each
    share_controls(groups)
    for group in groups:
        group.verdict = verdict(group)
    return groups


def _key(record: Record, content: str | None) -> tuple[Any, ...]:
    cell = record.cell
    return cell["task"], cell["pattern"], cell["size"], settings_name(record), content


def _add(families: dict[str, list[Record]], record: Record) -> None:
    """To those of the same family and options; of a group, whose settings are equal."""
    families.setdefault(canonical(record.identity.get("attention")), []).append(record)


def _name(groups: Sequence[Group]) -> None:
    """Says how groups with the same task, pattern and size differ, and names their figures."""
    alike: dict[str, list[Group]] = {}
    for group in groups:
        alike.setdefault(f"{group.task}_{group.pattern}_{group.size}", []).append(group)
    for name, same in alike.items():
        texts = differences([group.settings for group in same])
        for group, text in zip(same, texts, strict=True):
            content = group.data_hash or "unknown"
            group.difference = f"{text} data={content[:8]}".strip() if texts.count(text) > 1 else text
            group.figure_name = f"{name}_{group.settings_name}_{content[:6]}" if len(same) > 1 else name


def _label(variants: Sequence[Variant]) -> None:
    found = labels([variant.attention for variant in variants], [options(variant.first) for variant in variants])
    for variant, label in zip(variants, found, strict=True):
        variant.label = label


def _rank(group: Group) -> None:
    sign = group.sign
    group.variants.sort(key=lambda each: (each.mean is None, -sign * each.mean.value if each.mean else 0.0, each.label))
    intervals = [variant.mean.interval if variant.mean else None for variant in group.variants]
    for variant, (rank, tie) in zip(group.variants, ranks(intervals, group.better), strict=True):
        variant.rank, variant.tie = rank, tie


def _compare_with_none(group: Group) -> None:
    control = oriented(group, group.control) if group.control else None
    for variant in group.variants if control else ():
        if variant is not group.control and (own := oriented(group, variant)):
            variant.gain = difference(own, control or [])


def ranks(intervals: Sequence[Interval | None], better: str) -> list[tuple[int | None, bool]]:
    """Rank and tie for each interval; those that overlap, also through others, share a rank."""
    known = []  # (low, high, place), lower is better
    for place, interval in enumerate(intervals):
        if interval is not None:
            low, high = interval
            known.append((low, high, place) if better == "lower" else (-high, -low, place))
    clusters: list[list[int]] = []
    reach = -math.inf
    for low, high, place in sorted(known):
        if low > reach:
            clusters.append([])
        clusters[-1].append(place)
        reach = max(reach, high)
    found: list[tuple[int | None, bool]] = [(None, False)] * len(intervals)
    rank = 1
    for cluster in clusters:
        for place in cluster:
            found[place] = rank, len(cluster) > 1
        rank += len(cluster)
    return found
