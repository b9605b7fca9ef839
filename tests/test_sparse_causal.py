"""Causal attention to chosen sources equals its formula in both forms of the operation, whatever the blocks."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.sparse_causal import attend_past as dense

from attentions.ops.sparse_causal import attend_past_by_column, attend_past_by_parts

TIGHT = {"atol": 1e-12, "rtol": 1e-10}
SMALL_BLOCKS = [
    pytest.param(partial(attend_past_by_parts, long=6, short=3), id="parts"),
    pytest.param(partial(attend_past_by_column, blocks=4, least_block=3), id="column"),
]


def tensors(batch, heads, sources, targets, dim=3):
    """q, k, v, chosen k and v for positions (b, g, K) and (b, g, W)."""
    torch.manual_seed(0)
    (windows, chosen), width = sources.shape[1:], targets.shape[2]
    sizes = (width, width, width, chosen, chosen)
    return [torch.randn(batch, windows, heads, n, dim, dtype=torch.float64, requires_grad=True) for n in sizes]


@st.composite
def positions(draw):
    """Ascending sources (b, g, K), some beyond the end, and targets (b, g, W), with -1 after the last."""
    n, rows, windows = draw(st.integers(1, 40)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    count, width = draw(st.integers(1, n)), draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))

    def ascending(k):
        return torch.rand(rows, windows, n, generator=generator).argsort(-1)[..., :k].sort(-1).values

    sources, targets = ascending(count), ascending(width)
    sources[..., count - draw(st.integers(0, count)) :] = n
    targets[..., width - draw(st.integers(0, width - 1)) :] = -1
    return sources, targets


@settings(max_examples=150, deadline=None)
@given(
    places=positions(),
    heads=st.integers(1, 2),
    short=st.integers(1, 5),
    ratio=st.integers(1, 4),
    blocks=st.integers(1, 5),
    by_parts=st.booleans(),
)
def test_equals_the_formula(places, heads, short, ratio, blocks, by_parts):
    sources, targets = places
    inputs = tensors(2, heads, sources, targets)
    if by_parts:
        y = attend_past_by_parts(*inputs, sources, targets, long=short * ratio, short=short)
    else:
        y = attend_past_by_column(*inputs, sources, targets, blocks=blocks, least_block=short)
    real = (targets >= 0)[:, :, None, :, None]
    expected, y = dense(*inputs, sources, targets) * real, y * real
    torch.testing.assert_close(y, expected, **TIGHT)
    weight = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)
    gradients, wanted = (torch.autograd.grad(out, inputs, weight) for out in (y, expected))
    torch.testing.assert_close(gradients, wanted, **TIGHT)


@pytest.mark.parametrize("attend", SMALL_BLOCKS)
def test_a_block_of_queries_without_an_earlier_source(attend):
    """Every source comes after the first block, and the last ones after all targets but one."""
    sources, targets = torch.tensor([[[6, 7, 12, 22]]]), torch.arange(23).view(1, 1, -1)
    inputs = tensors(2, 2, sources, targets)
    y, expected = attend(*inputs, sources, targets), dense(*inputs, sources, targets)
    torch.testing.assert_close(y, expected, **TIGHT)
    torch.testing.assert_close(y[..., :7, :], inputs[2][..., :7, :], **TIGHT)  # the own value alone
    gradients, wanted = (torch.autograd.grad(out.square().sum(), inputs) for out in (y, expected))
    torch.testing.assert_close(gradients, wanted, **TIGHT)


@pytest.mark.parametrize("attend", SMALL_BLOCKS)
def test_bfloat16_does_not_round_the_own_score(attend):
    """All scores are 1002 / 8; bfloat16 has 1000 and 1004 only. So all sources count alike, the own one too."""
    n, sources = 23, torch.arange(1, 23, 4).view(1, 1, -1)
    q, k = torch.full((1, 1, 1, n, 64), 4.0), torch.full((1, 1, 1, n, 64), 250 / 64)
    k[..., ::2] = 251 / 64
    torch.manual_seed(1)
    v = torch.randn(1, 1, 1, n, 64)
    inputs = [q, k, v, k[..., sources.flatten(), :], v[..., sources.flatten(), :]]
    targets = torch.arange(n).view(1, 1, -1)
    expected = dense(*(x.bfloat16().double() for x in inputs), sources, targets)
    y = attend(*(x.bfloat16() for x in inputs), sources, targets)
    assert (y - expected).norm() < 0.01 * expected.norm()


def test_bfloat16_gradients_of_a_source_are_summed_in_float32():
    """A hundred blocks of queries add to the gradient of an early value."""
    n, sources = 600, torch.arange(0, 600, 4).view(1, 1, -1)
    targets = torch.arange(n).view(1, 1, -1)
    torch.manual_seed(2)
    q, values = torch.zeros(1, 1, 1, n, 8), torch.randn(1, 1, 1, n, 8)
    gradients = []
    for dtype in (torch.bfloat16, torch.float64):
        q, v = q.to(dtype), values.to(dtype).requires_grad_()
        chosen = q[..., sources.flatten(), :], v[..., sources.flatten(), :]
        y = attend_past_by_parts(q, q, v, *chosen, sources, targets, long=6, short=3)
        y.double().sum().backward()
        gradients.append(v.grad.double())
    assert (gradients[0] - gradients[1]).norm() < 0.005 * gradients[1].norm()
