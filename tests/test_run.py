"""The commands that run cells, as a user calls them: records, skipped cells, refused requests and messages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cab import ROOT, run
from cab.efficiency import __main__ as efficiency
from cab.report.terminal import efficiency_lines
from cab.store.record import DamagedRecord, Record, all_records, read_record

TINY = [
    "model.dim=16",
    "model.heads=2",
    "model.depth=1",
    "model.hidden=32",
    "model.length=32",
    "train.steps=6",
    "train.batch=2",
    "train.warmup=2",
    "train.validations=1",
    "task.validation_windows=2",
    "task.test_windows=4",
    "efficiency.lengths=[32,64]",
    "efficiency.budget=3",
    "efficiency.rounds=3",
    "wandb.mode=disabled",
]
RECALL = [o for o in TINY if not o.startswith("task.")]


@pytest.fixture
def cab(tmp_path, capsys):
    """Runs `python -m cab.run` in this process: returns exit code, output and errors."""

    def call(*overrides: str, tiny=TINY):
        flags = [o for o in overrides if o.startswith("-")]
        code = run.main([*flags, f"results={tmp_path}", *tiny, *(o for o in overrides if o not in flags)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    call.results = tmp_path
    return call


def records(results: Path, kind: str):
    return [record for path, record in all_records(results) if path.parent.parent.name == kind]


def test_a_cell_is_trained_measured_recorded_and_then_done(cab):
    code, out, err = cab("attention=lightning", "attention.block=16")
    assert (code, err) == (0, "")
    [quality], [cost] = records(cab.results, "quality"), records(cab.results, "efficiency")
    assert quality.status == cost.status == "ok"
    assert quality.cell == {
        "attention": "lightning",
        "pattern": "causal_self",
        "task": "lm",
        "size": "smoke",
        "seed": 0,
    }
    assert 0 < quality.result["metrics"]["bits_per_byte"] < 9
    assert quality.result["data"]["real"] is True
    assert len(quality.result["data"]["content"]) == 64
    assert quality.result["model"]["slots"] == ["decoder.self"]
    assert quality.result["curve"][-1]["step"] == 6
    assert "attention.block=16" in quality.provenance["command"]
    assert quality.provenance["versions"]["torch"]
    assert quality.config["attention"]["block"] == 16
    assert {row["subject"] for row in cost.result["measurements"]} == {"vanilla", "eager", "lightning"}
    assert cost.result["gemm_gflops"] > 0
    assert not list(cab.results.glob("runs/*/*/checkpoint*"))
    assert "bits per byte" in out

    before = [path.stat().st_mtime_ns for path, _ in all_records(cab.results)]
    code, out, _ = cab("attention=lightning", "attention.block=16")
    assert code == 0
    assert "(already done)" in out
    assert [path.stat().st_mtime_ns for path, _ in all_records(cab.results)] == before
    cab("attention=lightning", "attention.block=16", "rerun=true")
    assert [path.stat().st_mtime_ns for path, _ in all_records(cab.results)] != before


def test_the_same_cell_gives_the_same_numbers(cab):
    cab("attention=vanilla", "measure=false")
    [one] = records(cab.results, "quality")
    cab("attention=vanilla", "measure=false", "rerun=true")
    [two] = records(cab.results, "quality")
    assert one.result["metrics"] == two.result["metrics"]
    cab("attention=vanilla", "measure=false", "seed=1")
    metrics = [record.result["metrics"] for record in records(cab.results, "quality")]
    assert len(metrics) == 2
    assert metrics[0] != metrics[1]


@pytest.mark.parametrize("pattern", ["noncausal_self", "causal_self", "noncausal_cross", "causal_cross"])
def test_recall_runs_in_every_pattern(cab, pattern):
    length = "model.length=64"
    memory = ["model.memory=32"] if "cross" in pattern else []
    tiny = [o for o in RECALL if not o.startswith("model.length")]
    code, _, err = cab("task=recall", f"pattern={pattern}", "attention=lightning", length, *memory, tiny=tiny)
    assert (code, err) == (0, "")
    [quality] = records(cab.results, "quality")
    assert 0 <= quality.result["metrics"]["accuracy"] <= 1
    assert quality.result["data"]["real"] is False


def test_a_setting_without_an_effect_makes_no_cell_of_its_own(cab):
    recall = [o for o in RECALL if not o.startswith("model.length")]
    for tiny, override, said in (
        (recall, "model.memory=32", "model.memory: has no effect on recall in causal_self: leave it out"),
        (TINY, "model.memory=32", "memory=32: has no effect in lm: use model.memory=0"),
        (TINY, "data.id=emozilla/pg19", "data: id=emozilla/pg19: has no effect with data=embedded: leave it out, or"),
        (
            TINY,
            "data.path=/books",
            "data: path=/books: has no effect with data=embedded: leave it out, or use data=loc",
        ),
        (TINY, "task.column=body", "task.column=body: has no effect with data.source=embedded: leave it out"),
    ):
        task = "recall" if tiny is recall else "lm"
        code, _, err = cab(f"task={task}", override, "attention=none", "measure=false", tiny=tiny)
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith(f"error: {said}")
    assert not records(cab.results, "quality")


def test_a_vocabulary_that_no_memory_holds_is_refused_before_it_is_made(cab, monkeypatch):
    code, _, err = cab("task.vocabulary=1000000", "attention=none", "measure=false")
    assert (code, err.count("\n")) == (2, 1)
    assert err == "error: task.vocabulary=1000000: use bytes, or a number from 257 to 262,144 for BPE\n"
    recall = [o for o in RECALL if not o.startswith("model.length")]
    code, _, err = cab("task=recall", "task.vocabulary=2000000000", "attention=none", "measure=false", tiny=recall)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: task.vocabulary=2000000000, train.micro_batch=2: a training step needs ")
    monkeypatch.setattr("cab.quality.cell.free_memory", lambda device: 100_000)
    code, _, err = cab("attention=none", "measure=false")
    assert (code, err.count("\n")) == (2, 1)
    assert "task.vocabulary=bytes, train.micro_batch=2: a training step needs 0.0 GB for it, 0.0 GB are free" in err


def test_a_sweep_continues_after_a_cell_that_cannot_be_built(cab):
    code, _, err = cab("-m", "model.heads=3,2", "attention=none", "measure=false")
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    [record] = records(cab.results, "quality")
    assert record.config["model"]["heads"] == 2


def test_an_unsupported_combination_is_recorded_and_no_failure(cab):
    code, out, _ = cab("attention=vanilla", "attention._target_=helpers.failing_attentions.OnlyCross", "measure=false")
    assert code == 0
    [record] = records(cab.results, "quality")
    assert record.status == "unsupported"
    assert "noncausal_cross" in record.reason
    assert "unsupported" in out
    _, out, _ = cab("attention=vanilla", "attention._target_=helpers.failing_attentions.OnlyCross", "measure=false")
    assert "(already done)" in out


@pytest.mark.parametrize(
    ("kind", "status"), [("Breaks", "error"), ("TakesAllMemory", "out_of_memory"), ("Diverges", "diverged")]
)
def test_a_failed_training_is_recorded_and_the_exit_code_says_so(cab, kind, status, monkeypatch):
    monkeypatch.setattr("cab.quality.cell.gate", lambda request: ("ok", ""))  # as if it had passed the checks
    code, out, _ = cab("attention=vanilla", f"attention._target_=helpers.failing_attentions.{kind}", "measure=false")
    assert code == 1
    [record] = records(cab.results, "quality")
    assert record.status == status
    assert record.reason
    assert status in out
    assert record.result["model"]["core_parameters"] > 0  # of the part that went well
    _, out, _ = cab("attention=vanilla", f"attention._target_=helpers.failing_attentions.{kind}", "measure=false")
    assert ("already done" in out) == (status != "error")  # an error is tried again


def test_measuring_survives_a_family_that_breaks(cab):
    code, _, _ = cab("attention=vanilla", "attention._target_=helpers.failing_attentions.Breaks", "train.steps=3")
    assert code == 1


def test_a_damaged_record_runs_again_and_nothing_else_is_lost(cab):
    cab("attention=none", "measure=false")
    cab("attention=vanilla", "measure=false")
    paths = [path for path, _ in all_records(cab.results)]
    damaged, good = paths
    content = damaged.read_text()
    damaged.write_text(content[: len(content) // 2])
    before = good.read_bytes()
    name = read_record(good).cell["attention"]
    other = {"none": "vanilla", "vanilla": "none"}[name]
    code, out, _ = cab(f"attention={other}", "measure=false")
    assert code == 0
    assert f"{damaged}: not valid JSON" in out
    assert damaged.with_name("result.json.damaged-1").exists()
    assert read_record(damaged).status == "ok"
    assert good.read_bytes() == before
    assert not any(isinstance(record, DamagedRecord) for _, record in all_records(cab.results))


BAD = {
    "train.steps=abc": ["train.steps='abc'", "whole|integer"],
    "seed=one": ["seed='one'", "integer"],
    "seed=-1": ["seed=-1: Input should be greater than or equal to 0"],
    "seed=9223372036854775808": ["seed=9223372036854775808: Input should be less than"],
    "train.stepz=3": ["train.stepz"],
    "attention=lighning": ["attention=lighning: no such choice", "lightning"],
    "task=lmm": ["task=lmm", "recall"],
    "size=huge": ["huge"],
    "pattern=diagonal": ["pattern=diagonal", "causal_cross"],
    "pattern=noncausal_cross": ["lm has no pattern noncausal_cross", "pattern=causal_self"],
    "model.heads=3": ["dim=16", "heads=3"],
    "attention.block=x": ["attention.block='x'", "integer"],
    "attention.block=0": ["block=0", "a whole number of at least 1"],
    "+attention.blok=4": ["attention.blok=4", "block"],
    "+model.width=4": ["model.width"],
    "train.warmup=9": ["warmup=9", "steps=6"],
    "data=local": ["data.path is missing"],
    "device=tpu": ["device=tpu", "cpu"],
    "device.name=cuda:7": ["cuda:7", "cpu"],
    "device.precision=float8": ["device.precision='float8'", "bfloat16"],
    "efficiency.lengths=[64,32]": ["lengths=64,32", "ascending"],
    "efficiency.phases=[backward]": ["backward", "train"],
    "efficiency.level=kernel": ["kernel", "stack"],
    "wandb.mode=sometimes": ["wandb.mode='sometimes'", "offline"],
}


@pytest.mark.parametrize("override", BAD)
def test_bad_input_ends_in_a_short_clear_message(cab, override):
    code, out, err = cab(override, "attention.block=16") if "attention" not in override else cab(override)
    assert code == 2
    printed = out + err
    assert "Traceback" not in printed
    assert len(err.splitlines()) == 1
    for words in BAD[override]:
        assert any(word in printed for word in words.split("|")), printed
    assert not records(cab.results, "quality")


def test_a_data_folder_that_is_missing_or_empty(cab, tmp_path):
    for folder, word in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "train")):
        code, _, err = cab("attention.block=16", "data=local", f"data.path={folder}")
        assert code == 2
        assert err.startswith("error: ")
        assert str(folder) in err
        assert word in err


def test_a_folder_that_cannot_be_written(cab, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = cab("attention.block=16", f"results={tmp_path}/file/below", "measure=false")
    assert code == 2
    assert err == f"error: results={tmp_path}/file/below: {tmp_path}/file is no folder: choose another one\n"


def test_efficiency_of_several_families_in_one_process(tmp_path, capsys):
    overrides = [f"results={tmp_path}", *TINY, "pattern=causal_self", "task=lm"]
    assert efficiency.main([*overrides, "attention=vanilla,none,none"]) == 0
    found = records(tmp_path, "efficiency")
    assert sorted(record.cell["attention"] for record in found) == ["none", "vanilla"]
    assert "none 0." in capsys.readouterr().out
    assert efficiency.main([*overrides, "attention=vanilla,none"]) == 0
    assert capsys.readouterr().out.count("already done") >= 2
    assert efficiency.main([*overrides, "attention=vanilla,nonne"]) == 2
    assert "nonne" in capsys.readouterr().err


def test_decoding_shows_tokens_per_second_and_state():
    rows = [
        {"subject": name, "phase": "decode", "length": n, "batch": 4, "status": "ok", "seconds": [seconds] * 7,
         "state_bytes": 4 * 2_000_000, "reason": ""}
        for n in (64, 128) for name, seconds in (("vanilla", 0.002), ("none", 0.001))
    ]  # fmt: skip
    record = Record("efficiency", "ok", cell={"attention": "none"}, identity={}, result={"measurements": rows})
    lines = efficiency_lines(record, done=False)
    assert "decoding step, batch 4: 0.50 (0.50 to 0.50) of vanilla's time at 128; cheaper at all" in lines[0]
    assert lines[1].endswith("decoding step, batch 4: 4,000 tokens/s after 128, state 1.91 MiB a sequence")


def lines_of(**seconds):
    """What the terminal says of `none` beside vanilla: seconds of all rounds by length, as `at_64=[...]`."""
    rows = [
        {"subject": subject, "phase": "train", "length": int(name[3:]), "batch": 1, "status": "ok", "seconds": each}
        for name, own in seconds.items()
        for subject, each in (("none", own), ("vanilla", [1.0] * len(own)))
    ]
    record = Record("efficiency", "ok", cell={"attention": "none"}, identity={}, result={"measurements": rows})
    [line] = efficiency_lines(record, done=False)
    return line.removeprefix("  efficiency forward + backward: ")


def test_no_sentence_says_more_than_its_interval():
    """Medians below 1 at all lengths, of rounds that scatter around it."""
    wide = [0.17, 0.2, 0.3, 0.87, 1.5, 2.0, 4.58]
    assert lines_of(at_64=wide, at_128=wide) == (
        "0.87 (0.17 to 4.58) of vanilla's time at 128 (a tie); "
        "no length from which it is cheaper beyond the noise (<= 64 to > 128)"
    )
    few = [0.5, 0.5, 0.5]
    assert lines_of(at_64=few, at_128=few) == (
        "0.50 of vanilla's time at 128 (a tie: 3 rounds, no interval); "
        "no length from which it is cheaper beyond the noise (<= 64 to > 128)"
    )
    sure = [0.5] * 8
    assert lines_of(at_64=sure, at_128=sure) == (
        "0.50 (0.50 to 0.50) of vanilla's time at 128; cheaper at all lengths measured (from 64)"
    )
    assert lines_of(at_64=wide, at_128=sure).endswith("; cheaper from <= 64 (<= 64 to 103)")
    assert lines_of(at_64=sure, at_128=[2.0] * 8).endswith("; not cheaper up to 128")


def test_a_level_that_a_family_does_not_have_is_a_row(tmp_path, capsys):
    assert efficiency.main([f"results={tmp_path}", *TINY, "attention=none", "efficiency.level=mixer"]) == 0
    [record] = records(tmp_path, "efficiency")
    assert record.status == "unsupported"
    assert "unsupported" in capsys.readouterr().out


def test_efficiency_is_measured_with_the_given_threads(tmp_path):
    threads = torch.get_num_threads()
    try:
        overrides = [f"results={tmp_path}", *TINY, "attention=none", "efficiency.level=mixer"]
        assert efficiency.main([*overrides, f"device.threads={threads + 1}"]) == 0
    finally:
        torch.set_num_threads(threads)
    [record] = records(tmp_path, "efficiency")
    assert record.identity["threads"] == record.provenance["device"]["threads"] == threads + 1


def test_the_real_command_from_another_folder(tmp_path):
    command = [sys.executable, "-m", "cab.run", f"results={tmp_path}", *TINY, "attention=none", "measure=false"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "bits per byte" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "runs"]  # no litter
    refused = subprocess.run([*command, "seed=x"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 2
    assert refused.stderr == "error: seed='x': Input should be a valid integer\n"


def test_only_the_command_lines_import_hydra():
    """A user of the library does not import the command line."""
    heavy = ("hydra", "pandas", "wandb", "matplotlib", "datasets", "lightning_fabric")
    modules = "cab.store.record, cab.efficiency.efficiency_length, cab.efficiency.sweep, attentions.slots, tasks.lm"
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_options_of_a_family_are_part_of_what_identifies_a_measurement(tmp_path):
    for block in (8, 16):
        overrides = [f"results={tmp_path}", *TINY, "attention=lightning", f"attention.block={block}"]
        assert efficiency.main(overrides) == 0
    assert len(records(tmp_path, "efficiency")) == 2
