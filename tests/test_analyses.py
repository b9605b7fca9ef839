import csv
import math
from pathlib import Path

import numpy as np
import pytest
from helpers import synthetic
from helpers.analysed import material, one, scored, seeds, with_tables

from cab.leaderboard import main
from cab.report.analyses import QUESTIONS, base, context, correlation, gain, noise, options, time
from cab.report.analyses.base import Answer
from cab.report.csv_table import columns
from cab.report.groups import Group, make_groups
from cab.report.stats import Estimate, t_interval, welch_interval
from cab.store.record import Record

FAMILIES = ("vanilla", "lightning", "routing", "ssa", "fit", "block_transformer")


# Gain


def test_the_gain_is_a_share_of_what_vanilla_gains_over_the_best_predictor():
    own, theirs = (2.1, 2.2), (2.6, 2.64)
    records = [*seeds("vanilla", 2.0, 2.02), *seeds("none", *theirs), *seeds("lightning", *own)]
    line = one(gain.lines(material(*records)), attention="lightning")
    unit = 4.6 - 2.01
    assert line.unit == pytest.approx(unit)
    assert line.figure == "smoke"
    assert line.gain.value == pytest.approx(2.62 - 2.15)
    assert line.share.value == pytest.approx((2.62 - 2.15) / unit)
    low, high = welch_interval(theirs, own)  # lower is better
    assert line.share.interval == pytest.approx((low / unit, high / unit))


def test_the_gain_of_a_perplexity_is_taken_of_its_logarithm():
    scores = {"vanilla": 8.0, "none": 16.0, "fit": 4.0}
    records = [scored(synthetic.quality(n), "perplexity", "lower", x, 64.0) for n, x in scores.items()]
    line = one(gain.lines(material(*records)), attention="fit")
    assert line.share == Estimate(pytest.approx(math.log(16 / 4) / math.log(64 / 8)))
    assert line.gain.value == pytest.approx(math.log(16 / 4))  # as in leaderboard.csv
    assert line.n == 1


@pytest.mark.parametrize(
    ("vanilla", "why"),
    [((4.7, 4.7), "not better"), ((4.5, 4.6), "not better"), ((), "vanilla has no score")],
)
def test_where_vanilla_gains_nothing_there_is_no_unit(vanilla, why):
    """The second: better on average, within the noise."""
    records = [*seeds("vanilla", *vanilla), *seeds("none", 2.6, 2.7), *seeds("fit", 2.0, 2.1)]
    line = one(gain.lines(material(*records)), attention="fit")
    assert line.unit is line.share is None
    assert line.figure == ""  # a figure without a number says nothing
    assert why in line.no_unit
    assert line.gain.value == pytest.approx(0.6)


def test_figures_show_one_set_of_options_a_family_and_not_the_best():
    records = [*seeds("vanilla", 2.0), *seeds("none", 2.6), *seeds("ssa", 2.2, 2.3, options={"reduction": 4})]
    records += seeds("ssa", 1.5, options={"reduction": 2})
    records += [*seeds("ssa", 1.0, 1.0, 1.0, options={"reduction": 8})]
    records += [synthetic.quality("ssa", 3, options={"reduction": 8}, status="diverged", reason="loss is not finite")]
    lines = gain.lines(material(*records))
    assert {line.label: line.shown for line in lines if line.attention == "ssa"} == {
        "ssa (reduction=4)": True,
        "ssa (reduction=2)": False,
    }


def test_a_row_without_all_of_its_seeds_has_no_part_in_anything():
    failed = synthetic.quality("fit", 2, status="diverged", reason="loss is not finite")
    records = [
        *seeds("vanilla", 2.0, 2.1),
        *seeds("eager", 2.0, 2.1),
        *seeds("none", 2.6, 2.7),
        *seeds("fit", 2.0, 2.1),
    ]
    for question in (gain, noise, time):
        assert "'fit'" in str(question.lines(material(*records)))
        assert "'fit'" not in str(question.lines(material(*records, failed)))


# Noise


def test_scores_at_a_ceiling_give_no_floor():
    (*_, line) = noise.lines(material(*seeds("vanilla", 1.0, 1.0), *seeds("eager", 1.0, 1.0), *seeds("fit", 1.1, 1.2)))
    assert (line.floor, line.large) == (None, None)


def test_the_floor_is_what_equal_functions_may_differ_by():
    vanilla, eager, near, far = (2.0, 2.04, 2.02), (2.03, 1.99, 2.07), (2.05, 2.07, 2.06), (2.5, 2.52, 2.54)
    records = [*seeds("vanilla", *vanilla), *seeds("eager", *eager), *seeds("fit", *near), *seeds("ssa", *far)]
    lines = noise.lines(material(*records))
    floor = max(map(abs, welch_interval(eager, vanilla) or ()))
    assert [line.floor for line in lines] == [pytest.approx(floor)] * 6
    swapped = [*seeds("vanilla", *eager), *seeds("eager", *vanilla)]
    assert noise.lines(material(*swapped))[0].floor == pytest.approx(floor)
    assert one(lines, first="vanilla", second="eager").large is None
    close = one(lines, first="vanilla", second="fit")
    assert close.gain.value == pytest.approx(-0.04)
    assert (close.beyond_floor, close.large) == (False, False)
    wide = one(lines, first="vanilla", second="ssa")
    assert (wide.beyond_floor, wide.beyond_seeds, wide.large) == (True, True, True)
    assert wide.over_floor == pytest.approx(0.5 / floor)


def test_a_difference_within_its_own_noise_is_not_large():
    records = [*seeds("vanilla", 2.0, 2.001), *seeds("eager", 2.0, 2.001), *seeds("fit", 1.0, 2.5)]
    line = one(noise.lines(material(*records)), first="vanilla", second="fit")
    assert (line.beyond_floor, line.beyond_seeds, line.large) == (True, False, False)


def test_one_seed_has_a_difference_and_no_floor():
    (line,) = noise.lines(material(*seeds("vanilla", 2.0), *seeds("eager", 2.1)))
    assert line.gain == Estimate(pytest.approx(-0.1))
    assert (line.floor, line.beyond_floor, line.figure) == (None, None, "")
    assert not Answer(noise.QUESTION, [line]).figures


# Correlation


def tasks(scores: dict[str, dict[str, float]], **about) -> list[Record]:
    """Task -> family -> score; the only metric is one of which more is better."""
    return [
        scored(synthetic.quality(name, task=task, **about), "accuracy", "higher", score, 0.0)
        for task, families in scores.items()
        for name, score in families.items()
    ]


def test_correlation_of_tasks_is_pearsons_over_the_families_that_have_both():
    x, y = [0.1, 0.5, 0.2, 0.9, 0.4, 0.3], [0.3, 0.6, 0.1, 0.7, 0.9, 0.2]
    one_task, other = dict(zip(FAMILIES, x, strict=True)), dict(zip(FAMILIES, y, strict=True))
    del other["ssa"]
    controls = {"none": -9.0, "eager": 9.0}
    (line,) = correlation.lines(material(*tasks({"lm": one_task | controls, "tts": other | controls})))
    keep = [i for i, name in enumerate(FAMILIES) if name != "ssa"]
    r = np.corrcoef(np.take(x, keep), np.take(y, keep))[0, 1]
    assert (line.level, line.n) == ("tasks", 5)
    assert line.attentions == "block_transformer fit lightning routing vanilla"
    assert line.pearson.value == pytest.approx(r)
    low, high = line.pearson.interval
    assert low == pytest.approx(math.tanh(math.atanh(r) - 1.96 / math.sqrt(2)), abs=1e-4)
    assert low < r < high < 1


def test_under_five_families_only_n_is_said():
    scores = {task: {name: i * 0.1 for i, name in enumerate(FAMILIES[:4])} for task in ("lm", "tts")}
    (line,) = correlation.lines(material(*tasks(scores)))
    assert line.n == 4
    assert line.pearson is line.spearman is None
    assert "n=4" in [text.get_text() for text in correlation.draw([line]).axes[0].texts]


def test_patterns_correlate_by_their_indices_and_sizes_never_mix():
    def scores(shift: int) -> dict[str, dict[str, float]]:
        return {"tts": {name: ((i * 5 + shift) % 7) / 7 for i, name in enumerate(FAMILIES)}}

    records = [r for size in ("smoke", "base") for r in tasks(scores(0), pattern="causal_self", size=size)]
    records += tasks(scores(3), pattern="causal_cross")
    made = material(*records)
    line = one(correlation.lines(made), level="patterns")
    x, y = ([e.index for n in FAMILIES for e in table.entries if e.attention == n] for table in made.composites[::2])
    assert [table.size for table in made.composites] == ["smoke", "base", "smoke"]
    assert (line.size, line.n) == ("smoke", 6)
    assert line.pearson.value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert len(correlation.lines(made)) == 2


def test_a_family_with_several_sets_of_options_counts_once():
    score = {name: i * 0.1 for i, name in enumerate(FAMILIES)}
    records = tasks({"lm": score, "tts": score})
    records += [r for b in (1, 2, 3) for r in tasks({"lm": {"fit": 0.9}}, options={"latents": b})]
    (line,) = correlation.lines(material(*records))
    assert line.n == 6
    assert line.pearson.value == pytest.approx(1.0)  # of the set that is in both tasks


# Contexts


def at_contexts(seed: int, scores: dict[int, float | None]) -> Record:
    record = synthetic.quality("vanilla", seed)
    record.result["tables"]["loss_by_context"] = [
        {"context": n} | ({"reason": "positions end"} if x is None else {"bits_per_byte": x}) for n, x in scores.items()
    ]
    return record


def test_contexts_are_averaged_over_seeds_and_reasons_kept():
    both = [at_contexts(0, {128: 2.0, 256: 1.9, 512: None}), at_contexts(1, {128: 2.2, 256: 2.0, 512: 3.0})]
    lines = context.lines(material(*both))
    line = one(lines, context=128)
    assert (line.n, line.mean.value, line.lowest, line.highest) == (2, pytest.approx(2.1), 2.0, 2.2)
    assert line.mean.interval == t_interval([2.0, 2.2])
    assert line.trained_at == 256
    partly = one(lines, context=512)
    assert (partly.n, partly.mean, partly.reason) == (1, None, "positions end")
    figure = context.draw([line for line in lines if line.figure])
    (drawn, marked) = figure.axes[0].get_lines()
    assert list(drawn.get_xdata()) == [128, 256]
    assert set(marked.get_xdata()) == {256}
    assert {line.figure for line in context.lines(material(at_contexts(0, {128: 2.0, 256: None})))} == {""}


# Time


def timed(name: str, score: float, seconds: float, seed: int = 0, threads: int = 2) -> Record:
    record = synthetic.quality(name, seed, score=score)
    record.result["training"]["seconds"] = seconds
    record.provenance["device"]["threads"] = threads
    return record


def test_a_family_is_pareto_optimal_if_no_other_is_better_in_both():
    records = [timed("vanilla", 2.0, 50), timed("fit", 1.9, 80), timed("ssa", 2.0, 60), timed("none", 2.6, 20)]
    lines = time.lines(material(*records, timed("lightning", 2.6, 20)))
    assert {line.attention: (line.pareto_optimal, line.dominated_by) for line in lines} == {
        "vanilla": (True, ""),
        "fit": (True, ""),
        "ssa": (False, "vanilla"),
        "none": (True, ""),
        "lightning": (True, ""),  # equal to another: neither beats the other
    }


def test_times_of_different_devices_are_never_compared():
    records = [timed("vanilla", 2.0, 50), timed("fit", 2.1, 80), timed("ssa", 1.0, 10, threads=1)]
    assert [(line.attention, line.pareto_optimal) for line in time.lines(material(*records))] == [
        ("vanilla", True),
        ("fit", False),
    ]
    assert not time.lines(material(records[0], records[2]))
    both = [timed("ssa", 1.0, 10, 1, threads=1), timed("ssa", 1.0, 70, 0)]
    lines = time.lines(material(*records[:2], *both))
    assert one(lines, attention="ssa").seconds.value == 70


def test_times_of_several_processes_or_cut_batches_stand_by_themselves():
    several, cut = timed("fit", 2.1, 20), timed("ssa", 1.0, 10)
    several.result["training"]["processes"] = 4
    cut.config["train"] = {"micro_batch": 2}
    assert not time.lines(material(timed("vanilla", 2.0, 50), several, cut))
    assert time.device(several).endswith(", 4 processes")
    assert time.device(cut).endswith(", micro-batch 2")


def validated(name: str, seconds: float, points: dict[float, float], seed: int = 0) -> Record:
    """`points`: bits per byte on validation by seconds."""
    record = timed(name, 2.0, seconds, seed)
    curve = [{"step": at, "loss": 1.0, "seconds": time} for at, time in enumerate((1.0, *points))]
    for point in curve[1:]:
        point["validation"] = {"bits_per_byte": points[point["seconds"]], "perplexity": 9.0}
    record.result["curve"] = curve
    return record


def test_at_equal_time_each_counts_with_what_lies_between_its_validations():
    records = [
        validated("none", 20.0, {10: 3.0, 20.0004: 2.8}),  # a curve is rounded
        validated("fit", 60, {15: 2.9, 19: 2.7, 21: 2.1, 60: 2.0}),
        validated("ssa", 90, {30: 2.5, 90: 1.0}),
    ]
    lines = time.lines(material(*records))
    assert {line.attention: line.equal_seconds for line in lines} == {"none": 20, "fit": 20, "ssa": 20}
    assert one(lines, attention="none").validation_at_equal_time == Estimate(2.8)
    fit, ssa = one(lines, attention="fit"), one(lines, attention="ssa")
    assert (fit.validation_at_equal_time, fit.validation_at_end) == (Estimate(pytest.approx(2.4)), Estimate(2.0))
    assert (ssa.validation_at_equal_time, ssa.validation_at_end) == (None, Estimate(1.0))
    right = time.draw(lines).axes[1]
    assert [text.get_text() for text in right.get_yticklabels()] == ["fit", "none", "ssa"]  # best first, unknown last
    assert "after 20 s of training" in right.get_title()
    assert len(time.draw(time.lines(material(*(timed(n, 2.0, 9) for n in ("fit", "none"))))).axes) == 2


def test_equal_time_is_that_in_which_all_seeds_of_the_fastest_were_done():
    records = [validated("none", at, {at: 2.8 + seed}, seed) for seed, at in enumerate((20.0, 24.0))]
    records += [validated("fit", 60, {23: 2.7 + seed, 25: 1.0}, seed) for seed in (0, 1)]
    lines = time.lines(material(*records))
    assert {line.equal_seconds for line in lines} == {24}
    assert one(lines, attention="none").validation_at_equal_time.value == pytest.approx(3.3)
    fit = one(lines, attention="fit").validation_at_equal_time
    assert (fit.value, fit.interval) == (pytest.approx(2.1), t_interval([1.85, 2.35]))
    records[3] = validated("fit", 60, {25: 1.0}, 1)  # a mean needs all seeds
    assert one(time.lines(material(*records)), attention="fit").validation_at_equal_time is None


# Options


def test_options_are_compared_one_at_a_time_and_seed_by_seed():
    records = [*seeds("fit", 2.0, 2.4, 2.2, options={"latents": 8, "group": 8})]
    records += seeds("fit", 1.9, 2.2, options={"latents": 4, "group": 8})
    records += seeds("fit", 1.0, options={"latents": 16, "group": 16})  # two differ
    (line,) = options.lines(material(*records))
    assert (line.option, line.from_value, line.to_value, line.seeds) == ("latents", "8", "4", "0 1")  # from most seeds
    assert line.gain.value == pytest.approx(0.15)
    assert line.gain.interval == pytest.approx(t_interval([0.1, 0.2]))
    assert line.same_training is False
    assert line.group.columns["scale"] == "linear"


def test_an_option_of_evaluation_alone_is_told_by_equal_training():
    """SSA's self-ensemble: the same losses at every step, another score."""
    dense, ensemble = ([*seeds("ssa", 2.0, 2.1, options={"samples": s})] for s in (0, 8))
    for one_seed, other in zip(dense, ensemble, strict=True):
        other.result["curve"] = [dict(point) for point in one_seed.result["curve"]]
        other.result["metrics"]["bits_per_byte"] -= 0.3
    (line,) = options.lines(material(*dense, *ensemble))
    assert (line.same_training, line.gain.value) == (True, pytest.approx(0.3))
    ensemble[1].result["curve"][3]["loss"] += 1e-9
    assert options.lines(material(*dense, *ensemble))[0].same_training is False
    for record in (*dense, *ensemble):
        record.result["curve"] = []
    assert options.lines(material(*dense, *ensemble))[0].same_training is False


# All of them


def everything() -> list[Record]:
    names = (*FAMILIES, "eager", "none")
    where = (("lm", "causal_self"), ("recall", "causal_self"), ("recall", "causal_cross"), ("tts", "causal_cross"))
    made = [
        synthetic.quality(n, s, task=task, pattern=pattern) for task, pattern in where for n in names for s in (0, 1)
    ]
    for record in made:
        if record.cell["task"] in ("lm", "recall"):
            with_tables(record)
    return made + [synthetic.quality("fit", s, options={"latents": n}) for s in (0, 1) for n in (4, 8)]


def test_every_question_is_answered_by_a_table_and_legible_figures():
    made = material(*everything())
    for question in QUESTIONS:
        answer = Answer(question, question.lines(made))
        assert answer.figures, question.name
        assert all(columns(line).keys() == columns(answer.lines[0]).keys() for line in answer.lines)
        for lines in answer.figures.values():
            figure = question.draw(lines)
            figure.draw_without_rendering()
            inside = figure.get_tightbbox()
            assert inside.x0 > -0.02
            assert inside.x1 < figure.get_figwidth() + 0.02
            sizes = [
                text.get_fontsize() for text in figure.findobj(lambda a: hasattr(a, "get_fontsize")) if text.get_text()
            ]
            assert min(sizes) >= 10


def test_without_data_nothing_is_written_and_one_line_says_so(tmp_path):
    synthetic.write(tmp_path, synthetic.quality("vanilla", 0))
    assert main(["--results", str(tmp_path), "--no-plots"]) == 0
    folder = tmp_path / "leaderboard"
    assert not (folder / "analyses").exists()
    assert "## Analyses" not in (folder / "leaderboard.md").read_text()
    synthetic.write(tmp_path, synthetic.quality("none", 0), synthetic.quality("lightning", 0))
    assert main(["--results", str(tmp_path), "--no-plots"]) == 0
    assert {path.name for path in (folder / "analyses").iterdir()} == {"gain.csv", "time.csv"}
    text = (folder / "leaderboard.md").read_text()
    assert text.count("Without an answer in these records: ") == 1
    for question in QUESTIONS:
        written = question.name in ("gain", "time")
        assert (f"### {question.title}\n\n{question.explanation} Table: " in text) is written
        assert (f"{question.title} (needs {question.needs})" in text) is not written
    assert "![" not in text  # no figure was asked for


def test_a_file_that_is_no_longer_true_goes(tmp_path):
    paths = synthetic.write(tmp_path, *(synthetic.quality(name) for name in ("vanilla", "none")))
    main(["--results", str(tmp_path), "--no-plots"])
    rows = list(csv.DictReader((tmp_path / "leaderboard/analyses/gain.csv").open()))
    assert [row["attention"] for row in rows] == ["vanilla"]
    paths[1].unlink()
    main(["--results", str(tmp_path), "--no-plots"])
    assert not list((tmp_path / "leaderboard/analyses").iterdir())


def test_figures_of_the_page_and_of_leaderboard_md_are_those_drawn(tmp_path):
    synthetic.write(tmp_path, *(r for r in everything() if r.cell.get("task") == "lm"))
    assert main(["--results", str(tmp_path)]) == 0
    folder = tmp_path / "leaderboard"
    linked = [Path(part.partition(")")[0]) for part in (folder / "leaderboard.md").read_text().split("](plots/")[1:]]
    assert {path.stem.partition("_")[0] for path in linked} == {
        "curves",
        "gain",
        "noise",
        "context",
        "copies",
        "options",
        "time",
    }
    assert all((folder / "plots" / path).exists() for path in linked)


def test_tables_that_share_a_heading_are_told_apart():
    def group(content: str, difference: str, steps: int, task: str = "lm") -> Group:
        record = synthetic.quality(task=task, steps=steps)
        record.result["data"]["content"] = content * 64
        (made,) = make_groups([record])
        made.difference = difference
        return made

    same = group("a", "", 200)
    groups = [
        group("a", "train.steps=100 data=aaaaaaaa", 100),
        group("b", "train.steps=100 data=bbbbbbbb", 100),
        same,
        same,
        group("a", "train.steps=300", 300),
        group("a", "train.steps=400 model.depth=4", 400),
    ]
    settings = [each.settings_name for each in groups]
    names = base.table_names(groups)
    assert names[0] == f"lm\ncausal self\nsettings {settings[0]}\ndata aaaaaaaa"
    assert names[2] == names[3] == f"lm\ncausal self\nsettings {settings[2]}"
    assert names[4:] == ["lm\ncausal self\ntrain.steps=300", f"lm\ncausal self\nsettings {settings[5]}"]
    assert len(set(names)) == 5
    assert base.table_names([group("a", "", 200, "tts")]) == ["tts\ncausal self"]
