"""The sweep: complete, paired, within its budget, and never stopped by one subject."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from attentions.base import Pattern, Shape, no_loss
from attentions.eager import Eager
from attentions.none import NoAttention
from attentions.vanilla import Vanilla
from cab.efficiency import sweep as sweep_module
from cab.efficiency.plan import Plan
from cab.efficiency.predictions import eager_bytes, extrapolate
from cab.efficiency.subjects import Subject
from cab.efficiency.sweep import sweep
from cab.efficiency.timers import peak_memory
from cab.errors import UserError

BASE = {"vanilla": partial(Vanilla), "eager": partial(Eager)}
PLAN = Plan(
    pattern=Pattern.CAUSAL_SELF,
    level="attention",
    phases=("forward",),
    lengths=(8, 16, 32),
    shape=Shape(16, 2, 1, 0, 8),
    device=torch.device("cpu"),
    budget_seconds=1e6,
    rounds=4,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(families, plan=PLAN, lines=None):
    found = sweep(families, plan, (lines if lines is not None else []).append)
    requested = [
        (name, phase, length, batch) for phase, batch in plan.series for length in plan.lengths for name in families
    ]
    assert sorted(requested) == sorted((r.subject, r.phase, r.length, r.batch) for r in found)  # exactly once each
    for row in found:
        assert (row.status == "ok") == (not row.reason), row
        assert (row.status == "ok") == bool(row.seconds), row
        assert "\n" not in row.reason
    json.dumps([r.to_dict() for r in found], allow_nan=False)
    return {(r.subject, r.phase, r.length, r.batch): r for r in found}


def statuses(found, subject):
    return [row.status for key, row in found.items() if key[0] == subject]


class Fails(Vanilla):
    """Raises on the n-th pass of each instance."""

    def __init__(self, shape, pattern, layer, layers, *, error, at=1, from_length=0):
        super().__init__(shape, pattern, layer, layers)
        self.error, self.left, self.from_length = error, at, from_length

    def forward(self, x, memory=None, valid=None, memory_valid=None):
        self.left -= 1
        if self.left <= 0 and x.shape[1] >= self.from_length and x.device.type != "meta":
            raise self.error
        return super().forward(x, memory, valid, memory_valid)


def test_complete_and_paired():
    plan = replace(PLAN, phases=("forward", "train", "prefill", "decode"), decode_batches=(1, 3), batch=2)
    lines = []
    found = run({"none": partial(NoAttention), **BASE}, plan, lines)
    assert {row.status for row in found.values()} == {"ok"}
    assert {len(row.seconds) for row in found.values()} == {4}
    assert len(lines) == 3 * 5
    assert lines[0].startswith("forward, batch 2, length 8: vanilla ")
    vanilla = found["vanilla", "decode", 16, 3]
    assert (vanilla.parameters, vanilla.state_numbers, vanilla.state_bytes) == (4 * 16**2, 2 * 16 * 16, 4 * 3 * 512)
    assert found["vanilla", "forward", 16, 2].flops == 2 * (4 * 16**3 + 8 * 16**3)
    # one step: projections, and a mean past of 16 + 2 settling steps + 4.5
    assert vanilla.flops == 3 * (8 * 16**2 + 4 * 16 * 22.5)
    assert found["vanilla", "train", 16, 2].peak_bytes > found["vanilla", "forward", 16, 2].peak_bytes > 0
    assert found["vanilla", "forward", 16, 2].state_bytes is None


def test_design_length_is_the_length_and_baselines_come_first():
    seen = []

    class Records(Vanilla):
        def forward(self, x, memory=None, valid=None, memory_valid=None):
            if x.device.type != "meta":
                seen.append((x.shape[1], self.shape.length))
            return super().forward(x, memory, valid, memory_valid)

    run({"records": partial(Records)})
    assert set(seen) == {(8, 8), (16, 16), (32, 32)}
    assert [r.subject for r in sweep({"x": partial(NoAttention), **BASE}, PLAN, str)][:3] == ["vanilla", "eager", "x"]


def test_no_budget_gives_rows_all_the_same():
    found = run(BASE, replace(PLAN, phases=("forward", "decode"), budget_seconds=0))
    assert {row.status for row in found.values()} == {"not_measured"}
    assert all(row.reason.startswith("budget: ") for row in found.values())


class Clock:
    """Time passes only in the full passes of families that `takes` made."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(sweep_module.time, "perf_counter", lambda: self.now)

    def takes(self, seconds, base=Vanilla):
        """A family whose full pass takes `seconds(length)`."""
        clock = self

        class Takes(base):
            def forward(self, x, memory=None, valid=None, memory_valid=None):
                if x.device.type != "meta":
                    clock.now += seconds(x.shape[1])
                return super().forward(x, memory, valid, memory_valid)

        return partial(Takes)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


CALLS = 5
"""At each length: a warm-up, a profile and three rounds."""


def test_a_length_that_will_not_fit_is_left_out(clock):
    family = clock.takes(lambda length: (length / 8) ** 2)
    found = run({"vanilla": family}, replace(PLAN, budget_seconds=60))
    assert statuses(found, "vanilla") == ["ok", "ok", "not_measured"]
    left = 60 - (CALLS + 1) * (1 + 4)  # with a fourth round at both lengths
    assert found["vanilla", "forward", 32, 1].reason == (
        f"budget: about {CALLS * 16:.1f} s needed by all, {left:.1f} s left for this phase"
    )


def test_a_budget_that_is_used_up_is_said_so(clock):
    found = run({"vanilla": clock.takes(lambda length: 1.0)}, replace(PLAN, budget_seconds=4))
    assert statuses(found, "vanilla") == ["ok", "not_measured", "not_measured"]  # exceeded by one length
    assert found["vanilla", "forward", 16, 1].reason == "budget: used up"


def test_eager_alone_is_left_out_if_that_helps(clock):
    families = {"vanilla": clock.takes(lambda length: 1.0), "eager": clock.takes(lambda length: 100.0, Eager)}
    found = run(families | {"none": partial(NoAttention)}, replace(PLAN, budget_seconds=1000))
    assert statuses(found, "eager") == ["ok", "not_measured", "not_measured"]
    assert statuses(found, "vanilla") == statuses(found, "none") == ["ok"] * 3


def rounds(clock, budget, lengths=PLAN.lengths):
    plan = replace(PLAN, budget_seconds=budget, lengths=lengths, rounds=10)
    found = run({"vanilla": clock.takes(lambda length: length / 8)}, plan)
    return [len(row.seconds) for row in found.values()]


def test_rounds_are_limited_by_budget_but_not_below_the_minimum(clock):
    assert rounds(clock, 1e6) == [10, 10, 10]
    assert rounds(clock, CALLS * (1 + 2 + 4) + 0.5) == [3, 3, 3]


def test_reaching_far_comes_before_many_rounds(clock):
    # 6 s to spare: 2 at each length, that is 2 rounds of 1 s, then 1 of 2 s, then none of 4 s
    assert rounds(clock, CALLS * (1 + 2 + 4) + 6.5) == [5, 4, 3]
    # nothing is kept for a length that will not fit: 3 s at each of the other two
    assert rounds(clock, CALLS * (1 + 2) + 6.5, (8, 16, 1024)) == [6, 4, 0]


def test_series_share_the_budget(clock):
    plan = replace(PLAN, phases=("forward", "train"), lengths=(8, 512), rounds=3, budget_seconds=600)
    found = run({"vanilla": clock.takes(lambda length: 1.0)}, plan)
    assert found["vanilla", "forward", 512, 1].reason == (
        "budget: about 320.0 s needed by all, 295.0 s left for this phase"  # of an equal part, 300
    )
    assert found["vanilla", "train", 512, 1].status == "ok"  # of what forward left, 595


def test_prediction():
    assert extrapolate([], 64) == 0
    assert extrapolate([(8, 3.0)], 16) == 6
    assert extrapolate([(8, 3.0)], 16, default_power=2.0) == 12
    assert extrapolate([(4, 99.0), (8, 3.0), (16, 12.0)], 32) == pytest.approx(48)  # quadratic, from the last two
    assert extrapolate([(8, 3.0), (16, 3.0)], 32) == 6  # at least linear
    assert extrapolate([(8, 1.0), (16, 1000.0)], 32) == 8000  # at most cubic


@pytest.mark.parametrize(("level", "phase"), [("stack", "forward"), ("stack", "train"), ("mixer", "train")])
def test_predicted_memory_of_eager(level, phase):
    plan = replace(PLAN, level=level, shape=Shape(16, 2, 3, 32, 256))
    subject = Subject(partial(Eager), plan.pattern, level, plan.shape, batch=2, device=plan.device)
    measured = peak_memory(subject.timed_call(phase).call, plan.device)
    assert 0.7 < measured / eager_bytes(plan, phase, 256, 2) < 1.3


def test_eager_is_not_tried_where_it_could_fill_the_memory(monkeypatch):
    built = []

    class Counted(Eager):
        def __init__(self, shape, pattern, layer, layers):
            super().__init__(shape, pattern, layer, layers)
            built.append(shape.length)

    need = eager_bytes(PLAN, "forward", 32, 1)
    monkeypatch.setattr(sweep_module, "free_memory", lambda device: 2 * need - 1)
    monkeypatch.setattr(sweep_module, "peak_memory", lambda call, device: 1)
    found = run(BASE | {"eager": partial(Counted)})
    assert statuses(found, "eager") == ["ok", "ok", "not_measured"]
    assert found["eager", "forward", 32, 1].reason.startswith("memory: ")
    assert 32 not in built
    assert statuses(found, "vanilla") == ["ok"] * 3


def test_any_subject_is_stopped_by_the_memory_it_took_before(monkeypatch):
    monkeypatch.setattr(sweep_module, "free_memory", lambda device: 100_000)
    monkeypatch.setattr(sweep_module, "peak_memory", lambda call, device: 20_000)  # predicted 80,000 at 16
    found = run({"vanilla": partial(Vanilla)})
    assert statuses(found, "vanilla") == ["ok", "not_measured", "not_measured"]
    assert found["vanilla", "forward", 16, 1].reason.startswith("memory: ")


def test_one_failure_is_a_row_and_stops_nothing():
    found = run(BASE | {"broken": partial(Fails, error=ValueError("first line\nsecond"))})
    assert statuses(found, "broken") == ["error"] * 3
    assert found["broken", "forward", 8, 1].reason == "ValueError: first line second"
    assert statuses(found, "vanilla") == statuses(found, "eager") == ["ok"] * 3


def test_a_failure_in_a_late_round_drops_only_its_own_samples():
    found = run(BASE | {"late": partial(Fails, error=ValueError("late"), at=5)})
    assert statuses(found, "late") == ["error"] * 3
    assert {len(row.seconds) for row in found.values() if row.subject != "late"} == {4}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_ends_a_subject(error):
    found = run(BASE | {"large": partial(Fails, error=error, from_length=16)})
    assert statuses(found, "large") == ["ok", "out_of_memory", "out_of_memory"]
    assert found["large", "forward", 32, 1].reason == "out of memory at length 16 already"
    assert statuses(found, "vanilla") == ["ok"] * 3


def test_the_cpu_allocator_is_understood():
    class Huge(Vanilla):
        def forward(self, x, memory=None, valid=None, memory_valid=None):
            return torch.empty(1 << 50, device=x.device), no_loss(x)

    assert set(statuses(run({"huge": partial(Huge)}), "huge")) == {"out_of_memory"}


def test_unsupported_levels_and_phases_are_rows():
    found = run(BASE | {"none": partial(NoAttention)}, replace(PLAN, level="mixer"))
    assert statuses(found, "none") == ["unsupported"] * 3
    assert "NoAttention has no operation" in found["none", "forward", 8, 1].reason
    assert statuses(found, "vanilla") == ["ok"] * 3
    noncausal = replace(PLAN, pattern=Pattern.NONCAUSAL_CROSS, phases=("train", "prefill", "decode"))
    found = run(BASE, noncausal)
    assert [row.status for key, row in found.items() if key[1] == "train"] == ["ok"] * 6
    assert {row.status for key, row in found.items() if key[1] != "train"} == {"unsupported"}


def test_a_family_that_meta_tensors_cannot_run_has_no_flops():
    class Looks(Vanilla):
        def forward(self, x, memory=None, valid=None, memory_valid=None):
            return super().forward(x * bool(x.sum() != 0), memory, valid, memory_valid)

    row = run({"looks": partial(Looks)})["looks", "forward", 8, 1]
    assert (row.status, row.flops) == ("ok", None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"level": "layer"},
        {"phases": ("backward",)},
        {"phases": ()},
        {"lengths": (16, 8)},
        {"lengths": ()},
        {"decode_batches": (0, 1)},
        {"precision": "float16"},
        {"rounds": 2},
        {"batch": 0},
    ],
)
def test_plans_that_cannot_be_are_refused(wrong):
    (name, _), *_ = wrong.items()
    with pytest.raises(UserError, match=rf"^(efficiency\.)?{name}=.*use") as error:
        replace(PLAN, **wrong)
    assert "\n" not in str(error.value)
