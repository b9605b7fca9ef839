"""Measures the project's targets of speed and memory: `python -m dev.bench [--device auto] [--out FOLDER]`.

Measures operations, a layer, whole stacks of about 5 M core parameters and decoding in causal_self and float32, each
against vanilla (the fused kernel) in the same rounds. Growth exponents come from separate sweeps without vanilla.
Prints the table of targets and writes it to bench.md, and all measurements to bench.csv. Takes about 15 minutes on two
idle cores; other load makes the results useless.

`floor` is the time that the matrix products alone would take at the speed of one large product in the same run, divided
by vanilla's measured time. A family whose products are in a fused kernel or a custom backward pass has none.
"""

import argparse
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Literal

import pandas as pd
import torch
from tabulate import tabulate

from attentions.base import Pattern, Shape
from attentions.slots import Family
from attentions.vanilla import Vanilla
from cab import ROOT
from cab.command import command_line
from cab.compose import compose_requests
from cab.efficiency import efficiency_length
from cab.efficiency.plan import Measurement, Plan
from cab.efficiency.sweep import sweep
from cab.machine import device_name, gemm_gflops, resolve_device, set_allocator
from cab.store.lock import locked_device
from cab.store.provenance import command, git
from cab.store.record import write_atomically

HEADS_OF_64 = Shape(dim=512, heads=8, depth=6, hidden=0, length=1024)
FIVE_MILLION = Shape(dim=256, heads=4, depth=5, hidden=1536, length=1024)
"""The lengths in shapes are replaced by those of the sweep."""
DECODE_BATCH = 16
LONG = (2048, 4096, 8192, 16384, 32768)


@dataclass(frozen=True)
class Sweep:
    """Families measured together."""

    title: str
    families: tuple[str, ...]
    level: str
    shape: Shape
    lengths: tuple[int, ...]
    phase: str = "train"
    batch: int = 1
    vanilla: bool = True
    rounds: int = 15
    budget: float = 300.0


@dataclass(frozen=True)
class Target:
    """The figure should be at most `bound`, a speed-up at least."""

    sweep: str
    family: str
    figure: Literal["time", "memory", "speed-up", "growth"]
    bound: float
    length: int = 0
    """0 for growth, which is over all lengths of the sweep."""


SWEEPS = {
    "op": Sweep("operation", ("lightning", "routing", "ssa"), "mixer", HEADS_OF_64, (1024, 8192, 16384)),
    "op growth": Sweep("operation", ("lightning", "routing"), "mixer", HEADS_OF_64, LONG, vanilla=False, budget=90),
    "layer": Sweep("attention layer", ("lightning",), "attention", HEADS_OF_64, (1024, 8192), budget=120),
    "stack": Sweep("stack", ("fit", "block_transformer"), "stack", FIVE_MILLION, (1024, 2048, 8192)),
    "stack growth": Sweep("stack", ("fit",), "stack", FIVE_MILLION, LONG, vanilla=False, budget=120),
    "decode": Sweep(
        "stack", ("block_transformer",), "stack", FIVE_MILLION, (1024,), "decode", DECODE_BATCH, rounds=20, budget=60
    ),
}
TARGETS = (
    Target("op", "lightning", "time", 0.22, 1024),
    Target("op", "lightning", "time", 0.05, 8192),
    Target("op", "lightning", "memory", 2, 8192),
    Target("layer", "lightning", "time", 0.9, 1024),
    Target("layer", "lightning", "time", 0.28, 8192),
    Target("op", "routing", "time", 0.5, 1024),
    Target("op", "routing", "time", 0.10, 8192),
    Target("op", "routing", "memory", 2, 8192),
    Target("op", "ssa", "time", 0.6, 1024),
    Target("op", "ssa", "time", 0.35, 8192),
    Target("op", "ssa", "memory", 2, 8192),
    Target("stack", "fit", "time", 1, 1024),
    Target("stack", "fit", "time", 0.17, 8192),
    Target("stack", "fit", "memory", 2, 8192),
    Target("stack", "block_transformer", "time", 1, 1024),
    Target("stack", "block_transformer", "time", 0.30, 8192),
    Target("stack", "block_transformer", "memory", 2, 8192),
    Target("decode", "block_transformer", "speed-up", 7, 1024),
    Target("op growth", "lightning", "growth", 1.1),
    Target("op growth", "routing", "growth", 1.6),
    Target("stack growth", "fit", "growth", 4 / 3 + 0.1),
)


def measure(plan: Sweep, device: torch.device) -> list[Measurement]:
    """The rows of one sweep, of families with the options of their YAML files."""
    requests = compose_requests([f"attention={','.join(plan.families)}"])
    families: dict[str, Family] = {request.attention: request.family for request in requests}
    if plan.vanilla:
        families["vanilla"] = Family(Vanilla)
    return sweep(
        families,
        Plan(
            pattern=Pattern.CAUSAL_SELF,
            level=plan.level,
            phases=(plan.phase,),
            lengths=plan.lengths,
            shape=plan.shape,
            device=device,
            budget_seconds=plan.budget,
            batch=plan.batch,
            decode_batches=(plan.batch,),
            rounds=plan.rounds,
            min_rounds=min(efficiency_length.ROUNDS, plan.rounds),
        ),
        lambda line: print(f"  {line}", flush=True),
    )


def outcome(target: Target, plan: Sweep, rows: Sequence[Measurement], gemm: float) -> dict[str, str]:
    """One line of the table. `plan` and `rows` are those of the target's sweep, `gemm` is in GFLOP/s."""
    line = {
        "what": f"{target.family}, {plan.title}",
        "figure": target.figure,
        "length": f"{target.length:,}" if target.length else f"{plan.lengths[0]:,} to {plan.lengths[-1]:,}",
        "target": f"{'at least' if target.figure == 'speed-up' else 'at most'} {target.bound:.3g}",
        "measured": "not measured",
        "met": "-",
        "floor": "-",
    }
    own = [row for row in rows if row.subject == target.family and target.length in (0, row.length)]
    vanilla = [row for row in rows if row.subject == "vanilla" and row.length == target.length]
    failed = [row for row in own + vanilla if row.status != "ok"]
    if failed or not own:
        return line | {"measured": failed[0].reason} if failed else line
    value, low, high = _figure(target, plan, own, vanilla)
    line["measured"] = f"{value:.3g}" if low is None else f"{value:.3g} ({low:.3g} to {high:.3g})"
    if target.figure == "memory":
        line["met"] = _met(target, value, value)
    elif low is not None and high is not None:
        line["met"] = _met(target, low, high)
    if target.figure == "time" and own[0].flops:
        line["floor"] = f"{own[0].flops / gemm / 1e9 / median(vanilla[0].seconds):.2g}"
    return line


def _met(target: Target, low: float, high: float) -> str:
    """Whether all of an interval is on the target's side of its bound; "tie" if the bound is within."""
    least, greatest = (low >= target.bound, high >= target.bound)
    if target.figure != "speed-up":
        least, greatest = (high <= target.bound, low <= target.bound)
    return "yes" if least else "tie" if greatest else "no"


def _figure(
    target: Target, plan: Sweep, own: Sequence[Measurement], vanilla: Sequence[Measurement]
) -> tuple[float, float | None, float | None]:
    """The target's figure and its interval, if it has one."""
    if target.figure == "growth":
        growth = efficiency_length.growth([row.length for row in own], [row.seconds for row in own], points=len(own))
        assert growth is not None
        return growth.exponent, growth.low, growth.high
    if target.figure == "memory":
        return (own[0].peak_bytes or 0) / (vanilla[0].peak_bytes or 1), None, None
    rows = [own[0].to_dict(), vanilla[0].to_dict()]
    [ratio] = efficiency_length.ratios(rows, target.family, "vanilla", plan.phase, plan.batch)
    if target.figure == "time":
        return ratio.ratio, ratio.low, ratio.high
    return 1 / ratio.ratio, ratio.high and 1 / ratio.high, ratio.low and 1 / ratio.low


def page(lines: Sequence[dict[str, str]], device: torch.device, gemm: tuple[float, float], call: str) -> str:
    """bench.md."""
    code = git(ROOT)
    revision = code.get("revision", "unknown") + (" with changes" if code.get("dirty") else "")
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"""\
# Targets of speed and memory

{device_name(device)}, {torch.get_num_threads()} threads, {versions}, float32, {datetime.now(UTC):%Y-%m-%d}, revision
{revision}. A large matrix product ran at {gemm[0]:.0f} GFLOP/s before and {gemm[1]:.0f} after.

    {call}

Causal self-attention, forward and backward; decoding is one step at batch {DECODE_BATCH}. Time, memory (peak above what
was allocated before) and speed-up are against vanilla in the same rounds, with a 95% interval. Operations and layer
have 8 heads of 64 and batch 1; stacks have 5 layers, D = 256 and vanilla's core parameters (5.3 M). Growth is the
exponent of time in length. `floor` is the matrix products alone at the speed of the large one, over vanilla's time.

{tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)}
"""


def run_bench(
    sweeps: Mapping[str, Sweep], targets: Sequence[Target], device: torch.device, folder: Path, call: str
) -> None:
    """Measures all sweeps, prints the page and writes bench.md and bench.csv."""
    set_allocator()
    with locked_device(device):
        gemm_before = gemm_gflops(device, torch.float32)
        start = time.monotonic()
        rows: dict[str, list[Measurement]] = {}
        for name, plan in sweeps.items():
            print(f"{name} ({time.monotonic() - start:.0f} s)", flush=True)
            rows[name] = measure(plan, device)
        gemm = (gemm_before, gemm_gflops(device, torch.float32))
    lines = [outcome(target, sweeps[target.sweep], rows[target.sweep], max(gemm)) for target in targets]
    text = page(lines, device, gemm, call)
    table = pd.DataFrame([{"sweep": name} | asdict(row) for name, found in rows.items() for row in found])
    table["seconds"] = [" ".join(f"{second:.6g}" for second in each) for each in table["seconds"]]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "bench.csv", table.to_csv(index=False).encode())
    write_atomically(folder / "bench.md", text.encode())
    print(f"{text}\n{folder / 'bench.csv'}\n{folder / 'bench.md'}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dev.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench", help="folder to write to")
    options = parser.parse_args(arguments)
    call = command("dev.bench", sys.argv[1:] if arguments is None else arguments)

    def work() -> int:
        run_bench(SWEEPS, TARGETS, resolve_device(options.device), options.out, call)
        return 0

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
