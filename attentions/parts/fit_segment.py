"""A segment of FIT (see attentions/fit.py): local layers, latents that read them, latent layers, tokens that read back.

Here tokens are (B T, n, D), a group a row, and latents are (B, G, m, D), where the last T of the G groups have tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from attentions.base import Pattern, Shape, State, no_loss, zero_padding
from attentions.parts.fit_local import LocalLayers, LocalState
from attentions.residual import MakeFeedForward, ResidualLayer
from attentions.vanilla import Softmax, Vanilla


class ChunkSoftmax(Softmax):
    """Causal over chunks of `chunk` places, full inside a chunk. A step takes a whole chunk."""

    def __init__(self, shape: Shape, pattern: Pattern, chunk: int) -> None:
        super().__init__(shape, pattern)
        self.chunk = chunk

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        if causal and self.chunk > 1:
            chunk = torch.arange(q.shape[2], device=q.device) // self.chunk
            mask, causal = chunk.unsqueeze(1) >= chunk, False  # (T m, T m), the same for all rows and heads
        return super().attend(q, k, v, mask, causal)


class LatentAttention(Vanilla):
    """Self attention over all latents, causal over groups in causal patterns. Their place is in what they start as."""

    def __init__(self, shape: Shape, pattern: Pattern, layer: int, layers: int, latents: int) -> None:
        super().__init__(shape, pattern, layer, layers)
        self.mixer = ChunkSoftmax(shape, pattern, latents)

    def make_positions(self) -> None:
        return None


class FewQueries(Vanilla):
    """Few queries x (R, m, D) over many tokens (R, n, D): vanilla attention in fewer operations.

    Per head q . (Wk s) = (Wk^T q) . s and sum_s p_s Wv s = Wv sum_s p_s s: the projections are applied to the queries
    instead of the tokens, H m D operations per token instead of D^2.
    """

    def forward(
        self, x: Tensor, memory: Tensor | None = None, valid: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if memory is None or x.shape[1] >= self.shape.head_dim:
            return super().forward(x, memory, valid, memory_valid)
        key, value = (w.weight.unflatten(0, (self.shape.heads, -1)) for w in (self.key, self.value))  # (H, d, D)
        scale = self.shape.head_dim**-0.5
        query = torch.einsum("rhmd,hde->rhme", self.queries(x) * scale, key).flatten(1, 2)  # (R, H m, D)
        scores = query @ memory.mT  # (R, H m, n)
        some = None
        if memory_valid is not None:
            some = memory_valid.any(-1)[:, None, None]
            scores = scores.masked_fill(~memory_valid.unsqueeze(1) & some, float("-inf"))
        pooled = (scores.softmax(-1) @ memory).unflatten(1, (self.shape.heads, -1))  # (R, H, m, D)
        mixed = torch.einsum("rhme,hde->rmhd", pooled, value).flatten(-2)
        y = self.out(mixed if some is None else mixed * some)
        return zero_padding(y, valid), no_loss(x)


class FewKeys(Vanilla):
    """Many queries x (R, n, D) over few latents (R, m, D): Wq is applied to the keys, Wo to the values."""

    def forward(
        self, x: Tensor, memory: Tensor | None = None, valid: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if memory is None or memory_valid is not None or memory.shape[1] >= self.shape.head_dim:
            return super().forward(x, memory, valid, memory_valid)
        heads, scale = self.shape.heads, self.shape.head_dim**-0.5
        query, out = (w.unflatten(0, (heads, -1)) for w in (self.query.weight, self.out.weight.mT))  # (H, d, D)
        k, v = self.keys_values(memory)  # (R, H, m, d)
        keys = torch.einsum("rhmd,hde->rhme", k * scale, query).flatten(1, 2)  # (R, H m, D)
        values = torch.einsum("rhmd,hde->rhme", v, out).flatten(1, 2)
        scores = (x @ keys.mT).unflatten(-1, (heads, -1))  # (R, n, H, m)
        return zero_padding(scores.softmax(-1).flatten(-2) @ values, valid), no_loss(x)


class Read(nn.Module):
    """x + attention(norm(x), source); the source is normed unless it is the memory."""

    def __init__(self, attention: Vanilla, norm_source: bool) -> None:
        super().__init__()
        dim = attention.shape.dim
        self.norm = nn.LayerNorm(dim)
        self.source_norm = nn.LayerNorm(dim) if norm_source else nn.Identity()
        self.attention = attention

    def forward(self, x: Tensor, source: Tensor, source_valid: Tensor | None = None) -> Tensor:
        return x + self.attention(self.norm(x), self.source_norm(source), None, source_valid)[0]

    def prefill(self, x: Tensor, source: Tensor, source_valid: Tensor | None = None) -> tuple[Tensor, State]:
        y, state = self.attention.prefill(self.norm(x), self.source_norm(source), source_valid)
        return x + y, state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.attention.step(self.norm(x), state)
        return x + y, state


@dataclass
class SegmentState:
    """What a segment keeps while decoding. Layers that have seen nothing yet have no states."""

    before: State = None
    """(B, m, D): the latents that the open group reads; None once `spread` has their keys and values."""
    spread: State = None
    local: LocalState = field(default_factory=LocalState)
    seen: list[Tensor] = field(default_factory=list)
    """Tokens of the open group after the local layers, (B, j, D) each, for the latents to read at its end."""
    memory: State = None
    latent: list[State] = field(default_factory=list)


class Segment(nn.Module):
    """`local` and `latent` layers, and the attentions between tokens, latents and memory."""

    def __init__(
        self, shape: Shape, pattern: Pattern, feedforward: MakeFeedForward, local: int, latent: int, latents: int
    ) -> None:
        super().__init__()
        own = Pattern.CAUSAL_SELF if pattern.causal else Pattern.NONCAUSAL_SELF
        self.local = LocalLayers(shape, pattern, feedforward, local)
        shape = replace(shape, conv=0)
        thinkers = [LatentAttention(shape, own, i, latent, latents) for i in range(latent)]
        self.latent: Sequence[ResidualLayer] = nn.ModuleList(  # type: ignore[assignment]
            ResidualLayer(shape, attention, None, feedforward) for attention in thinkers
        )
        cross = Pattern.CAUSAL_CROSS if pattern.causal else Pattern.NONCAUSAL_CROSS
        self.gather = Read(FewQueries(shape, cross, 0, 1), norm_source=True)
        self.spread = Read(FewKeys(shape, cross, 0, 1), norm_source=True)
        self.recall = Read(Vanilla(shape, cross, 0, 1), norm_source=False) if pattern.cross else None

    def look(
        self, x: Tensor, z: Tensor, real: Tensor | None, kept: SegmentState | None = None
    ) -> tuple[Tensor, Tensor]:
        """Local layers, and latents that read them. real (B T, n): tokens that are not padding."""
        batch, groups = z.shape[:2]
        x = self.local(x, batch, real, None if kept is None else kept.local)
        count = x.shape[0] // batch
        ahead, own = z.split([groups - count, count], 1)
        own = self.gather(own.flatten(0, 1), x, real).unflatten(0, (batch, count))
        return x, own if groups == count else torch.cat([ahead, own], 1)

    def think(
        self,
        z: Tensor,
        some: Tensor | None,
        memory: Tensor | None,
        memory_valid: Tensor | None,
        kept: SegmentState | None = None,
    ) -> Tensor:
        """Latents that read the memory, and latent layers. some (B, G m): latents of groups with real tokens.

        `kept`, an empty state, is filled for decoding.
        """
        groups, latents = z.shape[1:3]
        z = z.flatten(1, 2)  # (B, G m, D)
        if self.recall is not None and memory is not None:
            if kept is None:
                z = self.recall(z, memory, memory_valid)
            else:
                z, kept.memory = self.recall.prefill(z, memory, memory_valid)
        if kept is None:
            for layer in self.latent:
                z, _ = layer(z, None, some, None)
        else:
            z, kept.latent = further(self.latent, z, [])
            kept.before = z[:, -latents:].clone()
        return z.unflatten(1, (groups, latents))

    def step(self, x: Tensor, kept: SegmentState) -> Tensor:
        """Further tokens (B, j, D) of the open group: one, or several that begin it."""
        x = self.local.step(x, kept.local)
        kept.seen.append(x)
        if kept.spread is None:
            x, kept.spread = self.spread.prefill(x, kept.before)
        else:
            x, kept.spread = self.spread.step(x, kept.spread)
        kept.before = None
        return x

    def close(self, z: Tensor, kept: SegmentState) -> Tensor:
        """The latents (B, m, D) of a group that has just become complete; the next group is open and empty."""
        z = self.gather(z, torch.cat(kept.seen, 1))
        if self.recall is not None:
            z, kept.memory = self.recall.step(z, kept.memory)
        z, kept.latent = further(self.latent, z, kept.latent)
        kept.local.layers, kept.seen, kept.before, kept.spread = [], [], z, None
        return z


def further(layers: Sequence[ResidualLayer], x: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
    """Causal layers on the next tokens; `states` is empty for the first ones."""
    after = []
    for i, layer in enumerate(layers):
        x, state = layer.step(x, states[i]) if states else layer.prefill(x, None, None)
        after.append(state)
    return x, after
