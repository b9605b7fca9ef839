"""The leaderboard's rows: what the seeds of one cell gave, what that is worth, and what it costs.

A row   every seed of one identity on one data set: one family with one set of options. If any of its seeds did not end
        well the row has no mean: an average over the survivors would flatter it.
A group rows that may be compared: task, pattern, size, data hash and every setting but the family's own are equal.
Interval  mean +- t(0.975, n - 1) s / sqrt(n) over n seeds: the spread of training, on one test split.
Rank    of rows with an interval (n >= 2). Rows whose intervals overlap, directly or through others, share a rank.
Benefit how much better than `none` in the same group; positive is better, whichever way the metric points. Its
        interval is Welch's over the seeds of both, so that a benefit within the noise is seen to be none.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cab.report.load import canonical, differences, options_text, origin, settings, settings_name
from cab.report.stats import t_interval, welch_interval
from cab.store.record import Record

Costs = Callable[[Sequence[Record]], list[dict[str, Any]]]
"""The cost columns for the records that speak for the rows of a group; see `cab.report.costs`."""


@dataclass
class Row:
    """The seeds of one family with one set of options."""

    records: list[Record]
    label: str = ""
    """The family's name, with the options that tell it from the group's other rows of that family."""
    rank: int | None = None
    tie: bool = False

    @property
    def first(self) -> Record:
        return next((record for record in self.records if record.status == "ok"), self.records[0])

    @property
    def attention(self) -> str:
        return self.first.cell["attention"]

    @property
    def seeds(self) -> list[int]:
        return [record.cell["seed"] for record in self.records]

    @property
    def scores(self) -> list[float]:
        """Of the seeds that have one."""
        values = [score(record) for record in self.records]
        return [value for value in values if value is not None]

    @property
    def complete(self) -> bool:
        return len(self.scores) == len(self.records)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores) if self.complete else None

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.scores) if self.complete and len(self.scores) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        return t_interval(self.scores) if self.complete else None

    @property
    def status(self) -> str:
        """`ok`, or how many seeds ended how: `2 ok, 1 diverged`."""
        counts = Counter("no score" if r.status == "ok" and score(r) is None else r.status for r in self.records)
        if len(counts) == 1:
            return next(iter(counts))
        return ", ".join(f"{counts[name]} {name}" for name in sorted(counts, key=lambda name: (name != "ok", name)))


@dataclass
class Group:
    task: str
    pattern: str
    size: str
    data_hash: str | None
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    difference: str = ""
    """What tells its settings from those of another group with the same heading."""

    @property
    def first(self) -> Record:
        """The record that speaks for the group: headline, data and trivial predictor are the same in all."""
        records = [row.first for row in self.rows]
        ended = [record for record in records if record.status == "ok"]
        return next(iter(ended or [r for r in records if r.result.get("data")]), records[0])

    @property
    def headline(self) -> str | None:
        return self.first.result.get("headline")

    @property
    def better(self) -> str:
        return (self.first.result.get("better") or {}).get(self.headline, "lower")

    @property
    def trivial(self) -> tuple[str | None, float | None]:
        trivial = self.first.result.get("trivial") or {}
        return trivial.get("name"), (trivial.get("metrics") or {}).get(self.headline)

    @property
    def seeds(self) -> set[int]:
        """Of all rows."""
        return {seed for row in self.rows for seed in row.seeds}

    @property
    def control(self) -> Row | None:
        """The row without attention, where there is one and no choice between several."""
        found = [row for row in self.rows if row.attention == "none"]
        return found[0] if len(found) == 1 else None

    def benefit(self, row: Row) -> float | None:
        control = self.control
        if control is None or row is control or control.mean is None or row.mean is None:
            return None
        return (row.mean - control.mean) * (1 if self.better == "higher" else -1)

    def benefit_interval(self, row: Row) -> tuple[float, float] | None:
        """None with fewer than two seeds of either."""
        if self.control is None or self.benefit(row) is None:
            return None
        sign = 1 if self.better == "higher" else -1
        return welch_interval([sign * score for score in row.scores], [sign * score for score in self.control.scores])

    @property
    def attention_helps(self) -> bool | None:
        """Whether any row is better than `none`, beyond the noise where that is known; None where none compares."""
        known = [row for row in self.rows if self.benefit(row) is not None]
        least = [(self.benefit_interval(row) or (self.benefit(row) or 0.0,))[0] for row in known]
        return any(gain > 0 for gain in least) if least else None


def score(record: Record) -> float | None:
    """The headline metric, None where there is none."""
    return (record.result.get("metrics") or {}).get(record.result.get("headline")) if record.status == "ok" else None


def groups(records: Iterable[Record]) -> list[Group]:
    """All quality records as ranked groups, in the order of their headings."""
    found: dict[tuple[Any, ...], dict[str, Row]] = {}
    common: dict[str, dict[str, Any]] = {}
    undated: list[Record] = []
    for record in records:
        common.setdefault(settings_name(record), settings(record.identity))
        if data_hash(record) is None:
            undated.append(record)
        else:
            _add(found.setdefault(_key(record, data_hash(record)), {}), record)
    for record in undated:  # ended before its data was known: belongs wherever its settings are
        keys = [key for key in found if key[:4] == _key(record, None)[:4]] or [_key(record, None)]
        for key in keys:
            _add(found.setdefault(key, {}), record)
    made = [
        Group(task, pattern, size, content, common[name], list(rows.values()))
        for (task, pattern, size, name, content), rows in sorted(found.items(), key=lambda item: str(item[0]))
    ]
    _describe(made)
    for group in made:
        _label(group)
        _rank(group)
    return made


def data_hash(record: Record) -> str | None:
    return (record.result.get("data") or {}).get("content")


def rows_of(group: Group, costs: Costs) -> list[dict[str, Any]]:
    """The group's lines of leaderboard.csv."""
    found = costs([row.first for row in group.rows])
    return [_line(group, row, cost) for row, cost in zip(group.rows, found, strict=True)]


def _key(record: Record, content: str | None) -> tuple[Any, ...]:
    cell = record.cell
    return cell["task"], cell["pattern"], cell["size"], settings_name(record), content


def _add(rows: dict[str, Row], record: Record) -> None:
    row = rows.setdefault(canonical(_without_seed(record)), Row([]))
    row.records.append(record)
    row.records.sort(key=lambda record: (record.cell["seed"], record.hash))


def _without_seed(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.identity.items() if key != "seed"}


def _describe(made: Sequence[Group]) -> None:
    """Says in what groups differ whose headings would be the same."""
    twins: dict[tuple[str, str, str], list[Group]] = {}
    for group in made:
        twins.setdefault((group.task, group.pattern, group.size), []).append(group)
    for alike in twins.values():
        texts = differences(group.settings for group in alike)
        for group, text in zip(alike, texts, strict=True):
            other_data = texts.count(text) > 1
            group.difference = f"{text} data={(group.data_hash or 'unknown')[:8]}".strip() if other_data else text


def _label(group: Group) -> None:
    """Names the rows, with the options that differ where a family has several."""
    families: dict[str, list[Row]] = {}
    for row in group.rows:
        families.setdefault(row.attention, []).append(row)
    for name, rows in families.items():
        texts = differences(_without_seed(row.first) for row in rows) if len(rows) > 1 else [""]
        for row, text in zip(rows, texts, strict=True):
            row.label = f"{name} ({text.replace('attention.', '')})" if text else name


def _rank(group: Group) -> None:
    """Sorts the rows, best first and those without a mean last, and ranks those with an interval."""
    sign = 1 if group.better == "lower" else -1
    group.rows.sort(key=lambda row: (row.mean is None, sign * (row.mean or 0), row.label))
    turned = [row.interval and tuple(sorted(sign * end for end in row.interval)) for row in group.rows]
    for row, (rank, tie) in zip(group.rows, ranks(turned), strict=True):
        row.rank, row.tie = rank, tie


def ranks(spans: Sequence[tuple[float, ...] | None]) -> list[tuple[int | None, bool]]:
    """Rank and tie of intervals (low, high), lower is better; those that overlap, also through others, share one."""
    clusters: list[list[int]] = []
    reach = -math.inf
    for (low, high), place in sorted((span, place) for place, span in enumerate(spans) if span):
        if low > reach:
            clusters.append([])
        clusters[-1].append(place)
        reach = max(reach, high)
    found: list[tuple[int | None, bool]] = [(None, False)] * len(spans)
    rank = 1
    for cluster in clusters:
        for place in cluster:
            found[place] = rank, len(cluster) > 1
        rank += len(cluster)
    return found


def _line(group: Group, row: Row, cost: dict[str, Any]) -> dict[str, Any]:
    data, model = (row.first.result.get(name) or {} for name in ("data", "model"))
    low, high = row.interval or (None, None)
    gain_low, gain_high = group.benefit_interval(row) or (None, None)
    shared = group.first.result.get("data") or {}
    return {
        "task": group.task,
        "pattern": group.pattern,
        "size": group.size,
        "data": None if not (data or shared) else "real" if (data or shared).get("real") else "generated",
        "data_source": (data or shared).get("source"),
        "data_hash": group.data_hash,
        "settings": settings_name(row.first),
        "attention": row.attention,
        "label": row.label,
        "options": options_text(row.first.identity),
        "rank": row.rank,
        "tie": row.tie,
        "headline": group.headline,
        "better": group.better,
        "n": len(row.scores),
        "mean": row.mean,
        "std": row.std,
        "low": low,
        "high": high,
        "benefit": group.benefit(row),
        "benefit_low": gain_low,
        "benefit_high": gain_high,
        "trivial": group.trivial[0],
        "trivial_score": group.trivial[1],
        "status": row.status,
        "reason": next((record.reason for record in row.records if record.reason), ""),
        "core_parameters": model.get("core_parameters"),
        **cost,
        "seeds": " ".join(map(str, row.seeds)),
        "missing_seeds": " ".join(map(str, sorted(group.seeds - set(row.seeds)))),
        **{name: value for name, value in origin(row.first).items() if name not in ("record", "seconds")},
        "records": " ".join(record.hash for record in row.records),
    }
