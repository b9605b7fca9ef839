"""SSA attends to exactly the sampled pairs in training, is vanilla in evaluation, and keeps the contract."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.common import some_valid
from reference.ssa import allowed_pairs, kept_sources, shuffled_sources, ssa_ensemble, ssa_layer
from reference.vanilla import softmax_layer
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from attentions.base import Pattern, Shape, after_step, core_parameters
from attentions.ssa import SSA
from attentions.vanilla import Vanilla

NS, CS, NC, CC = Pattern
FORMS = ["unbiased", "local"]
DIM, N, M = 12, 23, 10
TIGHT = {"atol": 1e-12, "rtol": 1e-10}

both_forms = pytest.mark.parametrize("form", FORMS)
all_patterns = pytest.mark.parametrize("pattern", Pattern)


def build(pattern, form="unbiased", heads=3, layer=1, dim=DIM, **options):
    torch.manual_seed(0)
    shape = Shape(dim, heads, 2, 24, length=N, memory=M if pattern.cross else 0)
    return SSA(shape, pattern, layer, 3, form=form, **options).double()


def tensors(pattern, batch=3, n=N, m=M):
    torch.manual_seed(1)
    x = torch.randn(batch, n, DIM, dtype=torch.float64)
    return x, (torch.randn(batch, m, DIM, dtype=torch.float64) if pattern.cross else None)


def reference(layer, x, memory=None, valid=None, memory_valid=None, steps=None):
    mixer = layer.mixer
    noise = mixer.noise((x if memory is None else memory).shape[1], mixer.key.steps if steps is None else steps)
    options = (mixer.form, mixer.reduction, mixer.sigma)
    return ssa_layer(layer, x, memory, valid, memory_valid, options, noise)


def reference_ensemble(layer, x, memory=None, valid=None, memory_valid=None):
    mixer = layer.mixer
    noise = [mixer.noise(2 * N + mixer.reduction, -1 - cycle) for cycle in range(mixer.samples)]
    return ssa_ensemble(layer, x, memory, valid, memory_valid, noise)


def pairs(layer, n, m):
    """(n, m): which sources each target attends to in training, found by changing one source per row of a batch."""
    x, memory = tensors(layer.pattern, 1, n, m)
    if memory is None:
        mixer, q = layer.mixer, layer.queries(x).expand(n, -1, -1, -1)
        k, v = layer.keys_values(x)
        changed = v + torch.eye(n, dtype=v.dtype)[:, None, :, None]
        before, _ = mixer(q, k.expand_as(q), v.expand_as(q))
        return (mixer(q, k.expand_as(q), changed)[0] != before).any(-1).any(1).T
    x, memory = x.expand(m, -1, -1), memory.expand(m, -1, -1)
    changed = memory + torch.eye(m, dtype=x.dtype).unsqueeze(-1)
    return (layer(x, changed)[0] != layer(x, memory)[0]).any(-1).T


# What is computed


@all_patterns
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_training_equals_dense_attention_over_the_sample(pattern, data):
    n, m = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20))
    layer = build(
        pattern,
        data.draw(st.sampled_from(FORMS)),
        heads=data.draw(st.sampled_from([1, 2, 3])),
        reduction=data.draw(st.integers(1, 9)),
        sigma=data.draw(st.sampled_from([0.0, 0.3, 1.0, 50.0])),
        seed=data.draw(st.integers(0, 5)),
    )
    layer.mixer.key.steps = data.draw(st.integers(0, 3))
    x, memory = tensors(pattern, 2, n, m)
    x.requires_grad_()
    valid = some_valid(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2)), n)
    memory_valid = some_valid(data.draw(st.lists(st.integers(0, m), min_size=2, max_size=2)), m)
    masks = data.draw(
        st.sampled_from(
            [(None, None), (valid, None), (valid, memory_valid), (None, memory_valid)][: 4 if memory is not None else 2]
        )
    )
    y, auxiliary = layer(x, memory, *masks)
    expected = reference(layer, x, memory, *masks)
    torch.testing.assert_close(y, expected, atol=1e-10, rtol=1e-9)
    gradients, wanted = (torch.autograd.grad(out.square().sum(), x)[0] for out in (y, expected))
    torch.testing.assert_close(gradients, wanted, atol=1e-10, rtol=1e-9)
    assert auxiliary == 0


@both_forms
def test_several_blocks_of_queries(form):
    n = 1100  # two long blocks
    layer = build(CS, form, heads=1, reduction=2 if form == "unbiased" else 1)
    x, _ = tensors(CS, 1, n)
    torch.testing.assert_close(layer(x)[0], reference(layer, x), **TIGHT)


@both_forms
@all_patterns
def test_gradcheck(form, pattern):
    mixer = build(pattern, form, reduction=2).mixer
    torch.manual_seed(2)
    m = 5 if pattern.cross else 7
    q, k, v = (torch.randn(2, 2, n, 3, dtype=torch.float64, requires_grad=True) for n in (7, m, m))
    valid = some_valid([m, 3], m)
    assert torch.autograd.gradcheck(lambda *x: mixer(*x)[0], (q, k, v))
    q_valid = None if pattern.cross else valid
    assert torch.autograd.gradcheck(lambda *x: mixer(*x, q_valid, valid)[0][:, :, :3], (q, k, v), fast_mode=True)


@both_forms
@all_patterns
def test_evaluation_is_vanilla(form, pattern):
    layer = build(pattern, form).eval()
    vanilla = Vanilla(layer.shape, pattern, 1, 3).double()
    vanilla.load_state_dict(layer.state_dict(), strict=False)
    x, memory = tensors(pattern)
    masks = some_valid([N, 9, 1], N), some_valid([3, M, 0], M) if pattern.cross else None
    assert torch.equal(layer(x, memory, *masks)[0], vanilla(x, memory, *masks)[0])
    torch.testing.assert_close(layer(x, memory, *masks)[0], softmax_layer(layer, x, memory, *masks), **TIGHT)
    assert core_parameters(layer) == core_parameters(vanilla)


@pytest.mark.parametrize(("reduction", "samples"), [(4, 4), (3, 7), (1, 2), (16, 16)])
@both_forms
@all_patterns
def test_an_ensemble_is_the_mean_over_samples(form, pattern, reduction, samples):
    layer = build(pattern, form, reduction=reduction, samples=samples).eval()
    x, memory = tensors(pattern, 4)
    masks = some_valid([N, 9, 1, 2], N), some_valid([3, M, 0, 1], M) if pattern.cross else None
    for valid in (masks, (None, None)):
        y, expected = layer(x, memory, *valid)[0], reference_ensemble(layer, x, memory, *valid)
        torch.testing.assert_close(y, expected, **TIGHT)
        after_step(layer)  # evaluation does not depend on how far training is
        assert torch.equal(layer(x, memory, *valid)[0], y)


def test_an_ensemble_reads_every_source_once_in_each_cycle():
    def members(m, **options):
        return build(NS, samples=8, **options).mixer.members(m).tolist()

    drawn = members(22)
    for cycle in (drawn[:4], drawn[4:]):
        assert sorted(s for member in cycle for s in member) == list(range(24))
        assert all(s // 4 == group for member in cycle for group, s in enumerate(member))
    assert len({tuple(member[group] % 4 for member in drawn) for group in range(6)}) > 1
    assert drawn[:4] != drawn[4:]
    assert drawn not in (members(22, seed=4), members(22, layer=2))
    for m in range(1, 22):  # a prefix has the same samples
        assert members(m) == [member[: -(-m // 4)] for member in drawn]


@both_forms
@all_patterns
def test_nothing_is_left_out_at_reduction_1(form, pattern):
    layer = build(pattern, form, reduction=1)
    x, memory = tensors(pattern)
    torch.testing.assert_close(layer(x, memory)[0], layer.eval()(x, memory)[0], **TIGHT)


# The sample


@both_forms
@all_patterns
def test_a_sample_depends_on_seed_layer_and_steps_and_moves_in_after_step_only(form, pattern):
    inputs = tensors(pattern, m=40)
    layer = build(pattern, form, seed=3)
    first, _ = layer(*inputs)
    torch.manual_seed(99)
    layer.eval()(*inputs)
    layer.train()(*inputs)
    assert torch.equal(layer(*inputs)[0], first)
    assert torch.equal(build(pattern, form, seed=3)(*inputs)[0], first)
    seen = [first, build(pattern, form, seed=4)(*inputs)[0], build(pattern, form, seed=3, layer=2)(*inputs)[0]]
    after_step(layer)
    seen.append(layer(*inputs)[0])
    for i, one in enumerate(seen):
        for other in seen[:i]:
            assert not torch.allclose(one, other)


def test_the_default_seed_is_that_of_the_run():
    torch.manual_seed(5)
    layer = SSA(Shape(DIM, 3, 2, 24, length=N), NS, 0, 1)
    assert torch.equal(layer.mixer.noise(9, 0), build(NS, seed=5, layer=0).mixer.noise(9, 0))


@both_forms
def test_a_resumed_run_goes_on_with_the_same_samples(form):
    layer, (x, _) = build(CS, form), tensors(CS)
    for _ in range(3):
        after_step(layer)
    state = copy.deepcopy(layer.state_dict())
    resumed = build(CS, form)
    assert not torch.equal(resumed(x)[0], layer(x)[0])
    resumed.load_state_dict(state)
    for _ in range(2):
        assert torch.equal(resumed(x)[0], layer(x)[0])
        after_step(resumed)
        after_step(layer)


@both_forms
@all_patterns
def test_activation_checkpointing_sees_the_same_sample(form, pattern):
    layer = build(pattern, form)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    gradients = []
    for run in (layer, lambda *inputs: checkpoint(layer, *inputs, use_reentrant=False)):
        gradients.append(torch.autograd.grad(run(x, memory)[0].square().sum(), x)[0])
    torch.testing.assert_close(*gradients, **TIGHT)


@both_forms
@all_patterns
def test_the_dense_end_of_training(form, pattern):
    layer, inputs = build(pattern, form, dense_after=2), tensors(pattern)
    dense, _ = build(pattern, form).eval()(*inputs)
    for step in range(4):
        assert torch.equal(layer(*inputs)[0], dense) == (step >= 2)
        after_step(layer)


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("pattern", [NS, NC])
def test_who_attends_to_whom(pattern, reduction):
    n, m = 32, 32 if pattern is NS else 16
    unbiased = pairs(build(pattern, reduction=reduction), n, m)
    assert (unbiased == unbiased[0]).all()
    assert unbiased[0].sum() == m // reduction
    local = pairs(build(pattern, "local", reduction=reduction), n, m)
    assert (local.sum(1) == m // reduction).all()  # every target sees w sources
    assert (local.sum(0) == n // reduction).all()  # and every source is used by one window of targets


@both_forms
def test_causal_pairs_are_the_sampled_ones_of_the_past_and_the_own(form):
    layer = build(CS, form)
    seen = pairs(layer, N, N)
    wanted = allowed_pairs(form, 4, 1.0, layer.mixer.noise(N, 0).tolist(), N, N, True)
    assert [set(row.nonzero().flatten().tolist()) for row in seen] == wanted
    assert any(len(row) == 1 for row in wanted)  # the own key alone


def test_sigma_sets_the_spread():
    def spread(sigma):
        order = shuffled_sources(4, sigma, build(NS).mixer.noise(400, 0).tolist(), 400)
        return sum(abs(place - j) for place, j in enumerate(order)) / 400

    assert spread(0.0) == 0
    assert 20 < spread(0.5) < spread(1.0) < 120
    assert 100 < spread(100.0) < 165  # 400 / 3 in a random permutation


def test_no_position_is_preferred_by_the_unbiased_form():
    mixer, m, steps = build(NS).mixer, 12, 600
    hits = torch.zeros(m)
    for step in range(steps):
        hits[kept_sources(4, mixer.noise(m, step).tolist(), m)] += 1
    assert (hits - steps / 4).abs().max() < 5 * (steps * 3 / 16) ** 0.5  # five standard deviations


# The contract


@both_forms
@all_patterns
@pytest.mark.parametrize(("training", "samples"), [(True, 0), (False, 0), (False, 5)])
def test_no_leak(form, pattern, training, samples):
    """Row s of a batch has token s changed: in training with the sample frozen."""
    layer = build(pattern, form, samples=samples).train(training)
    x, memory = tensors(pattern, 1)
    x = x.expand(N, -1, -1)
    memory = None if memory is None else memory.expand(N, -1, -1)
    changed = x + torch.eye(N, dtype=x.dtype).unsqueeze(-1)
    moved = (layer(changed, memory)[0] != layer(x, memory)[0]).any(-1)  # (changed token, output)
    may = {NS: torch.ones(N, N), CS: torch.ones(N, N).triu(), NC: torch.eye(N), CC: torch.eye(N)}[pattern].bool()
    assert not (moved & ~may).any()
    assert moved.diagonal().all()
    if not training or pattern.cross:
        assert torch.equal(moved, may)  # dense, and of an ensemble some sample reads it


@both_forms
@all_patterns
@pytest.mark.parametrize(("training", "samples"), [(True, 0), (False, 0), (False, 5)])
def test_padding_neither_shows_nor_counts(form, pattern, training, samples):
    layer = build(pattern, form, samples=samples).train(training)
    x, memory = tensors(pattern, 4)
    lengths, memories = (N, 9, 1, 5), (3, M, 0, 1)
    valid = some_valid(list(lengths), N)
    memory_valid = some_valid(list(memories), M) if pattern.cross else None
    y, _ = layer(x, memory, valid, memory_valid)
    assert not y[~valid].any()
    garbage = x.masked_fill(~valid.unsqueeze(-1), 1e3)
    spoilt = None if memory is None else memory.masked_fill(~memory_valid.unsqueeze(-1), -1e3)
    torch.testing.assert_close(layer(garbage, spoilt, valid, memory_valid)[0], y, **TIGHT)
    for row, (n, m) in enumerate(zip(lengths, memories, strict=True)):
        if m or not pattern.cross:
            alone, _ = layer(x[row : row + 1, :n], None if memory is None else memory[row : row + 1, :m])
            torch.testing.assert_close(alone, y[row : row + 1, :n], **TIGHT)
        else:
            assert not y[row].any()


@both_forms
@all_patterns
def test_padding_gets_no_gradient(form, pattern):
    layer = build(pattern, form)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    valid, memory_valid = some_valid([N, 9, 1], N), some_valid([3, M, 0], M) if pattern.cross else None
    layer(x, memory, valid, memory_valid)[0].square().sum().backward()
    for given_, mask in ((x, valid), (memory, memory_valid)):
        if given_ is not None:
            assert given_.grad.isfinite().all()
            assert not given_.grad[~mask].any()


@both_forms
@all_patterns
def test_rows_of_a_batch_are_independent(form, pattern):
    layer = build(pattern, form)
    x, memory = tensors(pattern)
    valid = some_valid([9, 9, 4], N)
    y, _ = layer(x, memory, valid)
    x[1:] = 7.0
    torch.testing.assert_close(layer(x, memory, some_valid([9, 2, N], N))[0][0], y[0], **TIGHT)


@pytest.mark.parametrize("pattern", [CS, CC])
@pytest.mark.parametrize(("reduction", "samples"), [(4, 0), (4, 4), (3, 5)])
@torch.no_grad()
def test_prefill_and_steps_equal_forward(pattern, reduction, samples):
    layer = build(pattern, reduction=reduction, samples=samples).eval()
    x, memory = tensors(pattern)
    memory_valid = some_valid([M, 2, 0], M) if pattern.cross else None
    expected, _ = layer(x, memory, None, memory_valid)
    for split in range(1, N):
        y, state = layer.prefill(x[:, :split], memory, memory_valid)
        outputs = [y]
        for t in range(split, N):
            y, state = layer.step(x[:, t : t + 1], state)
            outputs.append(y)
        torch.testing.assert_close(torch.cat(outputs, 1), expected, **TIGHT)
        torch.testing.assert_close(layer(x[:, :split], memory, None, memory_valid)[0], expected[:, :split], **TIGHT)
    assert layer.state_size(N, M) == 2 * DIM * (M if pattern.cross else N)


@both_forms
@all_patterns
def test_bfloat16_stays_near(form, pattern):
    layer = build(pattern, form).float()
    x, memory = (None if t is None else t.float().requires_grad_() for t in tensors(pattern))
    expected, _ = layer(x, memory)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(x, memory)
    (gradient,) = torch.autograd.grad(y.float().square().sum(), x)
    assert (y - expected).norm() < 0.02 * expected.norm()
    assert (gradient - wanted).norm() < 0.04 * wanted.norm()


@pytest.mark.parametrize("pattern", [NS, CS])
def test_an_ensemble_in_bfloat16_is_summed_in_float32(pattern):
    """Equal values: the mean over samples is this value again, however many there are."""
    mixer = build(pattern, samples=300).mixer.eval()
    q, v = torch.randn(1, 1, N, 8).bfloat16(), torch.ones(1, 1, N, 8).bfloat16()
    y, _ = mixer(q, q, v)
    assert (y - 1).abs().max() < 0.01


@both_forms
@pytest.mark.parametrize("pattern", [NS, CS])
def test_a_fraction_of_the_work(form, pattern):
    """Less than vanilla's by `reduction`, and in causal attention half of the rest is not done either."""
    n = 4096

    def flops(training):
        layer = build(pattern, form, dim=128, heads=1).train(training).to("meta")
        q = torch.empty(1, 1, n, 128, device="meta", requires_grad=True)
        with FlopCounterMode(display=False) as counter, torch.enable_grad():
            layer.mixer(q, q, q)[0].sum().backward()
        return counter.get_total_flops()

    share = flops(True) / flops(False)
    assert share < (0.25 if pattern is NS else 0.16) + 1e-6


@both_forms
@all_patterns
def test_meta_tensors(form, pattern):
    layer = build(pattern, form).to("meta")
    x, memory = (None if t is None else t.to("meta").requires_grad_() for t in tensors(pattern))
    valid = some_valid([N, 9, 1], N).to("meta")
    for masks in ((None, None), (valid, None)):
        y, _ = layer(x, memory, *masks)
        y.sum().backward()
        assert y.shape == x.grad.shape == x.shape
    ensemble = build(pattern, form, samples=4).to("meta").eval()
    assert ensemble(x, memory, valid)[0].shape == x.shape
    if pattern.causal:
        y, state = ensemble.prefill(x.detach(), memory)
        assert ensemble.step(x[:, :1].detach(), state)[0].shape == y[:, :1].shape


def test_impossible_options_are_refused():
    for options, message in (
        ({"form": "global"}, "form='global': one of unbiased, local"),
        ({"reduction": 0}, "reduction=0: a whole number of at least 1"),
        ({"samples": -1}, "samples=-1: a whole number"),
        ({"samples": 3}, "samples=3: at least reduction=4 are needed"),
        ({"dense_after": 1.5}, "dense_after=1.5: a whole number"),
        ({"sigma": -1.0}, "sigma=-1.0: a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            build(NS, **options)


@pytest.mark.slow
@both_forms
@all_patterns
def test_compiled_equals_eager_mode(form, pattern):
    layer = build(pattern, form)
    compiled = torch.compile(layer)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    for training in (True, True, False):
        layer.train(training)
        expected, _ = layer(x, memory)
        y, _ = compiled(x, memory)
        torch.testing.assert_close(y, expected, **TIGHT)
        (gradient,), (wanted,) = (torch.autograd.grad(out.square().sum(), x) for out in (y, expected))
        torch.testing.assert_close(gradient, wanted, **TIGHT)
        after_step(layer)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@both_forms
@all_patterns
def test_cuda_equals_cpu(form, pattern):
    layer = build(pattern, form)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    valid = some_valid([N, 9, 1], N)
    on_gpu = copy.deepcopy(layer).cuda()
    for mask in (None, valid):
        expected, _ = layer(x, memory, mask)
        (wanted,) = torch.autograd.grad(expected.square().sum(), x)
        there = x.detach().cuda().requires_grad_()
        y, _ = on_gpu(there, None if memory is None else memory.cuda(), None if mask is None else mask.cuda())
        (gradient,) = torch.autograd.grad(y.square().sum(), there)
        torch.testing.assert_close(y.cpu(), expected, atol=1e-10, rtol=1e-9)
        torch.testing.assert_close(gradient.cpu(), wanted, atol=1e-9, rtol=1e-8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@all_patterns
@torch.no_grad()
def test_cuda_ensemble(pattern):
    layer = build(pattern, samples=5).eval()
    x, memory = tensors(pattern)
    there, kept = x.cuda(), None if memory is None else memory.cuda()
    expected, on_gpu = layer(x, memory)[0], copy.deepcopy(layer).cuda()
    torch.testing.assert_close(on_gpu(there, kept)[0].cpu(), expected, **TIGHT)
    if pattern.causal:
        y, state = on_gpu.prefill(there[:, :2], kept)
        outputs = [y]
        for t in range(2, N):
            y, state = on_gpu.step(there[:, t : t + 1], state)
            outputs.append(y)
        torch.testing.assert_close(torch.cat(outputs, 1).cpu(), expected, **TIGHT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@both_forms
def test_cuda_bfloat16_autocast(form):
    layer = build(CS, form, dim=128, heads=2).float().cuda()
    x = torch.randn(2, 1000, 128, device="cuda", requires_grad=True)
    expected, _ = layer(x)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y, _ = layer(x)
    assert (y - expected).norm() < 0.02 * expected.norm()
    y.float().sum().backward()
    assert x.grad.isfinite().all()
