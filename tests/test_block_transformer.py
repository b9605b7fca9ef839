"""Block Transformer equals its definition in every pattern, and keeps the contract."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.block_transformer import block_transformer
from reference.common import PLACES, some_valid
from test_slots import Conv, EncoderDecoder, UNet

from attentions.base import Pattern, Shape, Unsupported, core_parameters
from attentions.block_transformer import LARGEST_BATCH, BlockTransformer
from attentions.ops.kv_cache import KVCache
from attentions.residual import MLP
from attentions.slots import Slots
from attentions.vanilla import Vanilla

NS, CS, NC, CC = Pattern
DIM, N, M, BLOCK = 12, 23, 7, 4  # six blocks, the last one short
CHANGE = torch.linspace(-1, 2, DIM, dtype=torch.float64)  # a norm does not see all numbers move alike
TIGHT = {"atol": 1e-10, "rtol": 1e-9}


def build(pattern, heads=3, block=BLOCK, prefixes=2, depth=4, feedforward=MLP, places=PLACES[0]):
    """Every parameter is moved: zeros and small values at the start would hide what depends on what."""
    torch.manual_seed(0)
    shape = Shape(DIM, heads, depth, 20, length=N, memory=M if pattern.cross else 0, **places)
    stack = BlockTransformer(shape, pattern, feedforward, block=block, prefixes=prefixes).double()
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return stack


def tensors(pattern, batch=3, n=N, m=M):
    torch.manual_seed(1)
    x = torch.randn(batch, n, DIM, dtype=torch.float64)
    return x, (torch.randn(batch, m, DIM, dtype=torch.float64) if pattern.cross else None)


@pytest.mark.parametrize("pattern", Pattern)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
@torch.no_grad()
def test_equals_the_definition(pattern, data):
    n, m = data.draw(st.integers(1, 26)), data.draw(st.integers(1, 9))
    stack = build(
        pattern,
        heads=data.draw(st.sampled_from([1, 2, 3])),
        block=data.draw(st.sampled_from([1, 2, 3, 4, 6, 12])),
        prefixes=data.draw(st.integers(1, 3)),
        depth=data.draw(st.integers(2, 5)),
        places=data.draw(st.sampled_from(PLACES)),
    )
    x, memory = tensors(pattern, 2, n, m)
    valid = some_valid(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2)), n)
    memory_valid = some_valid(data.draw(st.lists(st.integers(0, m), min_size=2, max_size=2)), m)
    masks = data.draw(st.sampled_from([(None, None), (valid, None), (valid, memory_valid if pattern.cross else None)]))
    y, auxiliary = stack(x, memory, *masks)
    torch.testing.assert_close(y, block_transformer(stack, x, memory, *masks), **TIGHT)
    assert auxiliary == 0


@pytest.mark.parametrize("prefixes", [1, 2])
@pytest.mark.parametrize("pattern", Pattern)
@torch.no_grad()
def test_who_sees_whom(pattern, prefixes):
    """Row s of a batch has token s changed: exactly the outputs that may depend on it move."""
    stack = build(pattern, prefixes=prefixes)
    x, memory = tensors(pattern, 1)
    x = x.expand(N, -1, -1)
    memory = None if memory is None else memory.expand(N, -1, -1)
    changed = x + torch.eye(N, dtype=x.dtype).unsqueeze(-1) * CHANGE
    moved = (stack(changed, memory)[0] - stack(x, memory)[0]).abs().amax(-1) > 1e-9  # (changed token, output)
    may = torch.ones(N, N).triu() if pattern.causal else torch.ones(N, N)
    assert torch.equal(moved, may.bool())


@pytest.mark.parametrize("pattern", [NC, CC])
@torch.no_grad()
def test_every_query_sees_all_memory(pattern):
    """Block 0 of causal cross attention, too, through the start vector."""
    stack = build(pattern)
    x, memory = tensors(pattern, 1)
    x, memory = x.expand(M, -1, -1), memory.expand(M, -1, -1)
    changed = memory + torch.eye(M, dtype=x.dtype).unsqueeze(-1) * CHANGE
    assert ((stack(x, changed)[0] - stack(x, memory)[0]).abs().amax(-1) > 1e-9).all()


@torch.no_grad()
def test_memory_answers_from_the_next_block_on():
    """A token changes what is read of the memory, and so the context, for later blocks only."""
    stack = build(CC)
    x, memory = tensors(CC, 1)
    contexts = []
    stack.prefix.register_forward_pre_hook(lambda _, inputs: contexts.append(inputs[0]))
    changed = x.clone()
    changed[:, 2 * BLOCK] += CHANGE
    stack(x, memory), stack(changed, memory)
    moved = (contexts[0] != contexts[1]).any(-1)[0]  # (block)
    assert moved.tolist() == [False, False, False, True, True, True]


@pytest.mark.parametrize("pattern", [CS, CC])
@torch.no_grad()
def test_a_prefix_of_the_input_gives_a_prefix_of_the_output(pattern):
    stack = build(pattern)
    x, memory = tensors(pattern)
    y, _ = stack(x, memory)
    for n in range(1, N):
        torch.testing.assert_close(stack(x[:, :n], memory)[0], y[:, :n], **TIGHT)


@pytest.mark.parametrize(("pattern", "feedforward"), [*((each, MLP) for each in Pattern), (NS, Conv), (NC, Conv)])
@torch.no_grad()
def test_padding_neither_shows_nor_counts(pattern, feedforward):
    """Convolutions look ahead: they are for noncausal patterns."""
    stack = build(pattern, feedforward=feedforward)
    x, memory = tensors(pattern, 5)
    lengths, sizes = (N, 9, 1, 8, 0), (3, M, 0, 2, 1)  # a short block, one token, a whole number of blocks, nothing
    valid, memory_valid = some_valid(list(lengths), N), some_valid(list(sizes), M) if pattern.cross else None
    y, _ = stack(x, memory, valid, memory_valid)
    assert not y[~valid].any()
    garbage = x.masked_fill(~valid.unsqueeze(-1), 1e3)
    spoilt = None if memory is None else memory.masked_fill(~memory_valid.unsqueeze(-1), -1e3)
    torch.testing.assert_close(stack(garbage, spoilt, valid, memory_valid)[0], y, **TIGHT)
    for row, (n, m) in enumerate(zip(lengths, sizes, strict=True)):
        one = slice(row, row + 1)
        if n and (m or not pattern.cross):
            alone, _ = stack(x[one, :n], None if memory is None else memory[one, :m])
            torch.testing.assert_close(alone, y[one, :n], **TIGHT)
    for more in range(1, BLOCK + 2):
        wider, ends = (torch.nn.functional.pad(t, pad) for t, pad in ((garbage, (0, 0, 0, more)), (valid, (0, more))))
        torch.testing.assert_close(stack(wider, memory, ends, memory_valid)[0][:, :N], y, **TIGHT)


@pytest.mark.parametrize("pattern", Pattern)
def test_padding_gets_no_gradient_and_gives_none(pattern):
    stack = build(pattern)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    valid, memory_valid = some_valid([N, 9, 0], N), some_valid([3, M, 0], M) if pattern.cross else None
    stack(x, memory, valid, memory_valid)[0].square().sum().backward()
    for given_, mask in ((x, valid), (memory, memory_valid)):
        if given_ is not None:
            assert given_.grad.isfinite().all()
            assert not given_.grad[~mask].any()
    for parameter in stack.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


@pytest.mark.parametrize("n", [1, 3, 4, 6])
@pytest.mark.parametrize("pattern", Pattern)
def test_gradcheck(pattern, n):
    stack = build(pattern, depth=2)
    inputs = [t.requires_grad_() for t in tensors(pattern, 1, n, 2) if t is not None]
    assert torch.autograd.gradcheck(lambda *given_: stack(*given_)[0], inputs, fast_mode=True)


@pytest.mark.parametrize("pattern", Pattern)
@torch.no_grad()
def test_rows_of_a_batch_are_independent(pattern):
    stack = build(pattern)
    x, memory = tensors(pattern)
    y, _ = stack(x, memory)
    x[1:] = 7.0
    torch.testing.assert_close(stack(x, memory)[0][0], y[0], **TIGHT)


def kept(state):
    """Numbers in a state, per sequence."""
    if isinstance(state, KVCache):
        return (state.k.numel() + state.v.numel()) // 3
    if isinstance(state, torch.Tensor):
        return 0 if state.dtype is torch.bool else state.numel() // 3
    return sum(kept(part) for part in state) if isinstance(state, list | tuple) else 0


@pytest.mark.parametrize("block", [1, 3, 4])
@pytest.mark.parametrize("pattern", [CS, CC])
@torch.no_grad()
def test_prefill_and_steps_equal_forward(pattern, block):
    stack = build(pattern, block=block, depth=3)
    x, memory = tensors(pattern)
    memory_valid = some_valid([M, 2, 0], M) if pattern.cross else None
    expected, _ = stack(x, memory, None, memory_valid)
    for split in range(1, N):
        y, state = stack.prefill(x[:, :split], memory, memory_valid)
        outputs = [y]
        for t in range(split, N):
            assert stack.state_size(t, M) == kept(state)
            y, state = stack.step(x[:, t : t + 1], state)
            outputs.append(y)
        torch.testing.assert_close(torch.cat(outputs, 1), expected, **TIGHT)


@torch.no_grad()
def test_the_block_stack_is_touched_once_per_block():
    stack = build(CS)
    x, _ = tensors(CS)
    touched, calls = [], stack.blocks.step
    stack.blocks.step = lambda *given_: touched.append(t) or calls(*given_)
    _, state = stack.prefill(x[:, :6])
    for t in range(6, N):
        _, state = stack.step(x[:, t : t + 1], state)
    assert touched == [8, 12, 16, 20]


def test_decoding_needs_a_causal_pattern_and_memory_needs_cross():
    x, memory = tensors(NC)
    with pytest.raises(ValueError, match="cannot be decoded"):
        build(NS).prefill(x)
    for run in (build(CC), build(CC).prefill):
        with pytest.raises(ValueError, match="needs a memory"):
            run(x)
    for run in (build(CS), build(CS).prefill):
        with pytest.raises(ValueError, match="takes no memory"):
            run(x, memory)


@pytest.mark.parametrize("pattern", Pattern)
@torch.no_grad()
def test_more_windows_than_a_kernel_takes(pattern):
    """The windows of a batch are cut into two calls, those of each half are not."""
    stack = build(pattern, block=1, prefixes=1, depth=2)
    half = LARGEST_BATCH // N
    x, memory = tensors(pattern, batch=2 * half)
    valid = some_valid([N, 9, 1, 15] * (half // 2 + 1), N)[: 2 * half]
    expected = [stack(x[rows], memory if memory is None else memory[rows], valid[rows])[0] for rows in halves(2 * half)]
    torch.testing.assert_close(stack(x, memory, valid)[0], torch.cat(expected), **TIGHT)


def halves(size):
    return slice(0, size // 2), slice(size // 2, size)


@pytest.mark.parametrize("options", [{}, {"block": 8, "prefixes": 1}, {"block": 2, "prefixes": 4}])
@pytest.mark.parametrize("depth", [2, 5])
@pytest.mark.parametrize("pattern", Pattern)
def test_equal_budgets(pattern, depth, options):
    shape = Shape(64, 4, depth, 256, length=32, memory=32 if pattern.cross else 0)
    own, cross = (CS if pattern.causal else NS), (pattern if pattern.cross else None)
    slots = [Slots(partial(family), pattern) for family in (Vanilla, partial(BlockTransformer, **options))]
    vanilla, stack = (each.stack("decoder", shape, own, cross) for each in slots)
    assert isinstance(stack, BlockTransformer)
    assert core_parameters(stack) == pytest.approx(core_parameters(vanilla), rel=0.01)
    assert core_parameters(stack) == sum(p.numel() for p in stack.parameters()) - stack.places.numel()


def test_depth_is_split_evenly_and_the_block_stack_gets_the_odd_layer():
    for depth, between, inside in ((2, 1, 1), (5, 3, 2), (6, 3, 3)):
        stack = build(CC, depth=depth)
        assert (len(stack.blocks.layers), len(stack.tokens.layers)) == (between, inside)


def test_only_whole_stacks_are_filled():
    family = partial(BlockTransformer)
    with pytest.raises(Unsupported, match="single layer"):
        UNet(Slots(family, NS))
    with pytest.raises(Unsupported, match="depth 1 is below 2"):
        Slots(family, NS).stack("encoder", Shape(32, 4, 1, 64, length=8), NS)
    with pytest.raises(Unsupported, match=r"also takes decoder\.cross"):
        EncoderDecoder(Slots(family, CS))
    slots = Slots(family, CC)
    assert EncoderDecoder(slots)().isfinite().all()
    assert slots.took == ["decoder.self", "decoder.cross"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": 5}, r"dim=12 is not a multiple of block=5: use attention\.block=4"),
        ({"block": 24}, r"block=24 is longer than the design length 23: use attention\.block<=23"),
        ({"block": 0}, "block=0: a whole number"),
        ({"prefixes": True}, "prefixes=True: a whole number"),
        ({"depth": 1}, "depth=1: BlockTransformer needs at least 2"),
    ],
)
def test_impossible_options_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build(NS, **change)


@pytest.mark.parametrize("pattern", Pattern)
def test_bfloat16_stays_near(pattern):
    stack = build(pattern).float()
    x, memory = (None if t is None else t.float().requires_grad_() for t in tensors(pattern))
    expected, _ = stack(x, memory)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = stack(x, memory)
        (gradient,) = torch.autograd.grad(y.float().square().sum(), x)
    assert (y - expected).norm() < 0.03 * expected.norm()
    assert (gradient - wanted).norm() < 0.1 * wanted.norm()


@pytest.mark.parametrize("pattern", [CS, CC])
@torch.no_grad()
def test_bfloat16_decodes(pattern):
    stack = build(pattern).float()
    x, memory = (None if t is None else t.float() for t in tensors(pattern))
    expected, _ = stack(x, memory)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = stack.prefill(x[:, :6], memory)
        outputs = [y]
        for t in range(6, N):
            y, state = stack.step(x[:, t : t + 1], state)
            outputs.append(y)
    assert (torch.cat(outputs, 1) - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("pattern", Pattern)
def test_meta_tensors(pattern):
    stack = build(pattern).to("meta")
    x, memory = (None if t is None else t.to("meta").requires_grad_() for t in tensors(pattern))
    y, _ = stack(x, memory, torch.ones(x.shape[:2], dtype=torch.bool, device="meta"))
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape


@pytest.mark.slow
@pytest.mark.parametrize("pattern", Pattern)
def test_compiled_equals_eager_mode(pattern):
    stack = build(pattern)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    expected, _ = stack(x, memory)
    y, _ = torch.compile(stack, fullgraph=True)(x, memory)
    torch.testing.assert_close(y, expected, **TIGHT)
    (gradient,), (wanted,) = (torch.autograd.grad(out.square().sum(), x) for out in (y, expected))
    torch.testing.assert_close(gradient, wanted, **TIGHT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("pattern", Pattern)
def test_cuda_equals_cpu(pattern):
    stack = build(pattern)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    valid = some_valid([N, 9, 1], N)
    expected, _ = stack(x, memory, valid)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    y, _ = stack.cuda()(x.cuda(), None if memory is None else memory.cuda(), valid.cuda())
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(y.cpu(), expected, **TIGHT)
    torch.testing.assert_close(gradient, wanted, **TIGHT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_takes_any_number_of_windows():
    stack = BlockTransformer(Shape(16, 2, 2, 16, length=12), NS).cuda()
    x = torch.randn(LARGEST_BATCH // 3 + 1, 12, 16, device="cuda", requires_grad=True)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y, _ = stack(x)
        y.float().square().sum().backward()
        last, _ = stack(x[-1:])
    torch.testing.assert_close(y[-1:], last, atol=0.05, rtol=0.05)
    assert x.grad.isfinite().all()
