"""The project's own targets of speed and memory, measured: `python -m dev.bench [--device auto] [--out FOLDER]`.

Operations, a layer, whole stacks of about 5 M core parameters and decoding, in causal_self, float32, each against
vanilla (the fused kernel) in the same rounds; growth exponents from sweeps of their own without vanilla. Prints the
table of targets and writes it (bench.md), with every measurement behind it (bench.csv). Takes about 15 minutes on two
cores, and says little on a machine that does other work meanwhile.

`floor` is what the matrix products alone would take at the speed of one large product in the same run, over vanilla's
measured time. A family whose products are hidden in a fused kernel or an own backward has none.
"""

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from tabulate import tabulate

from attentions.base import Pattern, Shape
from attentions.slots import Family
from attentions.vanilla import Vanilla
from cab import ROOT
from cab.command import command_line
from cab.compose import compose_requests
from cab.efficiency import efficiency_length as lengths
from cab.efficiency.plan import Measurement, Plan
from cab.efficiency.sweep import sweep
from cab.machine import device_name, gemm_gflops, resolve_device, set_allocator
from cab.store.lock import measuring
from cab.store.provenance import command, git
from cab.store.record import write_atomically

HEADS_OF_64 = Shape(dim=512, heads=8, depth=6, hidden=0, length=1024)
FIVE_MILLION = Shape(dim=256, heads=4, depth=5, hidden=1536, length=1024)
BATCH = 16
"""Of decoding. The lengths in shapes are replaced by those of the sweep."""


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
    """At most `bound`; a speed-up at least."""

    sweep: str
    family: str
    figure: Literal["time", "memory", "speed-up", "growth"]
    bound: float
    length: int = 0
    """0: all lengths of the sweep (growth)."""


FAR = (2048, 4096, 8192, 16384, 32768)
SWEEPS = {
    "op": Sweep("operation", ("lightning", "routing", "ssa"), "mixer", HEADS_OF_64, (1024, 8192, 16384)),
    "op growth": Sweep("operation", ("lightning", "routing"), "mixer", HEADS_OF_64, FAR, vanilla=False, budget=90),
    "layer": Sweep("attention layer", ("lightning",), "attention", HEADS_OF_64, (1024, 8192), budget=120),
    "stack": Sweep("stack", ("fit", "block_transformer"), "stack", FIVE_MILLION, (1024, 2048, 8192)),
    "stack growth": Sweep("stack", ("fit",), "stack", FIVE_MILLION, FAR, vanilla=False, budget=120),
    "decode": Sweep(
        "stack", ("block_transformer",), "stack", FIVE_MILLION, (1024,), "decode", BATCH, rounds=20, budget=60
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


def families_of(one: Sweep) -> dict[str, Family]:
    """With the options of their YAML files."""
    named = ",".join(one.families)
    found: dict[str, Family] = {r.attention: r.family for r in compose_requests([f"attention={named}"])}
    return ({"vanilla": Family(Vanilla)} if one.vanilla else {}) | found


def measure(one: Sweep, device: torch.device) -> list[Measurement]:
    """The rows of one sweep."""
    plan = Plan(
        pattern=Pattern.CAUSAL_SELF,
        level=one.level,
        phases=(one.phase,),
        lengths=one.lengths,
        shape=one.shape,
        device=device,
        budget_seconds=one.budget,
        batch=one.batch,
        decode_batches=(one.batch,),
        rounds=one.rounds,
        min_rounds=min(lengths.FEW, one.rounds),
    )
    return sweep(families_of(one), plan, lambda line: print(f"  {line}", flush=True))


def outcome(target: Target, rows: Sequence[Measurement], gemm: float) -> dict[str, Any]:
    """One line of the table. `rows` are those of the target's sweep."""
    one = SWEEPS[target.sweep]
    own = [row for row in rows if row.subject == target.family and target.length in (0, row.length)]
    base = next((row for row in rows if row.subject == "vanilla" and row.length == target.length), None)
    line = {
        "what": f"{target.family}, {one.title}",
        "figure": target.figure,
        "length": f"{target.length:,}" if target.length else f"{one.lengths[0]:,} to {one.lengths[-1]:,}",
        "target": f"{'at least' if target.figure == 'speed-up' else 'at most'} {target.bound:.3g}",
    }
    missing = [row for row in (own if base is None else [*own, base]) if row.status != "ok"]
    if missing or not own:
        return line | {"measured": missing[0].reason if missing else "not measured", "met": "-", "floor": "-"}
    low: float | None
    high: float | None
    if target.figure == "growth":
        found = lengths.growth([row.length for row in own], [row.seconds for row in own], points=len(own))
        if found is None:
            return line | {"measured": "too few lengths", "met": "-", "floor": "-"}
        value, low, high = found.exponent, found.low, found.high
    elif target.figure == "memory":
        assert base is not None
        value, low, high = (own[0].peak_bytes or 0) / (base.peak_bytes or 1), None, None
    else:
        dicts = [row.to_dict() for row in rows if row.length == target.length]
        [ratio] = lengths.ratios(dicts, target.family, "vanilla", one.phase, one.batch)
        value, low, high = ratio.ratio, ratio.low, ratio.high
        if target.figure == "speed-up":
            value, low, high = 1 / value, high and 1 / high, low and 1 / low
    met = value >= target.bound if target.figure == "speed-up" else value <= target.bound
    spread = "" if low is None or high is None else f" ({low:.3g} to {high:.3g})"
    floor = "-"
    if target.figure == "time" and base is not None and own[0].flops:
        floor = f"{own[0].flops / gemm / 1e9 / lengths.middle(base.seconds):.2g}"
    return line | {"measured": f"{value:.3g}{spread}", "met": "yes" if met else "no", "floor": floor}


def page(lines: Sequence[dict[str, Any]], device: torch.device, gemm: tuple[float, float], call: str) -> str:
    """bench.md."""
    code = git()
    revision = code.get("revision", "unknown") + (" with changes" if code.get("dirty") else "")
    return (
        "# Targets of speed and memory\n\n"
        f"{device_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python "
        f"{platform.python_version()}, float32, {datetime.now(UTC):%Y-%m-%d}, revision {revision}. A large product ran "
        f"at {gemm[0]:.0f} GFLOP/s before and {gemm[1]:.0f} after.\n\n"
        f"    {call}\n\n"
        "Causal self-attention, forward and backward (decoding: a step at batch "
        f"{BATCH}). Time, memory (peak above what was there before) and speed-up are against vanilla in the same "
        "rounds, with a 95% interval: operations and layer with 8 heads of 64, B = 1; stacks with 5 layers, D = 256, "
        "at vanilla's core parameters (5.3 M). Growth is the exponent of time in length. `floor`: the products alone "
        "at the speed of the large one, over vanilla's time.\n\n"
        + tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)
        + "\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dev.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench", help="folder to write to")
    given = parser.parse_args(arguments)

    def work() -> int:
        device = resolve_device(given.device)
        set_allocator()
        with measuring(device):
            first = gemm_gflops(device, torch.float32)
            clock = time.monotonic()
            found: dict[str, list[Measurement]] = {}
            for name, one in SWEEPS.items():
                print(f"{name} ({time.monotonic() - clock:.0f} s)", flush=True)
                found[name] = measure(one, device)
            gemm = (first, gemm_gflops(device, torch.float32))
        lines = [outcome(target, found[target.sweep], max(gemm)) for target in TARGETS]
        table = pd.DataFrame([{"sweep": name} | asdict(row) for name, rows in found.items() for row in rows])
        table["seconds"] = [" ".join(f"{second:.6g}" for second in each) for each in table["seconds"]]
        given.out.mkdir(parents=True, exist_ok=True)
        write_atomically(given.out / "bench.csv", table.to_csv(index=False).encode())
        text = page(lines, device, gemm, command("dev.bench", sys.argv[1:] if arguments is None else arguments))
        write_atomically(given.out / "bench.md", text.encode())
        print(text + f"\n{given.out / 'bench.csv'}\n{given.out / 'bench.md'}")
        return 0

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
