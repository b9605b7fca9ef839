"""Builds the document: a section per group, the Compositional Index, the analyses, efficiency, files left out."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cab.report import document as doc
from cab.report.analyses.base import Answer
from cab.report.composite import FEWEST, Composite
from cab.report.controls import WINDOW
from cab.report.efficiency_table import machine
from cab.report.figures import lengths, plots, rates
from cab.report.groups import Group
from cab.report.load import Loaded, data_kind, started
from cab.report.settings import canonical, short_difference
from cab.report.tables import composite_table, group_table, measurement_table, scale_table, verdict_table
from cab.report.text import MISSING
from cab.store.record import Record

REMARK = 40
"""Characters of a remark beside a title."""
INTRODUCTION = """\
Where does an attention mechanism pay: at which length, in which of four patterns, on which task, at what quality, and
compared with what? Each table compares families that were trained on the same task, with the same data, settings and
number of core parameters. Every number comes from the record of a run, and `python -m cab.leaderboard` makes this page
from the records alone."""
QUESTION = """\
Can a table tell attentions apart? Only if vanilla is better than the strongest control by more than the noise over
seeds. Where it is not, what the table shows can be had without attention: its ranks are grey, and it does not count in
the Compositional Index and in correlations."""
LEGEND = (
    """\
A missing number is `-`, and no average is taken over the others: a row with a seed that did not end well has no mean.
The interval is 95% (t) over seeds of training, all evaluated on the same test data; it does not contain the choice of
test data. Rows whose intervals overlap, directly or through a third row, share a rank (tie); a single seed has no rank.
A gain is a difference of means, positive is better, perplexities by their logarithm; with its 95% interval (Welch)
where both have two seeds. The gain over the strongest control is vanilla's; of a predictor, which has no seeds, its
interval is that of vanilla.""",
    """\
Time and memory are those of a training step of the stack, measured in rounds with the baselines: the ratio at the
longest length at which both were measured, and the length from which the row is cheaper at all longer lengths, with 95%
intervals of medians over rounds, which need six rounds or more. A tie is what these do not tell apart: `tie (300 to >
2,048)` may begin to be cheaper at any length from 300 on, or nowhere. CAB's own fit of the time against `eager` (larger
root of a quadratic minus a line) stands beside it. Decoding speed and state are at the longest measured length;
`recomputed` marks a family that computes the whole sequence again for every token. In cross patterns a family of layers
replaces only the attention to the memory, and the stack keeps vanilla's attention to itself; a family that is a whole
stack replaces both. Quality and efficiency of a row come from records with the same options and stack shape; all
efficiency figures of a table come from one machine.""",
)
TERMS = {
    "Baselines": "`vanilla` is softmax attention with the fused kernel that one would use today; `eager` is the same"
    " function written out: the difference between the two in quality is noise.",
    "Controls": "show what a task gives without attention to anything far away. `none` does not mix tokens. `local` is"
    f" softmax attention to {WINDOW} tokens at most; where the sequence is no longer than that, it is no control."
    " A predictor has no attention and no network. Tables with and without a short convolution in all of their models"
    " stand apart, and each shows the `none` of the other, unranked.",
    "Patterns": "noncausal self: an output may depend on the whole sequence, as in an encoder. causal self: on earlier"
    " positions, as in a language model. noncausal cross: on all queries and the whole memory. causal cross: on earlier"
    " queries and the whole memory, as in the decoder of a translator.",
    "Synthetic data": "comes from a program of this project: a score on it shows what a mechanism can do, not how"
    " useful that is.",
    "Origin": "below each row: the command that makes it again, the commit (dirty: with changes that were not"
    " committed), hashes of data and records, device, versions.",
}
INDEX_LEGEND = f"""\
CAB's index: z-scores of all metrics, positive is better, averaged over a task's metrics, then over tasks. Delta is
the difference from vanilla. Mean and deviation are those of the families of this table, and stand below it: an index
compares a family with these families only, and cannot be compared with that of another table. `eager` and controls
have an index, but do not set mean and deviation. Tables that do not tell attentions apart do not count. Perplexities
count by their logarithm. A family that lacks a task has no index; a task with fewer than {FEWEST} families is left
out. The interval is 95% (t) over the indices of the seeds, for families with the same seeds in all tasks, with mean
and deviation held fixed; rows whose intervals overlap, directly or through a third, share a rank."""


def document(
    groups: Sequence[Group],
    composites: Sequence[Composite],
    answers: Sequence[Answer],
    loaded: Loaded,
    results: Path,
    figures: bool = True,
) -> doc.Document:
    """`results`: the folder relative to which files that were left out are named."""
    sections = [
        *_groups(groups, loaded, figures),
        *_composites(composites),
        *_analyses(answers, figures),
        *_efficiency(groups, loaded.efficiency, figures),
        *_left_out(loaded, results),
    ]
    introduction: list[doc.Block] = [doc.Paragraph(INTRODUCTION), doc.Paragraph(_counts(loaded))]
    if groups:
        introduction += [doc.Paragraph(QUESTION), verdict_table([(group, _remark(group)) for group in groups])]
    else:
        introduction.append(doc.Paragraph("There are no quality records: nothing to rank.", short=True))
    legend: list[doc.Block] = [*map(doc.Paragraph, LEGEND), doc.Definitions(TERMS)]
    return doc.Document("CAB leaderboard", introduction, legend, sections)


def _counts(loaded: Loaded) -> str:
    newest = max((started(record) for record in [*loaded.quality, *loaded.efficiency]), default="")[:10]
    text = f"{len(loaded.quality):,} quality and {len(loaded.efficiency):,} efficiency records"
    text += f", the newest of {newest}" if newest else ""
    return f"{text}; {len(loaded.problems):,} files left out." if loaded.problems else f"{text}."


def _groups(groups: Sequence[Group], loaded: Loaded, figures: bool) -> list[doc.Section]:
    efficiency = {record.hash: record for record in loaded.efficiency}
    sections = []
    for place, group in enumerate(groups):
        blocks: list[doc.Block] = [doc.Paragraph(group.verdict.sentence, short=True, important=True)]
        blocks.append(doc.Paragraph(_facts(group)))
        if group.difference:
            settings = doc.Paragraph(f"Settings: {group.difference}.")
            blocks.append(doc.Details("Settings in which tables differ", [settings]))
        blocks.append(group_table(group, efficiency))
        blocks += _group_figures(group) if figures else []
        kind = data_kind(group.first.result.get("data") or {})
        best = ", ".join(variant.label for variant in group.variants if variant.rank == 1)
        best = MISSING if group.verdict.tells_apart is False or not best else best
        filters = {"task": group.task, "pattern": group.pattern, "size": group.size}
        tag, remark = f"{kind} data" if kind and group.data_hash else "data unknown", _remark(group)
        sections.append(
            doc.Section(group.title, f"table-{place}", blocks, remark=remark, tag=tag, best=best, filters=filters)
        )
    return sections


def _remark(group: Group) -> str:
    """How it differs from tables with its title."""
    return short_difference(group.difference, group.settings_name, REMARK) if group.difference else ""


def _facts(group: Group) -> str:
    """Data and training."""
    data = group.first.result.get("data") or {}
    if group.data_hash:
        description = f" ({data['description']})" if data.get("description") else ""
        source = f"{data.get('source')}{_data_name(group.first.config.get('data') or {})}"
        text = f"Data: {data_kind(data)}, {source}{description}, content {group.data_hash[:12]}."
        text += _known(data.get("facts") or {})
    else:
        text = "Data: unknown, no cell got as far as its data."
    train, model = (group.settings.get(name) or {} for name in ("train", "model"))
    if train.get("steps"):
        length = f" at length {model['length']:,}" if model.get("length") else ""
        memory = f" with a memory of {model['memory']:,}" if model.get("memory") else ""
        at_most = "at most " if train.get("stop_at") is not None else ""
        if "tuned" in str(train.get("lr")):
            text += f" Learning rates {train['lr']}, on validation."
        text += f" Trained for {at_most}{train['steps']:,} steps of {train.get('batch')}{length}{memory}."
    return text


def _known(facts: Mapping[str, Any]) -> str:
    """What a record tells of its data that a score has to be read with."""
    text = ""
    if (share := facts.get("test_text_in_train")) is not None:
        run = facts.get("run_bytes")
        text += f" {share:.1%} of the test text is also in train, in runs of {run} bytes or more."
    if words := facts.get("words"):
        text += f" Words are {words}."
    return text


def _data_name(data: dict[str, Any]) -> str:
    """The name of a data set, or the last part of its path: the rest differs between machines."""
    name = data.get("id") or Path(str(data.get("path") or "")).name
    return f" {name}" if name else ""


def _group_figures(group: Group) -> list[doc.Figure]:
    trained = [each for each in group.variants if any(record.result.get("curve") for record in each.records)]
    measured = [variant for variant in group.variants if plots.has_tradeoff(variant)]
    title = group.full_title
    found = []
    if trained:
        found.append(doc.Figure(f"curves_{group.figure_name}", "Training curves", plots.curves, (trained, title)))
    if measured:
        content = (group, group.variants)
        found.append(doc.Figure(f"tradeoff_{group.figure_name}", "Quality against efficiency", plots.tradeoff, content))
    if any(variant.tuning for variant in group.variants):
        found.append(doc.Figure(f"rates_{group.figure_name}", "Validation against rate", rates.draw, (group,)))
    return found


def _composites(composites: Sequence[Composite]) -> list[doc.Section]:
    if not composites:
        return []
    sections = [doc.Section("Compositional Index", "index", [doc.Paragraph(INDEX_LEGEND)])]
    for place, made in enumerate(composites):
        title = f"Compositional Index, {made.pattern.replace('_', ' ')}, {made.size}"
        blocks: list[doc.Block] = []
        if made.entries:
            blocks = [composite_table(made, title), doc.Details("Scale of each metric", [scale_table(made, title)])]
        if made.notes:
            blocks += [doc.Paragraph("Left out:" if made.entries else "No index:"), doc.Bullets(made.notes)]
        best = ", ".join(entry.label for entry in made.entries if entry.rank == 1) or MISSING
        filters = {"task": "", "pattern": made.pattern, "size": made.size} if made.entries else {}
        sections.append(doc.Section(title, f"index-{place}", blocks, level=3, best=best, filters=filters))
    return sections


def _analyses(answers: Sequence[Answer], figures: bool) -> list[doc.Section]:
    answered = [answer for answer in answers if answer.lines]
    if not answered:
        return []
    blocks: list[doc.Block] = [doc.Paragraph("What the tables show side by side, from the same records.")]
    if missing := [f"{each.question.title} (needs {each.question.needs})" for each in answers if not each.lines]:
        blocks.append(doc.Paragraph(f"Without an answer in these records: {'; '.join(missing)}."))
    sections = [doc.Section("Analyses", "analyses", blocks)]
    for answer in answered:
        name, question = answer.question.name, answer.question
        blocks = [doc.Paragraph(f"{question.explanation} Table: `analyses/{name}.csv`.")]
        if figures:
            blocks += [
                doc.Figure(figure, question.title, question.draw, (lines,)) for figure, lines in answer.figures.items()
            ]
        sections.append(doc.Section(question.title, f"about-{name}", blocks, level=3))
    return sections


def _efficiency(groups: Iterable[Group], records: Sequence[Record], figures: bool) -> list[doc.Section]:
    """Time and memory against length, and the measurements that belong to no row."""
    blocks: list[doc.Block] = list(_efficiency_figures(records)) if figures else []
    used = {variant.efficiency.efficiency_record for group in groups for variant in group.variants}
    others = [record for record in records if record.hash not in used]
    if others:
        title = f"Measurements that belong to no row above: {len(others):,}"
        blocks.append(doc.Details(title, [measurement_table(others)]))
    return [doc.Section("Efficiency", "efficiency", blocks)] if blocks else []


def _efficiency_figures(records: Iterable[Record]) -> list[doc.Figure]:
    """One per pattern, level, shape and machine, from the newest record of each family and options."""
    found: dict[tuple[str, str], dict[str, Record]] = {}
    for record in sorted(records, key=started):
        if lengths.measured_rows(record):
            cell = record.cell
            shape = f"d{cell['dim']}_h{cell['heads']}_l{cell['depth']}_f{cell['hidden']}"
            shape += f"_conv{cell['conv']}" if cell.get("conv") else ""
            shape += "".join(f"_{word}" for key, word in (("qk_norm", "qk"), ("rotary", "rotary")) if cell.get(key))
            name = f"efficiency_{cell['pattern']}_{cell['level']}_{shape}"
            family = canonical([cell["attention"], record.config.get("attention")])
            found.setdefault((name, machine(record)), {})[family] = record
    names = [name for name, _ in found]
    figures = []
    for (name, _), by_family in found.items():
        chosen = [by_family[family] for family in sorted(by_family)]
        cell = chosen[0].cell
        if names.count(name) > 1:
            name = f"{name}_{next(iter(by_family.values())).hash[:6]}"
        title = f"{cell['pattern'].replace('_', ' ')}, {cell['level']}: {cell['depth']} x D={cell['dim']}, "
        title += f"{cell['heads']} heads, " + (f"convolution of {cell['conv']}, " if cell.get("conv") else "")
        title += f"{cell['device']}, {cell['precision']}"
        figures.append(doc.Figure(name, "Time and memory against length", lengths.draw, (chosen, title)))
    return figures


def _left_out(loaded: Loaded, results: Path) -> list[doc.Section]:
    problems = loaded.problems
    if not problems:
        return []
    items = []
    for problem in problems:
        path = problem.path.relative_to(results) if problem.path.is_relative_to(results) else problem.path
        items.append(f"`{path}`: {problem.reason}")
    return [doc.Section(f"Left out: {len(problems):,}", "left-out", [doc.Bullets(items)])]
