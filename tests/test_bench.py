"""The bench's table: figures from measurements whose answer is known, gaps shown, and the whole command at toy size."""

from dataclasses import replace

import pandas as pd
import pytest

from cab.efficiency.plan import Measurement
from dev import bench
from dev.bench import SWEEPS, TARGETS, Target

ROUNDS = 6


def row(subject, length, second, phase="train", batch=1, **more):
    return Measurement(subject, phase, length, batch, seconds=[second] * ROUNDS, **more)


def test_time_memory_and_floor():
    rows = [row("vanilla", 8192, 2.0, peak_bytes=100), row("lightning", 8192, 0.1, peak_bytes=250, flops=4 * 10**9)]
    line = bench.outcome(Target("op", "lightning", "time", 0.051, 8192), rows, gemm=100.0)
    assert (line["measured"], line["met"], line["floor"]) == ("0.05 (0.05 to 0.05)", "yes", "0.02")
    assert bench.outcome(Target("op", "lightning", "time", 0.049, 8192), rows, gemm=100.0)["met"] == "no"
    line = bench.outcome(Target("op", "lightning", "memory", 2, 8192), rows, gemm=100.0)
    assert (line["measured"], line["met"], line["floor"]) == ("2.5", "no", "-")


def test_speed_up_is_how_often_faster():
    rows = [
        row("vanilla", 1024, 0.8, "decode", bench.BATCH),
        row("block_transformer", 1024, 0.1, "decode", bench.BATCH),
    ]
    line = bench.outcome(Target("decode", "block_transformer", "speed-up", 7, 1024), rows, gemm=1.0)
    assert (line["measured"], line["target"], line["met"]) == ("8 (8 to 8)", "at least 7", "yes")
    assert bench.outcome(Target("decode", "block_transformer", "speed-up", 8.5, 1024), rows, gemm=1.0)["met"] == "no"


def test_growth_takes_all_lengths():
    rows = [row("routing", length, (1e-6 if length > 2048 else 2e-6) * length**1.5) for length in bench.FAR]
    line = bench.outcome(Target("op growth", "routing", "growth", 1.6), rows, gemm=1.0)
    assert line["length"] == "2,048 to 32,768"
    assert float(line["measured"].split()[0]) == pytest.approx(1.3, abs=1e-6)  # 1.5 over the longer half


@pytest.mark.parametrize("missing", ["vanilla", "ssa"])
def test_a_gap_is_shown_with_its_reason(missing):
    rows = [row("vanilla", 8192, 2.0, peak_bytes=1), row("ssa", 8192, 1.0, peak_bytes=1)]
    rows = [replace(r, status="error", reason="it broke", seconds=[]) if r.subject == missing else r for r in rows]
    for figure in ("time", "memory"):
        line = bench.outcome(Target("op", "ssa", figure, 1, 8192), rows, gemm=1.0)
        assert (line["measured"], line["met"]) == ("it broke", "-")


def test_every_target_is_measured_by_its_sweep():
    for target in TARGETS:
        one = SWEEPS[target.sweep]
        assert target.family in one.families
        assert target.length in (0, *one.lengths)
        assert (target.figure == "growth") == (not one.vanilla) == (target.length == 0)


def test_the_command_at_toy_size(tmp_path, monkeypatch, capsys):
    small = {1024: 64, 2048: 66, 4096: 72, 8192: 80, 16384: 96, 32768: 128}
    for name, one in SWEEPS.items():
        shape = replace(one.shape, dim=32, heads=2, hidden=one.shape.hidden and 64)
        lengths = tuple(sorted({small[length] for length in one.lengths}))
        monkeypatch.setitem(SWEEPS, name, replace(one, shape=shape, lengths=lengths, rounds=2, batch=min(one.batch, 2)))
    toy = tuple(replace(target, length=target.length and small[target.length]) for target in TARGETS)
    monkeypatch.setattr(bench, "TARGETS", toy)
    assert bench.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "bench.csv")
    assert set(table["status"]) == {"ok"}
    assert set(table["sweep"]) == set(SWEEPS)
    text = (tmp_path / "bench.md").read_text()
    assert text in capsys.readouterr().out
    assert text.count("\n| ") >= len(TARGETS)
    assert "python -m dev.bench --device cpu" in text


def test_an_absent_device_is_refused(tmp_path, capsys):
    assert bench.main(["--device", "cuda:77", "--out", str(tmp_path)]) == 2
    assert "cuda:77" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
