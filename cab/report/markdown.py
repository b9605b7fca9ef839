"""leaderboard.md: one heading and one table per group, the command of every row, and the files that were left out."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from cab.report.load import Problem
from cab.report.rows import Group, Row
from cab.report.words import words

MISSING = "-"
Line = Mapping[str, Any]
LEGEND = """\
Missing is `-`, and never averaged over: a row of which a seed did not end well has no mean. The interval is 95% (t)
over seeds of training, all of them evaluated on the same test data: how another choice of test data would move a score
is not in it. Rows whose intervals overlap, directly or through a third row, share a rank (tie); one seed claims none.
Benefit is the gain over `none`, positive is better, with its 95% interval (Welch) where both have two seeds.

Time and memory are those of a training step of the stack, measured in rounds with the baselines: the ratio at the
longest length that both were measured at, and the length from which the row is cheaper for good, with 95% intervals;
CAB's own fit of the time against `eager` (larger root of a quadratic minus a line) stands beside it. Decoding speed and
state are at the longest measured length. In cross patterns a family of layers replaces the attention to the memory
alone, and the stack keeps vanilla's attention to itself; a family that is a whole stack replaces both.
Quality and cost of a row come from records with the same options and stack shape, all costs of a table from one
machine.
"""


def page(
    groups: Sequence[tuple[Group, Sequence[Line]]], problems: Sequence[Problem], results: Path, index: str = ""
) -> str:
    """The whole file; each group comes with the lines that leaderboard.csv has for it, `index` is a section."""
    parts = ["# Leaderboard", LEGEND]
    if not groups:
        parts.append("There are no quality records: nothing to rank. See efficiency.csv for what was measured.")
    for group, lines in groups:
        parts += [heading(group), table(group, lines), "Commands:\n\n" + commands(group, lines)]
    if index:
        parts.append(index)
    if problems:
        parts.append(f"## Left out\n\nNot used: {len(problems)}.\n\n{problem_list(problems, results)}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def heading(group: Group) -> str:
    """Task, pattern, size, data, trivial predictor, and the settings that tell the group from another like it."""
    title = f"## {group.task}, {group.pattern.replace('_', ' ')}, {group.size}"
    data = group.first.result.get("data") or {}
    if group.data_hash:
        kind = "real" if data.get("real") else "generated"
        described = f" ({data['description']})" if data.get("description") else ""
        named = _named(group.first.config.get("data") or {})
        says = f"Data: {kind}, {data.get('source')}{named}{described}, content {group.data_hash[:12]}."
    else:
        says = "Data: unknown, no cell came as far as its data."
    name, score = group.trivial
    if name:
        says += f" Trivial predictor: {name}, {words(group.headline)} {number(score)}."
    says += _training(group)
    if group.attention_helps is False:
        says += " Attention does not help here: no row is better than `none` beyond the noise over seeds."
    if group.difference:
        says += f" Settings: {group.difference}."
    return f"{title}\n\n{says}"


def _named(data: Mapping[str, Any]) -> str:
    """Whose data: the last part of a path, which may begin anywhere, or the name of a data set."""
    name = data.get("id") or Path(str(data.get("path") or "")).name
    return f" {name}" if name else ""


def _training(group: Group) -> str:
    train, model = (group.settings.get(name) or {} for name in ("train", "model"))
    if not train.get("steps"):
        return ""
    length = f" at length {model['length']:,}" if model.get("length") else ""
    memory = f" with a memory of {model['memory']:,}" if model.get("memory") else ""
    return f" Trained for {train['steps']:,} steps of {train.get('batch')}{length}{memory}."


class Column(NamedTuple):
    title: str
    field: str
    """What it shows, as leaderboard.csv names it: the number to sort by where there is one."""
    text: Callable[[Line], str]


def columns(group: Group) -> list[Column]:
    crossings = {
        "faster than vanilla from": "time_from_vanilla",
        "faster than eager from": "time_from_eager",
        "CAB's fit of that": "cab_fit_time",
        "less memory than eager from": "memory_from_eager",
        "less memory than vanilla from": "memory_from_vanilla",
    }
    return [
        Column("rank", "rank", rank_text),
        Column("attention", "label", lambda line: line["label"]),
        Column("n", "n", lambda line: str(line["n"])),
        Column(f"{words(group.headline)} ({group.better} is better)", "mean", mean_text),
        Column("std", "std", lambda line: number(line["std"])),
        Column("benefit", "benefit", benefit_text),
        Column("train time / vanilla", "train_ratio", ratio_text),
        *(Column(title, field, partial(crossing_text, field)) for title, field in crossings.items()),
        Column("decode tokens/s", "decode_tokens_per_second", decode_text),
        Column("state", "state_bytes", lambda line: bytes_text(line["state_bytes"], line["state_length"])),
        Column("core parameters", "core_parameters", lambda line: count_text(line["core_parameters"])),
        Column("status", "status", status_text),
    ]


def table(group: Group, lines: Sequence[Line]) -> str:
    shown = columns(group)
    body = [[column.text(line) for column in shown] for line in lines]
    head = [column.title for column in shown]
    return tabulate(escaped(body), headers=head, tablefmt="github", disable_numparse=True)


def commands(group: Group, lines: Sequence[Line]) -> str:
    found = []
    for row, line in zip(group.rows, lines, strict=True):
        found.append(f"* {row.label}: `{row_command(row)}`")
        if line["revision"]:
            found[-1] += f" (commit {short_revision(line['revision'])})"
    return "\n".join(found)


def row_command(row: Row) -> str:
    """One command for all seeds of a row where their commands differ in the seed only; else that of the first."""
    split = [shlex.split(record.provenance.get("command") or "") for record in row.records]
    bare = [[token for token in tokens if not token.startswith("seed=")] for tokens in split]
    if not split[0]:
        return MISSING
    if len(row.records) == 1 or any(tokens != bare[0] for tokens in bare) or bare[0][:2] != ["python", "-m"]:
        return shlex.join(split[0])
    sweep = [] if "-m" in bare[0][3:] else ["-m"]
    return shlex.join([*bare[0][:3], *sweep, *bare[0][3:], f"seed={','.join(map(str, row.seeds))}"])


def problem_list(problems: Iterable[Problem], results: Path) -> str:
    return "\n".join(f"* `{below(problem.path, results)}`: {problem.reason}" for problem in problems)


def brief(groups: Sequence[tuple[Group, Sequence[Line]]]) -> str:
    """What the terminal shows: the few columns that one looks at first."""
    parts = []
    for group, lines in groups:
        name, score = group.trivial
        trivial = f" ({name}: {number(score)})" if name else ""
        helps = "\nattention does not help here" if group.attention_helps is False else ""
        settings = f", {group.difference}" if group.difference else ""
        body = [
            [
                MISSING if line["rank"] is None else f"{line['rank']}{'=' if line['tie'] else ''}",
                line["label"],
                line["n"],
                mean_text(line),
                benefit_text(line),
                ratio_text(line),
                line["time_from_vanilla"] or MISSING,
                status_text(line),
            ]
            for line in lines
        ]
        head = ["rank", "attention", "n", words(group.headline), "benefit", "train time", "faster from", "status"]
        made = tabulate(body, headers=head, tablefmt="simple", disable_numparse=True)
        parts.append(f"{group.task}, {group.pattern}, {group.size}{settings}{trivial}{helps}\n{made}")
    return "\n\n".join(parts)


def rank_text(line: Line) -> str:
    return MISSING if line["rank"] is None else f"{line['rank']}{' (tie)' if line['tie'] else ''}"


def crossing_text(field: str, line: Line) -> str:
    """The length from which a row is cheaper; CAB's fit is a bare number."""
    return number(line[field]) if isinstance(line[field], float) else line[field] or MISSING


def count_text(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def mean_text(line: Line) -> str:
    if line["low"] is None:
        return number(line["mean"])
    return f"{number(line['mean'])} ({number(line['low'])} to {number(line['high'])})"


def benefit_text(line: Line) -> str:
    if line["benefit_low"] is None:
        return signed(line["benefit"])
    return f"{signed(line['benefit'])} ({signed(line['benefit_low'])} to {signed(line['benefit_high'])})"


def ratio_text(line: Line) -> str:
    if line["train_ratio"] is None:
        return MISSING
    interval = (
        "" if line["train_ratio_low"] is None else f" ({line['train_ratio_low']:.2f} to {line['train_ratio_high']:.2f})"
    )
    return f"{line['train_ratio']:.2f}{interval} at {line['train_length']:,}"


def decode_text(line: Line) -> str:
    speed, ratio = line["decode_tokens_per_second"], line["decode_speedup"]
    if speed is None:
        return MISSING
    return f"{speed:,.0f}{'' if ratio is None else f' ({ratio:.2f}x)'} at {line['decode_length']:,}"


def bytes_text(count: float | None, length: int | None) -> str:
    if count is None:
        return MISSING
    for scale, unit in ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")):
        if count >= scale:
            return f"{count / scale:.3g} {unit} at {length:,}"
    return f"{count:.0f} bytes at {length:,}"


def status_text(line: Line) -> str:
    text = f"{line['status']}: {line['reason']}" if line["reason"] else line["status"]
    return f"{text}; no seed {line['missing_seeds'].replace(' ', ', ')}" if line["missing_seeds"] else text


def number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4g}"


def signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.3g}"


def short_revision(revision: str) -> str:
    commit, plus, dirty = revision.partition("+")
    return commit[:10] + plus + dirty


def below(path: Path, results: Path) -> Path:
    return path.relative_to(results) if path.is_relative_to(results) else path


def escaped(body: Sequence[Sequence[Any]]) -> list[list[str]]:
    return [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in body]
