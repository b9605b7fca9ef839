"""Controls of a table, and whether it can tell attentions apart."""

from pathlib import Path

import pytest
from helpers import synthetic
from helpers.analysed import material, recall, scored, seeds
from helpers.leaderboard_files import build, one, page
from scipy import stats

from cab.report import html
from cab.report.analyses import correlation
from cab.report.composite import composites
from cab.report.controls import controls, is_control
from cab.report.groups import Group, make_groups
from cab.report.verdict import Verdict
from cab.store.record import Record


def group_of(*records: Record) -> Group:
    [group] = make_groups(records)
    return group


def with_convolution(name: str, *scores: float, **about) -> list[Record]:
    return seeds(name, *scores, model=synthetic.MODEL | {"conv": 4}, **about)


def plain(name: str, *scores: float, **about) -> list[Record]:
    return seeds(name, *scores, model=synthetic.MODEL | {"conv": 0}, **about)


def local(*scores: float, window: int = 64) -> list[Record]:
    return seeds("local", *scores, options={"window": window})


# Which rows are controls


def test_the_strongest_control_is_the_best_by_its_mean():
    """The predictor of synthetic records scores 4.6."""
    none, near = seeds("none", 2.6, 2.7), local(2.4, 3.0)
    names = [control.name for control in controls(group_of(*seeds("vanilla", 2.0), *none, *near))]
    assert names == ["none", "local", "5-gram"]  # local has the best seed, and vanilla is no control
    names = [control.name for control in controls(group_of(*seeds("none", 9.0), *local(2.5)))]
    assert names == ["local", "5-gram", "none"]
    assert [control.name for control in controls(group_of(recall("none", 0, 0.04)))] == ["constant", "none"]


@pytest.mark.parametrize(
    ("window", "length", "control"), [(64, 256, True), (16, 256, True), (128, 256, False), (64, 64, False)]
)
def test_a_window_as_long_as_the_sequence_is_no_control(window, length, control):
    record = synthetic.quality("local", options={"window": window}, model=synthetic.MODEL | {"length": length})
    [variant] = group_of(record).variants
    assert is_control(variant) is control


def test_a_control_without_all_of_its_seeds_has_no_part():
    failed = synthetic.quality("local", 2, options={"window": 64}, status="diverged", reason="loss is not finite")
    group = group_of(*seeds("vanilla", 2.0, 2.01, 2.0), *seeds("none", 2.6, 2.61, 2.6), *local(1.0, 1.0), failed)
    assert group.verdict.strongest_control == "none"


# The none of the table with the other convolution


def test_none_with_the_convolution_stands_in_the_table_without(tmp_path):
    records = [*plain("vanilla", 2.8, 2.801), *plain("none", 3.4, 3.401), *plain("fit", 2.9, 2.901)]
    records += [*with_convolution("vanilla", 2.0, 2.001), *with_convolution("none", 2.6, 2.601)]
    without, beside = sorted(make_groups(records), key=lambda group: group.settings["model"]["conv"])
    assert [variant.label for variant in without.other_controls] == ["none + convolution 4"]
    assert [variant.label for variant in beside.other_controls] == ["none without convolution"]
    assert (without.verdict.tells_apart, without.verdict.strongest_control) == (False, "none + convolution 4")
    assert without.verdict.gain_over_control.value == pytest.approx(-0.2)
    assert (beside.verdict.tells_apart, beside.verdict.strongest_control) == (True, "none")
    assert [variant.rank for variant in without.variants] == [1, 2, 3]  # the borrowed row takes none
    made = build(tmp_path, *records)
    assert len(made["leaderboard"]) == 5
    table = page(tmp_path).partition("(model.conv=0)")[2].partition("Commands:")[0]
    rows = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("|")][2:]
    assert [(rank.strip(), name.strip()) for rank, name, _ in rows] == [
        ("-", "control: none + convolution 4"),
        ("1", "vanilla"),
        ("2", "fit"),
        ("3", "control: none"),
        ("-", "predictor: 5-gram"),
    ]


@pytest.mark.parametrize(
    "other", [{"steps": 400}, {"data": "b" * 64}, {"size": "base"}, {"pattern": "noncausal_self"}, {"task": "mlm"}]
)
def test_tables_that_differ_in_more_than_the_convolution_share_nothing(other):
    groups = make_groups([*plain("none", 3.4), *with_convolution("none", 2.6, **other)])
    assert len(groups) == 2
    assert all(not group.other_controls for group in groups)
    elsewhere = with_convolution("none", 2.6)
    elsewhere[0].result["data"]["content"] = "c" * 64
    assert not any(group.other_controls for group in make_groups([*plain("none", 3.4), *elsewhere]))
    deeper = seeds("none", 2.6, model=synthetic.MODEL | {"conv": 4, "depth": 9})
    assert not any(group.other_controls for group in make_groups([*plain("none", 3.4), *deeper]))


def test_a_borrowed_control_is_in_no_index_and_no_analysis():
    scores = {"vanilla": 2.0, "fit": 2.1, "ssa": 2.2, "none": 2.4}
    own = [record for name, score in scores.items() for record in plain(name, score, score + 0.01)]
    far = with_convolution("none", 2.6, 2.61)
    alone, beside = material(*own), material(*own, *far)
    assert [made.standards for made in beside.composites] == [made.standards for made in alone.composites]
    assert {entry.label for made in beside.composites for entry in made.entries} == {"vanilla", "fit", "ssa", "none"}


# The verdict


def test_a_table_tells_apart_where_vanilla_beats_the_strongest_control(tmp_path):
    own, control = [2.0, 2.02, 2.01], [2.1, 2.11, 2.13]
    records = [*seeds("vanilla", *own), *seeds("none", *control), *local(3.0, 3.1)]
    found = group_of(*records).verdict
    low, high = stats.ttest_ind(control, own, equal_var=False).confidence_interval()  # lower is better
    assert found.gain_over_control.value == pytest.approx(sum(control) / 3 - 2.01)
    assert found.gain_over_control.interval == pytest.approx((low, high))
    assert found.tells_apart is True
    sentence = (
        f"In bits per byte, vanilla is 0.103 ({low:.3g} to {high:.3g}) better than the strongest control, none:"
        " this table tells attentions apart."
    )
    assert found.sentence == sentence
    row = one(build(tmp_path, *records)["leaderboard"], attention="local")
    assert (row["tells_apart"], row["strongest_control"], row["control"]) == ("True", "none", "True")
    assert float(row["gain_over_control"]) == pytest.approx(found.gain_over_control.value)
    assert (float(row["gain_over_control_low"]), float(row["gain_over_control_high"])) == pytest.approx((low, high))
    assert f"## lm, causal self, smoke\n\n**{sentence}**\n" in page(tmp_path)


@pytest.mark.parametrize(
    ("own", "control", "said"),
    [
        ([2.0, 2.2], [2.1, 2.3], "vanilla and the strongest control, none, are a tie, gain 0.1 (-0.508 to 0.708)."),
        ([2.5, 2.52], [2.1, 2.11], "vanilla is 0.405 (0.336 to 0.474) worse than"),
    ],
)
def test_within_the_noise_or_behind_it_does_not_tell_apart(own, control, said):
    found = group_of(*seeds("vanilla", *own), *seeds("none", *control)).verdict
    start = "At this size this task does not tell attentions apart: in bits per byte, "
    assert found.tells_apart is False
    assert found.sentence.startswith(start + said)
    low, high = found.gain_over_control.interval
    assert low <= 0 or high < 0
    assert "the strongest control, none" in found.sentence


def test_a_predictor_is_beaten_by_the_interval_of_vanilla():
    """It has no seeds. Of 4.5 and 4.58 the mean is better than 4.6 by 0.06, within the noise."""
    none = seeds("none", 5.0, 5.1)
    near = group_of(*seeds("vanilla", 4.5, 4.58), *none).verdict
    low, high = stats.t.interval(0.95, 1, loc=0.06, scale=0.04)
    assert (near.strongest_control, near.tells_apart) == ("5-gram", False)
    assert near.gain_over_control.interval == pytest.approx((low, high))
    assert group_of(*seeds("vanilla", 4.5, 4.501), *none).verdict.tells_apart is True
    behind = group_of(*seeds("vanilla", 4.7, 4.701), *none).verdict
    assert (behind.tells_apart, behind.gain_over_control.value) == (False, pytest.approx(-0.1005))


def test_more_is_better_where_the_metric_says_so():
    records = [recall(name, seed, x + seed / 100) for name, x in (("vanilla", 0.9), ("none", 0.1)) for seed in (0, 1)]
    found = group_of(*records).verdict
    assert found.tells_apart is True
    assert found.sentence.startswith("In accuracy, vanilla is 0.8 (")


def test_a_perplexity_counts_by_its_logarithm():
    """8 and 8.8 against 16 and 17.6: a factor of 2."""
    scores = {"vanilla": (8.0, 8.8), "none": (16.0, 17.6)}
    records = [
        scored(synthetic.quality(name, seed), "perplexity", "lower", value, 64.0)
        for name, values in scores.items()
        for seed, value in enumerate(values)
    ]
    found = group_of(*records).verdict
    assert found.gain_over_control.value == pytest.approx(0.6931, abs=1e-3)
    assert found.sentence.startswith("In log perplexity, vanilla is 0.693 (")


@pytest.mark.parametrize(("own", "others"), [([2.0], [2.5, 2.6]), ([2.0, 2.1], [2.5])])
def test_one_seed_gives_no_verdict(own, others):
    found = group_of(*seeds("vanilla", *own), *seeds("none", *others)).verdict
    assert (found.tells_apart, found.word, found.gain_over_control.interval) == (None, "not known", None)
    assert found.sentence.startswith("One seed cannot show whether this table tells attentions apart: in bits per byte")


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        (seeds("vanilla", 2.0, 2.1), "No verdict: run `attention=none` too."),
        (seeds("none", 2.0, 2.1), "No verdict: run `attention=vanilla` too."),
        (
            [*seeds("vanilla", 2.0, 2.1), synthetic.quality("none", status="diverged", reason="loss nan")],
            "No verdict: none has no score (diverged).",
        ),
        (
            [*seeds("vanilla", 2.0), *seeds("vanilla", 2.1, options={"a": 1}), *seeds("none", 2.1)],
            "No verdict: vanilla has 2 rows.",
        ),
    ],
)
def test_without_vanilla_or_none_there_is_no_verdict(records, sentence):
    assert group_of(*records).verdict == Verdict(sentence)


# What follows from it


def every(score: float, **about) -> list[Record]:
    """Five families near 2.0, and none at a score."""
    names = ("vanilla", "fit", "ssa", "routing", "lightning")
    made = [record for place, name in enumerate(names) for record in seeds(name, 2 + place / 9, 2.01, **about)]
    return [*made, *seeds("none", score, score + 0.01, **about)]


def test_a_table_that_does_not_tell_apart_is_in_no_index_and_no_correlation():
    two = [*every(3.0), *every(3.0, task="tts")]
    apart, kept = material(*two, *every(3.0, task="mlm")), material(*two, *every(1.5, task="mlm"))
    assert list(apart.composites[0].standards) == ["lm", "mlm", "tts"]
    [made] = kept.composites
    assert list(made.standards) == ["lm", "tts"]
    assert [note.partition(" (")[0] for note in made.notes] == [
        "mlm: vanilla is not better than none beyond the noise, the table does not tell attentions apart"
    ]
    tasks = {name for line in correlation.lines(kept) for name in (line.first, line.second)}
    assert tasks == {"lm, causal_self", "tts, causal_self"}
    assert len(correlation.lines(apart)) == 3


def test_of_two_tables_of_a_task_that_which_tells_apart_counts():
    """The other has more families."""
    records = [*every(1.5), *seeds("block_transformer", 2.0, 2.1), *every(3.0, steps=400)]
    [made] = composites(make_groups(records))
    assert made.groups["lm"].settings["train"]["steps"] == 400


def test_ranks_are_grey_only_where_the_table_does_not_tell_apart(tmp_path):
    build(tmp_path, *every(1.5), *every(3.0, task="mlm"), *seeds("vanilla", 2.0, 2.1, task="tts"))
    text = (tmp_path / "leaderboard/index.html").read_text()
    lm, mlm, tts = (text.partition(f"<section id=table-{n} ")[2].partition("</section>")[0] for n in range(3))
    assert lm.count(" class=grey>") == 6
    assert " class=grey" not in mlm + tts
    assert "<p class=verdict>At this size this task does not tell attentions apart: " in lm
    assert lm.index("class=verdict") < lm.index("Data: real")
    contents = text.partition("<nav id=tables")[2].partition("</nav>")[0]
    assert "data-for=table-1" in contents
    first = contents.partition("data-for=table-0>")[2].partition("<tr")[0]
    assert first.endswith("<td>-")  # nobody has rank 1 in it
    assert not contents.partition("data-for=table-1>")[2].partition("<tr")[0].endswith("<td>-")
    style = Path(html.__file__).with_name("page.css").read_text()
    assert ".grey { color: var(--muted);" in style  # its contrast is tested with the page


def test_a_summary_stands_in_front(tmp_path):
    build(tmp_path, *every(1.5), *every(3.0, task="mlm"), *seeds("vanilla", 2.0, task="tts"))
    front = page(tmp_path).partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in front.splitlines() if line[:1] == "|"][2:]
    assert [(row[0], row[1], row[2], row[3], row[5]) for row in rows] == [
        ("lm", "causal self", "smoke", "no", "none"),
        ("mlm", "causal self", "smoke", "yes", "none"),
        ("tts", "causal self", "smoke", "not known", "-"),
    ]
    assert rows[0][4].startswith("-0.5 (")
    assert rows[0][4].endswith(" bits per byte")
    assert rows[2][4] == "-"


def test_the_short_table_begins_with_the_sentence(tmp_path, capsys):
    build(tmp_path, *every(1.5))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lm, causal self, smoke"
    assert lines[1].startswith("At this size this task does not tell attentions apart: in bits per byte, vanilla is ")


def test_positions_are_in_the_file_and_in_the_origin_of_a_row(tmp_path):
    made = build(tmp_path, *seeds("vanilla", 2.0), *seeds("lightning", 2.1, positions="decay, LRPE in the first layer"))
    assert one(made["leaderboard"], attention="vanilla")["positions"] == "rotary"
    for name in ("leaderboard", "quality"):
        assert one(made[name], attention="lightning")["positions"] == "decay, LRPE in the first layer"
    text = (tmp_path / "leaderboard/index.html").read_text()
    assert "<dt>positions<dd>decay, LRPE in the first layer" in text
    assert "<dt>positions<dd>rotary" in text
