"""Lightning attention equals its formula in every pattern, and keeps the contract."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.common import some_valid
from reference.lightning import alibi, decayed, lightning_layer
from torch.utils.flop_counter import FlopCounterMode

from attentions.base import Pattern, Shape, core_parameters
from attentions.lightning import Lightning, alibi_slopes
from attentions.ops.decayed_linear import GROUP, PIECE, decayed_attention, decayed_prefill
from attentions.vanilla import Vanilla

NS, CS, NC, CC = Pattern
DIM, N, M, BLOCK = 12, 23, 7, 4  # six blocks, the last one short
TIGHT = {"atol": 1e-12, "rtol": 1e-10}


def build(pattern, heads=3, block=BLOCK, layer=1, layers=3, dim=DIM, length=N, rotary=False):
    torch.manual_seed(0)
    shape = Shape(dim, heads, 2, 24, length=length, memory=M if pattern.cross else 0, rotary=rotary)
    return Lightning(shape, pattern, layer, layers, block=block).double()


def tensors(pattern, batch=3, n=N, m=M):
    torch.manual_seed(1)
    x = torch.randn(batch, n, DIM, dtype=torch.float64)
    return x, (torch.randn(batch, m, DIM, dtype=torch.float64) if pattern.cross else None)


def qkv(n, heads=2, dim=3, value_dim=None, batch=2, dtype=torch.float64, device="cpu"):
    torch.manual_seed(2)
    sizes = (dim, dim, value_dim or dim)
    return [torch.randn(batch, heads, n, size, dtype=dtype, device=device, requires_grad=True) for size in sizes]


# The operator


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 90),
    block=st.integers(1, 12),
    heads=st.integers(1, 3),
    both=st.booleans(),
    value_dim=st.integers(1, 4),
    slope=st.sampled_from([0.0, 1e-3, 0.1, 1.0, 30.0]),
)
def test_op_and_its_gradients_equal_the_formula(n, block, heads, both, value_dim, slope):
    inputs = qkv(n, heads, value_dim=value_dim)
    slopes = slope / torch.arange(1, heads + 1, dtype=torch.float64)
    expected = decayed(*inputs, slopes, causal=not both)
    y = decayed_attention(*inputs, slopes, block, both)
    torch.testing.assert_close(y, expected, atol=1e-11, rtol=1e-10)
    weight = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)
    gradients, wanted = (torch.autograd.grad(out, inputs, weight) for out in (y, expected))
    torch.testing.assert_close(gradients, wanted, atol=1e-11, rtol=1e-10)


@pytest.mark.parametrize("layout", ["heads first", "tokens first"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("at_once", [0, 1, 2, 5])  # heads in a piece; 0: even one is too many
def test_heads_in_pieces(at_once, both, layout):
    n, heads, dim = 11, 5, 16
    one = PIECE // (n * dim)  # rows of a batch with which one head is a piece
    batch = one // at_once if at_once else one + 1
    inputs, slopes = qkv(n, heads, dim, 4, batch), torch.linspace(0.01, 1, heads, dtype=torch.float64)
    if layout == "tokens first":
        inputs = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in inputs]
    expected = decayed(*inputs, slopes, causal=not both)
    y = decayed_attention(*inputs, slopes, 4, both)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=1e-10)
    gradients, wanted = (torch.autograd.grad(out.square().sum(), inputs) for out in (y, expected))
    torch.testing.assert_close(gradients, wanted, atol=1e-11, rtol=1e-10)
    q, k, v = (x.detach() for x in inputs)
    states = [decayed_prefill(q[:, [h]], k[:, [h]], v[:, [h]], slopes[[h]], 4)[1] for h in range(heads)]
    torch.testing.assert_close(decayed_prefill(q, k, v, slopes, 4)[1], torch.cat(states, 1))


@pytest.mark.parametrize("n", [GROUP, GROUP + 1, 2 * GROUP**2 + 3])  # one, two and three levels of the scan
@pytest.mark.parametrize("both", [False, True])
def test_every_level_of_the_scan(n, both):
    inputs, slopes = qkv(n), torch.tensor([0.002, 0.3], dtype=torch.float64)
    expected = decayed(*inputs, slopes, causal=not both)
    y = decayed_attention(*inputs, slopes, 1, both)
    torch.testing.assert_close(y, expected, atol=1e-11, rtol=1e-10)
    gradients, wanted = (torch.autograd.grad(out.square().sum(), inputs) for out in (y, expected))
    torch.testing.assert_close(gradients, wanted, atol=1e-8, rtol=1e-9)


@pytest.mark.parametrize(("n", "block"), [(1, 4), (4, 4), (7, 4), (30, 7), (2 * GROUP + 1, 1)])
def test_state_after_a_prompt(n, block):
    q, k, v = qkv(n)
    slopes = torch.tensor([0.002, 0.3], dtype=torch.float64)
    expected = sum(
        torch.exp(-slopes * (n - 1 - t))[:, None, None] * torch.einsum("bhd,bhe->bhde", k[:, :, t], v[:, :, t])
        for t in range(n)
    )
    y, state = decayed_prefill(q, k, v, slopes, block)
    torch.testing.assert_close(state, expected.detach(), atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(y, decayed(q, k, v, slopes, causal=True), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("n", [4, 11])
def test_gradcheck(n, both):
    slopes = torch.tensor([0.1, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *x: decayed_attention(*x, slopes, 4, both), qkv(n), fast_mode=False)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("block", [16, 64])
def test_extreme_slopes_stay_finite_and_accurate(block, both):
    """Where exp(slope N) overflows by far."""
    slopes = torch.tensor([1.0, 0.5, 2**-8, 0.0])
    inputs = qkv(4096, heads=4, dim=8, batch=1, dtype=torch.float32)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    y = decayed_attention(*inputs, slopes, block, both)
    expected = decayed_attention(*wide, slopes.double(), block, both)
    weight = torch.randn(y.shape)
    gradients = torch.autograd.grad(y, inputs, weight)
    wanted = torch.autograd.grad(expected, wide, weight.double())
    states = [decayed_prefill(*x, slopes, block)[1] for x in (inputs, wide)]
    for got, want in [(y, expected), states, *zip(gradients, wanted, strict=True)]:
        assert got.isfinite().all()
        for head in range(got.shape[1]):
            error = (got[:, head] - want[:, head]).norm() / want[:, head].norm()
            assert error < 1e-5


def test_work_is_linear_in_length():
    def flops(n):
        inputs = qkv(n, device="meta")
        with FlopCounterMode(display=False) as counter:
            decayed_attention(*inputs, torch.ones(2, device="meta"), 4).sum().backward()
        return counter.get_total_flops()

    assert flops(1 << 16) == pytest.approx(64 * flops(1 << 10), rel=0.05)


# The layer


@pytest.mark.parametrize("pattern", Pattern)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_equals_the_formula(pattern, data):
    n, m = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 12))
    layer = build(
        pattern,
        heads=data.draw(st.sampled_from([1, 2, 3, 4, 6])),
        block=data.draw(st.integers(1, 9)),
        layer=data.draw(st.integers(0, 2)),
        rotary=data.draw(st.booleans()),
    )
    assert (layer.place is not None) == (layer.shape.rotary and layer.layer == 0 and not pattern.cross)
    x, memory = tensors(pattern, 2, n, m)
    valid = some_valid(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2)), n)
    memory_valid = some_valid(data.draw(st.lists(st.integers(0, m), min_size=2, max_size=2)), m)
    masks = data.draw(st.sampled_from([(None, None), (valid, None), (valid, memory_valid if pattern.cross else None)]))
    y, auxiliary = layer(x, memory, *masks)
    torch.testing.assert_close(y, lightning_layer(layer, x, memory, *masks), atol=1e-10, rtol=1e-9)
    assert auxiliary == 0


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12])
def test_slopes(heads):
    assert alibi_slopes(heads) == pytest.approx(alibi(heads))


@pytest.mark.parametrize("pattern", Pattern)
def test_who_sees_whom(pattern):
    """Row s of a batch has token s changed: exactly the outputs that may depend on it move, the others not by a bit."""
    layer = build(pattern)
    x, memory = tensors(pattern, 1)
    x = x.expand(N, -1, -1)
    memory = None if memory is None else memory.expand(N, -1, -1)
    changed = x + torch.eye(N, dtype=x.dtype).unsqueeze(-1)
    moved = (layer(changed, memory)[0] != layer(x, memory)[0]).any(-1)  # (changed token, output)
    may = {NS: torch.ones(N, N), CS: torch.ones(N, N).triu(), NC: torch.eye(N), CC: torch.eye(N)}[pattern]
    assert torch.equal(moved, may.bool())


@pytest.mark.parametrize("pattern", [NC, CC])
def test_every_query_sees_all_memory(pattern):
    layer = build(pattern)
    x, memory = tensors(pattern, 1)
    x, memory = x.expand(M, -1, -1), memory.expand(M, -1, -1)
    changed = memory + torch.eye(M, dtype=x.dtype).unsqueeze(-1)
    assert (layer(x, changed)[0] != layer(x, memory)[0]).any(-1).all()


@pytest.mark.parametrize("pattern", Pattern)
def test_padding_neither_shows_nor_counts(pattern):
    layer = build(pattern)
    x, memory = tensors(pattern)
    lengths = (N, 9, 1)
    valid, memory_valid = some_valid(list(lengths), N), some_valid([3, M, 0], M) if pattern.cross else None
    y, _ = layer(x, memory, valid, memory_valid)
    assert not y[~valid].any()
    garbage = x.masked_fill(~valid.unsqueeze(-1), 1e3)
    spoilt = None if memory is None else memory.masked_fill(~memory_valid.unsqueeze(-1), -1e3)
    torch.testing.assert_close(layer(garbage, spoilt, valid, memory_valid)[0], y, **TIGHT)
    for row, (n, m) in enumerate(zip(lengths, (3, M, 0), strict=True)):
        if m or not pattern.cross:
            alone, _ = layer(x[row : row + 1, :n], None if memory is None else memory[row : row + 1, :m])
            torch.testing.assert_close(alone, y[row : row + 1, :n], **TIGHT)
        else:
            assert not y[row].any()


@pytest.mark.parametrize("pattern", Pattern)
def test_padding_gets_no_gradient_and_gives_none(pattern):
    layer = build(pattern)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    valid, memory_valid = some_valid([N, 9, 1], N), some_valid([3, M, 0], M) if pattern.cross else None
    layer(x, memory, valid, memory_valid)[0].square().sum().backward()
    for given_, mask in ((x, valid), (memory, memory_valid)):
        if given_ is not None:
            assert given_.grad.isfinite().all()
            assert not given_.grad[~mask].any()


@pytest.mark.parametrize("pattern", Pattern)
def test_rows_of_a_batch_are_independent(pattern):
    layer = build(pattern)
    x, memory = tensors(pattern)
    y, _ = layer(x, memory)
    x[1:] = 7.0
    torch.testing.assert_close(layer(x, memory)[0][0], y[0], **TIGHT)


@pytest.mark.parametrize("pattern", [CS, CC])
@torch.no_grad()
def test_prefill_and_steps_equal_forward(pattern):
    layer = build(pattern)
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
        assert layer.state_size(N, M) == state[1][0].numel()


@torch.no_grad()
def test_float32_state_holds_over_8192_steps():
    """Without decay, where errors only add up; inputs in bfloat16, as under autocast."""
    mixer = build(CS, heads=1).mixer
    mixer.slope.zero_()
    q, k, v = (x.bfloat16() for x in qkv(8192, heads=1, dim=DIM, batch=1))
    narrow = torch.zeros(1, 1, DIM, DIM)
    for t in range(8192):
        now = slice(t, t + 1)
        y, narrow = mixer.step(q[:, :, now], k[:, :, now], v[:, :, now], narrow)
    assert narrow.dtype == y.dtype == torch.float32
    expected = k.double().mT @ v.double()
    assert (narrow - expected).norm() / expected.norm() < 1e-5
    last = q[:, :, -1:].double() @ expected
    assert (y - last).norm() / last.norm() < 1e-5


@pytest.mark.parametrize("pattern", Pattern)
def test_bfloat16_stays_near(pattern):
    layer = build(pattern).float()
    x, memory = (None if t is None else t.float().requires_grad_() for t in tensors(pattern))
    expected, _ = layer(x, memory)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(x, memory)
        (gradient,) = torch.autograd.grad(y.float().square().sum(), x)  # inside: the backward, too, must keep float32
        mixed, _ = layer.mixer(layer.queries(x), *layer.keys_values(x if memory is None else memory))
    assert mixed.dtype == torch.float32
    assert (y - expected).norm() < 0.02 * expected.norm()
    assert (gradient - wanted).norm() < 0.04 * wanted.norm()


def test_bfloat16_inputs_are_summed_in_float32():
    """Under autocast the operator only rounds its inputs, never a sum."""
    inputs = [x.detach().bfloat16().requires_grad_() for x in qkv(300)]
    slopes = torch.tensor([0.0, 0.01])
    wide = [x.detach().float().requires_grad_() for x in inputs]
    expected = decayed_attention(*wide, slopes, 16)
    wanted = torch.autograd.grad(expected.sum(), wide)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = decayed_attention(*inputs, slopes, 16)
        gradients = torch.autograd.grad(y.sum(), inputs)
    assert torch.equal(y, expected)
    for got, want in zip(gradients, wanted, strict=True):
        assert torch.equal(got, want.bfloat16())


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_any_length_runs_with_the_default_block(length):
    layer = Lightning(Shape(DIM, 3, 2, 24, length=64), CS, 0, 2)
    x = torch.randn(2, length, DIM)
    y, _ = layer(x)
    y.sum().backward()
    torch.testing.assert_close(layer(x[:, : length // 2 + 1])[0], y[:, : length // 2 + 1], atol=1e-5, rtol=1e-4)


def test_impossible_blocks_are_refused():
    with pytest.raises(ValueError, match="block=0: a whole number"):
        Lightning(Shape(DIM, 3, 2, 24, length=32), NS, 0, 2, block=0)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_a_block_longer_than_the_design_length_changes_nothing(pattern):
    shape = Shape(DIM, 3, 2, 24, length=32, memory=16 if pattern.cross else 0)
    torch.manual_seed(0)
    wide = Lightning(shape, pattern, 0, 2, block=64)
    narrow = Lightning(shape, pattern, 0, 2, block=4)
    narrow.load_state_dict(wide.state_dict())
    x, memory = torch.randn(2, 32, DIM), torch.randn(2, 16, DIM) if pattern.cross else None
    torch.testing.assert_close(wide(x, memory)[0], narrow(x, memory)[0], atol=1e-5, rtol=1e-4)


def test_the_gate_is_the_only_excess():
    shape = Shape(DIM, 3, 2, 24, length=64)
    excess = core_parameters(Lightning(shape, CS, 0, 2)) - core_parameters(Vanilla(shape, CS, 0, 2))
    assert excess == 2 * DIM * shape.head_dim


@pytest.mark.parametrize("pattern", Pattern)
def test_meta_tensors(pattern):
    layer = build(pattern).to("meta")
    x, memory = (None if t is None else t.to("meta").requires_grad_() for t in tensors(pattern))
    y, _ = layer(x, memory)
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape


@pytest.mark.slow
@pytest.mark.parametrize("pattern", Pattern)
def test_compiled_equals_eager_mode(pattern):
    layer = build(pattern)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    expected, _ = layer(x, memory)
    y, _ = torch.compile(layer)(x, memory)
    torch.testing.assert_close(y, expected, **TIGHT)
    (gradient,), (wanted,) = (torch.autograd.grad(out.square().sum(), x) for out in (y, expected))
    torch.testing.assert_close(gradient, wanted, **TIGHT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("pattern", Pattern)
def test_cuda_equals_cpu(pattern):
    layer = build(pattern)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    expected, _ = layer(x, memory)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    y, _ = layer.cuda()(x.cuda(), None if memory is None else memory.cuda())
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(y.cpu(), expected, atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(gradient, wanted, atol=1e-9, rtol=1e-8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_bfloat16_autocast_stays_finite_at_length():
    inputs = qkv(4096, heads=4, dim=64, batch=1, dtype=torch.bfloat16, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = decayed_attention(*inputs, torch.tensor([1.0, 0.1, 0.01, 0.0], device="cuda"), 64)
        y.sum().backward()
    assert y.dtype == torch.float32
    assert y.isfinite().all()
    assert all(x.grad.isfinite().all() for x in inputs)
