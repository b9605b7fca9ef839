"""Decoding by default: what gives only `forward` decodes by recomputation, and the battery passes it as it stands."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from attentions.base import Attention, Mixer, Pattern, Shape, Stack, no_loss, zero_padding
from attentions.block_transformer import BlockTransformer
from attentions.fit import FIT
from attentions.lightning import Lightning
from attentions.none import NoAttention
from attentions.projected import ProjectedAttention
from attentions.residual import MLP
from attentions.routing import Routing
from attentions.slots import Slots
from attentions.ssa import SSA
from attentions.vanilla import Vanilla
from cab.check.battery import Battery, checks
from cab.check.models import SMALL
from cab.efficiency.subjects import Subject

NS, CS, NC, CC = Pattern
N, M, DIM = 7, 5, 32


def mean_so_far(x):
    """(..., N, D) to the mean over all tokens up to each."""
    return x.cumsum(-2) / torch.arange(1, x.shape[-2] + 1, device=x.device).unsqueeze(-1)


def masked_mean(x, valid):
    """(B, M, D) to (B, 1, D)."""
    if valid is None:
        return x.mean(1, keepdim=True)
    return (x * valid.unsqueeze(-1)).sum(1, keepdim=True) / valid.sum(1).clamp(min=1).view(-1, 1, 1)


class ForwardOnly(Attention):
    """A layer of one method: the mean of the past, and in cross attention also that of the memory."""

    support = dict.fromkeys((CS, CC), "extension")

    def __init__(self, shape, pattern, layer, layers):
        super().__init__(shape, pattern, layer, layers)
        self.value, self.gate = nn.Linear(shape.dim, shape.dim), nn.Linear(shape.dim, shape.dim)

    def forward(self, x, memory=None, valid=None, memory_valid=None):
        source = x if memory is None else x + masked_mean(memory, memory_valid)
        y = self.value(mean_so_far(source)) * self.gate(x).sigmoid()
        return zero_padding(y, valid), no_loss(x)


class ForwardOnlyMixer(Mixer):
    """An operation of one method that needs all queries, too: the running mean of the past queries."""

    def forward(self, q, k, v, q_valid=None, k_valid=None):
        scores = mean_so_far(q) @ k.mT
        if self.pattern.cross:
            real = torch.ones_like(k[:, 0, :, 0], dtype=torch.bool) if k_valid is None else k_valid
            some = real.any(-1)[:, None, None, None]
            weights = scores.masked_fill(~(real[:, None, None] | ~some), -torch.inf).softmax(-1)
            return weights @ v * some, no_loss(q)
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        return scores.masked_fill(later, -torch.inf).softmax(-1) @ v, no_loss(q)


class MixerFamily(ProjectedAttention):
    support = dict.fromkeys((CS, CC), "extension")

    def __init__(self, shape, pattern, layer, layers):
        super().__init__(shape, pattern, layer, layers, ForwardOnlyMixer(shape, pattern))


class ForwardOnlyStack(Stack):
    """A whole network of one method."""

    support = dict.fromkeys((CS, CC), "extension")

    def __init__(self, shape, pattern, feedforward=MLP):
        super().__init__(shape, pattern)
        self.feedforward, self.norm = feedforward(shape.dim, shape.hidden), nn.LayerNorm(shape.dim)

    def forward(self, x, memory=None, valid=None, memory_valid=None):
        source = x if memory is None else x + masked_mean(memory, memory_valid)
        return zero_padding(self.norm(x + self.feedforward(mean_so_far(source), valid)), valid), no_loss(x)


FORWARD_ONLY = [ForwardOnly, MixerFamily, ForwardOnlyStack]


def failures(kind, pattern):
    battery = Battery(partial(kind), pattern, None, (SMALL,))
    return {name for name in checks(pattern) if not battery.run(name).passed}


@pytest.mark.parametrize("pattern", [CS, CC])
@pytest.mark.parametrize("kind", FORWARD_ONLY)
def test_forward_is_enough_for_the_battery(kind, pattern):
    assert failures(kind, pattern) == set()


class OffsetByOne(ForwardOnly):
    """Returns the output for the token before the last one."""

    def step(self, x_t, state):
        past, memory, memory_valid = state
        x = torch.cat([past, x_t], 1)
        return self(x, memory, None, memory_valid)[0][:, -2:-1], (x, memory, memory_valid)


class ForgetsTokens(ForwardOnly):
    def step(self, x_t, state):
        y, _ = super().step(x_t, state)
        return y, state


class ForgetsMemory(ForwardOnly):
    """The mask of the memory is lost after the prompt."""

    def prefill(self, x, memory=None, memory_valid=None):
        y, (x, memory, _) = super().prefill(x, memory, memory_valid)
        return y, (x, memory, None)


class MixerOffsetByOne(ForwardOnlyMixer):
    def step(self, q, k, v, state):
        past = state[0]
        _, state = super().step(q, k, v, state)
        return self(past, *state[1:3], None, state[3])[0][:, :, -1:], state


class WrongMixerFamily(MixerFamily):
    def __init__(self, shape, pattern, layer, layers):
        super().__init__(shape, pattern, layer, layers)
        self.mixer = MixerOffsetByOne(shape, pattern)


@pytest.mark.parametrize(
    ("kind", "pattern"), [(OffsetByOne, CS), (ForgetsTokens, CS), (ForgetsMemory, CC), (WrongMixerFamily, CC)]
)
def test_a_wrong_default_would_be_caught(kind, pattern):
    assert failures(kind, pattern) == {"decode"}


@pytest.mark.parametrize("kind", [ForwardOnly, MixerFamily])
@pytest.mark.parametrize("pattern", [CS, CC])
def test_a_decoder_decodes_with_the_defaults_of_its_layers(kind, pattern):
    """One of the two slots has the family, the other one vanilla."""
    shape = Shape(DIM, 4, 2, 64, N, M)
    stack = Slots(partial(kind), pattern).stack("decoder", shape, CS, CC).eval()
    x, memory = torch.randn(2, N, DIM), torch.randn(2, M, DIM)
    memory_valid = torch.arange(M) < torch.tensor([[M], [M - 2]])
    with torch.no_grad():
        expected, _ = stack(x, memory, None, memory_valid)
        y, state = stack.prefill(x[:, :3], memory, memory_valid)
        outputs = [y]
        for t in range(3, N):
            y, state = stack.step(x[:, t : t + 1], state)
            outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-4, atol=1e-5)
    assert stack.decodes_by_recomputation


def numbers(state):
    """How many numbers a state holds."""
    if isinstance(state, tuple):
        return sum(map(numbers, state))
    return state.numel() if isinstance(state, Tensor) and state.is_floating_point() else 0


@pytest.mark.parametrize("pattern", [CS, CC])
@pytest.mark.parametrize("kind", FORWARD_ONLY)
def test_the_state_is_what_it_is_said_to_be(kind, pattern):
    shape = Shape(DIM, 4, 2, 64, N, M if pattern.cross else 0)
    module = kind(shape, pattern) if kind is ForwardOnlyStack else kind(shape, pattern, 0, 1)
    memory = torch.randn(1, M, DIM) if pattern.cross else None
    m = M if pattern.cross else 0
    with torch.no_grad():
        _, state = module.prefill(torch.randn(1, N, DIM), memory)
        assert numbers(state) == module.state_size(N, m)
        _, state = module.step(torch.randn(1, 1, DIM), state)
        assert numbers(state) == module.state_size(N + 1, m)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        *((partial(kind), False) for kind in (Vanilla, Lightning, Routing, SSA, NoAttention, BlockTransformer, FIT)),
        *((partial(kind), True) for kind in FORWARD_ONLY),
    ],
    ids=lambda value: value.func.__name__ if isinstance(value, partial) else None,
)
def test_a_measurement_says_how_it_decodes(family, expected):
    shape = Shape(DIM, 4, 2, 256, 32)
    subject = Subject(family, CS, "stack", shape, batch=2, device=torch.device("cpu"))
    for phase in ("prefill", "decode"):
        timed = subject.timed_call(phase)
        assert timed.decoding == ("recomputation" if expected else "state")
    timed.prepare()
    timed.call()
    assert subject.timed_call("forward").decoding is None


@pytest.mark.parametrize("kind", FORWARD_ONLY)
def test_only_causal_patterns_can_be_decoded(kind):
    class Bidirectional(kind):
        support = dict.fromkeys(Pattern, "extension")

    shape = Shape(DIM, 4, 2, 64, N)
    module = Bidirectional(shape, NS) if kind is ForwardOnlyStack else Bidirectional(shape, NS, 0, 1)
    with pytest.raises(ValueError, match="cannot be decoded"):
        module.prefill(torch.randn(1, N, DIM))
