"""Time by a clock under control, memory of operations with a known footprint, FLOPs against closed forms."""

import gc
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from attentions.base import Pattern, Shape, Unsupported, core_parameters
from attentions.eager import Eager
from attentions.none import NoAttention
from attentions.vanilla import Vanilla
from cab.efficiency import timers
from cab.efficiency.subjects import DECODE_STEPS, WARMUP_STEPS, Subject, state_bytes
from cab.efficiency.timers import interleave, matmul_flops, peak_memory

CPU, META = torch.device("cpu"), torch.device("meta")
CS = Pattern.CAUSAL_SELF
N, D, H, DEPTH, HIDDEN = 24, 16, 2, 2, 40
SHAPE = Shape(D, H, DEPTH, HIDDEN, N)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Clock:
    """Time passes only in calls that `takes` made."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        monkeypatch.setattr(timers.time, "perf_counter", lambda: self.now)

    def takes(self, name, seconds):
        def call():
            self.log.append(name)
            self.now += seconds

        return call


def test_rounds_interleave_and_pair(monkeypatch):
    clock = Clock(monkeypatch)
    calls = {"a": clock.takes("a", 1.0), "b": clock.takes("b", 2.0)}
    found = interleave(calls, 3, CPU, {"b": clock.takes("prepare b", 50.0)})
    assert found == {"a": [1.0] * 3, "b": [2.0] * 3}  # preparation is not timed
    assert clock.log == ["a", "prepare b", "b"] * 3


def test_garbage_collection_is_off_while_timing_and_on_again_after_a_failure():
    states = []
    interleave({"a": lambda: states.append(gc.isenabled())}, 2, CPU)
    assert states == [False, False]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        interleave({"a": lambda: 1 // 0}, 1, CPU)
    assert gc.isenabled()


def test_device_is_synchronised_around_every_call(monkeypatch):
    log = []
    monkeypatch.setattr(timers, "synchronize", lambda device: log.append(device))
    interleave({"a": lambda: log.append("a"), "b": lambda: log.append("b")}, 1, CPU)
    assert log == [CPU, "a", CPU, CPU, "b", CPU]


def test_peak_memory_of_known_footprints():
    x = torch.rand(256, 1024)
    size = x.numel() * 4
    assert peak_memory(lambda: x + 1, CPU) == pytest.approx(size, rel=0.01)
    assert peak_memory(lambda: ((((x + 1) * 2) + 1) * 2).sum(), CPU) == pytest.approx(
        2 * size, rel=0.01
    )  # freed before the end
    assert peak_memory(lambda: x.add_(1), CPU) < 0.01 * size
    kept = [torch.rand(1024, 1024)]

    def releases_first():
        kept.clear()
        return x + 1

    assert peak_memory(releases_first, CPU) == pytest.approx(size, rel=0.01)  # what was there before does not offset it


def test_matmul_flops_of_a_product():
    a, b = torch.empty(3, 5, device="meta"), torch.empty(5, 7, device="meta")
    assert matmul_flops(lambda: a @ b) == 2 * 3 * 5 * 7


def flops(family, level, phase, pattern=CS, batch=1):
    timed = Subject(partial(family), pattern, level, SHAPE, batch=batch, device=META).timed_call(phase)
    timed.prepare()
    return matmul_flops(timed.call)


MIXER, PROJECTIONS, MLP_FLOPS = 4 * N * N * D, 8 * N * D * D, 4 * N * D * HIDDEN
FORWARD = {"mixer": MIXER, "attention": MIXER + PROJECTIONS, "stack": DEPTH * (MIXER + PROJECTIONS + MLP_FLOPS)}


@pytest.mark.parametrize("family", [Vanilla, Eager])
@pytest.mark.parametrize("level", FORWARD)
def test_flops_of_softmax_attention(family, level):
    assert flops(family, level, "forward") == FORWARD[level]
    assert flops(family, level, "prefill", batch=3) == 3 * FORWARD[level]
    assert flops(family, level, "train") == 3 * FORWARD[level]  # two products back for each one forward


def test_flops_of_decoding_and_of_cross_attention():
    past = sum(N + WARMUP_STEPS + 1 + step for step in range(DECODE_STEPS))
    token = DECODE_STEPS * (PROJECTIONS + MLP_FLOPS) // N
    assert flops(Vanilla, "stack", "decode") == DEPTH * (token + 4 * D * past)
    cross = flops(Vanilla, "stack", "forward", Pattern.CAUSAL_CROSS)
    assert cross == FORWARD["stack"] + DEPTH * (MIXER + PROJECTIONS)


@pytest.mark.parametrize("pattern", Pattern)
@pytest.mark.parametrize("level", FORWARD)
def test_every_phase_runs(pattern, level):
    subject = Subject(partial(Vanilla), pattern, level, SHAPE, batch=2, device=CPU)
    for phase in ("forward", "train", "prefill", "decode"):
        if phase in ("prefill", "decode") and not pattern.causal:
            with pytest.raises(Unsupported, match="only causal"):
                subject.timed_call(phase)
            continue
        timed = subject.timed_call(phase)
        for _ in range(2):
            timed.prepare()
            timed.call()


def test_equal_parameters_at_stack_level_only():
    sizes = {
        level: [
            Subject(partial(family), CS, level, SHAPE, batch=1, device=META).parameters
            for family in (Vanilla, NoAttention)
        ]
        for level in ("attention", "stack")
    }
    assert sizes["attention"] == [4 * D * D, 0]
    assert sizes["stack"][1] == pytest.approx(sizes["stack"][0], rel=0.01)
    with pytest.raises(Unsupported, match="NoAttention has no operation"):
        Subject(partial(NoAttention), CS, "mixer", SHAPE, batch=1, device=CPU)


def test_decode_starts_from_the_same_past_every_time():
    timed = Subject(partial(Vanilla), CS, "attention", SHAPE, batch=2, device=CPU).timed_call("decode")
    ends = []
    for _ in range(3):
        timed.prepare()
        _, (cache, _) = timed.call()
        ends.append((cache.length, cache.k.sum().item()))
    assert {length for length, _ in ends} == {N + WARMUP_STEPS + DECODE_STEPS}
    assert len(set(ends)) == 1
    assert timed.state_numbers == 2 * N * D
    assert timed.state_bytes == 2 * N * D * 4 * 2


class Spy(Vanilla):
    """Reports how it is called; has a parameter that only the auxiliary loss reaches."""

    def __init__(self, shape, pattern, layer, layers):
        super().__init__(shape, pattern, layer, layers)
        self.extra, self.calls, self.stepped = nn.Parameter(torch.ones(())), [], 0

    def forward(self, x, memory=None, valid=None, memory_valid=None):
        y, _ = super().forward(x)
        self.calls.append((self.training, torch.is_grad_enabled(), self.query(x).dtype, self.shape.length))
        return y, self.extra * 2

    def after_step(self):
        self.stepped += 1


def test_train_differentiates_everything_and_forward_nothing():
    subject = Subject(partial(Spy), CS, "attention", SHAPE, batch=2, precision="bfloat16", device=CPU)
    subject.timed_call("forward").call()
    train = subject.timed_call("train")
    for _ in range(2):
        train.prepare()
        assert all(p.grad is None for p in [*subject.owner.parameters(), *subject.inputs])
        train.call()
        assert subject.owner.extra.grad == 2  # from the auxiliary loss, not accumulated
        assert all(p.grad is not None for p in [*subject.owner.parameters(), *subject.inputs])
    assert subject.owner.stepped == 2
    assert subject.owner.calls == [(False, False, torch.bfloat16, N)] + [(True, True, torch.bfloat16, N)] * 2


def test_same_seed_same_subject_whatever_came_before():
    first = Subject(partial(Vanilla), CS, "stack", SHAPE, batch=1, device=CPU, seed=3)
    torch.rand(7)
    state = torch.random.get_rng_state()
    second = Subject(partial(Vanilla), CS, "stack", SHAPE, batch=1, device=CPU, seed=3)
    assert torch.equal(first.inputs[0], second.inputs[0])
    assert torch.equal(next(first.owner.parameters()), next(second.owner.parameters()))
    assert torch.equal(state, torch.random.get_rng_state())
    assert core_parameters(first.owner) == first.parameters


def test_state_bytes_count_shared_storage_once():
    x = torch.zeros(10, 4)
    assert state_bytes({"a": [x, x[:2]], "b": (torch.zeros(3, dtype=torch.float64), 5, None)}) == 160 + 24


def test_torch_does_not_warn_in_a_measurement():
    """It does when memory from before the profile is freed within."""
    code = """
import cab, torch
from cab.efficiency.timers import peak_memory
kept = [torch.zeros(10, 10)]
print(peak_memory(lambda: (kept.clear(), torch.zeros(10)), torch.device("cpu")))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("40\n", "")
