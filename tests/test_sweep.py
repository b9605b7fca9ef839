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
from cab.efficiency import sweep as rounds
from cab.efficiency.plan import Plan, eager_bytes, extrapolate
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
    asked = [
        (name, phase, length, batch) for phase, batch in plan.series for length in plan.lengths for name in families
    ]
    assert sorted(asked) == sorted((r.subject, r.phase, r.length, r.batch) for r in found)  # exactly once each
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


def test_a_length_that_will_not_fit_is_left_out(monkeypatch):
    monkeypatch.setattr(rounds._Series, "need", lambda self, name, length: 1e9 * (length == 32))
    found = run(BASE)
    assert statuses(found, "vanilla") == ["ok", "ok", "not_measured"]
    assert "about 2000000000.0 s needed" in found["vanilla", "forward", 32, 1].reason


def test_eager_alone_is_left_out_if_that_helps(monkeypatch):
    monkeypatch.setattr(rounds._Series, "need", lambda self, name, length: 1e9 if name == "eager" else 0.0)
    found = run(BASE | {"none": partial(NoAttention)})
    assert statuses(found, "eager") == ["not_measured"] * 3
    assert statuses(found, "vanilla") == statuses(found, "none") == ["ok"] * 3


def test_rounds_are_limited_by_budget_but_not_below_the_minimum(monkeypatch):
    monkeypatch.setattr(rounds._Series, "spare", lambda self, longer: 0.0)
    assert {len(row.seconds) for row in run(BASE).values()} == {3}


def test_reaching_far_comes_before_many_rounds():
    series = rounds._Series(BASE, PLAN, "forward", 1, rounds.time.perf_counter() + 10, str)
    monkey_need = {16: 1.0, 32: 100.0}
    series.need = lambda name, length: monkey_need[length]
    assert series.spare((16,)) == pytest.approx((10 - 2) / 2, abs=0.5)  # 2 s kept for the next, shared with it
    assert series.spare((16, 32)) == pytest.approx((10 - 2) / 2, abs=0.5)  # nothing kept for what will not fit
    assert series.spare(()) == pytest.approx(10, abs=0.5)


def test_need_is_what_building_took_and_calls_will_take():
    series = rounds._Series(BASE, PLAN, "forward", 1, 0.0, str)
    assert series.need("vanilla", 32) == 0  # nothing is known
    series.fixed["vanilla"], series.costs["vanilla"] = 5.0, [(8, 1.0), (16, 4.0)]
    assert series.need("vanilla", 32) == pytest.approx(5 + 16)


def test_series_share_the_budget(monkeypatch):
    ends = []

    class Series(rounds._Series):
        def run(self):
            ends.append(self.end - rounds.time.perf_counter())
            return []

    monkeypatch.setattr(rounds, "_Series", Series)
    sweep(BASE, replace(PLAN, phases=("forward", "decode"), decode_batches=(1, 2), budget_seconds=600), str)
    assert ends == pytest.approx([200, 300, 600], abs=10)  # an equal part of what is left; these spend nothing


def test_prediction():
    assert extrapolate([], 64) == 0
    assert extrapolate([(8, 3.0)], 16) == 6
    assert extrapolate([(8, 3.0)], 16, unknown=2.0) == 12
    assert extrapolate([(4, 99.0), (8, 3.0), (16, 12.0)], 32) == pytest.approx(48)  # quadratic, from the last two
    assert extrapolate([(8, 3.0), (16, 3.0)], 32) == 6  # at least linear
    assert extrapolate([(8, 1.0), (16, 1000.0)], 32) == 8000  # at most cubic


@pytest.mark.parametrize(("level", "phase"), [("stack", "forward"), ("stack", "train"), ("mixer", "train")])
def test_predicted_memory_of_eager(level, phase):
    plan = replace(PLAN, level=level, shape=Shape(16, 2, 3, 32, 256))
    subject = Subject(partial(Eager), plan.pattern, level, plan.shape, batch=2, device=plan.device)
    work = subject.work(phase)
    measured = peak_memory(work.call, plan.device)
    assert 0.7 < measured / eager_bytes(plan, phase, 256, 2) < 1.3


def test_eager_is_not_tried_where_it_could_fill_the_memory(monkeypatch):
    built = []

    class Counted(Eager):
        def __init__(self, shape, pattern, layer, layers):
            super().__init__(shape, pattern, layer, layers)
            built.append(shape.length)

    need = eager_bytes(PLAN, "forward", 32, 1)
    monkeypatch.setattr(rounds, "free_memory", lambda device: 2 * need - 1)
    monkeypatch.setattr(rounds, "peak_memory", lambda call, device: 1)
    found = run(BASE | {"eager": partial(Counted)})
    assert statuses(found, "eager") == ["ok", "ok", "not_measured"]
    assert found["eager", "forward", 32, 1].reason.startswith("memory: ")
    assert 32 not in built
    assert statuses(found, "vanilla") == ["ok"] * 3


def test_any_subject_is_stopped_by_the_memory_it_took_before(monkeypatch):
    monkeypatch.setattr(rounds, "free_memory", lambda device: 100_000)
    monkeypatch.setattr(rounds, "peak_memory", lambda call, device: 20_000)  # predicted 80,000 at 16
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
    with pytest.raises(UserError, match=f"^{name}=.*use") as error:
        replace(PLAN, **wrong)
    assert "\n" not in str(error.value)
