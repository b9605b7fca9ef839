"""The W&B mirror: what an offline run holds, and that no failure of W&B reaches the cell."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import synthetic
from helpers.announcements import without_announcements
from helpers.wandb_file import Run, raw_records, read_run
from test_run import TINY

from cab.compose import compose_one
from cab.config import Tracking
from cab.quality import cell
from cab.quality import train as cell_training
from cab.quality.tracker import Tracker, sweep_group
from cab.store.record import Record, all_records


def options(mode: str = "offline") -> Tracking:
    return Tracking(mode=mode, project="cab-test", group="sweep 7")


def figure_of(record):
    if record.kind != "efficiency":
        return None
    from cab.report.figures import lengths

    return lengths.draw([record])


def track(record: Record, results: Path, mode: str = "offline") -> None:
    tracker = Tracker(options(mode), record.cell, record.config, record.hash, results)
    for point in record.result.get("curve", []):
        tracker.log(point)
    tracker.finish(record, figure_of(record))


def only_run(results: Path) -> tuple[Path, Run]:
    """The folder and content of the one run. wandb's service may write the last records a moment after `finish`."""
    (path,) = (results / "wandb").glob("offline-run-*/*.wandb")
    end = time.monotonic() + 20
    while (run := read_run(path)).exit_code is None and time.monotonic() < end:
        time.sleep(0.1)
    return path.parent, run


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path, Run]:
    results = tmp_path_factory.mktemp("results")
    record = synthetic.quality("lightning", 3)
    track(record, results)
    return record, *only_run(results)


def test_an_offline_run_has_hash_tags_group_and_config(mirrored):
    record, _, run = mirrored
    assert run.id == record.hash
    assert run.project == "cab-test"
    assert run.group == "sweep 7"
    assert set(run.tags) == {"lightning", "causal_self", "lm"}
    assert run.config["model"] == record.config["model"]
    assert run.config["cell"] == record.cell
    assert run.exit_code == 0


def test_an_offline_run_holds_the_whole_curve(mirrored):
    record, _, run = mirrored
    logged = [entry for entry in run.history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [point["step"] for point in record.result["curve"]]
    assert [entry["loss"] for entry in logged] == pytest.approx([point["loss"] for point in record.result["curve"]])
    validated = [e["validation/bits_per_byte"] for e in logged if "validation/bits_per_byte" in e]
    expected = [p["validation"]["bits_per_byte"] for p in record.result["curve"] if "validation" in p]
    assert validated == pytest.approx(expected)


def test_an_offline_run_holds_summary_and_table(mirrored):
    record, folder, run = mirrored
    assert run.summary["metrics/bits_per_byte"] == pytest.approx(record.result["metrics"]["bits_per_byte"])
    assert run.summary["status"] == "ok"
    assert run.summary["data/content"] == synthetic.DATA
    assert run.summary["predictors/5-gram/bits_per_byte"] == 4.6
    (table,) = (folder / "files/media/table").rglob("*.table.json")
    made = json.loads(table.read_text())
    rows = record.result["tables"]["by_length"]
    assert made["columns"] == list(rows[0])
    assert [row[0] for row in made["data"]] == [row["length"] for row in rows]


def test_an_efficiency_record_brings_its_measurements(tmp_path):
    record = synthetic.efficiency(lengths=(128, 256, 512), phases=("train",))
    track(record, tmp_path)
    folder, run = only_run(tmp_path)
    (table,) = (folder / "files/media/table").rglob("*.table.json")
    assert len(json.loads(table.read_text())["data"]) == len(record.result["measurements"])
    (picture,) = (folder / "files/media/images").rglob("*.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    logged = [entry["plots/cost/path"] for entry in run.history if "plots/cost/path" in entry]
    assert logged == [picture.relative_to(folder / "files").as_posix()]
    assert run.summary["gemm_gflops"] == 150.0


def test_a_failed_cell_ends_its_run_too(tmp_path):
    record = synthetic.quality("ssa", status="error", reason="RuntimeError: no")
    tracker = Tracker(options(), record.cell, record.config, record.hash, tmp_path)
    tracker.log({"step": 1, "loss": float("nan"), "seconds": 0.1})
    tracker.finish(record, figure_of(record))
    _, run = only_run(tmp_path)
    assert run.exit_code == 1
    assert run.summary["status"] == "error"
    assert run.summary["reason"] == "RuntimeError: no"
    assert "loss" not in run.history[0]


CELL = [o for o in TINY if not o.startswith(("wandb", "train.steps", "train.validations"))]
CELL += ["measure=false", "wandb.mode=offline", "data=local"]
CELL += ["train.steps=12", "train.validations=3", "train.checkpoint_seconds=0"]


def cell_run(results: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int = 0) -> Run:
    """The offline run of a cell, which is interrupted after some steps and started again."""
    import wandb

    for split in ("train", "validation", "test"):
        (results / "data" / split).mkdir(parents=True)
        (results / "data" / split / "a.txt").write_text(f"the {split} cat sat on the mat. " * 200)
    request = compose_one([f"results={results}", f"data.path={results / 'data'}", *CELL])
    monkeypatch.setattr(cell, "gate", lambda request: ("ok", ""))  # which takes seconds
    if killed_after:
        step = cell_training.optimizer_step

        def interrupted(*arguments):
            if arguments[-1] == killed_after:
                raise KeyboardInterrupt
            return step(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(cell_training, "optimizer_step", interrupted)
            with pytest.raises(KeyboardInterrupt):
                cell.quality_cell(request, "cab.run", [])
        wandb.teardown()  # as with the process that was killed
        [first] = (results / "wandb").glob("offline-run-*")
        first.rename(results / "interrupted")  # its name has only the second in which it began
    cell.quality_cell(request, "cab.run", [])
    return only_run(results)[1]


def test_the_run_of_a_cell_that_was_killed_and_went_on_is_that_of_an_undisturbed_one(tmp_path, monkeypatch):
    """Rows in their order, and the summary of the last: all numbers but times."""
    whole = cell_run(tmp_path / "whole", monkeypatch)
    resumed = cell_run(tmp_path / "resumed", monkeypatch, killed_after=7)

    def numbers(entry: dict[str, Any]) -> dict[str, Any]:
        others = ("seconds", "per_second", "runtime", "_timestamp", "artifact_path")  # times, and a random name
        return {name: value for name, value in entry.items() if not name.endswith(others)}

    assert [entry["step"] for entry in resumed.history if "loss" in entry] == list(range(1, 13))
    assert [*map(numbers, resumed.history)] == [*map(numbers, whole.history)]
    assert numbers(resumed.summary) == numbers(whole.summary)
    assert resumed.summary["step"] == 12


def test_a_sweep_is_a_group_and_again_the_same_when_it_is_started_again(monkeypatch):
    def group(*arguments: str, experiment: str | None = None) -> str:
        with sweep_group(arguments, experiment):
            return os.environ["WANDB_RUN_GROUP"]

    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    one = group("attention=fit,ssa", "seed=0,1", "results=a")
    assert one.startswith("sweep-")
    assert one == group("seed=0,1", "attention=fit,ssa", "rerun=true", "hydra/launcher=slurm")
    assert one != group("attention=fit,ssa", "seed=0,1,2")
    assert group("experiment=cab", experiment="cab").startswith("cab-")
    assert "WANDB_RUN_GROUP" not in os.environ
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    assert group("seed=0,1") == "mine"
    assert os.environ["WANDB_RUN_GROUP"] == "mine"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_runs_of_two_launchers_beside_each_other_are_whole(tmp_path):
    """One run for each cell and each measurement, all in one group, each with its record's numbers."""
    tiny = [o for o in TINY if not o.startswith("wandb")]
    command = [
        sys.executable,
        "-m",
        "cab.run",
        "-m",
        f"results={tmp_path}",
        *tiny,
        "attention=none,vanilla",
        "seed=0,1",
    ]
    command += ["efficiency.budget=300"]
    both = [
        subprocess.Popen(
            command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert [without_announcements(err) for _, err in outputs] == ["", ""]
    by_hash = {path.parent.name: record for path, record in all_records(tmp_path) if isinstance(record, Record)}
    runs = [read_run(path) for path in (tmp_path / "wandb").glob("offline-run-*/*.wandb")]
    assert sorted(run.id for run in runs) == sorted(by_hash)
    assert len(by_hash) == 6
    assert len({run.group for run in runs}) == 1
    for run in runs:
        record = by_hash[run.id]
        assert run.exit_code == 0
        assert {record.cell["attention"], record.cell["pattern"]} <= set(run.tags)
        if record.kind == "quality":
            assert run.summary["metrics/bits_per_byte"] == pytest.approx(record.result["metrics"]["bits_per_byte"])
            assert [e["step"] for e in run.history if "loss" in e] == [p["step"] for p in record.result["curve"]]


def test_disabled_writes_and_imports_nothing(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from helpers import synthetic\nimport test_tracker, pathlib\n"
        f"test_tracker.track(synthetic.quality(), pathlib.Path({str(tmp_path)!r}), 'disabled')\n"
        "assert 'wandb' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
    assert not list(tmp_path.iterdir())


def test_offline_is_silent(tmp_path, capfd):
    record = synthetic.quality(status="diverged", reason="loss nan at step 3")
    track(record, tmp_path)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_online_without_a_key_is_one_warning(tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    track(synthetic.quality(), tmp_path, "online")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("warning: no W&B mirror of this cell (")


def test_whatever_wandb_raises_is_one_warning(tmp_path, capfd, monkeypatch):
    import wandb

    def fail(**_):
        raise RuntimeError("broken\nin two lines")

    monkeypatch.setattr(wandb, "init", fail)
    track(synthetic.quality(), tmp_path)
    assert capfd.readouterr().err == (
        "warning: no W&B mirror of this cell (broken in two lines); its record is not affected\n"
    )


def test_a_failure_on_the_way_ends_the_mirror_not_the_cell(tmp_path, capfd, monkeypatch):
    import wandb

    record, runs, init = synthetic.quality(), [], wandb.init

    def remember(**arguments):
        runs.append(init(**arguments))
        return runs[-1]

    monkeypatch.setattr(wandb, "init", remember)
    tracker = Tracker(options(), record.cell, record.config, record.hash, tmp_path)
    tracker.log({"step": 1, "loss": 2.0})
    runs[0].log = None  # as if wandb were broken from here on
    tracker.log({"step": 2, "loss": 1.0})
    tracker.log({"step": 3, "loss": 1.0})
    tracker.finish(record, figure_of(record))
    assert capfd.readouterr().err.count("warning") == 1
    assert only_run(tmp_path)[1].exit_code is not None


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path, capfd):
    (tmp_path / "wandb").write_text("a file in the way")
    track(synthetic.quality(), tmp_path)
    assert capfd.readouterr().err.count("\n") == 1


def test_the_reader_follows_records_over_blocks():
    piece = b"x" * (32768 - 7 - 7)
    header = b":W&B" + (0xBEE1).to_bytes(2, "little") + b"\0"
    first = b"\0\0\0\0" + len(piece).to_bytes(2, "little") + b"\x02" + piece
    last = b"\0\0\0\0" + (3).to_bytes(2, "little") + b"\x04" + b"end"
    assert list(raw_records(header + first + last)) == [piece + b"end"]
