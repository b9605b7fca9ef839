"""Do families that are good in one pattern, or on one task, do well in another? Pearson's r over families.

    patterns   the Compositional Index of one pattern against that of another
    tasks      the task score (mean z over a task's metrics) of one task and pattern against that of another

Both scores are of one size and from the tables of `cab.report.composite`, means over seeds; a family that lacks one of
them is left out of that pair. Under FEWEST families there is no coefficient: CAB printed -1.0 for two. `eager` and the
controls (`none`, `local`) do not count: the first is the same function as vanilla, and `none`, much worse on every
task, would make everything correlate. Nor does a table that does not tell attentions apart. A family with several sets
of options counts once, with the set that is in most tables. The interval is Fisher's, tanh(atanh r +- 1.96 / sqrt(n -
3)): it assumes normal scores, and is wide at such n. Spearman's rho, the same for the ranks, is beside r in the file.

A family in one slot leaves the other slots of a network to vanilla, so vanilla's own score is the same network in
every pattern of such a task: one of the n points is shared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from matplotlib.figure import Figure

from cab.report.analyses.base import Material, Question
from cab.report.composite import NOT_IN_SCALE, Composite, name_of
from cab.report.figures.grid import UNSURE, GridCell, grid, value_cell
from cab.report.settings import canonical
from cab.report.stats import Estimate, pearson, spearman

FEWEST = 5
"""Families: with fewer, r says nothing."""


Scores = dict[str, tuple[str, dict[str, float]]]
"""Pattern or task -> where its scores come from, and the score of each family."""


@dataclass(frozen=True)
class Line:
    level: str
    size: str
    first: str
    second: str
    n: int
    pearson: Estimate | None
    spearman: float | None
    attentions: str
    first_source: str
    second_source: str
    figure: str


def lines(material: Material) -> list[Line]:
    found: list[Line] = []
    for size in dict.fromkeys(made.size for made in material.composites):
        tables = [made for made in material.composites if made.size == size and made.entries]
        chosen = _chosen(tables)
        patterns: Scores = {}
        tasks: Scores = {}
        for made in tables:
            counted = [each for each in made.entries if chosen.get(each.attention) == canonical(each.options)]
            indices = {each.attention: each.index for each in counted if each.index is not None}
            patterns[made.pattern] = f"index over {', '.join(made.standards)}", indices
            for task in made.standards:
                scores = {each.attention: score for each in counted if (score := each.tasks.get(task)) is not None}
                tasks[f"{task}, {made.pattern}"] = name_of(made.groups[task]), scores
        found += _pairs("patterns", size, patterns)
        found += _pairs("tasks", size, tasks)
    return found


def _chosen(tables: Sequence[Composite]) -> dict[str, str]:
    """The set of options with which each family counts: that with a score in most tasks, then the first by text."""
    found: dict[str, dict[str, int]] = {}
    for made in tables:
        for entry in made.entries:
            if entry.attention not in NOT_IN_SCALE:
                sets, options = found.setdefault(entry.attention, {}), canonical(entry.options)
                sets[options] = sets.get(options, 0) + sum(score is not None for score in entry.tasks.values())
    return {name: min(sets, key=lambda options: (-sets[options], options)) for name, sets in found.items()}


def _pairs(level: str, size: str, scores: Scores) -> Iterator[Line]:
    for (first, (first_source, one)), (second, (second_source, other)) in combinations(scores.items(), 2):
        both = sorted(one.keys() & other.keys())
        x, y = [one[name] for name in both], [other[name] for name in both]
        enough = len(both) >= FEWEST
        yield Line(
            level=level,
            size=size,
            first=first,
            second=second,
            n=len(both),
            pearson=pearson(x, y) if enough else None,
            spearman=spearman(x, y) if enough else None,
            attentions=" ".join(both),
            first_source=first_source,
            second_source=second_source,
            figure=f"{level}_{size}",
        )


def draw(found: Sequence[Line]) -> Figure:
    """The lower triangle, with n in every cell."""
    names = list(dict.fromkeys(name for line in found for name in (line.first, line.second)))
    labels = [_label(name) for name in names]
    label_of = dict(zip(names, labels, strict=True))
    of_tasks = found[0].level == "tasks"
    cells = {(label_of[line.second], label_of[line.first]): _cell(line, not of_tasks) for line in found}
    note = f"bold: the 95% interval excludes 0; under n = {FEWEST} no coefficient"
    title = f"Correlation of patterns (their indices) over families, {found[0].size}"
    if of_tasks:
        title = f"Correlation of tasks (their z-scores) over families, {found[0].size}"
        note += "\nNS, CS, NC, CC: noncausal and causal self and cross"
    return grid(labels[1:], labels[:-1], cells, f"{title}\n{note}", width=1.32 if of_tasks else 2.8)


def _label(name: str) -> str:
    """Of a pattern its name, of a task its name and the two letters of the pattern."""
    task, _, pattern = name.rpartition(", ")
    letters = "".join(word[0].upper() for word in pattern.split("_"))
    return f"{task}\n{letters}" if task else pattern.replace("_", " ")


def _cell(line: Line, show_interval: bool) -> GridCell:
    n, r = f"n={line.n}", line.pearson
    if r is None or r.interval is None:
        return GridCell(n, ink=UNSURE)
    below = f"{r.interval.low:+.2f} to {r.interval.high:+.2f}, {n}" if show_interval else n
    return value_cell(f"{r.value:+.2f}", below, r.value, r.excludes_zero)


QUESTION = Question(
    name="correlation",
    title="Correlation of patterns and of tasks",
    explanation="Pearson's r over the n families that have both scores (without `eager` and controls), with Fisher's"
    " 95% interval: near 1, the score in one tells the score in the other. With fewer than"
    f" {FEWEST} families there is none. Tables that do not tell attentions apart do not count: what the Compositional"
    " Index leaves out is left out here.",
    needs="two patterns or tasks with an index at one size",
    lines=lines,
    draw=draw,
)
