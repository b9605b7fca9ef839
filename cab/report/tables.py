"""The tables of the document: a group, a Compositional Index, measurements without a row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cab.efficiency.efficiency_length import EfficiencyLength
from cab.report import origin
from cab.report.composite import Composite, Entry
from cab.report.controls import is_control
from cab.report.document import Cell, Column, Row, Table
from cab.report.efficiency import Efficiency
from cab.report.groups import Group
from cab.report.stats import Estimate
from cab.report.text import MISSING, count, estimate, is_logarithmic, number, scale_words
from cab.report.variant import Variant
from cab.sizes import size_text
from cab.store.record import Record

Z_SCORE = "+.3f"
TIE_BREAK = {"<=": -1, "": 0, ">": 1}


def group_columns(group: Group) -> list[tuple[Column, Callable[[Variant], Cell]]]:
    """The columns of a group's table, and the cell of a row in each."""
    grey = group.verdict.tells_apart is False
    gain = "gain over none (log)" if is_logarithmic(group.headline) else "gain over none"
    return [
        (Column("rank", short=True), lambda row: replace(_rank(row.rank, row.tie), grey=grey)),
        (Column("attention", short=True), lambda row: Cell(f"control: {row.label}" if is_control(row) else row.label)),
        (Column("n", short=True), lambda row: Cell(str(len(row.scores)), len(row.scores))),
        (Column(group.score_label, short=True), lambda row: _estimate(row.mean)),
        (Column("std"), lambda row: _number(row.std)),
        (
            Column(gain, short=True),
            lambda row: _estimate(row.gain, "+.3g"),
        ),
        (Column("train time / vanilla", short=True), lambda row: _train_time(row.efficiency)),
        (Column("faster than vanilla from", short=True), lambda row: _crossing(row.efficiency.time_from_vanilla)),
        (Column("faster than eager from"), lambda row: _crossing(row.efficiency.time_from_eager)),
        (Column("CAB's fit of that"), lambda row: _number(row.efficiency.cab_fit_time)),
        (Column("less memory than eager from"), lambda row: _crossing(row.efficiency.memory_from_eager)),
        (Column("less memory than vanilla from"), lambda row: _crossing(row.efficiency.memory_from_vanilla)),
        (Column("decode tokens/s"), lambda row: _decode(row.efficiency)),
        (Column("state"), lambda row: _state(row.efficiency)),
        (Column("learning rate"), lambda row: _learning_rate(row)),
        (Column("core parameters"), lambda row: Cell(count(row.core_parameters), row.core_parameters)),
        (Column("status", short=True), lambda row: Cell(row.status)),
    ]


def group_table(group: Group, efficiency: Mapping[str, Record]) -> Table:
    """`efficiency`: records by hash. With the controls that are no rows of the group."""
    columns = group_columns(group)
    rows = []
    for variant in [*group.variants, *group.other_controls]:
        record = efficiency.get(variant.efficiency.efficiency_record or "")
        status = _status(group, variant)
        rows.append(
            Row(
                [cell(variant) for _, cell in columns],
                note="" if status == "ok" else status,
                origin=origin.of_variant(group, variant, record),
                failed=variant.mean is None,
                control=is_control(variant),
            )
        )
    shown = [column for column, _ in columns]
    if predictor := group.strongest_predictor:
        cells = [Cell(MISSING), Cell(f"predictor: {predictor.name}"), Cell(MISSING), _number(predictor.score)]
        cells += [Cell(MISSING)] * (len(shown) - len(cells) - 1) + [Cell("ok")]
        rows.append(Row(cells, origin=origin.of_records([group.first]), control=True))  # every record has its score
    rows.sort(key=lambda row: (row.cells[3].number is None, -group.sign * (row.cells[3].number or 0.0)))
    return Table(group.title, shown, rows, name=1, sorted_by=3, ascending=group.better == "lower")


def verdict_table(groups: Sequence[tuple[Group, str]]) -> Table:
    """A row for each group with how it differs from those with its name: whether it can tell attentions apart."""
    names = ("task", "pattern", "size", "tells attentions apart", "gain of vanilla", "over", "settings")
    rows = []
    for group, remark in groups:
        found, gain = group.verdict, group.verdict.gain_over_control
        cells = [
            Cell(group.task),
            Cell(group.pattern.replace("_", " ")),
            Cell(group.size),
            Cell(found.word, grey=found.tells_apart is None),
            Cell(f"{estimate(gain, '+.3g')} {scale_words(group.headline)}", gain.value) if gain else Cell(MISSING),
            Cell(found.strongest_control or MISSING),
            Cell(remark or MISSING),
        ]
        rows.append(Row(cells))
    return Table("What each table can tell", [Column(name) for name in names], rows)


def _rank(rank: int | None, tie: bool) -> Cell:
    return Cell(MISSING) if rank is None else Cell(f"{rank} (tie)" if tie else str(rank), rank)


def _number(value: float | None) -> Cell:
    return Cell(number(value), value)


def _estimate(found: Estimate | None, form: str = ".4g") -> Cell:
    return Cell(estimate(found, form), found.value if found else None)


def _crossing(crossing: EfficiencyLength | None) -> Cell:
    return Cell(crossing.text, crossing.value, TIE_BREAK[crossing.censored]) if crossing else Cell(MISSING)


def _train_time(found: Efficiency) -> Cell:
    if found.train_ratio is None:
        return Cell(MISSING)
    text = f"{estimate(found.train_ratio, '.2f')} at {count(found.train_length)}"
    if found.train_rounds and not found.train_ratio.interval:
        text += f" ({found.train_rounds} round{'s' * (found.train_rounds > 1)}, no interval)"
    return Cell(text, found.train_ratio.value)


def _learning_rate(row: Variant) -> Cell:
    """Marked where the best rate has no neighbour on one side, so that a better one may be there."""
    edge = " (edge)" if row.tuning and row.tuning.at_edge else ""
    return Cell(f"{number(row.learning_rate, 'g')}{edge}", row.learning_rate)


def _decode(found: Efficiency) -> Cell:
    if found.decode_tokens_per_second is None:
        return Cell(MISSING)
    speedup = "" if found.decode_speedup is None else f", {estimate(found.decode_speedup, '.2f')} x vanilla"
    recomputed = ", recomputed" if found.decoding == "recomputation" else ""
    text = f"{found.decode_tokens_per_second:,.0f} at {count(found.decode_length)}{recomputed}{speedup}"
    return Cell(text, found.decode_tokens_per_second)


def _state(found: Efficiency) -> Cell:
    if found.state_bytes is None:
        return Cell(MISSING)
    return Cell(f"{size_text(found.state_bytes)} at {count(found.state_length)}", found.state_bytes)


def _status(group: Group, variant: Variant) -> str:
    text = f"{variant.status}: {variant.reason}" if variant.reason else variant.status
    if variant.tuning and variant.tuning.at_edge:
        text += f"; its rate {variant.learning_rate:g} is at the edge of those tried"
    if missing := group.missing_seeds(variant):
        text += f"; no seed {', '.join(map(str, missing))}"
    if variant.left_out:
        text += f"; left out, at other rates: seed {', '.join(map(str, variant.left_out))}"
    return text


def composite_table(made: Composite, title: str) -> Table:
    columns = [
        Column("rank", short=True),
        Column("attention", short=True),
        Column("n", short=True),
        Column("index", short=True),
        Column("Delta", short=True),
        *(Column(task) for task in made.standards),
        Column("tasks"),
        Column("missing", short=True),
    ]
    rows = [Row(_index_cells(entry)) for entry in made.entries]
    return Table(title, columns, rows, name=1, sorted_by=3, ascending=False)


def _index_cells(entry: Entry) -> list[Cell]:
    index = Estimate(entry.index, entry.interval) if entry.index is not None else None
    scored = len(entry.tasks) - len(entry.missing)
    return [
        _rank(entry.rank, entry.tie),
        Cell(entry.label),
        Cell(count(entry.n), entry.n),
        _estimate(index, Z_SCORE),
        Cell(number(entry.delta, Z_SCORE), entry.delta),
        *(Cell(number(score, Z_SCORE), score) for score in entry.tasks.values()),
        Cell(f"{scored} of {len(entry.tasks)}", scored),
        Cell(", ".join(entry.missing) or MISSING),
    ]


def scale_table(made: Composite, title: str) -> Table:
    """Mean and deviation of every metric in an index."""
    columns = [Column(name) for name in ("task", "metric", "mean", "deviation", "over", "data, settings")]
    rows = []
    for task, metrics in made.standards.items():
        group = made.groups[task]
        for metric, standard in metrics.items():
            cells = [
                Cell(task),
                Cell(f"{scale_words(metric)} ({standard.better} is better)"),
                _number(standard.mean),
                _number(standard.deviation),
                Cell(made.families(task)),
                Cell(f"{(group.data_hash or 'unknown')[:12]}, {group.settings_name}"),
            ]
            rows.append(Row(cells))
    return Table(f"{title}: scale", columns, rows, name=1)


def measurement_table(records: Sequence[Record]) -> Table:
    """Efficiency records that belong to no row."""
    names = ("pattern", "level", "dim", "heads", "depth", "hidden", "device", "precision")
    rows = [
        Row(
            [
                Cell(record.cell["attention"]),
                *(Cell(str(record.cell.get(name, MISSING))) for name in names),
                Cell(record.status),
            ],
            note=f"{record.status}: {record.reason}" if record.reason else "",
            origin=origin.of_records([record]),
            failed=record.status != "ok",
        )
        for record in records
    ]
    columns = [Column(name) for name in ("attention", *names, "status")]
    return Table("Other measurements", columns, rows)
