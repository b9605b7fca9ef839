"""The sweep: all families at all lengths, in rounds, within a time budget.

Each (phase, batch size) is a series, and each series gets an equal part of the budget that is left when it begins:
what a cheap series leaves over goes to the next ones. In a series lengths ascend. At a length every subject is built,
its FLOPs counted, warmed up and profiled once for memory; then the rounds begin, each calling every subject once in the
given order (vanilla, eager, the families). All of this counts against the budget.

A length is tried if the prediction from the previous two, for `min_rounds` rounds, fits what is left. (Of the first
nothing is known: it is tried while there is time at all, so that a budget can be overrun by one length.) If not,
the whole length is `not_measured`; but where leaving out eager alone makes it fit, only eager is. Reaching
far comes before many rounds: after `min_rounds`, a length goes on to `rounds` rounds with an equal share of what the
longer lengths that are predicted to fit do not need.

Running out of memory is an answer on a GPU. On a CPU Linux kills the process instead, so a subject is skipped where its
predicted memory exceeds half of what is free: eager by its formula, and every subject by what it took before.

Every (subject, phase, length, batch) that was asked for gives exactly one row. One failure never stops the others.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from attentions.slots import Family
from cab.efficiency.plan import Measurement, Plan, Point, eager_bytes, extrapolate
from cab.efficiency.subjects import Subject, Work
from cab.efficiency.timers import interleave, matmul_flops, peak_memory
from cab.machine import free_memory, synchronize
from cab.store.failure import failure

BASELINES = ("vanilla", "eager")
FREE_PART = 0.5


def sweep(families: Mapping[str, Family], plan: Plan, report: Callable[[str], None]) -> list[Measurement]:
    """Measures all families (the caller adds the baselines "vanilla" and "eager") and reports every length."""
    end = time.perf_counter() + plan.budget_seconds
    first = [name for name in BASELINES if name in families]
    ordered = {name: families[name] for name in (*first, *(name for name in families if name not in first))}
    _warm_up_tools(plan.device)
    rows: list[Measurement] = []
    gc.collect()
    gc.freeze()  # or each collection would look through everything that was ever imported
    try:
        for index, (phase, batch) in enumerate(plan.series):
            now = time.perf_counter()
            share = (end - now) / (len(plan.series) - index)
            rows += _Series(ordered, plan, phase, batch, now + share, report).run()
    finally:
        gc.unfreeze()
    return rows


@dataclass
class _Trial:
    """One subject at one length: its row so far and, once it is ready, what to call."""

    row: Measurement
    work: Work | None = None
    fixed: float = 0.0
    """Seconds spent on building and counting, which hardly depend on the length."""
    growing: float = 0.0
    """Seconds spent on calls before the rounds."""

    def attempt(self, step: Callable[[], object]) -> object:
        """Runs a step; a failure becomes the status, and later steps do nothing."""
        if self.row.status != "ok":
            return None
        try:
            return step()
        except Exception as error:
            status, reason = failure(error)
        self.row, self.work = replace(self.row, status=status, reason=reason, seconds=[]), None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


class _Series:
    """One phase at one batch size over all lengths, and what is learnt on the way."""

    def __init__(
        self,
        families: Mapping[str, Family],
        plan: Plan,
        phase: str,
        batch: int,
        end: float,
        report: Callable[[str], None],
    ) -> None:
        self.families, self.plan, self.phase, self.batch = families, plan, phase, batch
        self.end, self.report = end, report
        self.fixed = dict.fromkeys(families, 0.0)
        self.costs: dict[str, list[Point]] = {name: [] for name in families}  # seconds of all calls with min_rounds
        self.peaks: dict[str, list[Point]] = {name: [] for name in families}
        self.full: dict[str, int] = {}  # where a subject ran out of memory

    def run(self) -> list[Measurement]:
        rows: list[Measurement] = []
        lengths = self.plan.lengths
        for place, length in enumerate(lengths):
            skipped = self.skip(length)
            trials = {
                name: _Trial(Measurement(name, self.phase, length, self.batch))
                for name in self.families
                if name not in skipped
            }
            for name, trial in trials.items():
                self.begin(name, trial)
            self.rounds(trials, lengths[place + 1 :])
            for name, trial in trials.items():
                if trial.row.status == "out_of_memory":
                    self.full[name] = length
            here = [skipped[name] if name in skipped else trials[name].row for name in self.families]
            self.report(_line(here))
            rows += here
        return rows

    def skip(self, length: int) -> dict[str, Measurement]:
        """The subjects that are not tried at this length, with the reason."""
        why: dict[str, tuple[str, str]] = {}
        for name in self.families:
            if name in self.full:
                why[name] = ("out_of_memory", f"out of memory at length {self.full[name]:,} already")
            elif reason := self.too_large(name, length):
                why[name] = ("not_measured", reason)
        rest = self.end - time.perf_counter()
        names = [name for name in self.families if name not in why]
        need = sum(self.need(name, length) for name in names)
        for name in self.too_dear(names, length, rest):
            left = f"about {need:.1f} s needed by all, {rest:.1f} s left for this phase" if rest > 0 else "it is spent"
            why[name] = ("not_measured", f"budget: {left}")
        return {
            name: Measurement(name, self.phase, length, self.batch, status, reason)
            for name, (status, reason) in why.items()
        }

    def too_large(self, name: str, length: int) -> str:
        """Why a subject should not be tried for its memory; "" if it may."""
        need = 0.0
        if self.plan.device.type == "cpu":
            need = extrapolate(self.peaks[name], length, unknown=2.0)
        if name == "eager":
            need = max(need, eager_bytes(self.plan, self.phase, length, self.batch))
        free = free_memory(self.plan.device)
        if need <= FREE_PART * free:
            return ""
        return f"memory: about {need / 1e9:.1f} GB needed, more than half of the {free / 1e9:.1f} GB that are free"

    def too_dear(self, names: list[str], length: int, rest: float) -> list[str]:
        """The subjects for which there is no time: none, eager alone, or all."""
        need = sum(self.need(name, length) for name in names)
        if need <= rest:
            return []
        return ["eager"] if "eager" in names and need - self.need("eager", length) <= rest else names

    def need(self, name: str, length: int) -> float:
        """Seconds that a subject will take with `min_rounds`."""
        return self.fixed[name] + extrapolate(self.costs[name], length)

    def spare(self, longer: Sequence[int]) -> float:
        """Seconds for further rounds here: what longer lengths do not need, shared equally with those that will fit."""
        rest, shares = self.end - time.perf_counter(), 1
        names = [name for name in self.families if name not in self.full]
        for length in longer:
            dear = self.too_dear(names, length, rest)
            if dear == names:
                break
            rest -= sum(self.need(name, length) for name in names if name not in dear)
            shares += 1
        return rest / shares

    def begin(self, name: str, trial: _Trial) -> None:
        """Builds, counts, warms up and profiles one subject."""
        start = time.perf_counter()
        trial.attempt(partial(self._begin, self.families[name], trial))
        if trial.row.peak_bytes is not None:
            self.peaks[name].append((trial.row.length, float(trial.row.peak_bytes)))
        synchronize(self.plan.device)
        trial.growing = time.perf_counter() - start - trial.fixed
        self.fixed[name] = trial.fixed

    def _begin(self, family: Family, trial: _Trial) -> None:
        plan, length = self.plan, trial.row.length
        make = partial(
            Subject,
            family,
            plan.pattern,
            plan.level,
            replace(plan.shape, length=length),
            batch=self.batch,
            seed=plan.seed,
        )
        start = time.perf_counter()
        subject = make(precision=plan.precision, device=plan.device)
        flops = _flops(lambda: make(device=torch.device("meta")).work(self.phase))
        trial.fixed = time.perf_counter() - start
        work = subject.work(self.phase)
        work.prepare()
        work.call()
        work.prepare()
        trial.work = work
        trial.row = replace(
            trial.row,
            peak_bytes=peak_memory(work.call, plan.device),
            flops=flops,
            parameters=subject.parameters,
            state_numbers=work.state_numbers,
            state_bytes=work.state_bytes,
            decoding=work.decoding,
        )

    def rounds(self, trials: Mapping[str, _Trial], longer: Sequence[int]) -> None:
        """Times what began well: `min_rounds` rounds, then more as the budget allows."""
        plan = self.plan
        works = {name: trial.work for name, trial in trials.items() if trial.work is not None}
        if not works:
            return
        calls = {name: partial(trials[name].attempt, work.call) for name, work in works.items()}
        prepare = {name: partial(trials[name].attempt, work.prepare) for name, work in works.items()}
        start = time.perf_counter()
        seconds = interleave(calls, plan.min_rounds, plan.device, prepare)
        wall = time.perf_counter() - start
        total = sum(map(sum, seconds.values()))
        for name in works:
            cost = trials[name].growing + wall * sum(seconds[name]) / total
            self.costs[name].append((trials[name].row.length, cost))
        extra = min(int(self.spare(longer) * plan.min_rounds / wall), plan.rounds - plan.min_rounds)
        if extra > 0:
            more = interleave(calls, extra, plan.device, prepare)
            seconds = {name: seconds[name] + more[name] for name in seconds}
        for name, work in works.items():
            if trials[name].row.status == "ok":
                per_step = [second / work.steps for second in seconds[name]]
                trials[name].row = replace(trials[name].row, seconds=per_step)


def _warm_up_tools(device: torch.device) -> None:
    """The first profile and the first count of a process are slow, and belong to no subject."""
    peak_memory(lambda: torch.zeros(1, device=device), device)
    matmul_flops(lambda: torch.zeros(1, 1, device="meta") @ torch.zeros(1, 1, device="meta"))


def _flops(make: Callable[[], Work]) -> int | None:
    """Matmul FLOPs per step; None for a family whose control flow depends on values, which meta tensors lack."""
    try:
        work = make()
        work.prepare()
        return matmul_flops(work.call) // work.steps
    except Exception:
        return None


def _line(rows: list[Measurement]) -> str:
    """One line of progress for a length."""
    first = rows[0]
    where = f"{first.phase}, batch {first.batch}, length {first.length:,}: "
    if all(row.status == "not_measured" for row in rows):
        return f"{where}not measured ({first.reason})"
    parts = []
    for row in rows:
        middle = f"{1e3 * sorted(row.seconds)[len(row.seconds) // 2]:.2f} ms" if row.seconds else row.status
        parts.append(f"{row.subject} {middle}")
    count = max(len(row.seconds) for row in rows)
    why = next((f" ({row.reason})" for row in rows if row.reason), "")
    return f"{where}{', '.join(parts)}; {count} rounds{why}"
