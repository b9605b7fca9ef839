"""A sweep: all families at all lengths, in rounds, within a time budget.

Each (phase, batch size) is a series. Each series gets an equal part of the budget that is left when it starts, so that
later series can use what earlier ones did not need. Within a series lengths ascend. At each length every subject is
built, its FLOPs are counted, it is warmed up and profiled once for memory. Then each round calls every subject once, in
the order vanilla, eager, other families. All of this counts against the budget.

A length is measured if the prediction from the previous two for `min_rounds` rounds fits the rest of the budget. If
not, eager alone is left out if that helps, else the whole length is `not_measured`. The first length has no prediction
and is measured while any time is left, so a budget can be exceeded by one length. Long lengths have priority over many
rounds: after `min_rounds`, a length gets more rounds, up to `rounds`, only in time that the longer lengths do not need.

Running out of memory is a result on a GPU. On a CPU Linux would kill the process instead, so a subject is skipped where
its predicted memory exceeds half of the free memory.

Every requested (subject, phase, length, batch) gives exactly one row. A failure of one subject never stops the others.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from attentions.slots import Family
from cab.efficiency.plan import Measurement, Plan
from cab.efficiency.predictions import Predictions
from cab.efficiency.subjects import Subject, TimedCall
from cab.efficiency.timers import interleave, matmul_flops, peak_memory
from cab.machine import free_memory, synchronize
from cab.sizes import size_text
from cab.store.failure import failure

BASELINES = ("vanilla", "eager")
USABLE_MEMORY = 0.5
"""Part of the free memory that a subject may use."""


def sweep(families: Mapping[str, Family], plan: Plan, report: Callable[[str], None]) -> list[Measurement]:
    """Measures all families, to which the caller adds the baselines "vanilla" and "eager".

    `report` gets a line for every length.
    """
    end = time.perf_counter() + plan.budget_seconds
    baselines = [name for name in BASELINES if name in families]
    others = [name for name in families if name not in BASELINES]
    ordered = {name: families[name] for name in baselines + others}
    _warm_up_tools(plan.device)
    rows: list[Measurement] = []
    gc.collect()
    gc.freeze()  # later collections skip all that was imported so far
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
    """One subject at one length: its row so far and, once it is built, what to time."""

    row: Measurement
    timed: TimedCall | None = None
    setup_seconds: float = 0.0
    """Time to build the subject and count its FLOPs."""
    warmup_seconds: float = 0.0
    """Time of the calls before the rounds."""

    def attempt(self, action: Callable[[], object]) -> object:
        """Runs an action. A failure becomes the row's status, and later actions are skipped."""
        if self.row.status != "ok":
            return None
        try:
            return action()
        except Exception as error:
            status, reason = failure(error)
        self.row, self.timed = replace(self.row, status=status, reason=reason, seconds=[]), None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


class _Series:
    """One phase at one batch size over all lengths."""

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
        self.predictions = Predictions(plan, phase, batch, families)
        self.out_of_memory_at: dict[str, int] = {}

    def run(self) -> list[Measurement]:
        rows: list[Measurement] = []
        for index, length in enumerate(self.plan.lengths):
            skipped = self.skip(length)
            trials = {
                name: _Trial(Measurement(name, self.phase, length, self.batch))
                for name in self.families
                if name not in skipped
            }
            for name, trial in trials.items():
                self.set_up(name, trial)
            self.time_rounds(trials, self.plan.lengths[index + 1 :])
            for name, trial in trials.items():
                if trial.row.status == "out_of_memory":
                    self.out_of_memory_at[name] = length
            measured = [skipped[name] if name in skipped else trials[name].row for name in self.families]
            self.report(_progress_line(measured))
            rows += measured
        return rows

    def skip(self, length: int) -> dict[str, Measurement]:
        """Rows of the subjects that are not tried at this length, with the reason."""
        reasons: dict[str, tuple[str, str]] = {}
        for name in self.families:
            if name in self.out_of_memory_at:
                reasons[name] = ("out_of_memory", f"out of memory at length {self.out_of_memory_at[name]:,} already")
            elif reason := self.over_memory(name, length):
                reasons[name] = ("not_measured", reason)
        names = [name for name in self.families if name not in reasons]
        left = self.end - time.perf_counter()
        needed = sum(self.predictions.seconds(name, length) for name in names)
        for name in self.predictions.over_budget(names, length, left):
            reason = f"about {needed:.1f} s needed by all, {left:.1f} s left for this phase" if left > 0 else "used up"
            reasons[name] = ("not_measured", f"budget: {reason}")
        return {
            name: Measurement(name, self.phase, length, self.batch, status, reason)
            for name, (status, reason) in reasons.items()
        }

    def over_memory(self, name: str, length: int) -> str:
        """The reason to skip a subject for its memory; "" if it fits."""
        needed, free = self.predictions.peak_bytes(name, length), free_memory(self.plan.device)
        if needed <= USABLE_MEMORY * free:
            return ""
        return f"memory: about {size_text(needed)} needed, more than half of the {size_text(free)} that are free"

    def set_up(self, name: str, trial: _Trial) -> None:
        """Builds a subject, counts its FLOPs, warms it up and profiles its memory."""
        start = time.perf_counter()
        trial.attempt(partial(self.build_and_profile, self.families[name], trial))
        if trial.row.peak_bytes is not None:
            self.predictions.peaks[name].append((trial.row.length, float(trial.row.peak_bytes)))
        synchronize(self.plan.device)
        trial.warmup_seconds = time.perf_counter() - start - trial.setup_seconds
        self.predictions.setup[name] = trial.setup_seconds

    def build_and_profile(self, family: Family, trial: _Trial) -> None:
        plan = self.plan
        shape = replace(plan.shape, length=trial.row.length)
        make = partial(Subject, family, plan.pattern, plan.level, shape, batch=self.batch)
        start = time.perf_counter()
        subject = make(precision=plan.precision, device=plan.device)
        flops = _flops(lambda: make(device=torch.device("meta")).timed_call(self.phase))
        trial.setup_seconds = time.perf_counter() - start
        timed = subject.timed_call(self.phase)
        timed.prepare()
        timed.call()
        timed.prepare()
        trial.timed = timed
        trial.row = replace(
            trial.row,
            peak_bytes=peak_memory(timed.call, plan.device),
            flops=flops,
            parameters=subject.parameters,
            state_numbers=timed.state_numbers,
            state_bytes=timed.state_bytes,
            decoding=timed.decoding,
        )

    def time_rounds(self, trials: Mapping[str, _Trial], longer: Sequence[int]) -> None:
        """Times the subjects that were built: `min_rounds` rounds, then more as the budget allows."""
        plan = self.plan
        timed = {name: trial.timed for name, trial in trials.items() if trial.timed is not None}
        if not timed:
            return
        calls = {name: partial(trials[name].attempt, each.call) for name, each in timed.items()}
        prepare = {name: partial(trials[name].attempt, each.prepare) for name, each in timed.items()}
        start = time.perf_counter()
        seconds = interleave(calls, plan.min_rounds, plan.device, prepare)
        elapsed = time.perf_counter() - start
        total = sum(sum(each) for each in seconds.values())
        for name in timed:
            in_rounds = elapsed * sum(seconds[name]) / total  # with a share of the untimed preparation
            point = (trials[name].row.length, trials[name].warmup_seconds + in_rounds)
            self.predictions.calls[name].append(point)
        names = [name for name in self.families if name not in self.out_of_memory_at]
        left = self.end - time.perf_counter()
        spare = self.predictions.seconds_for_more_rounds(names, longer, left)
        more_rounds = min(int(spare * plan.min_rounds / elapsed), plan.rounds - plan.min_rounds)
        if more_rounds > 0:
            more = interleave(calls, more_rounds, plan.device, prepare)
            seconds = {name: seconds[name] + more[name] for name in seconds}
        for name, each in timed.items():
            if trials[name].row.status == "ok":
                per_step = [second / each.steps for second in seconds[name]]
                trials[name].row = replace(trials[name].row, seconds=per_step)


def _warm_up_tools(device: torch.device) -> None:
    """The first profile and the first FLOP count of a process are slow."""
    peak_memory(lambda: torch.zeros(1, device=device), device)
    matmul_flops(lambda: torch.zeros(1, 1, device="meta") @ torch.zeros(1, 1, device="meta"))


def _flops(make: Callable[[], TimedCall]) -> int | None:
    """Matmul FLOPs per step; None if control flow depends on values, which meta tensors do not have."""
    try:
        timed = make()
        timed.prepare()
        return matmul_flops(timed.call) // timed.steps
    except Exception:
        return None


def _progress_line(rows: list[Measurement]) -> str:
    """One line for a length."""
    first = rows[0]
    where = f"{first.phase}, batch {first.batch}, length {first.length:,}: "
    if all(row.status == "not_measured" for row in rows):
        return f"{where}not measured ({first.reason})"
    parts = []
    for row in rows:
        median = f"{1e3 * sorted(row.seconds)[len(row.seconds) // 2]:.2f} ms" if row.seconds else row.status
        parts.append(f"{row.subject} {median}")
    count = max(len(row.seconds) for row in rows)
    reasons = [f" ({row.reason})" for row in rows if row.reason]
    return f"{where}{', '.join(parts)}; {count} rounds{''.join(reasons[:1])}"
