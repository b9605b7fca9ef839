"""SSA, stochastically subsampled self-attention: dense attention, trained on a random sample of the pairs at each step.

Hussain, Zaki, Subramanian 2023 (KDD), arXiv 2306.01705. No code was released; this follows the figure on the project's
page. In training, with r = `reduction`, for N targets and M sources:

    unbiased   a random permutation of the sources, the first ceil(M / r) are kept; all targets attend to them
    local      targets in their order, in r windows; sources in the order of j + sigma w eps_j, eps_j ~ N(0, 1), also
               in r windows; target window a attends to source window a. sigma -> inf gives a random partition

    o_t = sum_{s in S(t)} softmax_s(q_t . k_s / sqrt(d)) v_s,  without reweighting

Time O(N M d / r), half of it in causal_self, memory O(N + M); no parameters beyond vanilla's. Evaluation is dense:
exactly vanilla, in time too. `dense_after` = n > 0 trains densely after n optimiser steps (the paper's fine-tune).

Not checked against the text of the paper: the permutation of the local form, a new sample per layer and step, dense
evaluation without rescaling, and the causal mask as below. Choices made here:
  * One sample per layer and step, shared by heads, batch and micro-batches (see attentions.ops.sampling). It derives
    from the row's length: padding does not change the sample of a row.
  * sigma is in units of a source window, w = M / r, so that it means the same at every length.
  * Windows differ by at most one token. A row with fewer sources than windows has some of them in several windows.
  * causal_self masks by original index and adds the query's own key, which would otherwise be missing from most sets
    (and leave rows without any key). Target window a sees source window a only, not also a - 1.
  * The sample of a training step derives from the length of the input, so a prefix of an input is sampled differently.
    y_t still depends on x_<=t alone.

samples = T > 0 evaluates a self-ensemble. The paper averages the predictions of T passes through the network; here each
layer averages its output over T samples, which read T / r of the pairs. A prefix of an input must have the same
samples, and all sources must be read, so samples are drawn differently than in training: sources are cut into
consecutive groups of r, and each r samples take one source each from every group, in a random order per group. If the
last group is not full, some samples get nothing from it; a sample without any source is left out of the mean. T is at
least r. The local form has the same ensemble, because its windows depend on the length of the input.

Patterns: noncausal_self and causal_self are the paper's. noncausal_cross and causal_cross (extensions) sample the
memory, and are equal, because the sample does not depend on the queries. Decoding has vanilla's cache; as in evaluation
it is dense, or averages over samples.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from attentions.base import Mixer, Pattern, Shape, State, check_whole, no_loss
from attentions.ops.kv_cache import KVCache
from attentions.ops.sampling import SampleKey
from attentions.ops.sparse_causal import attend_past
from attentions.projected import ProjectedAttention
from attentions.vanilla import Softmax


class Sample(NamedTuple):
    """Which sources each of g windows of targets sees, for b rows (1: all rows of the batch alike)."""

    sources: Tensor
    """(b, g, K), ascending original positions; M and above = none."""
    targets: Tensor
    """(b, g, W) positions; -1 = none."""
    places: Tensor | None
    """(b, N): where each target is among the g W. None: in their own order."""
    full: bool
    """No source is missing: no mask is needed."""


class Subsampled(Mixer):
    def __init__(
        self,
        shape: Shape,
        pattern: Pattern,
        key: SampleKey,
        form: Literal["unbiased", "local"],
        reduction: int,
        sigma: float,
        samples: int,
        dense_after: int,
    ) -> None:
        super().__init__(shape, pattern)
        self.key, self.form, self.reduction, self.sigma = key, form, reduction, sigma
        self.samples, self.dense_after = samples, dense_after
        self.dense = Softmax(shape, pattern)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, q_valid: Tensor | None = None, k_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.training:
            return self._train(q, k, v, q_valid, k_valid), no_loss(q)
        if self.samples:
            return self._ensemble(q, k, v, k_valid, self.members(k.shape[2])), no_loss(q)
        return self.dense(q, k, v, q_valid, k_valid)

    def prefill(self, q: Tensor, k: Tensor, v: Tensor, k_valid: Tensor | None = None) -> tuple[Tensor, State]:
        if not self.samples:
            return self.dense.prefill(q, k, v, k_valid)
        members = self.members(k.shape[2])
        return self._ensemble(q, k, v, k_valid, members), (KVCache(k, v), k_valid, members.to(q.device))

    def step(self, q: Tensor, k: Tensor | None, v: Tensor | None, state: State) -> tuple[Tensor, State]:
        if not self.samples:
            return self.dense.step(q, k, v, state)
        cache, k_valid, members = state
        if k is None or v is None:
            return self._ensemble(q, cache.k, cache.v, k_valid, members), state
        t = cache.length
        cache = cache.append(k, v)
        if members.shape[1] * self.reduction <= t:
            members = self.members(2 * t + 1).to(q.device)
        outputs = []
        for sources in members[:, : t // self.reduction + 1]:  # the last one may be in the future; the own key is added
            past = F.pad(sources < t, (0, 1), value=True)
            there = F.pad(sources, (0, 1), value=t).clamp(max=t)
            chosen = cache.k.index_select(2, there), cache.v.index_select(2, there)
            outputs.append(self.dense.attend(q, *chosen, past.view(1, 1, 1, -1), causal=False))
        return _mean(outputs, self.samples), (cache, k_valid, members)

    def state_size(self, n: int, m: int = 0) -> int:
        return self.dense.state_size(n, m)

    # torch.compile would otherwise compile again at every step, when the number of steps changes.
    @torch.compiler.disable
    def _train(self, q: Tensor, k: Tensor, v: Tensor, q_valid: Tensor | None, k_valid: Tensor | None) -> Tensor:
        if 0 < self.dense_after <= self.key.steps:
            return self.dense(q, k, v, q_valid, k_valid)[0]
        return self._sampled(q, k, v, self.sample(q.shape[2], k.shape[2], q_valid, k_valid, self.key.steps))

    @torch.compiler.disable
    def _ensemble(self, q: Tensor, k: Tensor, v: Tensor, k_valid: Tensor | None, members: Tensor) -> Tensor:
        n, m = q.shape[2], k.shape[2]
        sources = members.unsqueeze(1)  # (T, 1, K)
        count: Tensor | int = self.samples
        if self.pattern is not Pattern.CAUSAL_SELF:  # there only padding sees padding, and every token has a key
            length = torch.tensor([m], device=sources.device) if k_valid is None else k_valid.sum(-1)
            sources = sources.to(length.device)
            sources = sources.where(sources < length.unsqueeze(-1), m)  # (T, b, K)
            count = (sources < m).any(-1).sum(0).clamp(min=1).view(-1, 1, 1, 1).to(q.device)
        targets = torch.arange(n, device=sources.device).view(1, 1, n)
        full = k_valid is None and m % self.reduction == 0
        samples = (Sample(one.unsqueeze(1), targets, None, full) for one in sources)
        return _mean((self._sampled(q, k, v, sample) for sample in samples), count)

    def _sampled(self, q: Tensor, k: Tensor, v: Tensor, sample: Sample) -> Tensor:
        there = sample.sources.clamp(max=k.shape[2] - 1)
        queries, chosen = _windows(q, sample), (_take(k, there), _take(v, there))  # (B, g, H, W or K, d)
        if self.pattern is Pattern.CAUSAL_SELF:
            own = _windows(k, sample), _windows(v, sample)
            return _tokens(attend_past(queries, *own, *chosen, sample.sources, sample.targets), sample)
        seen = None  # (B g, K)
        if not sample.full:
            seen = (sample.sources < k.shape[2]).to(q.device).expand(q.shape[0], -1, -1).flatten(0, 1)
        y, _ = self.dense(*(x.flatten(0, 1) for x in (queries, *chosen)), None, seen)  # (B g, H, W, d)
        return _tokens(y.unflatten(0, queries.shape[:2]), sample)

    @torch.no_grad()
    def sample(self, n: int, m: int, q_valid: Tensor | None, k_valid: Tensor | None, number: int) -> Sample:
        """The sample of a step, on the CPU if no row has padding, else on the device of the masks."""
        if not self.pattern.cross:
            q_valid = k_valid
        length = torch.tensor([m], device="cpu") if k_valid is None else k_valid.sum(-1)  # (b,)
        noise, position = self.noise(m, number).to(length.device), torch.arange(m, device=length.device)
        if self.form == "unbiased":
            score = noise
            start, size = torch.zeros_like(length).unsqueeze(-1), -(-length // self.reduction).unsqueeze(-1)  # (b, 1)
        else:
            spread = self.sigma / self.reduction * length.double().unsqueeze(-1)
            score = position + spread * torch.special.ndtri(noise)
            start, size = _cut(length, self.reduction)  # (b, r)
            size = size.clamp(min=1)
        order = score.where(position < length.unsqueeze(-1), torch.inf).argsort(dim=-1, stable=True)  # (b, m)
        rank, inside = _slots(start, size, length, -(-m // self.reduction))
        chosen = order.gather(-1, rank.clamp(max=m - 1).flatten(1)).view(rank.shape)
        sources = chosen.where(inside, m).sort(-1).values
        if self.form == "unbiased":
            return Sample(sources, torch.arange(n, device=sources.device).view(1, 1, n), None, k_valid is None)
        length = torch.tensor([n], device="cpu") if q_valid is None else q_valid.sum(-1)
        start, size = _cut(length, self.reduction)
        width = -(-n // self.reduction)
        rank, inside = _slots(start, size, length, width)
        full = k_valid is None and m % self.reduction == 0
        if q_valid is None and n % self.reduction == 0:
            return Sample(sources, rank, None, full)
        window = torch.arange(1, n + 1, device=length.device) * self.reduction - 1  # (n,), over the length
        window = (window // length.clamp(min=1).unsqueeze(-1)).clamp(max=self.reduction - 1)  # (b, n)
        place = window * width + torch.arange(n, device=length.device) - start.gather(-1, window)
        places = place.clamp(max=self.reduction * width - 1)  # beyond only at padding
        return Sample(sources, rank.where(inside, -1), places, full)

    def members(self, m: int) -> Tensor:
        """(T, ceil(m / r)): the sources of each ensemble sample, one in each group; the last may be beyond m."""
        r, groups = self.reduction, -(-m // self.reduction)
        cycles = range(-(-self.samples // r))  # with negative numbers, which training does not have
        orders = [self.noise(groups * r, -1 - cycle).view(groups, r).argsort(dim=-1) for cycle in cycles]
        return (torch.cat(orders, 1).T[: self.samples] + r * torch.arange(groups, device="cpu")).contiguous()

    def noise(self, m: int, number: int) -> Tensor:
        """(m,) uniform in (0, 1). The value at a position does not depend on m."""
        generator = self.key.generator(number)
        return torch.rand(m, dtype=torch.float64, device="cpu", generator=generator).clamp_(min=2**-54)


def _mean(outputs: Iterable[Tensor], count: Tensor | int) -> Tensor:
    """The sum of the outputs over the count, in float32 or wider."""
    total, dtype = None, None
    for y in outputs:
        wide, dtype = y.to(torch.promote_types(y.dtype, torch.float32)), y.dtype
        total = wide if total is None else total + wide
    assert total is not None
    return (total / count).to(dtype)


def _cut(length: Tensor, windows: int) -> tuple[Tensor, Tensor]:
    """Start and size (b, g) of windows that cut lengths (b,) as evenly as possible."""
    edges = length.unsqueeze(-1) * torch.arange(windows + 1, device=length.device) // windows
    return edges[:, :-1], edges.diff(dim=-1)


def _slots(start: Tensor, size: Tensor, length: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(b, g, width): the rank in each place of each window, and whether the place is used."""
    place = torch.arange(width, device=start.device)
    rank = start.unsqueeze(-1) + place
    return rank, (place < size.unsqueeze(-1)) & (rank < length.view(-1, 1, 1))


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x (B, H, N, d), index (b, g, K) to (B, g, H, K, d)."""
    tokens, flat = x.transpose(1, 2), index.to(x.device).flatten(1)  # (B, N, H, d) is contiguous after projections
    if index.shape[0] == 1:
        taken = tokens.index_select(1, flat[0])
    else:
        taken = tokens.gather(1, flat[:, :, None, None].expand(-1, -1, *tokens.shape[2:]))
    return taken.unflatten(1, index.shape[1:]).transpose(2, 3)


def _windows(x: Tensor, sample: Sample) -> Tensor:
    """(B, H, N, d) to (B, g, H, W, d)."""
    if sample.places is None:
        return x.unflatten(2, sample.targets.shape[1:]).transpose(1, 2)
    return _take(x, sample.targets.clamp(min=0))


def _tokens(y: Tensor, sample: Sample) -> Tensor:
    """(B, g, H, W, d) to (B, H, N, d)."""
    y = y.transpose(1, 2).flatten(2, 3)
    return y if sample.places is None else _take(y, sample.places.unsqueeze(1)).squeeze(1)


class SSA(ProjectedAttention):
    mixer: Subsampled
    support = dict.fromkeys(Pattern, "extension") | dict.fromkeys(
        (Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF), "paper"
    )

    def __init__(
        self,
        shape: Shape,
        pattern: Pattern,
        layer: int,
        layers: int,
        *,
        form: Literal["unbiased", "local"] = "unbiased",
        reduction: int = 4,
        sigma: float = 1.0,
        samples: int = 0,
        dense_after: int = 0,
        seed: int | None = None,
    ) -> None:
        """With seed None, the seed of torch's global generator is used, which is that of the run."""
        if form not in ("unbiased", "local"):
            raise ValueError(f"form={form!r}: one of unbiased, local is needed")
        check_whole("reduction", reduction)
        check_whole("samples", samples, 0)
        check_whole("dense_after", dense_after, 0)
        if 0 < samples < reduction:
            raise ValueError(
                f"samples={samples}: at least reduction={reduction} are needed to read every key (0: dense)"
            )
        if not 0 <= sigma < float("inf"):
            raise ValueError(f"sigma={sigma!r}: a finite number of at least 0 is needed")
        key = SampleKey(layer, seed)
        mixer = Subsampled(shape, pattern, key, form, reduction, sigma, samples, dense_after)
        super().__init__(shape, pattern, layer, layers, mixer)

    def after_step(self) -> None:
        self.mixer.key.steps += 1
