"""Families with one fault each, for the tests of the battery."""

import copy

import torch
from torch import Tensor

from attentions.base import Pattern, zero_padding
from attentions.local import Local
from attentions.vanilla import Softmax, Vanilla


def valid_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """(B, 1, D): the mean over real tokens."""
    if valid is None:
        return x.mean(1, keepdim=True)
    weight = valid.unsqueeze(-1).to(x.dtype)
    return (x * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)


class Adds(Vanilla):
    """Vanilla plus `extra`, in the full pass only; 0 at padding."""

    def extra(self, x, memory, valid, memory_valid):
        raise NotImplementedError

    def forward(self, x, memory=None, valid=None, memory_valid=None):
        y, auxiliary = super().forward(x, memory, valid, memory_valid)
        return zero_padding(y + self.extra(x, memory, valid, memory_valid), valid), auxiliary


class LeaksByOne(Adds):
    """y_t also gets x_{t+1}."""

    def extra(self, x, memory, valid, memory_valid):
        following = x[:, 1:] if valid is None else zero_padding(x[:, 1:], valid[:, 1:])
        return torch.cat([following, torch.zeros_like(x[:, :1])], 1)


class LeaksInTraining(LeaksByOne):
    def extra(self, x, memory, valid, memory_valid):
        return super().extra(x, memory, valid, memory_valid) * self.training


class LeaksAtLength(LeaksByOne):
    """Only where the input is longer than a block of 100."""

    def extra(self, x, memory, valid, memory_valid):
        return super().extra(x, memory, valid, memory_valid) * (x.shape[1] > 100)


class LeaksAfterSteps(LeaksByOne):
    """Only once its statistics have moved."""

    steps = 0

    def after_step(self) -> None:
        self.steps += 1

    def extra(self, x, memory, valid, memory_valid):
        return super().extra(x, memory, valid, memory_valid) * (self.steps > 0)


class LeaksByMany(Adds):
    """Only if at least three tokens of the sequence are large."""

    def extra(self, x, memory, valid, memory_valid):
        large = (x if valid is None else zero_padding(x, valid)).abs().amax(-1) > 6
        return (large.sum(1) >= 3)[:, None, None] * x


class LeaksByStatistics(Adds):
    """The mean over the whole sequence, as a normalisation over the wrong axis has it."""

    def extra(self, x, memory, valid, memory_valid):
        return valid_mean(x, valid)


class LeaksByMembership(Adds):
    """Balanced membership: the four best tokens of the sequence pass; a later one evicts an earlier one."""

    def extra(self, x, memory, valid, memory_valid):
        score = x[..., 0] if valid is None else x[..., 0].masked_fill(~valid, -torch.inf)
        best = score.topk(min(4, x.shape[1]), dim=1).indices
        member = torch.zeros_like(score, dtype=torch.bool).scatter(1, best, True)
        return x * member.unsqueeze(-1)


class PoolsFutureQueries(Adds):
    """Causal cross attention with a landmark pooled over all queries."""

    support = dict.fromkeys((Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS), "paper")

    def extra(self, x, memory, valid, memory_valid):
        return valid_mean(x, valid) * valid_mean(memory, memory_valid)


class SeesPaddingContent(Adds):
    def extra(self, x, memory, valid, memory_valid):
        return 0 if valid is None else x.masked_fill(valid.unsqueeze(-1), 0).sum(1, keepdim=True)


class SeesPaddingAmount(Adds):
    def extra(self, x, memory, valid, memory_valid):
        return 0.1 * x.shape[1]


class SeesMemoryPadding(Adds):
    def extra(self, x, memory, valid, memory_valid):
        return 0.1 * memory.shape[1]


class WritesIntoPadding(Vanilla):
    def forward(self, x, memory=None, valid=None, memory_valid=None):
        y, auxiliary = super().forward(x, memory, valid, memory_valid)
        return y + (0 if valid is None else zero_padding(torch.ones_like(y), ~valid)), auxiliary


class CouplesRows(Vanilla):
    """Statistics over the batch, consistently also in decoding."""

    def output(self, mixed, x):
        return super().output(mixed, x) + x.mean(0)


class CouplesLengths(Adds):
    """Rows share the length of the longest, which shows in ragged batches only."""

    def extra(self, x, memory, valid, memory_valid):
        return 0.1 * (x.shape[1] if valid is None else int(valid.sum(1).max()))


class OwnValueOnly(Softmax):
    def attend(self, q, k, v, mask, causal):
        return v[:, :, -q.shape[2] :]


class IgnoresPast(Vanilla):
    """What CAB's causal ABC does: every output is its own value. It leaks nothing and decodes well."""

    support = dict.fromkeys((Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF), "paper")

    def __init__(self, shape, pattern, layer, layers):
        super().__init__(shape, pattern, layer, layers)
        self.mixer = OwnValueOnly(shape, pattern)


class IgnoresPastInTraining(IgnoresPast):
    def forward(self, x, memory=None, valid=None, memory_valid=None):
        kind = OwnValueOnly if self.training else Softmax
        self.mixer = kind(self.shape, self.pattern)
        return super().forward(x, memory, valid, memory_valid)

    def prefill(self, x, memory=None, memory_valid=None):
        self.mixer = Softmax(self.shape, self.pattern)
        return super().prefill(x, memory, memory_valid)


class WithoutLastKey(Local):
    """A window that is one key shorter than the declared one."""

    def __init__(self, shape, pattern, layer, layers):
        super().__init__(shape, pattern, layer, layers, window=5)
        self.mixer.left -= 1

    def reach(self):
        return (4, 0) if self.pattern.causal else (2, 2)


class WithOneKeyMore(WithoutLastKey):
    """A window that is one key longer than the declared one."""

    def __init__(self, shape, pattern, layer, layers):
        super().__init__(shape, pattern, layer, layers)
        self.mixer.left += 2


class WindowOfBlocks(WithoutLastKey):
    """Two tokens back are seen by the first token of each block of 4 only."""

    def forward(self, x, memory=None, valid=None, memory_valid=None):
        self.mixer.left = 2
        whole, _ = super().forward(x, memory, valid, memory_valid)
        self.mixer.left = 1
        short, auxiliary = super().forward(x, memory, valid, memory_valid)
        first = (torch.arange(x.shape[1]) % 4 == 0).unsqueeze(-1)
        return whole.where(first, short), auxiliary


class IgnoresItsWindow(WithoutLastKey):
    """Only the own value is read, where a window is declared."""

    def __init__(self, shape, pattern, layer, layers):
        super().__init__(shape, pattern, layer, layers)
        self.mixer = OwnValueOnly(shape, pattern)


class JoinsMasksByAnd(Local):
    """CAB's fault: with a mask, what lies outside of the window is left out only if it is padding as well."""

    support = dict.fromkeys((Pattern.NONCAUSAL_SELF,), "paper")

    def __init__(self, shape, pattern, layer, layers):
        super().__init__(shape, pattern, layer, layers, window=5)

    def forward(self, x, memory=None, valid=None, memory_valid=None):
        if valid is None:
            return super().forward(x, memory, valid, memory_valid)
        place = torch.arange(x.shape[1])
        near = (place - place.unsqueeze(-1)).abs() <= 2
        k, v = self.placed_keys_values(x)
        mask = near | valid[:, None, None, :]
        mixed = torch.nn.functional.scaled_dot_product_attention(self.placed_queries(x), k, v, attn_mask=mask)
        return zero_padding(self.output(mixed, x), valid), x.new_zeros(())


class MisplacesInRing(Local):
    """Until the ring is full, tokens are put one place too far."""

    support = dict.fromkeys((Pattern.CAUSAL_SELF,), "paper")

    def __init__(self, shape, pattern, layer, layers):
        super().__init__(shape, pattern, layer, layers, window=5)

    def prefill(self, x, memory=None, memory_valid=None):
        y, (seen, ring) = super().prefill(x, memory, memory_valid)
        return y, (seen, ring._replace(length=ring.length + 1) if seen < 5 else ring)


class DropsLastBlock(Vanilla):
    """Tokens after the last whole block of 4 are not read by others: N // 4 * 4 where it had to be rounded up."""

    support = dict.fromkeys((Pattern.NONCAUSAL_SELF,), "paper")

    def forward(self, x, memory=None, valid=None, memory_valid=None):
        keep = (torch.arange(x.shape[1]) < 28).expand(x.shape[:2])
        k, v = self.keys_values(x)
        valid_keys = keep if valid is None else valid & keep
        mixed, auxiliary = self.mixer(self.queries(x), k, v, valid, valid_keys)
        return zero_padding(self.output(mixed, x), valid), auxiliary


class CausalInMemory(Softmax):
    """The query at t sees memory up to t: causality on the wrong side."""

    def forward(self, q, k, v, q_valid=None, k_valid=None):
        return self.prefill(q, k, v, k_valid)[0], torch.zeros(())

    def prefill(self, q, k, v, k_valid=None):
        return self._read(q, k, v, k_valid, 0), (k, v, k_valid, q.shape[2])

    def step(self, q, k, v, state):
        k, v, k_valid, t = state
        return self._read(q, k, v, k_valid, t), (k, v, k_valid, t + 1)

    def _read(self, q, k, v, k_valid, start):
        t, s = torch.arange(start, start + q.shape[2]), torch.arange(k.shape[2])
        mask = (s[None, :] <= t[:, None]).expand(len(q), 1, -1, -1)
        if k_valid is not None:
            mask = mask & k_valid[:, None, None, :]
        some = mask.any(-1, keepdim=True)
        return self.attend(q, k, v, mask | ~some, False) * some


class MasksMemory(Vanilla):
    support = dict.fromkeys((Pattern.CAUSAL_CROSS,), "paper")

    def __init__(self, shape, pattern, layer, layers):
        super().__init__(shape, pattern, layer, layers)
        self.mixer = CausalInMemory(shape, pattern)


class ForgetsInDecoding(Vanilla):
    """A step goes on from the state before the last one."""

    def step(self, x_t, state):
        y, _ = super().step(x_t, copy.deepcopy(state))
        return y, state


class SlopeOfRoot(Adds):
    """Adds 0 whose gradient is not a number."""

    def extra(self, x, memory, valid, memory_valid):
        return (0 * x).square().sum(-1, keepdim=True).sqrt()


class WrongGradient(Adds):
    """Adds 0 that has a gradient, as a backward with a wrong factor."""

    def extra(self, x, memory, valid, memory_valid):
        return x - x.detach()


class CountsInForward(Adds):
    """Running statistics that change outside of `after_step`."""

    def __init__(self, shape, pattern, layer, layers):
        super().__init__(shape, pattern, layer, layers)
        self.register_buffer("calls", torch.zeros(()))

    def extra(self, x, memory, valid, memory_valid):
        self.calls += self.training
        return self.calls
