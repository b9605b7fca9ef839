import errno
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from helpers import synthetic
from helpers.leaderboard_files import build, one, page, tables

from cab.leaderboard import main
from cab.report.groups import Group, make_groups
from cab.report.load import load
from cab.store.record import SCIENCE_VERSION, Record

# What is never mixed


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("size", {"size": "smoke"}, {"size": "base"}),
        ("data_hash", {}, {"data": "b" * 64, "real": False}),
        ("settings", {"steps": 100}, {"steps": 200}),
        ("settings", {"model": {**synthetic.MODEL, "hidden": 512}}, {"model": {**synthetic.MODEL, "hidden": 2048}}),
        ("pattern", {"pattern": "causal_self"}, {"pattern": "noncausal_self"}),
        ("task", {"task": "lm"}, {"task": "recall"}),
    ],
)
def test_rows_and_gains_never_mix(tmp_path, name, first, second):
    made = build(
        tmp_path,
        *(synthetic.quality("lightning", seed, score=1.0, **first) for seed in range(2)),
        *(synthetic.quality("lightning", seed, score=9.0, **second) for seed in range(2)),
        synthetic.quality("none", 0, score=3.0, **first),
    )
    rows = [row for row in made["leaderboard"] if row["attention"] == "lightning"]
    assert len({row[name] for row in rows}) == 2
    assert sorted(float(row["mean"]) for row in rows) == [1.0, 9.0]
    assert [row["gain"] for row in rows if row["mean"] == "9.0"] == [""]
    assert page(tmp_path).partition("## Compositional Index")[0].count("\n## ") == 2


def test_data_of_equal_settings_but_other_content_is_another_group(tmp_path):
    """The same request on a machine whose embedded data differs: same identity but for the seed, other hash."""
    other = synthetic.quality("lightning", 1, score=9.0)
    other.result["data"]["content"] = "c" * 64
    made = build(tmp_path, synthetic.quality("lightning", 0, score=1.0), other)
    assert sorted((row["data_hash"][0], row["n"]) for row in made["leaderboard"]) == [("a", "1"), ("c", "1")]
    assert "data=aaaaaaaa" in page(tmp_path)
    assert "data=cccccccc" in page(tmp_path)


def test_settings_are_named_where_they_differ(tmp_path):
    build(tmp_path, synthetic.quality(steps=100), synthetic.quality(steps=200))
    assert "Settings: train.steps=100." in page(tmp_path)
    assert "Settings: train.steps=200." in page(tmp_path)


def test_a_heading_says_on_what_and_for_how_long_was_trained(tmp_path):
    local = synthetic.quality()
    local.config["data"] = {"source": "local", "path": "/somewhere/of/mine/novels"}
    local.result["data"] |= {"source": "local", "description": "local text files"}
    build(tmp_path, local)
    assert "Data: real, local novels (local text files), content aaaaaaaaaaaa." in page(tmp_path)
    assert "Trained for 200 steps of 16 at length 256." in page(tmp_path)


def test_a_heading_says_how_much_of_the_test_is_in_train_and_what_a_word_is(tmp_path):
    record = synthetic.quality()
    record.result["data"]["facts"] = {"test_text_in_train": 0.0489, "run_bytes": 32, "words": "those of a test"}
    build(tmp_path, record)
    text = page(tmp_path)
    assert "4.9% of the test text is also in train, in runs of 32 bytes or more. Words are those of a test. Tr" in text
    del record.result["data"]["facts"]
    build(tmp_path / "older", record)
    assert "also in train" not in page(tmp_path / "older")


def test_two_option_sets_of_a_family_are_two_rows_with_their_own_costs(tmp_path):
    made = build(
        tmp_path,
        synthetic.quality("lightning", 0, score=1.0, options={"block": 64}),
        synthetic.quality("lightning", 0, score=2.0, options={"block": 128}),
        synthetic.efficiency("lightning", options={"block": 64}),
    )
    small = one(made["leaderboard"], label="lightning (block=64)")
    large = one(made["leaderboard"], label="lightning (block=128)")
    assert (small["mean"], large["mean"]) == ("1.0", "2.0")
    assert small["train_ratio"]
    assert not large["train_ratio"]
    assert one(made["quality"], options="block=64")["score"] == "1.0"


# What is left out, by name


def test_another_science_version_is_left_out_and_named(tmp_path, capsys):
    old = synthetic.quality("lightning", 0, score=7.0, science_version=0)
    made = build(tmp_path, synthetic.quality("lightning", 0, score=1.0), old)
    (row,) = made["leaderboard"]
    assert row["mean"] == "1.0"
    assert len(made["quality"]) == 1
    reason = f"science version 0, this version reads {SCIENCE_VERSION}"
    assert f"runs/quality/{old.hash}/result.json`: {reason}" in page(tmp_path)
    assert old.hash in capsys.readouterr().err


def test_a_damaged_record_is_left_out_and_named(tmp_path, capsys):
    path = synthetic.quality("lightning", 1).write(tmp_path)
    path.write_text(path.read_text()[:400])
    before = path.read_bytes()
    made = build(tmp_path, synthetic.quality("lightning", 0))
    assert one(made["leaderboard"])["n"] == "1"
    assert "not valid JSON" in page(tmp_path)
    assert str(path) in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize("folder", ["quality/0123456789abcdef", "efficiency/{hash}"])
def test_a_copy_is_not_counted_twice(tmp_path, folder):
    record = synthetic.quality("lightning", 0)
    (path,) = synthetic.write(tmp_path, record)
    copy = tmp_path / "runs" / folder.format(hash=record.hash) / "result.json"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(path.read_bytes())
    made = build(tmp_path, synthetic.quality("lightning", 1))
    assert one(made["leaderboard"])["n"] == "2"
    assert len(made["quality"]) == 2
    assert "a copy" in page(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cell": {"attention": "fit", "pattern": "causal_self", "size": "smoke"}}, "cell.task is missing"),
        ({"cell": []}, "cell: Input should be a valid dictionary"),
        ({"result": {"metrics": [1.0]}}, "result.data is missing"),
        ({"provenance": None}, "provenance: Input should be a valid dictionary"),
    ],
)
def test_a_whole_record_that_fits_no_table_is_left_out_and_named(tmp_path, change, reason):
    odd = Record(**{**vars(synthetic.quality("fit", 1)), **change})
    made = build(tmp_path, synthetic.quality("lightning", 0), odd)
    assert len(made["quality"]) == len(made["leaderboard"]) == 1
    assert f"{odd.hash}/result.json`: {reason}" in page(tmp_path)


def test_an_unsupported_cell_is_a_row_with_its_reason(tmp_path):
    unsupported = synthetic.quality("fit", 0, status="unsupported", reason="the slot is a single layer")
    made = build(tmp_path, synthetic.quality("vanilla", 0), unsupported)
    row = one(made["leaderboard"], attention="fit")
    assert (row["status"], row["reason"], row["mean"], row["n"]) == (
        "unsupported",
        "the slot is a single layer",
        "",
        "0",
    )
    assert row["data_hash"] == synthetic.DATA  # stands in the group that it would have been in
    assert "unsupported: the slot is a single layer" in page(tmp_path)


def test_only_failed_cells_make_a_page_too(tmp_path):
    made = build(tmp_path, synthetic.quality("fit", 0, status="unsupported", reason="no"))
    assert one(made["leaderboard"])["status"] == "unsupported"
    assert "Data: unknown" in page(tmp_path)


# The page and the command


def test_the_page_says_where_everything_comes_from(tmp_path):
    build(
        tmp_path,
        *(synthetic.quality("vanilla", s) for s in (0, 1)),
        synthetic.quality("lightning", options={"block": 64}),
    )
    text = page(tmp_path)
    assert "## lm, causal self, smoke" in text
    assert "Data: real, embedded (sources of the standard library), content aaaaaaaaaaaa." in text
    assert "| predictor: 5-gram | -   | 4.6 " in text
    assert "`python -m cab.run -m attention=vanilla pattern=causal_self task=lm size=smoke seed=0,1`" in text
    assert "attention=lightning attention.block=64" in text
    assert "(commit 1ec352d7a1)" in text


def test_quality_table_is_whole(tmp_path):
    record = synthetic.quality("lightning", 4, score=1.5)
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
        "predictor": "5-gram",
        "predictor_score": "4.6",
        "predictor.xz": "4.7",
        "parameters": "730000",
        "data_hash": synthetic.DATA,
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
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert "make run" in output.err
    assert not (tmp_path / "results" / "leaderboard").exists()


def test_with_unusable_records_only_the_line_says_so(tmp_path, capsys):
    path = synthetic.quality().write(tmp_path)
    path.write_text("{")
    assert main(["--results", str(tmp_path)]) == 2
    assert "1 files, none of them usable" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys, monkeypatch):
    synthetic.quality().write(tmp_path)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("cab.report.build.write_csv", lambda *_: (_ for _ in ()).throw(full))
    assert main(["--results", str(tmp_path)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_same_records_give_the_same_files(tmp_path):
    records = [synthetic.quality("vanilla", seed) for seed in range(2)] + [synthetic.efficiency("lightning")]
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
        synthetic.quality(family, seed, task=task, size=size, pattern=pattern)
        for family in families
        for seed in range(10)
        for task in tasks
        for size in ("smoke", "base")
        for pattern in ("causal_self", "noncausal_self")
    ]
    records += [
        synthetic.efficiency(family, pattern=pattern, options={"block": block})
        for family in families
        for pattern in ("causal_self", "noncausal_self")
        for block in range(25)
    ]
    assert len(records) == 2000
    synthetic.write(tmp_path, *records)
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
    (path,) = synthetic.write(tmp_path, synthetic.quality())
    content: Any = json.loads(path.read_text())
    build(tmp_path)
    assert json.loads(path.read_text()) == content
    assert isinstance(load(tmp_path).quality[0], Record)
    assert isinstance(make_groups(load(tmp_path).quality)[0], Group)
