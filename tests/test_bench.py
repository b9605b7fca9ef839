"""The bench's table: figures from measurements whose answer is known, gaps shown, and the whole command at toy size."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from cab.efficiency.plan import Measurement
from dev import bench
from dev.bench import SWEEPS, TARGETS, Target

ROUNDS = 6


def row(subject, length, second, phase="train", batch=1, **more):
    return Measurement(subject, phase, length, batch, seconds=[second] * ROUNDS, **more)


def outcome(target, rows, gemm):
    return bench.outcome(target, SWEEPS[target.sweep], rows, gemm)


def test_time_memory_and_floor():
    rows = [row("vanilla", 8192, 2.0, peak_bytes=100), row("lightning", 8192, 0.1, peak_bytes=250, flops=4 * 10**9)]
    line = outcome(Target("op", "lightning", "time", 0.051, 8192), rows, gemm=100.0)
    assert (line["measured"], line["met"], line["floor"]) == ("0.05 (0.05 to 0.05)", "yes", "0.02")
    assert outcome(Target("op", "lightning", "time", 0.049, 8192), rows, gemm=100.0)["met"] == "no"
    line = outcome(Target("op", "lightning", "memory", 2, 8192), rows, gemm=100.0)
    assert (line["measured"], line["met"], line["floor"]) == ("2.5", "no", "-")


def test_speed_up_is_how_often_faster():
    rows = [
        row("vanilla", 1024, 0.8, "decode", bench.DECODE_BATCH),
        row("block_transformer", 1024, 0.1, "decode", bench.DECODE_BATCH),
    ]
    line = outcome(Target("decode", "block_transformer", "speed-up", 7, 1024), rows, gemm=1.0)
    assert (line["measured"], line["target"], line["met"]) == ("8 (8 to 8)", "at least 7", "yes")
    assert outcome(Target("decode", "block_transformer", "speed-up", 8.5, 1024), rows, gemm=1.0)["met"] == "no"


def test_growth_takes_all_lengths():
    rows = [row("routing", length, (1e-6 if length > 2048 else 2e-6) * length**1.5) for length in bench.LONG]
    line = outcome(Target("op growth", "routing", "growth", 1.6), rows, gemm=1.0)
    assert line["length"] == "2,048 to 32,768"
    assert float(line["measured"].split()[0]) == pytest.approx(1.3, abs=1e-6)  # 1.5 over the longer half


@pytest.mark.parametrize("missing", ["vanilla", "ssa"])
def test_a_gap_is_shown_with_its_reason(missing):
    rows = [row("vanilla", 8192, 2.0, peak_bytes=1), row("ssa", 8192, 1.0, peak_bytes=1)]
    rows = [replace(r, status="error", reason="it broke", seconds=[]) if r.subject == missing else r for r in rows]
    for figure in ("time", "memory"):
        line = outcome(Target("op", "ssa", figure, 1, 8192), rows, gemm=1.0)
        assert (line["measured"], line["met"]) == ("it broke", "-")


def test_every_target_is_measured_by_its_sweep():
    for target in TARGETS:
        plan = SWEEPS[target.sweep]
        assert target.family in plan.families
        assert target.length in (0, *plan.lengths)
        assert (target.figure == "growth") == (not plan.vanilla) == (target.length == 0)


def test_the_whole_bench_at_toy_size(tmp_path, capsys):
    small = {0: 0, 1024: 64, 2048: 66, 4096: 72, 8192: 80, 16384: 96, 32768: 128}
    sweeps = {}
    for name, plan in SWEEPS.items():
        shape = replace(plan.shape, dim=32, heads=2, hidden=plan.shape.hidden and 64)
        lengths = tuple(sorted({small[length] for length in plan.lengths}))
        sweeps[name] = replace(plan, shape=shape, lengths=lengths, rounds=2, batch=min(plan.batch, 2))
    targets = [replace(target, length=small[target.length]) for target in TARGETS]
    bench.run_bench(sweeps, targets, torch.device("cpu"), tmp_path, "python -m dev.bench")
    table = pd.read_csv(tmp_path / "bench.csv")
    assert set(table["status"]) == {"ok"}
    assert set(table["sweep"]) == set(SWEEPS)
    text = (tmp_path / "bench.md").read_text()
    assert text in capsys.readouterr().out
    assert text.count("\n| ") >= len(TARGETS)
    assert "\n    python -m dev.bench\n" in text


def test_an_absent_device_is_refused(tmp_path, capsys):
    assert bench.main(["--device", "cuda:77", "--out", str(tmp_path)]) == 2
    assert "cuda:77" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
