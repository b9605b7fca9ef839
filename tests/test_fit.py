"""FIT equals its formulas in every pattern, and keeps the contract."""

from functools import partial
from math import log2

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.common import PLACES, some_valid
from reference.fit import fit, layers_of
from test_slots import LAYERED, Conv
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from attentions.base import Pattern, Shape, Unsupported, core_parameters
from attentions.fit import FIT, default_group, split_depth
from attentions.ops.kv_cache import KVCache
from attentions.parts.fit_segment import FewKeys, FewQueries
from attentions.residual import MLP
from attentions.slots import Slots
from attentions.vanilla import Vanilla

NS, CS, NC, CC = Pattern
DIM, N, M, GROUP = 12, 14, 5, 4  # three whole groups and half a group
TIGHT = {"atol": 1e-11, "rtol": 1e-9}


def build(
    pattern, layout="(1)1(1)", group=GROUP, latents=2, heads=3, dim=DIM, length=N, feedforward=MLP, places=PLACES[0]
):
    """With all parameters random: norms that start at 1 and 0 hide what they do."""
    torch.manual_seed(0)
    depth = sum(map(sum, layers_of(layout)))
    shape = Shape(dim, heads, depth, 16, length=length, memory=M if pattern.cross else 0, **places)
    stack = FIT(shape, pattern, feedforward, layout=layout, group=group, latents=latents).double()
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return stack


def tensors(pattern, batch=3, n=N, m=M, dim=DIM):
    torch.manual_seed(1)
    x = torch.randn(batch, n, dim, dtype=torch.float64)
    return x, (torch.randn(batch, m, dim, dtype=torch.float64) if pattern.cross else None)


# Formulas


@pytest.mark.parametrize("pattern", Pattern)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_equals_the_formulas(pattern, data):
    n, m = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 6))
    stack = build(
        pattern,
        layout=data.draw(st.sampled_from(["(1)1(0)", "(1)1(1)", "(0)1(1)", "(1)2(1)", "(2)1(0)1(1)"])),
        group=data.draw(st.integers(1, 7)),
        latents=data.draw(st.integers(1, 4)),
        heads=data.draw(st.sampled_from([1, 2, 3])),
        places=data.draw(st.sampled_from(PLACES)),
    )
    x, memory = tensors(pattern, 2, n, m)
    valid = some_valid(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2)), n)
    memory_valid = some_valid(data.draw(st.lists(st.integers(0, m), min_size=2, max_size=2)), m)
    masks = data.draw(st.sampled_from([(None, None), (valid, None), (valid, memory_valid if pattern.cross else None)]))
    y, auxiliary = stack(x, memory, *masks)
    torch.testing.assert_close(y, fit(stack, x, memory, *masks), atol=1e-10, rtol=1e-9)
    assert auxiliary == 0


@pytest.mark.parametrize("pattern", Pattern)
def test_gradients_equal_the_formulas(pattern):
    stack = build(pattern, "(1)1(1)1(1)")
    x, memory = tensors(pattern, 2)
    masks = some_valid([N, 6], N), some_valid([2, M], M) if pattern.cross else None
    inputs = [x.requires_grad_(), *stack.parameters()] + ([memory.requires_grad_()] if pattern.cross else [])
    y, expected = stack(x, memory, *masks)[0], fit(stack, x, memory, *masks)
    weight = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)
    gradients, wanted = (torch.autograd.grad(out, inputs, weight) for out in (y, expected))
    torch.testing.assert_close(gradients, wanted, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize(("family", "n", "m"), [(FewQueries, 2, 7), (FewKeys, 7, 2)])
def test_folded_projections_equal_vanilla(family, n, m):
    """Also where a row has nothing to read, and outputs are 0."""
    torch.manual_seed(0)
    shape = Shape(DIM, 3, 1, 0, length=n, memory=m)
    folded, plain = (kind(shape, NC, 0, 1).double() for kind in (family, Vanilla))
    plain.load_state_dict(folded.state_dict())
    x, memory = (t.requires_grad_() for t in tensors(NC, 3, n, m))
    valid, memory_valid = some_valid([n, 1, n], n), some_valid([m, 1, 0], m)
    for masks in ((None, None), (valid, None), (valid, memory_valid)):
        y, expected = folded(x, memory, *masks)[0], plain(x, memory, *masks)[0]
        torch.testing.assert_close(y, expected, **TIGHT)
        gradients, wanted = (
            torch.autograd.grad(out.square().sum(), [x, memory, *layer.parameters()])
            for out, layer in ((y, folded), (expected, plain))
        )
        torch.testing.assert_close(gradients, wanted, **TIGHT)


# Who depends on what


@pytest.mark.parametrize("layout", ["(1)1(0)", "(0)1(1)", "(1)1(1)1(1)"])
@pytest.mark.parametrize("pattern", Pattern)
def test_who_sees_whom(pattern, layout):
    """Row s of a batch has token s changed: exactly the outputs that may depend on it move, the others not by a bit."""
    stack = build(pattern, layout)
    x, memory = tensors(pattern, 1)
    x = x.expand(N, -1, -1)
    memory = None if memory is None else memory.expand(N, -1, -1)
    changed = x + torch.eye(N, dtype=x.dtype).unsqueeze(-1) * x.flip(-1)  # norms hide a change common to all features
    moved = (stack(changed, memory)[0] != stack(x, memory)[0]).any(-1)  # (changed token, output)
    may = torch.ones(N, N).triu() if pattern.causal else torch.ones(N, N)
    assert torch.equal(moved, may.bool())


@pytest.mark.parametrize("layout", ["(1)1(0)", "(1)1(1)1(1)"])
@pytest.mark.parametrize("pattern", [NC, CC])
def test_every_token_sees_all_memory(pattern, layout):
    """Group 0 too, by the group before it."""
    stack = build(pattern, layout)
    x, memory = tensors(pattern, 1)
    x, memory = x.expand(M, -1, -1), memory.expand(M, -1, -1)
    changed = memory + torch.eye(M, dtype=x.dtype).unsqueeze(-1)
    moved = (stack(x, changed)[0] - stack(x, memory)[0]).abs().amax(-1)  # (changed memory, output)
    assert moved.min() > 1e-7


@pytest.mark.parametrize("pattern", [CS, CC])
def test_a_prefix_of_the_input_gives_a_prefix_of_the_outputs(pattern):
    stack = build(pattern, "(1)1(1)1(1)")
    x, memory = tensors(pattern)
    y, _ = stack(x, memory)
    for n in range(1, N):
        torch.testing.assert_close(stack(x[:, :n], memory)[0], y[:, :n], **TIGHT)


@pytest.mark.parametrize("pattern", Pattern)
def test_rows_of_a_batch_are_independent(pattern):
    stack = build(pattern)
    x, memory = tensors(pattern)
    y, _ = stack(x, memory)
    x[1:] = 7.0
    torch.testing.assert_close(stack(x, memory)[0][0], y[0], **TIGHT)


# Padding


@pytest.mark.parametrize(("pattern", "feedforward"), [*((p, MLP) for p in Pattern), (NS, Conv), (NC, Conv)])
def test_padding_neither_shows_nor_counts(pattern, feedforward):
    """Half a group, whole groups and a whole row of padding; a convolution looks beyond its token."""
    stack = build(pattern, feedforward=feedforward)
    x, memory = tensors(pattern, 4)
    lengths, sizes = (N, 6, 1, 0), (3, M, 0, 1)
    valid, memory_valid = some_valid(list(lengths), N), some_valid(list(sizes), M) if pattern.cross else None
    y, _ = stack(x, memory, valid, memory_valid)
    assert not y[~valid].any()
    garbage = x.masked_fill(~valid.unsqueeze(-1), 1e3)
    spoilt = None if memory is None else memory.masked_fill(~memory_valid.unsqueeze(-1), -1e3)
    torch.testing.assert_close(stack(garbage, spoilt, valid, memory_valid)[0], y, **TIGHT)
    more = torch.cat([x, x], 1), memory, torch.cat([valid, torch.zeros_like(valid)], 1), memory_valid
    torch.testing.assert_close(stack(*more)[0][:, :N], y, **TIGHT)
    for row, (n, m) in enumerate(zip(lengths[:3], sizes[:3], strict=True)):
        kept = None if memory is None else memory[row : row + 1, : m or M]
        mask = None if m or memory is None else torch.zeros(1, M, dtype=torch.bool)
        torch.testing.assert_close(stack(x[row : row + 1, :n], kept, None, mask)[0], y[row : row + 1, :n], **TIGHT)


@pytest.mark.parametrize("pattern", Pattern)
def test_padding_gets_no_gradient_and_gives_none(pattern):
    stack = build(pattern)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    valid, memory_valid = some_valid([N, 6, 0], N), some_valid([3, 0, M], M) if pattern.cross else None
    stack(x, memory, valid, memory_valid)[0].square().sum().backward()
    for given_, mask in ((x, valid), (memory, memory_valid)):
        if given_ is not None:
            assert given_.grad.isfinite().all()
            assert not given_.grad[~mask].any()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in stack.parameters())


# Decoding


def numbers(state) -> int:
    """Numbers that a state keeps, masks of the memory apart."""
    if isinstance(state, KVCache):
        return state.k.numel() + state.v.numel()
    if isinstance(state, Tensor):
        return state.numel() if state.is_floating_point() else 0
    if isinstance(state, list | tuple):
        return sum(map(numbers, state))
    return sum(map(numbers, vars(state).values())) if hasattr(state, "__dict__") else 0


@pytest.mark.parametrize("latents", [1, 3])
@pytest.mark.parametrize("layout", ["(1)1(0)", "(0)2(1)", "(1)1(2)1(1)"])
@pytest.mark.parametrize("pattern", [CS, CC])
@torch.no_grad()
def test_prefill_and_steps_equal_forward(pattern, layout, latents):
    stack = build(pattern, layout, latents=latents)
    x, memory = tensors(pattern)
    memory_valid = some_valid([M, 2, 0], M) if pattern.cross else None
    expected, _ = stack(x, memory, None, memory_valid)
    for split in range(1, N + 1):
        y, state = stack.prefill(x[:, :split], memory, memory_valid)
        outputs = [y]
        for t in range(split, N + 1):
            assert stack.state_size(t, M if pattern.cross else 0) * len(x) == numbers(state)
            if t < N:
                y, state = stack.step(x[:, t : t + 1], state)
                outputs.append(y)
        torch.testing.assert_close(torch.cat(outputs, 1), expected, **TIGHT)


@torch.no_grad()
def test_decoding_under_autocast_equals_forward():
    stack = build(CC, "(1)1(1)1(1)").float()
    x, memory = (t.float() for t in tensors(CC))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, _ = stack(x, memory)
        y, state = stack.prefill(x[:, :3], memory)
        outputs = [y]
        for t in range(3, N):
            y, state = stack.step(x[:, t : t + 1], state)
            outputs.append(y)
    y = torch.cat(outputs, 1)
    assert (y - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("pattern", [NS, NC])
def test_non_causal_patterns_are_not_decoded(pattern):
    with pytest.raises(ValueError, match="cannot be decoded"):
        build(pattern).prefill(*tensors(pattern))


def test_memory_where_the_pattern_has_it():
    x, memory = tensors(CC)
    with pytest.raises(ValueError, match="needs a memory"):
        build(CC)(x)
    with pytest.raises(ValueError, match="takes no memory"):
        build(CS).prefill(x, memory)


# Sizes and slots


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("pattern", Pattern)
def test_equal_budgets(pattern, depth):
    shape = Shape(64, 4, depth, 256, length=200, memory=32 if pattern.cross else 0)
    own, cross = (CS if pattern.causal else NS), (pattern if pattern.cross else None)
    slots = Slots(partial(FIT), pattern)
    stack, vanilla = (s.stack("decoder", shape, own, cross) for s in (slots, Slots(partial(Vanilla), pattern)))
    assert isinstance(stack, FIT)
    assert core_parameters(stack) == pytest.approx(core_parameters(vanilla), rel=0.01)
    assert slots.took == (["decoder.self", "decoder.cross"] if pattern.cross else ["decoder.self"])
    x = torch.randn(2, 50, 64)
    stack(x, x[:, :9] if pattern.cross else None)[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in stack.parameters())


def test_a_slot_without_feedforward_counts_the_excess():
    slots = Slots(partial(FIT, latents=1), NS)
    slots.stack("encoder", Shape(DIM, 3, 2, 0, length=N), NS)
    assert 2 * 4 * DIM**2 < slots.excess < 2 * 4 * DIM**2 + 10 * DIM  # two reads, their norms, the latent


@pytest.mark.parametrize("backbone", LAYERED)
def test_refused_where_the_slot_is_a_layer(backbone):
    with pytest.raises(Unsupported, match="single layer"):
        backbone(Slots(partial(FIT), backbone.patterns[0]))


def test_refused_below_its_depth():
    with pytest.raises(Unsupported, match="depth 1 is below 2"):
        Slots(partial(FIT), NS).stack("encoder", Shape(32, 4, 1, 64, length=8), NS)


@pytest.mark.parametrize("depth", range(2, 20))
def test_depth_is_split_into_alternating_stages(depth):
    local, latent = layers_of(split_depth(depth))
    assert sum(local) + sum(latent) == depth
    assert len(local) == len(latent) + 1
    assert set(local[:-1]) == {1}
    assert set(latent[:-1]) <= {1}
    assert latent[-1] == (1 if depth % 2 or depth == 2 else 2)
    assert local[-1] == (depth > 2)


def test_the_default_layout_at_depth_5():
    assert split_depth(5) == "(1)1(1)1(1)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "(1)1(1)"}, r"has 3 layers, the depth is 5: \(1\)1\(1\)1\(1\) would do"),
        ({"layout": "(1)1(1)2"}, "local layers in brackets"),
        ({"layout": "(5)"}, "local layers in brackets"),
        ({"layout": "(2)0(3)"}, "local layers in brackets"),
        ({"group": 0}, "group=0"),
        ({"group": True}, "group=True"),
        ({"group": 15}, r"use attention\.group<=14"),
        ({"latents": 0}, "latents=0"),
        ({"latents": None}, "latents=None"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FIT(Shape(DIM, 3, 5, 16, length=N), CS, **options)


def test_depth_1_is_refused():
    with pytest.raises(ValueError, match="depth=1"):
        FIT(Shape(DIM, 3, 1, 16, length=N), CS)


@pytest.mark.parametrize("length", [1, 3, 8, 100, 8192])
def test_the_group_comes_from_the_design_length(length):
    stack = FIT(Shape(DIM, 3, 2, 16, length=length), CS)
    assert 1 <= stack.group == default_group(length, 4) <= length
    x = torch.randn(2, 50, DIM)
    torch.testing.assert_close(stack(x[:, :20])[0], stack(x)[0][:, :20], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pattern", [NS, CS])
def test_work_grows_with_the_power_of_four_thirds(pattern):
    def flops(n):
        stack = FIT(Shape(8, 1, 3, 8, length=n), pattern, latents=2).to("meta")
        with FlopCounterMode(display=False) as counter:
            stack(torch.empty(1, n, 8, device="meta"))[0].sum().backward()
        return counter.get_total_flops()

    assert log2(flops(1 << 30) / flops(1 << 24)) / 6 == pytest.approx(4 / 3, abs=0.05)


# Precision and devices


@pytest.mark.parametrize("pattern", Pattern)
def test_bfloat16_stays_near(pattern):
    stack = build(pattern).float()
    x, memory = (None if t is None else t.float().requires_grad_() for t in tensors(pattern))
    masks = some_valid([N, 6, 1], N), None
    expected, _ = stack(x, memory, *masks)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = stack(x, memory, *masks)
        (gradient,) = torch.autograd.grad(y.float().square().sum(), x)
    assert (y - expected).norm() < 0.03 * expected.norm()
    assert (gradient - wanted).norm() < 0.1 * wanted.norm()


@pytest.mark.parametrize("pattern", Pattern)
def test_meta_tensors(pattern):
    stack = build(pattern).to("meta")
    x, memory = (None if t is None else t.to("meta").requires_grad_() for t in tensors(pattern))
    y, _ = stack(x, memory, some_valid([N, 6, 1], N).to("meta"))
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape


@pytest.mark.slow
@pytest.mark.parametrize("pattern", Pattern)
def test_compiled_equals_eager_mode(pattern):
    stack = build(pattern)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    valid = some_valid([N, 6, 1], N)
    expected, _ = stack(x, memory, valid)
    y, _ = torch.compile(stack, fullgraph=True)(x, memory, valid)
    torch.testing.assert_close(y, expected, **TIGHT)
    (gradient,), (wanted,) = (torch.autograd.grad(out.square().sum(), x) for out in (y, expected))
    torch.testing.assert_close(gradient, wanted, **TIGHT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("pattern", Pattern)
def test_cuda_equals_cpu(pattern, dtype):
    stack = build(pattern)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    valid = some_valid([N, 6, 1], N)
    expected, _ = stack(x, memory, valid)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    narrow = dtype is torch.bfloat16
    stack, start = (stack.cuda().float(), x.detach().cuda().float()) if narrow else (stack.cuda(), x.detach().cuda())
    start.requires_grad_()
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=narrow):
        y, _ = stack(start, None if memory is None else memory.detach().to(start), valid.cuda())
    (gradient,) = torch.autograd.grad(y.square().sum(), start)
    near = (0.03, 0.1) if narrow else (1e-9, 1e-9)
    assert (y.cpu().double() - expected).norm() < near[0] * expected.norm()
    assert (gradient.cpu().double() - wanted).norm() < near[1] * wanted.norm()
