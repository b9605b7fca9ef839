"""Local attention equals its formula, sees its window and nothing else, and keeps the contract."""

import pytest
import torch
from helpers.largest_tensor import LargestTensor
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.common import some_valid
from reference.local import in_window, windowed_softmax

from attentions.base import Pattern, Shape, Unsupported, core_parameters
from attentions.local import Local
from attentions.ops.banded import Ring, sliding_attention
from attentions.vanilla import Vanilla

NS, CS, NC, CC = Pattern
SELF = [NS, CS]
DIM, N, WINDOW = 12, 83, 5  # three chunks, the last one short
TIGHT = {"atol": 1e-12, "rtol": 1e-10}


def build(pattern, window=WINDOW, heads=3, rotary=True, length=N):
    torch.manual_seed(0)
    return Local(Shape(DIM, heads, 2, 24, length=length, rotary=rotary), pattern, 0, 2, window=window).double()


def tokens(batch=3, n=N):
    torch.manual_seed(1)
    return torch.randn(batch, n, DIM, dtype=torch.float64)


# The operator


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 90),
    window=st.integers(1, 100),
    causal=st.booleans(),
    masked=st.booleans(),
    heads=st.integers(1, 3),
)
def test_op_and_its_gradients_equal_the_formula(n, window, causal, masked, heads):
    torch.manual_seed(2)
    inputs = [torch.randn(2, heads, n, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    valid = some_valid([n, (n + 1) // 2], n) if masked else None
    sees = in_window(n, window, causal)
    if valid is not None:
        sees = sees & valid[:, None, None, :]
    left, right = (window - 1, 0) if causal else (window // 2, window // 2)
    real = torch.ones(2, 1, n, 1) if valid is None else valid[:, None, :, None]  # outputs at padding are of no use
    y, expected = sliding_attention(*inputs, left, right, valid) * real, windowed_softmax(*inputs, sees) * real
    torch.testing.assert_close(y, expected, **TIGHT)
    weight = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)
    gradients, wanted = (torch.autograd.grad(out, inputs, weight) for out in (y, expected))
    torch.testing.assert_close(gradients, wanted, atol=1e-11, rtol=1e-10)


@settings(max_examples=40, deadline=None)
@given(places=st.integers(1, 7), prompt=st.integers(1, 12), more=st.integers(0, 12))
def test_a_ring_holds_the_last_tokens(places, prompt, more):
    k = torch.arange(prompt + more, dtype=torch.float64).view(1, 1, -1, 1)
    ring = Ring.of(k[:, :, :prompt], -k[:, :, :prompt], places)
    for t in range(prompt, prompt + more):
        ring = ring.put(k[:, :, t : t + 1], -k[:, :, t : t + 1])
    kept = k[0, 0, -places:, 0]
    y = ring.read(torch.zeros(1, 1, 1, 1, dtype=torch.float64), ring.length - places)
    torch.testing.assert_close(y.squeeze(), -kept.mean())  # a query of 0 gives the mean


# The layer


@pytest.mark.parametrize("window", [1, 2, 5, 64, 200])
@pytest.mark.parametrize("pattern", SELF)
def test_who_sees_whom(pattern, window):
    """Row s of a batch has token s changed: exactly the outputs whose window has it move, the others not by a bit."""
    layer = build(pattern, window)
    x = tokens(1).expand(N, -1, -1)
    changed = x + torch.eye(N, dtype=x.dtype).unsqueeze(-1)
    moved = (layer(changed)[0] != layer(x)[0]).any(-1)  # (changed token, output)
    assert torch.equal(moved, in_window(N, window, pattern.causal).T)
    back, ahead = layer.reach()
    distance = torch.arange(N) - torch.arange(N).unsqueeze(1)
    assert torch.equal(moved, (distance <= back) & (distance >= -ahead))


@pytest.mark.parametrize("pattern", SELF)
def test_a_window_over_everything_is_vanilla(pattern):
    layer = build(pattern, 2 * N)
    vanilla = Vanilla(layer.shape, pattern, 0, 2).double()
    vanilla.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(tokens())[0], vanilla(tokens())[0], **TIGHT)
    assert core_parameters(layer) == core_parameters(vanilla)


@pytest.mark.parametrize("pattern", SELF)
def test_padding_neither_shows_nor_counts(pattern):
    """At borders as well: a mask of padding never lets in what the window leaves out."""
    layer, x = build(pattern), tokens(4)
    lengths = [N, 40, 1, 0]
    valid = some_valid(lengths, N)
    y, _ = layer(x, None, valid)
    assert not y[~valid].any()
    garbage = x.masked_fill(~valid.unsqueeze(-1), 1e3)
    torch.testing.assert_close(layer(garbage, None, valid)[0], y, **TIGHT)
    for row, n in enumerate(lengths[:3]):
        torch.testing.assert_close(layer(x[row : row + 1, :n])[0], y[row : row + 1, :n], **TIGHT)


@pytest.mark.parametrize("pattern", SELF)
def test_padding_gets_no_gradient_and_gives_none(pattern):
    x, valid = tokens(4).requires_grad_(), some_valid([N, 40, 1, 0], N)
    build(pattern)(x, None, valid)[0].square().sum().backward()
    assert x.grad.isfinite().all()
    assert not x.grad[~valid].any()


@pytest.mark.parametrize("pattern", SELF)
def test_rows_of_a_batch_are_independent(pattern):
    layer, x = build(pattern), tokens()
    y, _ = layer(x)
    x[1:] = 7.0
    torch.testing.assert_close(layer(x)[0][0], y[0], **TIGHT)


def test_a_prefix_gives_the_prefix():
    layer, x = build(CS), tokens()
    y, _ = layer(x)
    for cut in range(1, N):
        torch.testing.assert_close(layer(x[:, :cut])[0], y[:, :cut], **TIGHT)


@pytest.mark.parametrize("window", [1, 2, 5, 11, 40])
@torch.no_grad()
def test_prefill_and_steps_equal_forward(window):
    """From every prompt: shorter than the window, so that the ring is not full, and longer."""
    layer, n = build(CS, window), 23
    x = tokens(n=n)
    expected, _ = layer(x)
    for prompt in range(1, n):
        y, state = layer.prefill(x[:, :prompt])
        outputs = [y]
        for t in range(prompt, n):
            y, state = layer.step(x[:, t : t + 1], state)
            outputs.append(y)
        torch.testing.assert_close(torch.cat(outputs, 1), expected, **TIGHT)
    ring = state[1]
    assert layer.state_size(1000) == (ring.k[0].numel() + ring.v[0].numel())
    assert layer.state_size(1) == 2 * DIM
    assert not layer.decodes_by_recomputation


def test_a_step_in_bfloat16_stays_near():
    layer = build(CS).float()
    x = tokens().float()
    expected, _ = layer(x)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer.prefill(x[:, :-1])
        last, _ = layer.step(x[:, -1:], state)
    assert (torch.cat([y, last], 1) - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("window", [0, -3, 2.5, True])
def test_impossible_windows_are_refused(window):
    with pytest.raises(ValueError, match=r"window=.*: a whole number of at least 1"):
        build(CS, window)


@pytest.mark.parametrize("pattern", [NC, CC])
def test_cross_patterns_are_unsupported(pattern):
    with pytest.raises(Unsupported, match=f"Local has no {pattern}"):
        Local(Shape(DIM, 3, 2, 24, length=N, memory=N), pattern, 0, 2)


def test_memory_does_not_grow_with_the_square():
    """The tensors of a pass have N (w + d) numbers, not N^2: none is larger than a few times the keys of all chunks."""
    q, k, v = (torch.randn(1, 2, 4096, 8, requires_grad=True) for _ in range(3))
    with LargestTensor() as largest:
        sliding_attention(q, k, v, 15, 0).sum().backward()
    assert largest.numbers <= 4 * 2 * 4096 * (8 + 16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("pattern", SELF)
def test_cuda_equals_cpu(pattern):
    layer, x = build(pattern), tokens().requires_grad_()
    expected, _ = layer(x)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    y, _ = layer.cuda()(x.cuda())
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(y.cpu(), expected, atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(gradient, wanted, atol=1e-9, rtol=1e-8)
