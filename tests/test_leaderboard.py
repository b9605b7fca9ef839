import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest

from cab.costs import Costs, analyse
from cab.intervals import T_975, t_interval, welch_interval
from cab.leaderboard import main, standings
from cab.record import SCIENCE_VERSION, Record
from cab.standing import Group, Row, groups
from cab.tables import load


def build(results: Path, *records: Record) -> dict[str, list[dict[str, str]]]:
    """Writes the records, runs the command, reads the tables back."""
    factory.write(results, *records)
    assert main(["--results", str(results), "--no-plots"]) == 0
    return tables(results)


def tables(results: Path) -> dict[str, list[dict[str, str]]]:
    found = {}
    for name in ("leaderboard", "quality", "efficiency", "composite", "composite_scale"):
        text = (results / "leaderboard" / f"{name}.csv").read_text()
        found[name] = list(csv.DictReader(text.splitlines())) if text.strip() else []
    return found


def page(results: Path) -> str:
    return (results / "leaderboard" / "leaderboard.md").read_text()


def one(rows: list[dict[str, str]], **wanted: str) -> dict[str, str]:
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def ranked(**scores: list[float]) -> dict[str, Row]:
    """The rows of a group in which each family has these scores, one per seed."""
    records = [factory.quality(name, seed, score=s) for name, values in scores.items() for seed, s in enumerate(values)]
    (group,) = groups(records)
    return {row.attention: row for row in group.rows}


# Seeds, means, intervals


def test_mean_std_and_t_interval_over_seeds(tmp_path):
    scores = (1.90, 1.94, 1.98)
    made = build(tmp_path, *(factory.quality("lightning", seed, score=s) for seed, s in enumerate(scores)))
    (row,) = made["leaderboard"]
    assert row["n"] == "3"
    assert float(row["mean"]) == pytest.approx(1.94)
    assert float(row["std"]) == pytest.approx(0.04)
    half = 4.303 * 0.04 / 3**0.5
    assert float(row["low"]) == pytest.approx(1.94 - half)
    assert float(row["high"]) == pytest.approx(1.94 + half)
    assert "1.94 (1.841 to 2.039)" in page(tmp_path)


def test_t_quantiles_are_right():
    """The density of Student's t, integrated numerically up to each quantile."""
    import math

    import numpy as np

    for freedom in range(1, 60):
        low, high = t_interval([-1.0, *[0.0] * (freedom - 1), 1.0]) or (0.0, 0.0)
        t = (high - low) / 2 / np.std([-1.0, *[0.0] * (freedom - 1), 1.0], ddof=1) * math.sqrt(freedom + 1)
        x = np.linspace(0, t, 20001)
        log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
        density = np.exp(log_scale - (freedom + 1) / 2 * np.log1p(x**2 / freedom))
        assert np.trapezoid(density, x) == pytest.approx(0.475, abs=1e-4)
    assert len(T_975) == 30


def test_one_seed_has_no_interval_and_no_rank(tmp_path):
    made = build(tmp_path, factory.quality("vanilla", 0), factory.quality("none", 0))
    for row in made["leaderboard"]:
        assert row["n"] == "1"
        assert row["mean"]
        assert not row["std"]
        assert not row["low"]
        assert not row["rank"]
    assert "| -      | vanilla" in page(tmp_path)


@pytest.mark.parametrize("status", ["diverged", "error", "timeout", "out_of_memory", "failed_check"])
def test_a_row_with_a_failed_seed_has_no_mean(tmp_path, status):
    made = build(
        tmp_path,
        factory.quality("lightning", 0, score=1.0),
        factory.quality("lightning", 1, score=1.1),
        factory.quality("lightning", 2, status=status, reason="why it ended"),
    )
    (row,) = made["leaderboard"]
    assert row["n"] == "2"
    assert not row["mean"]
    assert not row["rank"]
    assert row["status"] == f"2 ok, 1 {status}"
    assert row["reason"] == "why it ended"
    assert f"2 ok, 1 {status}: why it ended" in page(tmp_path)
    failed = one(made["quality"], seed="2")
    assert (failed["status"], failed["reason"], failed["score"]) == (status, "why it ended", "")


def test_a_score_that_is_missing_counts_as_missing(tmp_path):
    records = [factory.quality("lightning", 0), factory.quality("lightning", 1, score=float("nan"))]
    (row,) = build(tmp_path, *records)["leaderboard"]
    assert (row["n"], row["mean"], row["status"]) == ("1", "", "1 ok, 1 no score")


def test_a_seed_that_others_have_is_named_where_it_is_missing(tmp_path):
    build(tmp_path, *(factory.quality("vanilla", s) for s in range(3)), factory.quality("lightning", 0))
    assert "ok; no seed 1, 2" in page(tmp_path)


# Ranks and benefit


def test_overlapping_intervals_share_a_rank():
    rows = ranked(a=[1.00, 1.02], b=[1.01, 1.03], c=[5.00, 5.001], d=[9.0, 9.001])
    assert [(rows[name].rank, rows[name].tie) for name in "abcd"] == [(1, True), (1, True), (3, False), (4, False)]


def test_overlap_through_a_third_row_is_a_tie():
    rows = ranked(a=[1.0, 1.0001, 1.0002], b=[0.9, 1.3, 1.1], c=[1.4, 1.4001, 1.4002])
    assert rows["a"].interval[1] < rows["c"].interval[0]
    assert {row.rank for row in rows.values()} == {1}


def test_ranks_follow_the_metric_direction():
    def upward(name: str, score: float) -> list[Record]:
        made = [factory.quality(name, seed, score=score + seed * 1e-3) for seed in range(2)]
        return [
            Record(**{**vars(r), "result": {**r.result, "better": {"bits_per_byte": "higher"}}})  # type: ignore[arg-type]
            for r in made
        ]

    (group,) = groups([*upward("none", 1.0), *upward("vanilla", 3.0), *upward("lightning", 2.0)])
    assert [(row.attention, row.rank) for row in group.rows] == [("vanilla", 1), ("lightning", 2), ("none", 3)]
    assert group.benefit(group.rows[0]) == pytest.approx(2.0)
    assert group.benefit(group.rows[2]) is None


def test_benefit_is_the_gain_over_none(tmp_path):
    made = build(tmp_path, factory.quality("none", 0, score=2.5), factory.quality("vanilla", 0, score=2.0))
    assert float(one(made["leaderboard"], attention="vanilla")["benefit"]) == pytest.approx(0.5)
    assert not one(made["leaderboard"], attention="none")["benefit"]


def test_the_interval_of_a_difference():
    low, high = welch_interval([27.5, 21.0, 19.0, 23.6, 17.0], [27.1, 22.0, 20.8, 23.4]) or (0.0, 0.0)
    # by hand: means 21.62 and 23.325, variances 16.772 and 7.4625 over 5 and 4, 6.86 degrees of freedom, taken as 6
    assert low == pytest.approx(-1.705 - 2.447 * 2.28474, abs=2e-3)
    assert high == pytest.approx(-1.705 + 2.447 * 2.28474, abs=2e-3)
    assert welch_interval([1.0], [1.0, 2.0]) is None
    assert welch_interval([3.0, 3.0], [1.0, 1.0]) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("own", "others", "helps"),
    [
        ([2.0], [2.5], True),
        ([2.6], [2.5], False),
        ([2.0, 2.02], [2.5, 2.52], True),
        ([2.0, 2.9], [2.5, 2.6], False),  # better on average, within the noise
    ],
)
def test_a_table_says_where_attention_does_not_help(tmp_path, own, others, helps):
    seeds = {"vanilla": own, "none": others}
    made = build(tmp_path, *(factory.quality(n, s, score=x) for n, xs in seeds.items() for s, x in enumerate(xs)))
    row = one(made["leaderboard"], attention="vanilla")
    assert bool(row["benefit_low"]) == (len(own) > 1)
    assert ("Attention does not help here" in page(tmp_path)) == (not helps)
    if len(own) > 1:
        expected = welch_interval(others, own)  # lower is better
        assert expected is not None
        assert (float(row["benefit_low"]), float(row["benefit_high"])) == pytest.approx(expected)
        assert f" ({expected[0]:+.3g} to {expected[1]:+.3g})" in page(tmp_path)


def test_without_none_there_is_no_benefit(tmp_path):
    made = build(tmp_path, factory.quality("vanilla", 0), factory.quality("none", 0, status="error", reason="x"))
    assert not one(made["leaderboard"], attention="vanilla")["benefit"]


# What is never mixed


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("size", {"size": "smoke"}, {"size": "base"}),
        ("data_hash", {}, {"data": "b" * 64, "real": False}),
        ("settings", {"steps": 100}, {"steps": 200}),
        ("settings", {"model": {**factory.MODEL, "hidden": 512}}, {"model": {**factory.MODEL, "hidden": 2048}}),
        ("pattern", {"pattern": "causal_self"}, {"pattern": "noncausal_self"}),
        ("task", {"task": "lm"}, {"task": "recall"}),
    ],
)
def test_rows_and_benefits_never_mix(tmp_path, name, first, second):
    made = build(
        tmp_path,
        *(factory.quality("lightning", seed, score=1.0, **first) for seed in range(2)),
        *(factory.quality("lightning", seed, score=9.0, **second) for seed in range(2)),
        factory.quality("none", 0, score=3.0, **first),
    )
    rows = [row for row in made["leaderboard"] if row["attention"] == "lightning"]
    assert len({row[name] for row in rows}) == 2
    assert sorted(float(row["mean"]) for row in rows) == [1.0, 9.0]
    assert [row["benefit"] for row in rows if row["mean"] == "9.0"] == [""]
    assert page(tmp_path).partition("## Compositional Index")[0].count("\n## ") == 2


def test_data_of_equal_settings_but_other_content_is_another_group(tmp_path):
    """The same request on a machine whose embedded data differs: same identity but for the seed, other hash."""
    other = factory.quality("lightning", 1, score=9.0)
    other.result["data"]["content"] = "c" * 64
    made = build(tmp_path, factory.quality("lightning", 0, score=1.0), other)
    assert sorted((row["data_hash"][0], row["n"]) for row in made["leaderboard"]) == [("a", "1"), ("c", "1")]
    assert "data=aaaaaaaa" in page(tmp_path)
    assert "data=cccccccc" in page(tmp_path)


def test_settings_are_named_where_they_differ(tmp_path):
    build(tmp_path, factory.quality(steps=100), factory.quality(steps=200))
    assert "Settings: train.steps=100." in page(tmp_path)
    assert "Settings: train.steps=200." in page(tmp_path)


def test_two_option_sets_of_a_family_are_two_rows_with_their_own_costs(tmp_path):
    made = build(
        tmp_path,
        factory.quality("lightning", 0, score=1.0, options={"block": 64}),
        factory.quality("lightning", 0, score=2.0, options={"block": 128}),
        factory.efficiency("lightning", options={"block": 64}),
    )
    small = one(made["leaderboard"], label="lightning (block=64)")
    large = one(made["leaderboard"], label="lightning (block=128)")
    assert (small["mean"], large["mean"]) == ("1.0", "2.0")
    assert small["train_ratio"]
    assert not large["train_ratio"]
    assert one(made["quality"], options="block=64")["score"] == "1.0"


# What is left out, by name


def test_another_science_version_is_left_out_and_named(tmp_path, capsys):
    old = factory.quality("lightning", 0, score=7.0, science_version=0)
    made = build(tmp_path, factory.quality("lightning", 0, score=1.0), old)
    (row,) = made["leaderboard"]
    assert row["mean"] == "1.0"
    assert len(made["quality"]) == 1
    reason = f"science version 0, this version reads {SCIENCE_VERSION}"
    assert f"runs/quality/{old.hash}/result.json`: {reason}" in page(tmp_path)
    assert old.hash in capsys.readouterr().err


def test_a_damaged_record_is_left_out_and_named(tmp_path, capsys):
    path = factory.quality("lightning", 1).write(tmp_path)
    path.write_text(path.read_text()[:400])
    before = path.read_bytes()
    made = build(tmp_path, factory.quality("lightning", 0))
    assert one(made["leaderboard"])["n"] == "1"
    assert "not whole JSON" in page(tmp_path)
    assert str(path) in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize("folder", ["quality/0123456789abcdef", "efficiency/{hash}"])
def test_a_copy_is_not_counted_twice(tmp_path, folder):
    record = factory.quality("lightning", 0)
    (path,) = factory.write(tmp_path, record)
    copy = tmp_path / "runs" / folder.format(hash=record.hash) / "result.json"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(path.read_bytes())
    made = build(tmp_path, factory.quality("lightning", 1))
    assert one(made["leaderboard"])["n"] == "2"
    assert len(made["quality"]) == 2
    assert "a copy" in page(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cell": {"attention": "fit", "pattern": "causal_self", "size": "smoke"}}, "its cell has no task, seed"),
        ({"cell": []}, "its cell is no mapping"),
        ({"result": {"metrics": [1.0]}}, "its metrics is no mapping"),
        ({"provenance": None}, "its provenance is no mapping"),
    ],
)
def test_a_whole_record_that_fits_no_table_is_left_out_and_named(tmp_path, change, reason):
    odd = Record(**{**vars(factory.quality("fit", 1)), **change})
    made = build(tmp_path, factory.quality("lightning", 0), odd)
    assert len(made["quality"]) == len(made["leaderboard"]) == 1
    assert f"{odd.hash}/result.json`: {reason}" in page(tmp_path)


def test_an_unsupported_cell_is_a_row_with_its_reason(tmp_path):
    unsupported = factory.quality("fit", 0, status="unsupported", reason="the slot is a single layer")
    made = build(tmp_path, factory.quality("vanilla", 0), unsupported)
    row = one(made["leaderboard"], attention="fit")
    assert (row["status"], row["reason"], row["mean"], row["n"]) == (
        "unsupported",
        "the slot is a single layer",
        "",
        "0",
    )
    assert row["data_hash"] == factory.DATA  # stands in the group that it would have been in
    assert "unsupported: the slot is a single layer" in page(tmp_path)


def test_only_failed_cells_make_a_page_too(tmp_path):
    made = build(tmp_path, factory.quality("fit", 0, status="unsupported", reason="no"))
    assert one(made["leaderboard"])["status"] == "unsupported"
    assert "Data: unknown" in page(tmp_path)


# Costs


def test_costs_are_joined_by_family_pattern_and_shape(tmp_path):
    wide = factory.MODEL | {"dim": 256}
    made = build(
        tmp_path,
        factory.quality("lightning", 0),
        factory.quality("routing", 0),
        factory.efficiency("lightning"),
        factory.efficiency("lightning", model=wide, speed=50),
        factory.efficiency("routing", pattern="noncausal_self"),
        factory.efficiency("routing", level="attention"),
    )
    row = one(made["leaderboard"], attention="lightning")
    assert float(row["train_ratio"]) == pytest.approx(0.77, abs=0.05)
    assert float(row["train_ratio_low"]) < float(row["train_ratio"]) < float(row["train_ratio_high"])
    assert row["train_length"] == "2048"
    assert 700 < float(row["time_from_vanilla_length"]) < 1300
    assert 250 < float(row["time_from_eager_length"]) < 600
    assert row["memory_from_vanilla"] == "> 2,048"
    assert row["memory_from_vanilla_bound"] == ">"
    assert row["memory_from_eager"] == "<= 128"
    assert float(row["decode_tokens_per_second"]) == pytest.approx(2500, rel=0.1)
    assert float(row["decode_speedup"]) == pytest.approx(1.1, abs=0.05)
    assert row["state_bytes"] == str(4 * 32 * 32 * 3 * 4.0)
    assert not one(made["leaderboard"], attention="routing")["train_ratio"]


def test_a_baseline_is_not_compared_to_itself(tmp_path):
    made = build(tmp_path, factory.quality("vanilla", 0), factory.efficiency("vanilla"))
    (row,) = made["leaderboard"]
    assert row["train_ratio"] == "1.0"
    assert not row["time_from_vanilla"]
    assert row["time_from_eager"] == "<= 128"


def test_costs_of_a_group_come_from_one_machine():
    elsewhere = factory.efficiency("routing")
    elsewhere = Record(**{**vars(elsewhere), "cell": {**elsewhere.cell, "device": "a GPU"}})  # type: ignore[arg-type]
    elsewhere.identity["device"] = "a GPU"
    here = [factory.efficiency(name) for name in ("vanilla", "lightning")]
    quality = [factory.quality(name) for name in ("vanilla", "lightning", "routing")]
    ((_, lines),) = standings(quality, [analyse(record) for record in (*here, elsewhere)])
    devices = {line["attention"]: line["cost_device"] for line in lines}
    assert devices == {"vanilla": "a CPU", "lightning": "a CPU", "routing": None}


def test_of_two_measurements_the_newer_one_counts():
    old, new = factory.efficiency("lightning"), factory.efficiency("lightning", rounds=11)
    new.provenance["started"] = "2026-02-02T00:00:00"
    (line,) = Costs([analyse(new), analyse(old)])([factory.quality("lightning")])
    assert line["cost_record"] == new.hash


@pytest.mark.parametrize("status", ["error", "unsupported", "timeout"])
def test_a_measurement_that_failed_does_not_hide_an_older_one(status):
    good, failed = factory.efficiency("lightning"), factory.efficiency("lightning", status=status, rounds=11)
    failed.provenance["started"] = "2026-02-02T00:00:00"
    (line,) = Costs([analyse(failed), analyse(good)])([factory.quality("lightning")])
    assert line["cost_record"] == good.hash
    (line,) = Costs([analyse(failed)])([factory.quality("lightning")])
    assert line["cost_status"] == status


def test_costs_of_a_group_are_of_one_batch_size():
    """Most were measured at batch 1, and the later measurement at another is left out."""
    other = factory.efficiency("lightning", rounds=11)
    other.identity["batch"] = 8
    other.provenance["started"] = "2026-02-02T00:00:00"
    own = [factory.efficiency(name) for name in ("vanilla", "lightning")]
    quality = [factory.quality(name) for name in ("vanilla", "lightning")]
    found = Costs([analyse(record) for record in (*own, other)])(quality)
    assert [line["cost_record"] for line in found] == [record.hash for record in own]


def test_efficiency_table_has_every_measurement(tmp_path):
    record = factory.efficiency("lightning", batches=(1, 16))
    made = build(tmp_path, record, factory.efficiency("fit", status="unsupported", reason="no layer"))
    rows = [row for row in made["efficiency"] if row["attention"] == "lightning"]
    assert len(rows) == len(record.result["measurements"])
    row = one(rows, subject="lightning", phase="train", length="2048")
    assert row["n"] == "9"
    assert float(row["seconds_low"]) <= float(row["seconds_median"]) <= float(row["seconds_high"])
    assert row["spread"] == "quartiles"
    assert row["verdict_vanilla"] == "cheaper"
    assert not row["ratio_eager"]
    missing = one(rows, subject="eager", phase="train", length="2048")
    assert (missing["status"], missing["reason"], missing["seconds_median"]) == ("not_measured", "memory", "")
    failed = one(made["efficiency"], attention="fit")
    assert (failed["status"], failed["reason"]) == ("unsupported", "no layer")


def test_few_rounds_give_a_range_and_no_median(tmp_path):
    made = build(tmp_path, factory.efficiency("lightning", rounds=3))
    row = one(made["efficiency"], subject="lightning", phase="train", length="512")
    assert (row["n"], row["spread"], row["seconds_median"]) == ("3", "range", "")


def test_quality_without_efficiency_and_the_reverse(tmp_path):
    made = build(tmp_path / "quality", factory.quality())
    assert not made["efficiency"]
    assert not one(made["leaderboard"])["train_ratio"]
    made = build(tmp_path / "efficiency", factory.efficiency())
    assert not made["leaderboard"]
    assert made["efficiency"]
    assert "no quality records" in page(tmp_path / "efficiency")


# The page and the command


def test_the_page_says_where_everything_comes_from(tmp_path):
    build(
        tmp_path, *(factory.quality("vanilla", s) for s in (0, 1)), factory.quality("lightning", options={"block": 64})
    )
    text = page(tmp_path)
    assert "## lm, causal self, smoke" in text
    assert "Data: real, embedded (sources of the standard library), content aaaaaaaaaaaa." in text
    assert "Trivial predictor: unigram, bits per byte 4.6." in text
    assert "`python -m cab.run -m attention=vanilla pattern=causal_self task=lm size=smoke seed=0,1`" in text
    assert "attention=lightning attention.block=64" in text
    assert "(commit 1ec352d7a1)" in text


def test_quality_table_is_whole(tmp_path):
    record = factory.quality("lightning", 4, score=1.5)
    record.provenance["git"]["dirty"] = True
    (row,) = build(tmp_path, record)["quality"]
    expected = {
        "attention": "lightning",
        "pattern": "causal_self",
        "task": "lm",
        "size": "smoke",
        "seed": "4",
        "status": "ok",
        "metric.bits_per_byte": "1.5",
        "trivial": "unigram",
        "trivial_score": "4.6",
        "parameters": "730000",
        "data_hash": factory.DATA,
        "data_source": "embedded",
        "data": "real",
        "science_version": str(SCIENCE_VERSION),
        "command": record.provenance["command"],
        "revision": record.provenance["git"]["revision"] + "+dirty",
        "seconds": "61.2",
        "record": record.hash,
    }
    assert {key: row[key] for key in expected} == expected


@pytest.mark.parametrize("make", [lambda p: None, lambda p: (p / "runs").mkdir(parents=True)])
def test_without_records_one_line_says_what_to_do(tmp_path, capsys, make):
    make(tmp_path / "results")
    assert main(["--results", str(tmp_path / "results")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "make run" in said.err
    assert not (tmp_path / "results" / "leaderboard").exists()


def test_with_unusable_records_only_the_line_says_so(tmp_path, capsys):
    path = factory.quality().write(tmp_path)
    path.write_text("{")
    assert main(["--results", str(tmp_path)]) == 2
    assert "1 files, none of them usable" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    factory.quality().write(tmp_path)
    (tmp_path / "leaderboard").write_text("a file in the way")
    assert main(["--results", str(tmp_path)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_same_records_give_the_same_files(tmp_path):
    records = [factory.quality("vanilla", seed) for seed in range(2)] + [factory.efficiency("lightning")]
    build(tmp_path / "a", *records)
    build(tmp_path / "b", *reversed(records))
    for name in (*(f"{table}.csv" for table in tables(tmp_path / "a")), "leaderboard.md"):
        assert (tmp_path / "a/leaderboard" / name).read_bytes() == (tmp_path / "b/leaderboard" / name).read_bytes()


def test_importing_the_command_is_cheap():
    code = "import sys, cab.leaderboard; print([m for m in ('torch', 'pandas', 'matplotlib') if m in sys.modules])"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"


@pytest.mark.slow
def test_two_thousand_records_take_seconds_and_little_memory(tmp_path):
    """Ten seconds of one processor at most, 1 GB; measured of the very process, workers included in the time."""
    families = ("vanilla", "eager", "none", "lightning", "routing", "ssa", "fit", "block_transformer")
    tasks = ("lm", "mlm", "recall", "summarization", "forecasting")
    records = [
        factory.quality(family, seed, task=task, size=size, pattern=pattern)
        for family in families
        for seed in range(10)
        for task in tasks
        for size in ("smoke", "base")
        for pattern in ("causal_self", "noncausal_self")
    ]
    records += [
        factory.efficiency(family, pattern=pattern, options={"block": block})
        for family in families
        for pattern in ("causal_self", "noncausal_self")
        for block in range(25)
    ]
    assert len(records) == 2000
    factory.write(tmp_path, *records)
    command = [sys.executable, "-c", MEASURED, "--results", str(tmp_path), "--no-plots"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    printed = process.stdout.read()  # type: ignore[union-attr]
    _, process.returncode, usage = os.wait4(process.pid, 0)
    assert process.returncode == 0
    assert usage.ru_utime + usage.ru_stime < 10
    assert int(printed.split()[-1]) < 1_000_000  # KiB


MEASURED = """
import pathlib, re, sys
from cab.leaderboard import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""
"""Says the process's own peak of memory last: ru_maxrss starts with that of the process that it was forked from."""


def test_records_are_read_only(tmp_path):
    (path,) = factory.write(tmp_path, factory.quality())
    content: Any = json.loads(path.read_text())
    build(tmp_path)
    assert json.loads(path.read_text()) == content
    assert isinstance(load(tmp_path).quality[0], Record)
    assert isinstance(groups(load(tmp_path).quality)[0], Group)


def test_cabs_own_fit_stands_beside_the_efficiency_length():
    """Against eager, from the median times of a training step: as computed by hand from the record's samples."""
    made = factory.efficiency("lightning")
    rows = [row for row in made.result["measurements"] if row["phase"] == "train" and row["status"] == "ok"]
    times = {
        name: {row["length"]: float(np.median(row["seconds"])) for row in rows if row["subject"] == name}
        for name in ("lightning", "eager")
    }
    at = sorted(times["lightning"].keys() & times["eager"].keys())
    quadratic = np.polyfit(at, [times["eager"][n] for n in at], 2)
    line = np.polyfit(at[1:], [times["lightning"][n] for n in at[1:]], 1)
    roots = np.roots(quadratic - [0.0, *line])
    assert analyse(made).summary["cab_fit_time"] == pytest.approx(max(roots.real))
    assert analyse(factory.efficiency("eager")).summary["cab_fit_time"] is None
