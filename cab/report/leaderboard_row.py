"""A row of leaderboard.csv."""

from __future__ import annotations

from dataclasses import dataclass

from cab.report.efficiency import Efficiency
from cab.report.groups import Group, GroupKey
from cab.report.load import data_kind, origin
from cab.report.settings import options_text
from cab.report.stats import Estimate
from cab.report.variant import Variant


@dataclass(frozen=True)
class LeaderboardRow:
    """What the seeds of one family with one set of options scored, how that compares, and its efficiency."""

    group: GroupKey
    data: str | None
    """`real` or `synthetic`."""
    data_source: str | None
    attention: str
    label: str
    options: str
    rank: int | None
    tie: bool
    n: int
    """Seeds with a score."""
    mean: Estimate | None
    std: float | None
    benefit: Estimate | None
    trivial: str | None
    trivial_score: float | None
    status: str
    reason: str
    core_parameters: int | None
    efficiency: Efficiency
    seeds: str
    missing_seeds: str
    """Seeds that other rows of the group have."""
    science_version: int
    command: str | None
    revision: str | None
    device: str | None
    started: str | None
    records: str
    task_score: float | None
    """Its task score where it is part of a Compositional Index."""


def leaderboard_rows(group: Group) -> list[LeaderboardRow]:
    key = group.key
    return [_row(group, key, variant) for variant in group.variants]


def _row(group: Group, key: GroupKey, variant: Variant) -> LeaderboardRow:
    record = variant.first
    data = record.result.get("data") or group.first.result.get("data") or {}
    trivial, trivial_score = group.trivial
    return LeaderboardRow(
        group=key,
        data=data_kind(data),
        data_source=data.get("source"),
        attention=variant.attention,
        label=variant.label,
        options=options_text(record.identity.get("attention")),
        rank=variant.rank,
        tie=variant.tie,
        n=len(variant.scores),
        mean=variant.mean,
        std=variant.std,
        benefit=variant.benefit,
        trivial=trivial,
        trivial_score=trivial_score,
        status=variant.status,
        reason=variant.reason,
        core_parameters=(record.result.get("model") or {}).get("core_parameters"),
        efficiency=variant.efficiency,
        seeds=" ".join(map(str, variant.seeds)),
        missing_seeds=" ".join(map(str, sorted(group.seeds - set(variant.seeds)))),
        science_version=record.science_version,
        **origin(record),
        records=" ".join(record.hash for record in variant.records),
        task_score=variant.task_score,
    )
