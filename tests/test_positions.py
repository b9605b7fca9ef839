"""Rotary embedding, LRPE, the norm on q and k and the short convolution, and faults in them that checks catch."""

from functools import partial

import pytest
import torch
from reference.positions import convolved, head_normed, rotated

from attentions.base import Pattern, Shape
from attentions.block_transformer import BlockTransformer
from attentions.fit import FIT
from attentions.lightning import Lightning
from attentions.ops.positions import LRPE, HeadNorm, Rotary
from attentions.ops.short_convolution import ShortConvolution
from attentions.projected import ProjectedAttention
from attentions.routing import Routed, Routing
from attentions.vanilla import Vanilla
from cab.check.battery import Battery
from cab.check.models import SMALL

NS, CS, NC, CC = Pattern
TIGHT = {"atol": 1e-12, "rtol": 1e-10}


def vectors(*size):
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dim", [1, 2, 5, 8])
@pytest.mark.parametrize("start", [0, 3, 1000])
def test_rotary_equals_the_formula(dim, start):
    x = vectors(2, 3, 7, dim)
    rotary = Rotary(dim)
    torch.testing.assert_close(rotary(x, start), rotated(x, start), **TIGHT)
    torch.testing.assert_close(rotary(x, 1), rotated(x, 1), **TIGHT)  # from the table of the first call


@pytest.mark.parametrize("make", [lambda: Rotary(6), lambda: LRPE(Shape(6, 1, 1, 0, 9)).double()])
def test_scores_depend_on_the_distance(make):
    place, q, k = make(), vectors(1, 1, 1, 6), vectors(1, 1, 1, 6).flip(-1)

    def score(t, s):
        return (place(q, t) * place(k, s)).sum()

    torch.testing.assert_close(score(5, 2), score(905, 902), atol=1e-9, rtol=1e-9)
    assert (score(5, 2) - score(5, 3)).abs() > 1e-3


def test_bfloat16_tells_late_positions_apart():
    x = torch.ones(1, 1, 2, 4, dtype=torch.bfloat16)
    late = Rotary(4)(x, 70_000)
    torch.testing.assert_close(late, rotated(x.double(), 70_000).bfloat16(), atol=0.02, rtol=0)
    assert not torch.equal(late[:, :, 0], late[:, :, 1])


def test_norm_per_head():
    norm = HeadNorm(3, 4).double()
    norm.weight.data.copy_(vectors(12))
    x = vectors(2, 3, 5, 4)
    torch.testing.assert_close(norm(x), head_normed(norm, x), **TIGHT)
    torch.testing.assert_close(norm(100 * x), norm(x), atol=1e-5, rtol=1e-5)  # but for the small term in the root


def test_initial_angles_of_lrpe():
    angles = LRPE(Shape(8, 2, 1, 0, 9)).angles.flatten()
    torch.testing.assert_close(angles, torch.tensor([10_000 ** (-2 * j / 8) for j in range(8)]))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
def test_convolution_equals_the_formula(width, causal):
    conv = convolution(width, causal)
    x = vectors(3, 6, 5)
    valid = torch.arange(6) < torch.tensor([6, 2, 0]).unsqueeze(1)
    y, masked = conv(x), conv(x, valid)
    for row, length in enumerate((6, 2, 0)):
        torch.testing.assert_close(y[row], convolved(conv, x[row], causal), **TIGHT)
        torch.testing.assert_close(masked[row, :length], convolved(conv, x[row, :length], causal), **TIGHT)


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("prompt", [1, 2, 5])
def test_convolution_decodes(width, prompt):
    conv = convolution(width, causal=True)
    x = vectors(2, 6, 5)
    y, state = conv.prefill(x[:, :prompt])
    assert state.numel() == 2 * conv.state_size() == 2 * (width - 1) * 5
    outputs = [y]
    for t in range(prompt, 6):
        y, state = conv.step(x[:, t : t + 1], state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), conv(x), **TIGHT)


def convolution(width, causal):
    conv = ShortConvolution(5, width, causal).double()
    conv.norm.weight.data.copy_(vectors(5))
    conv.norm.bias.data.copy_(vectors(5).flip(0))
    return conv


# Faults


@pytest.mark.parametrize(
    ("family", "pattern"),
    [(Vanilla, CS), (Vanilla, CC), (Lightning, CS), (Routing, CS), (BlockTransformer, CS), (FIT, CS), (FIT, CC)],
)
def test_an_offset_of_one_in_decoding_is_caught(family, pattern, monkeypatch):
    """In cross patterns by the self attention beside it."""
    assert worst("decode", family, pattern) < 1e-9
    step, routed = ProjectedAttention.step, Routed.step
    monkeypatch.setattr(ProjectedAttention, "step", lambda self, x, state: step(self, x, (state[0] + 1, *state[1:])))
    monkeypatch.setattr(
        Routed,
        "step",
        lambda self, q, k, v, state: routed(self, q, k, v, state if k is None else (*state[:2], state[2] + 1)),
    )
    assert worst("decode", family, pattern) > 1e-3


@pytest.mark.parametrize("family", [Vanilla, BlockTransformer, FIT])
def test_a_convolution_that_looks_ahead_is_caught(family, monkeypatch):
    assert worst("leak", family, CS) < 1e-9
    original = ShortConvolution.__init__

    def looks_ahead(self, dim, width, causal):
        original(self, dim, width, causal)
        self.before = width - 2

    monkeypatch.setattr(ShortConvolution, "__init__", looks_ahead)
    assert worst("leak", family, CS) > 1e-3


def test_a_convolution_that_sees_padding_is_caught(monkeypatch):
    assert worst("padding", Vanilla, NS) < 1e-9
    forward = ShortConvolution.forward
    monkeypatch.setattr(ShortConvolution, "forward", lambda self, x, valid=None: forward(self, x))
    assert worst("padding", Vanilla, NS) > 1e-3


def worst(check, family, pattern):
    return Battery(partial(family), pattern, settings=(SMALL,)).run(check).worst


def test_a_short_convolution_has_the_same_parameters_for_all():
    """Two of four layers of a Block Transformer are of blocks, and have none."""
    shape = Shape(8, 2, 4, 32, 16, conv=4)
    stack = BlockTransformer(shape, CS)
    assert len(stack.tokens.convs) == 2
    assert all(layer.conv is None for layer in stack.blocks.layers)
