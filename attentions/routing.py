"""Routing Transformer: attention among the tokens of a cluster, where the clusters are learned by online k-means.

Roy, Saffar, Vaswani, Grangier 2021 (TACL), arXiv 2003.05997; details from the authors' code.

    c(i) = argmax_c <mu_c, LN(x_i)>,   y_t = sum_{s in visible(t)} softmax_s(q_t . k_s / sqrt(d)) v_s

LN is a layer norm without scale and bias, so that the centroid with the highest score is the nearest one. With C
clusters of w tokens, C ~ w ~ sqrt(N): time O(N^1.5 d), memory O(N d), and decoding keeps C w keys and values at any
length.

Patterns
    noncausal_self   paper. Each centroid takes the w queries and the w keys that score highest with it. A token in
                     several groups gets the mean of its outputs, a token in none gets 0.
    causal_self      The paper *defines* visible(t) = {s <= t: c(s) = c(t)}, and computes the top w of each centroid
                     over the whole sequence, which leaks: a later token can push an earlier one out of its group.
                     Here visible(t) = the last w of the paper's set, t included, which depends on the past only.
                     `membership="balanced"` is the form that leaks, an ablation: cab.check fails it in causal_self.
                     Queries and keys are shared as in the paper: k = LN(q), and there is no key projection.
    noncausal_cross  authors' code. As noncausal_self; one table of centroids routes queries and memory.
    causal_cross     extension. The top w over queries would leak: a query belongs to its nearest centroid, and sees
                     the w memory tokens that score highest with that centroid, over the whole memory.

Local heads (paper): the first `local_heads` heads see their own block and the one before, in noncausal patterns also
the one after. There are none in cross patterns.

Centroids are a moving average: m_c <- decay m_c + (1 - decay) sum LN(x_i), n_c likewise of counts, mu_c = m_c / n_c
with the counts smoothed (authors' code), over queries and keys of all training forwards since the last step, without
padding. They change in `after_step` only. The auxiliary loss is commitment * mean |LN(x_i) - mu_c(i)|^2.

Where this differs from the paper: logits are scaled by d^-1/2, as everywhere (the authors' code does not, lucidrains'
does); only the shared keys are normalised, other queries and keys are used as projected; scores use the *direction* of
centroids, because the average of a wide cluster is shorter; rotary positions instead of relative ones, on the queries
and keys of all heads, after clusters were chosen: those are of content alone. A dead
centroid, with less than `dead` of the mean moving count, is moved beside one of the fullest and takes half of it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from attentions.base import Mixer, Pattern, Shape, State, Unsupported, check_causal, no_loss
from attentions.ops.banded import Ring, local_attention
from attentions.ops.clustered import (
    Groups,
    assigned_attention,
    grouped_attention,
    last_tokens,
    rows_of,
    top_tokens,
    windowed_attention,
)
from attentions.ops.positions import HeadNorm, Rotary
from attentions.parts.routing_centroids import Centroids, normed
from attentions.projected import ProjectedAttention

Membership = Literal["strict", "balanced"]
Heads = tuple[Tensor, Tensor, Tensor]
Group = tuple[Tensor, Tensor | None]
"""The tokens of each cluster, as `top_tokens` returns them."""


class Routed(Mixer):
    """Local heads first, then routing heads. In causal_self only the keys of local heads are used."""

    def __init__(
        self,
        shape: Shape,
        pattern: Pattern,
        centroids: Centroids,
        window: int,
        local_heads: int,
        local_window: int,
        membership: Membership,
    ) -> None:
        super().__init__(shape, pattern)
        self.centroids, self.window = centroids, window
        self.local_heads, self.local_window, self.membership = local_heads, local_window, membership
        self.shared = pattern is Pattern.CAUSAL_SELF  # keys are normed queries
        self.pointwise = pattern.causal and membership == "strict"  # queries go to their nearest centroid
        self.rotary = Rotary(shape.head_dim) if shape.rotary and not pattern.cross else None
        self.groups: dict[str, tuple[Group, Tensor | None, int]] = {}  # of the last forward, for `statistics`

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, q_valid: Tensor | None = None, k_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        local, (q, k, v) = self._split_heads(q, k, v)
        x = normed(q)
        z = x if self.shared else normed(k)
        q, k = self._placed(q), self._placed(x.to(q.dtype) if self.shared else k)
        nearest = self.centroids.nearest(x) if self.training or self.pointwise else x.new_empty(0)
        loss = no_loss(q)
        if self.training:  # before the attention: then the backward of the loss comes after that of the attention
            self.centroids.last_counts = None
            loss = self.centroids.observe(x, nearest, q_valid)
            if not self.shared:
                loss = (loss + self.centroids.observe(z, self.centroids.nearest(z), k_valid)) / 2
        if self.pointwise and self.shared:  # padding is to the right: no valid token sees it
            y = windowed_attention(q, k, v, nearest, self.window)
        elif self.pointwise:
            y = assigned_attention(q, k, v, nearest, self._group("unread", z, k_valid))
        else:
            group = self._group("uncovered", x, q_valid)
            k_group = group if self.shared else self._group("unread", z, k_valid)
            y = grouped_attention(q, k, v, group, k_group, causal=self.shared)
        if self.local_heads:
            near = local_attention(*self._placed_local(local), self.local_window, self.pattern.causal, k_valid)
            y = torch.cat([near, y], 1)
        return y, loss

    def prefill(self, q: Tensor, k: Tensor, v: Tensor, k_valid: Tensor | None = None) -> tuple[Tensor, State]:
        check_causal(self.pattern)
        if self.membership == "balanced":
            raise Unsupported("membership=balanced cannot be decoded: who is in a cluster depends on later tokens")
        local, (q, k, v) = self._split_heads(q, k, v)
        x = normed(q)
        nearest = self.centroids.nearest(x)
        if self.pattern.cross:
            index, valid = self._group("unread", normed(k), k_valid)
            y = assigned_attention(q, k, v, nearest, (index, valid))
            counts = torch.full_like(index[..., 0], index.shape[-1]) if valid is None else valid.sum(-1)
            return y, (Groups(rows_of(k, index), rows_of(v, index), counts), None, 0)
        n, keys = q.shape[2], self._placed(x.to(q.dtype))
        y = windowed_attention(self._placed(q), keys, v, nearest, self.window)
        index, counts = last_tokens(nearest, self.centroids.clusters, self.window)
        groups = Groups(rows_of(keys, index), rows_of(v, index), counts)
        if not self.local_heads:
            return y, (groups, None, n)
        local = self._placed_local(local)
        near = local_attention(*local, self.local_window, True, None)
        return torch.cat([near, y], 1), (groups, Ring.of(*local[1:], 2 * self.local_window), n)

    def step(self, q: Tensor, k: Tensor | None, v: Tensor | None, state: State) -> tuple[Tensor, State]:
        groups, ring, seen = state
        if k is None or v is None:
            return groups.read(q, self.centroids.nearest(normed(q))), state
        local, (q, _, v) = self._split_heads(q, k, v)
        x = normed(q)
        nearest = self.centroids.nearest(x)
        groups.put(self._placed(x, seen), v, nearest)
        y = groups.read(self._placed(q, seen), nearest)
        if ring is not None:
            local = self._placed_local(local, seen)
            ring = ring.put(*local[1:])
            first = (seen // self.local_window - 1) * self.local_window  # of the block before
            y = torch.cat([ring.read(local[0], first), y], 1)
        return y, (groups, ring, seen + 1)

    def state_size(self, n: int, m: int = 0) -> int:
        dim, local = self.shape.head_dim, self.local_heads
        window = min(self.window, m) if self.pattern.cross else self.window
        groups = (self.shape.heads - local) * self.centroids.clusters * (2 * window * dim + 1)
        return groups + local * 2 * 2 * self.local_window * dim

    def statistics(self) -> dict[str, Tensor]:
        """Of the last forward. occupancy (H, C): the share of tokens nearest to each centroid (training only);
        uncovered: the share of queries in no group, which get 0 (0 where queries go to their nearest centroid);
        unread: the share of memory or keys in no group, where groups of keys are formed."""
        found = {"uncovered": torch.zeros(())}
        if self.centroids.last_counts is not None:
            found["occupancy"] = self.centroids.last_counts / self.centroids.last_counts.sum(-1, keepdim=True)
        for name, ((index, real), valid, n) in self.groups.items():
            inside = torch.ones_like(index) if real is None else real.long()
            member = inside.new_zeros(*index.shape[:2], n).scatter_add(-1, index.flatten(2), inside.flatten(2)) > 0
            total = member.numel() if valid is None else valid.sum().clamp(min=1) * index.shape[1]
            found[name] = 1 - member.sum() / total
        return found

    def _placed(self, x: Tensor, start: int = 0) -> Tensor:
        return x if self.rotary is None else self.rotary(x, start)

    def _placed_local(self, heads: Heads, start: int = 0) -> Heads:
        q, k, v = heads
        return self._placed(q, start), self._placed(k, start), v

    def _group(self, name: str, x: Tensor, valid: Tensor | None) -> Group:
        group = top_tokens(self.centroids.scores(x), valid, self.window)
        self.groups[name] = group, valid, x.shape[2]
        return group

    def _split_heads(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Heads, Heads]:
        """Those of local heads and those of routing heads."""
        count = self.local_heads
        return (q[:, :count], k[:, :count], v[:, :count]), (q[:, count:], k[:, count:], v[:, count:])


class Routing(ProjectedAttention):
    support: ClassVar[Mapping[Pattern, str]] = {
        Pattern.NONCAUSAL_SELF: "paper",
        Pattern.CAUSAL_SELF: "paper",
        Pattern.NONCAUSAL_CROSS: "reference code",
        Pattern.CAUSAL_CROSS: "extension",
    }
    mixer: Routed

    def __init__(
        self,
        shape: Shape,
        pattern: Pattern,
        layer: int,
        layers: int,
        *,
        clusters: int | None = None,
        window: int | None = None,
        local_heads: int | None = None,
        local_window: int | None = None,
        membership: Membership = "strict",
        decay: float = 0.999,
        commitment: float = 1e-4,
        dead: float = 0.02,
    ) -> None:
        """`clusters` x `window` is about the design length (in cross patterns, of the memory). If only one is given,
        the other follows; if none is given, both are about the square root. `local_heads` None is half of the heads in
        self patterns and 0 in cross patterns."""
        length = shape.memory or shape.length if pattern.cross else shape.length
        if clusters is None:
            clusters = math.isqrt(length) if window is None else max(1, length // max(1, window))
        if window is None:
            window = -(-length // max(1, clusters))
        local_window = window if local_window is None else local_window
        if local_heads is None:
            local_heads = 0 if pattern.cross else shape.heads // 2
        for name, value, least, most in (
            ("clusters", clusters, 1, length),
            ("window", window, 1, length),
            ("local_heads", local_heads, 0, 0 if pattern.cross else shape.heads - 1),
            ("local_window", local_window, 1, length),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                allowed = f"use {least} <= attention.{name} <= {most}"
                raise ValueError(f"{name}={value!r} in {pattern} at design length {length}: {allowed}")
        for name, share, below in (("decay", decay, True), ("dead", dead, True), ("commitment", commitment, False)):
            if not share >= 0 or (below and not share < 1):
                raise ValueError(f"{name}={share!r}: use {name} >= 0" + (" and < 1" if below else ""))
        if membership not in get_args(Membership):
            raise ValueError(f"membership={membership!r}: use one of {', '.join(get_args(Membership))}")
        if membership == "balanced" and pattern is Pattern.CAUSAL_CROSS:
            raise Unsupported("membership=balanced is a form of causal_self, and what noncausal patterns do anyway")
        centroids = Centroids(shape.heads - local_heads, clusters, shape.head_dim, decay, commitment, dead)
        mixer = Routed(shape, pattern, centroids, window, local_heads, local_window, membership)
        super().__init__(shape, pattern, layer, layers, mixer)
        if pattern is Pattern.CAUSAL_SELF:  # routing heads share queries and keys
            del self.key
            if local_heads:
                self.key = nn.Linear(shape.dim, local_heads * shape.head_dim, bias=False)
            if self.key_norm is not None:
                self.key_norm = HeadNorm(local_heads, shape.head_dim) if local_heads else None

    def make_positions(self) -> nn.Module | None:
        return None  # the mixer has them

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        if self.pattern is not Pattern.CAUSAL_SELF:
            return super().keys_values(source)
        v = self.split(self.value(source))
        local = self.mixer.local_heads
        if not local:
            return v[:, :0], v
        return self.key(source).unflatten(-1, (local, -1)).transpose(1, 2), v

    def observed(self) -> Sequence[Tensor]:
        return self.mixer.centroids.accumulated or ()

    def after_step(self) -> None:
        self.mixer.centroids.update()

    def statistics(self) -> dict[str, Tensor]:
        return self.mixer.statistics()
