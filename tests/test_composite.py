"""The Compositional Index: CAB's published leaderboards from CAB's published raw numbers, and that of our own records.

A published value is compared with the range that ours has while the inputs vary within the digits that they are
printed with: constants to half of their fifth digit; raw metrics of TTS and LSTF, which are printed rounded (their own
statistics show it), to half of their third. Whatever is not explained by that is a slip of the published tables, and
stands below by name.
"""

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import synthetic

from cab.leaderboard import main
from cab.report.composite import Composite, Standard, composites, index, task_scores
from cab.report.groups import make_groups
from cab.report.load import load
from cab.report.markdown import render_block
from cab.report.tables import composite_table
from cab.report.text import scale_words
from cab.store.record import Record

PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parent / "cab_published.json").read_text())
PATTERNS = ("noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
CELLS = [
    (pattern, family, column, value)
    for pattern in PATTERNS
    for family, row in PUBLISHED[pattern]["leaderboard"].items()
    for column, value in row.items()
]
ROUNDED = ("TTS", "LSTF")
"""Tasks whose raw metrics are means of more digits than are printed."""

# The slips. 1: the mean of ROUGE-L in NS is mistyped. The rows of 2022 were made with the right one, Flash with this.
MISTYPED_MEAN, RIGHT_MEAN = 31.96889, 31.95889
# 2: the table of raw numbers has 29.13 as ABC's perplexity in LM; the constants and the index were made with this one.
ABC_PERPLEXITY = 31.53
# 3: the script's constants named ECL are those of Weather, and the reverse; it reads the raw numbers in the same wrong
# order, so that the index is right.
EXCHANGED = ("ECL", "Weather")


# 4: cut after the third digit instead of rounded: all averages, the rows of 2023 but S4D's in NS, and these.
def is_cut(pattern: str, family: str, column: str) -> bool:
    late = family == "Flash" or (pattern, family) == ("causal_self", "S4D")
    return (
        late
        or column == "average"
        or (pattern, column) == ("noncausal_self", "Sum")
        or (family, column) == ("vanilla", "MLM")
    )


# 5: raw numbers that are cut after the third digit as well.
RAW_IS_CUT = {("causal_self", "S4D", "TTS"), ("causal_self", "local", "TTS"), ("causal_cross", "ABC", "TTS")}
# 6: the script's example has -100 for the missing perplexity of vanilla; the published table rightly has no average.
SENTINEL = -100.0


def constants(pattern: str, family: str = "vanilla") -> dict[str, dict[str, Standard]]:
    """CAB's frozen constants, by the labels of the raw numbers, as they were when this family was judged."""
    found = {
        task: {name: Standard(*values) for name, values in metrics.items()}
        for task, metrics in PUBLISHED[pattern]["constants"].items()
    }
    if pattern == "noncausal_self" and family != "Flash":
        assert found["Sum"]["ROUGE-L"].mean == MISTYPED_MEAN
        found["Sum"]["ROUGE-L"] = Standard(RIGHT_MEAN, found["Sum"]["ROUGE-L"].deviation, "higher")
    if "LSTF" in found:
        one, other = EXCHANGED
        both = {one: other, other: one}
        given = found["LSTF"]
        found["LSTF"] = {name: given[" ".join(both.get(word, word) for word in name.split())] for name in given}
    return found


def raw(pattern: str, family: str) -> dict[str, dict[str, float]]:
    names = PUBLISHED[pattern]["constants"]
    found = {
        task: dict(zip(names[task], values, strict=True)) for task, values in PUBLISHED[pattern]["raw"][family].items()
    }
    if (pattern, family) == ("causal_self", "ABC"):
        found["LM"]["perplexity"] = ABC_PERPLEXITY
    return found


def ours(pattern: str, family: str) -> dict[str, tuple[float, float]]:
    """Range of every task score and of the average, while all inputs vary within their digits."""
    standards, scores = constants(pattern, family), raw(pattern, family)
    ends: tuple[dict[str, float | None], ...] = ({}, {})
    for task, value in task_scores(scores, standards).items():
        wide, low, high = 0.0, 0.0, 0.0
        for name, standard in standards[task].items():
            if task in scores:
                wide += 5e-6 / standard.deviation * (1 + abs(standard.z(scores[task][name])))
                unit = 1e-3 / standard.deviation if task in ROUNDED else 0.0
                cut = (pattern, family, task) in RAW_IS_CUT  # then the raw number is up to a unit greater: worse
                low, high = low + (unit if cut else unit / 2), high + (0.0 if cut else unit / 2)
        count = len(standards[task])
        ends[0][task] = None if value is None else value - (wide + low) / count
        ends[1][task] = None if value is None else value + (wide + high) / count
    ranges = [end | {"average": index(end)} for end in ends]
    return {name: (low, ranges[1][name]) for name, low in ranges[0].items() if low is not None}  # type: ignore[misc]


def rounded(value: float, low: float, high: float) -> bool:
    return low - 5e-4 <= value + 1e-12 and value - 1e-12 <= high + 5e-4


def cut(value: float, low: float, high: float) -> bool:
    if value < 0:
        value, low, high = -value, -high, -low
    return low < value + 1e-3 and value <= high + 1e-12


# CAB's published leaderboards


@pytest.mark.parametrize(("pattern", "family", "column", "value"), CELLS)
def test_cabs_leaderboards_come_out_of_cabs_raw_numbers(pattern, family, column, value):
    if column == "delta":
        own, vanilla = (ours(pattern, name)["average"] for name in (family, "vanilla"))
        printed = PUBLISHED[pattern]["leaderboard"]
        assert value == pytest.approx(printed[family]["average"] - printed["vanilla"]["average"], abs=1e-9)
        assert own[0] - vanilla[1] - 1e-3 <= value <= own[1] - vanilla[0] + 1e-3  # of two that are cut
    else:
        low, high = ours(pattern, family)[column]
        assert (cut if is_cut(pattern, family, column) else rounded)(value, low, high), (low, high)


def test_cabs_averages_are_those_of_its_printed_task_scores():
    for pattern in PATTERNS:
        for family, row in PUBLISHED[pattern]["leaderboard"].items():
            made = index({column: row.get(column) for column in PUBLISHED[pattern]["constants"]})
            assert (made is None) == ("average" not in row)
            assert made is None or cut(row["average"], made - 1e-3, made + 1e-3), (pattern, family)


def test_cabs_leaderboards_are_whole():
    """What CAB has no value for has none here, and the reverse: S4D fails in Sum, vanilla in LM."""
    for pattern in PATTERNS:
        for family, row in PUBLISHED[pattern]["leaderboard"].items():
            assert set(ours(pattern, family)) == set(row) - {"delta"}
    assert len(CELLS) == 63 + 22 + 16 + 12


def test_ranges_are_narrow_but_for_what_is_printed_rounded():
    for pattern, family, column, _ in CELLS:
        if column != "delta":
            low, high = ours(pattern, family)[column]
            assert high - low < (0.06 if column in (*ROUNDED, "average") else 0.0025)


def test_cabs_constants_are_the_statistics_of_its_raw_numbers():
    """Mean and sample deviation over the families of 2022: to the last digit, where the raw numbers have all theirs."""
    for pattern in PATTERNS:
        scores = {family: raw(pattern, family) for family in PUBLISHED[pattern]["reference"]}
        for task, metrics in constants(pattern).items():
            for name, constant in metrics.items():
                made = Standard.of([each[task][name] for each in scores.values() if task in each], constant.better)
                within = 5.1e-4 if task in ROUNDED else 5.1e-6
                assert made.mean == pytest.approx(constant.mean, abs=within), (pattern, task, name)
                assert made.deviation == pytest.approx(constant.deviation, abs=within), (pattern, task, name)


def test_the_slips_are_slips():
    """Taken as printed, each of them breaks the table."""
    raw_table = PUBLISHED["noncausal_self"]["raw"]
    means = statistics.fmean(row["Sum"][2] for name, row in raw_table.items() if "Sum" in row and name != "Flash")
    assert means == pytest.approx(RIGHT_MEAN, abs=5.1e-6)
    assert abs(means - MISTYPED_MEAN) > 0.009
    standard = constants("causal_self")["LM"]["perplexity"]
    assert standard.z(ABC_PERPLEXITY) == pytest.approx(-1.117, abs=5e-4)
    assert standard.z(PUBLISHED["causal_self"]["raw"]["ABC"]["LM"][0]) == pytest.approx(-0.828, abs=5e-4)
    ecl = [raw("noncausal_cross", family)["LSTF"]["ECL MSE"] for family in PUBLISHED["noncausal_cross"]["reference"]]
    assert statistics.fmean(ecl) == pytest.approx(
        PUBLISHED["noncausal_cross"]["constants"]["LSTF"]["Weather MSE"][0], abs=5.1e-4
    )
    assert standard.z(SENTINEL) == pytest.approx(14.73, abs=5e-3)
    not_rounded = [cell for cell in CELLS if cell[2] != "delta" and not rounded(cell[3], *ours(*cell[:2])[cell[2]])]
    assert all(is_cut(*cell[:3]) for cell in not_rounded)
    for pattern, family, column, value in CELLS:
        if (pattern, family, column) in RAW_IS_CUT:
            standards, scores = constants(pattern)[column], raw(pattern, family)[column]
            half = statistics.fmean(5e-4 / each.deviation for each in standards.values())
            exact = statistics.fmean(each.z(scores[name]) for name, each in standards.items())
            assert not rounded(value, exact - half, exact + half)


# The formula


def test_the_sign_makes_more_better():
    assert Standard(10.0, 2.0, "higher").z(13.0) == 1.5
    assert Standard(10.0, 2.0, "lower").z(13.0) == -1.5


def test_a_task_that_lacks_a_metric_has_no_score_and_its_family_no_index():
    standards = {
        "a": {"x": Standard(0.0, 1.0, "higher"), "y": Standard(0.0, 1.0, "higher")},
        "b": {"x": Standard(0.0, 1.0, "higher")},
    }
    assert task_scores({"a": {"x": 1.0, "y": 3.0}, "b": {"x": 5.0}}, standards) == {"a": 2.0, "b": 5.0}
    assert index({"a": 2.0, "b": 5.0}) == 3.5
    assert task_scores({"a": {"x": 1.0}, "b": {"x": 5.0}}, standards) == {"a": None, "b": 5.0}
    assert index({"a": None, "b": 5.0}) is None
    assert index({}) is None


# Our own records

SCORES = {
    "lm": {"vanilla": 2.0, "lightning": 2.3, "routing": 2.9},
    "recall": {"vanilla": 1.0, "lightning": 1.1, "routing": 0.6},
}


def cell(attention: str, score: float, seed: int = 0, metrics: Mapping[str, Any] | None = None, **more: Any) -> Record:
    record = synthetic.quality(attention, seed, score=score, **more)
    if metrics is not None:
        record.result["metrics"] = dict(metrics)
        record.result["better"] = dict.fromkeys(metrics, "lower")
    return record


def cells(scores: Mapping[str, Mapping[str, float]] = SCORES, seed: int = 0, **more: Any) -> list[Record]:
    return [cell(name, value, seed, task=task, **more) for task, row in scores.items() for name, value in row.items()]


def table(records: list[Record]) -> Composite:
    (made,) = composites(make_groups(records))
    return made


def by_name(made: Composite) -> dict[str, Any]:
    return {entry.label: entry for entry in made.entries}


def z_scores(row: Mapping[str, float]) -> dict[str, float]:
    mean, deviation = statistics.fmean(row.values()), statistics.stdev(row.values())
    return {name: (mean - value) / deviation for name, value in row.items()}


def test_index_of_records_by_hand():
    """bits per byte and the logarithm of perplexity, 2 ** bits here, are the same number twice."""
    made = table(cells())
    by_task = {task: z_scores(row) for task, row in SCORES.items()}
    for name, entry in by_name(made).items():
        assert entry.tasks == pytest.approx({task: row[name] for task, row in by_task.items()})
        assert entry.index == pytest.approx(statistics.fmean(row[name] for row in by_task.values()))
        assert entry.delta == pytest.approx(entry.index - by_name(made)["vanilla"].index)
        assert entry.missing == []
    assert [entry.index for entry in made.entries] == sorted((e.index for e in made.entries), reverse=True)
    assert made.standards["lm"]["bits_per_byte"] == Standard.of(list(SCORES["lm"].values()), "lower")
    assert made.standards["lm"]["perplexity"].mean == pytest.approx(
        math.log(2) * statistics.fmean(SCORES["lm"].values())
    )


def test_controls_have_an_index_but_do_not_set_the_scale():
    without = table(cells())
    made = table([*cells(), *(cell(name, 9.0, task=task) for name in ("none", "eager") for task in SCORES)])
    assert made.standards == without.standards
    assert by_name(made)["none"].index < -5
    assert by_name(made)["vanilla"].index == by_name(without)["vanilla"].index


def test_a_family_that_lacks_a_task_has_no_index_and_says_which():
    records = [*cells(), cell("ssa", 2.2, task="lm")]
    records += [
        cell("fit", 2.2, task="lm"),
        synthetic.quality("fit", task="recall", status="unsupported", reason="why"),
    ]
    made = table(records)
    ssa, fit = by_name(made)["ssa"], by_name(made)["fit"]
    for entry in (ssa, fit):
        assert (entry.index, entry.delta, entry.rank, entry.interval) == (None, None, None, None)
        assert entry.tasks["lm"] is not None
    assert ssa.missing == ["recall (no record)"]
    assert fit.missing == ["recall (unsupported)"]
    assert made.entries[-1].index is None
    assert by_name(made)["vanilla"].index is not None
    assert "| 1 of 2  | recall (no record)" in render_block(composite_table(made, ""))


def test_without_vanillas_index_there_is_no_delta():
    records = [r for r in cells() if (r.cell["attention"], r.cell["task"]) != ("vanilla", "recall")]
    made = table([*records, cell("fit", 2.0, task="recall"), cell("fit", 2.0, task="lm")])
    assert by_name(made)["vanilla"].missing == ["recall (no record)"]
    assert by_name(made)["fit"].index is not None
    assert by_name(made)["fit"].delta is None


def test_fewer_than_three_families_make_no_index(tmp_path):
    two = {"lm": {"vanilla": 2.0, "lightning": 2.1, "none": 3.0, "eager": 2.0}}
    synthetic.write(tmp_path, *cells(two))
    assert main(["--results", str(tmp_path), "--no-plots"]) == 0
    assert (tmp_path / "leaderboard" / "composite.csv").read_text().strip() == ""
    text = (tmp_path / "leaderboard" / "leaderboard.md").read_text()
    assert (
        "No index:\n\n* lm: 3 families beside `eager`, `none`, `local` are needed, there are 2 (lightning, vanilla)"
        in text
    )


def test_two_sets_of_options_are_two_entries_but_one_family():
    both = [cell("lightning", 2.0 + block, task="lm", options={"block": block}) for block in (1, 2)]
    assert not table([cell("vanilla", 2.0), *both]).entries
    more = [cell("lightning", 2.0 + block, task="recall", options={"block": block}) for block in (1, 2)]
    made = table([*cells({"lm": {"vanilla": 2.0, "fit": 2.5}, "recall": {"vanilla": 1.0, "fit": 1.5}}), *both, *more])
    assert {entry.label for entry in made.entries} == {"vanilla", "fit", "lightning (block=1)", "lightning (block=2)"}
    assert all(not entry.missing for entry in made.entries)


def test_a_task_with_too_few_families_is_left_out_and_the_others_count():
    made = table([*cells(), cell("vanilla", 2.0, task="mlm"), cell("fit", 2.5, task="mlm")])
    assert list(made.standards) == ["lm", "recall"]
    assert made.notes == ["mlm: 3 families beside `eager`, `none`, `local` are needed, there are 2 (fit, vanilla)"]
    assert by_name(made)["vanilla"].index is not None


@pytest.mark.parametrize("status", ["diverged", "error", "failed_check", "out_of_memory"])
def test_a_failed_seed_is_a_missing_task(status):
    fourth = [cell("fit", 2.0, task=task) for task in SCORES]
    failed = synthetic.quality("vanilla", 1, task="lm", status=status, reason="why")
    failed.result.update(cell("vanilla", 2.0, 1, task="lm").result)  # as where it failed after its evaluation
    made = table([*cells(), *fourth, failed])
    assert by_name(made)["vanilla"].index is None
    assert by_name(made)["vanilla"].missing == [f"lm (1 ok, 1 {status})"]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -1.0, 0.0, "2.0", True])
def test_a_perplexity_that_is_no_number_is_a_missing_task(value):
    made = table([*cells(), *(cell("fit", 2.0, task=task) for task in SCORES)])
    assert by_name(made)["fit"].index is not None
    broken = cell("fit", 2.0, task="lm")
    broken.result["metrics"]["perplexity"] = value
    made = table([*cells(), broken, cell("fit", 2.0, task="recall")])
    assert by_name(made)["fit"].missing == ["lm (no score in a metric)"]
    assert len(made.references["lm"]) == 3
    assert len(made.references["recall"]) == 4


def test_a_metric_in_which_all_are_equal_is_left_out():
    records = [
        cell(name, 0.0, metrics={"loss": 1.0, "error": value})
        for name, value in (("vanilla", 1), ("fit", 2), ("ssa", 3))
    ]
    made = table(records)
    assert list(made.standards["lm"]) == ["error"]
    assert made.notes == ["lm: all families score the same loss, which is left out"]
    made = table([cell(name, 0.0, metrics={"loss": 1.0}) for name in ("vanilla", "fit", "ssa")])
    assert not made.entries


# What is never mixed


def test_sizes_and_patterns_have_tables_of_their_own():
    worse = {task: {name: 9 - score for name, score in row.items()} for task, row in SCORES.items()}
    made = composites(make_groups([*cells(), *cells(worse, size="base"), *cells(worse, pattern="noncausal_self")]))
    assert [(each.pattern, each.size) for each in made] == [
        ("causal_self", "base"),
        ("causal_self", "smoke"),
        ("noncausal_self", "smoke"),
    ]
    assert made[1].standards == table(cells()).standards


@pytest.mark.parametrize("other", [{"data": "b" * 64}, {"steps": 400}])
def test_of_several_tables_of_a_task_one_counts_and_the_others_are_named(other):
    """That with most families, whatever its scores; a family that is only in the other one lacks the task."""
    aside = [cell(name, 7.0 + at, task="lm", **other) for at, name in enumerate(("vanilla", "lightning", "fit"))]
    made = table([*cells(), cell("ssa", 2.5, task="lm"), *aside, cell("fit", 1.0, task="recall")])
    assert made.groups["lm"].data_hash == synthetic.DATA
    assert made.standards["lm"]["bits_per_byte"] == Standard.of([*SCORES["lm"].values(), 2.5], "lower")
    assert by_name(made)["fit"].missing == ["lm (no record)"]
    (note,) = made.notes
    assert note.startswith("lm: of 2 tables data aaaaaaaaaaaa settings ")
    assert f"data {other.get('data', synthetic.DATA)[:12]} settings " in note.partition(", not ")[2]


def test_another_science_version_is_not_in_it(tmp_path):
    synthetic.write(tmp_path, *cells(), *cells({"lm": {"vanilla": 77.0, "fit": 5.0}}, science_version=0))
    made = table(load(tmp_path).quality)
    assert made.standards == table(cells()).standards
    assert "fit" not in by_name(made)


# Seeds


def seeded(offsets: Mapping[int, float], name: str = "fit", score: float = 2.4) -> list[Record]:
    return [cell(name, score + offset, seed, task=task) for seed, offset in offsets.items() for task in SCORES]


def test_the_interval_is_over_the_index_of_each_seed():
    made = table([*cells(), *seeded({0: -0.1, 1: 0.0, 2: 0.1})])
    fit = by_name(made)["fit"]
    each = [
        statistics.fmean(made.standards[task]["bits_per_byte"].z(2.4 + at) for task in SCORES) for at in (-0.1, 0, 0.1)
    ]
    half = 4.302653 * statistics.stdev(each) / math.sqrt(3)
    assert fit.index == pytest.approx(statistics.fmean(each))
    assert fit.interval == pytest.approx((fit.index - half, fit.index + half))
    assert (fit.n, by_name(made)["vanilla"].n) == (3, 1)
    assert by_name(made)["vanilla"].interval is None
    assert by_name(made)["vanilla"].rank is None


def test_other_seeds_in_another_task_give_no_interval():
    made = table([*cells(), *seeded({0: -0.1, 1: 0.1}), cell("fit", 2.4, 2, task="lm")])
    assert by_name(made)["fit"].index is not None
    assert by_name(made)["fit"].n is None
    assert by_name(made)["fit"].interval is None
    assert by_name(made)["fit"].rank is None


def test_overlapping_intervals_share_a_rank():
    near = {0: 0.0, 1: 0.001}
    scores = {"vanilla": 2.0, "lightning": 2.001, "routing": 2.5, "fit": 3.0}
    made = table([record for name, score in scores.items() for record in seeded(near, name, score)])
    assert {e.label: (e.rank, e.tie) for e in made.entries} == {
        "vanilla": (1, True),
        "lightning": (1, True),
        "routing": (3, False),
        "fit": (4, False),
    }


# The files


def test_the_files_say_all_of_it(tmp_path, capsys):
    import csv

    synthetic.write(tmp_path, *cells(), *cells(seed=1), cell("none", 9.0, task="lm"))
    assert main(["--results", str(tmp_path), "--no-plots"]) == 0
    found = {
        name: list(csv.DictReader((tmp_path / "leaderboard" / f"{name}.csv").read_text().splitlines()))
        for name in ("composite", "composite_scale", "leaderboard")
    }
    made = table(load(tmp_path).quality)
    rows = {row["attention"]: row for row in found["composite"]}
    for entry in made.entries:
        row = rows[entry.attention]
        assert row["index"] == ("" if entry.index is None else str(entry.index))
        assert row["n"] == ("" if entry.n is None else "2")
        assert row["task.lm"] == str(entry.tasks["lm"])
        assert (row["tasks"], row["of"]) == (str(2 - len(entry.missing)), "2")
    assert (rows["none"]["missing"], rows["none"]["rank"], rows["vanilla"]["delta"]) == (
        "recall (no record)",
        "",
        "0.0",
    )
    assert [(row["task"], row["metric"], row["scale"], row["n"]) for row in found["composite_scale"]] == [
        ("lm", "bits_per_byte", "linear", "3"),
        ("lm", "perplexity", "log", "3"),
        ("recall", "bits_per_byte", "linear", "3"),
        ("recall", "perplexity", "log", "3"),
    ]
    assert found["composite_scale"][0]["families"] == "lightning, routing, vanilla"
    assert found["composite_scale"][0]["data_hash"] == synthetic.DATA
    parts = {(row["attention"], row["task"]): row["task_score"] for row in found["leaderboard"]}
    assert parts["routing", "recall"] == rows["routing"]["task.recall"]
    text = (tmp_path / "leaderboard" / "leaderboard.md").read_text()
    assert "### Compositional Index, causal self, smoke" in text
    assert "| log perplexity (lower is better) |" in text
    assert "Compositional Index, causal self, smoke" in capsys.readouterr().out


def test_perplexities_are_counted_by_their_logarithm():
    assert scale_words("bits_per_byte") == "bits per byte"
    assert scale_words("masked_perplexity") == "log masked perplexity"
