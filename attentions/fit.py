"""FIT, Far-reaching Interleaved Transformers: local layers inside groups of tokens, global layers over a few latents.

Chen and Li 2023, arXiv 2305.12689; causal form FITAR, memory after FITDenoiser, both from the authors' code.

Tokens x_g (n per group), latents z_g (m per group), g = 0 .. T-1 with T = ceil(N / n). A layout "(a)b(a)b ... (a)" is
a row of segments: a local layers, b latent layers; the last a may be 0. Each segment, all of it pre-norm:

    x_g <- a transformer layers inside the group
    z_g <- z_g + attention(norm(z_g), norm(x_g));   z <- z + attention(norm(z), memory)   in cross patterns
    z   <- b transformer layers over all T m latents
    x_g <- x_g + attention(norm(x_g), norm(z_g))

Causal patterns: local layers are causal; latent layers are causal over groups and full inside a group; x_g reads the
latents of the group before, z_{g-1}. Then z_g knows groups <= g, and a token knows earlier groups and its own past in
its group. Group 0 reads zeros (causal_self) or the latents of an extra group -1 (causal_cross), which start as
separate parameters and read the memory as the others do.

With m below the head width, the projections of tokens in the two reads are folded into those of the few latents.

A group sees other groups and the memory only through latents that were formed before the group began. So an answer that
depends on a query comes in the next group at the earliest, up to n tokens later; the architecture cannot give it at
once.

Time O(N n + (N m / n)^2) for attention, least at n of order (N m^2)^(1/3): with that default O(N^(4/3)). In cross
patterns also O(N m / n M). Groups are fixed by the design length, so that a prefix of an input gives a prefix of the
outputs. In decoding, a token attends to its group and to m latents; the latent layers run at the end of each group.

Patterns: noncausal_self and causal_self are the paper's, noncausal_cross and causal_cross are extensions.

Depth: local and latent layers together are `shape.depth`, at least 2. Without a `layout` they alternate; an even depth
makes the last latent stage one layer longer: 2 is (1)1(0), 3 (1)1(1), 4 (1)2(1), 5 (1)1(1)1(1), 6 (1)1(1)2(1).

Deviations: latents are as wide as tokens. There is no input projection and norm; a learned position inside the group is
added to tokens, and local layers are rotary where positions are not in the input. Latents start as m vectors, learned
and the same in every group, plus sinusoids of their place g m + j, where the authors learn a table for a maximum
length. The authors have no padding masks. Their FITAR shifts its inputs by one token; here y_t uses x_t and the task
shifts. A short convolution (`shape.conv`) is before local layers only, and runs over the tokens of all groups.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import (
    Pattern,
    Shape,
    Stack,
    State,
    check_causal,
    check_memory,
    check_whole,
    mark_position,
    no_loss,
    zero_padding,
)
from attentions.parts.fit_local import LocalLayers, LocalState
from attentions.parts.fit_segment import Segment, SegmentState
from attentions.residual import MLP, MakeFeedForward

GROUP_UNIT = 8
"""The default group size is a multiple of this."""


def split_depth(depth: int) -> str:
    """The layout of `depth` layers that alternates (see above)."""
    latent = depth // 2
    stages = max(1, (depth - 1) // 2)
    return "(1)1" * (stages - 1) + f"(1){latent - stages + 1}" + ("(1)" if depth > 2 else "(0)")


def read_layout(layout: str, depth: int) -> list[tuple[int, int]]:
    """(local, latent) layers of each segment; the last entry has no latent layers."""
    if not isinstance(layout, str) or not re.fullmatch(r"(\(\d+\)[1-9]\d*)+\(\d+\)", layout):
        raise ValueError(f"layout={layout!r}: local layers in brackets, latent layers between, as in (1)1(1)1(1)")
    stages = [(int(local), int(latent or 0)) for local, latent in re.findall(r"\((\d+)\)(\d*)", layout)]
    total = sum(local + latent for local, latent in stages)
    if total != depth:
        raise ValueError(f"layout={layout} has {total} layers, the depth is {depth}: {split_depth(depth)} would do")
    return stages


def default_group(length: int, latents: int) -> int:
    """About (N m^2)^(1/3), where local and latent attention cost the same."""
    rounded = GROUP_UNIT * round((length * latents**2) ** (1 / 3) / GROUP_UNIT)
    return min(length, max(GROUP_UNIT, rounded))


def sinusoids(first: int, count: int, like: Tensor) -> Tensor:
    """(count, D): sine and cosine of the places first, first + 1, ... in turns."""
    dim = like.shape[-1]
    dtype = torch.promote_types(like.dtype, torch.float32)
    rate = 10_000 ** (-torch.arange(0, dim, 2, device=like.device, dtype=dtype) / dim)
    angle = torch.arange(first, first + count, device=like.device, dtype=dtype).unsqueeze(1) * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim]


@dataclass
class FITState:
    """What the stack keeps while decoding."""

    segments: list[SegmentState]
    groups: int
    """Complete groups."""
    inside: int = 0
    """Tokens in the open group."""
    last: LocalState = field(default_factory=LocalState)


class FIT(Stack):
    """`layout` None alternates over `shape.depth`; `group` None is about (N m^2)^(1/3), m = `latents` per group."""

    support = dict.fromkeys(Pattern, "extension") | dict.fromkeys(
        (Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF), "paper"
    )
    positions = "rotary in local layers, learned places in groups, sinusoids of latents"
    min_depth = 2

    def __init__(
        self,
        shape: Shape,
        pattern: Pattern,
        feedforward: MakeFeedForward = MLP,
        *,
        layout: str | None = None,
        group: int | None = None,
        latents: int = 4,
    ) -> None:
        super().__init__(shape, pattern)
        check_whole("latents", latents)
        group = default_group(shape.length, latents) if group is None else group
        check_whole("group", group)
        if group > shape.length:
            raise ValueError(
                f"group={group} is longer than the design length {shape.length}: use attention.group<={shape.length}"
            )
        stages = read_layout(split_depth(shape.depth) if layout is None else layout, shape.depth)
        self.group, self.latents = group, latents
        self.segments: Sequence[Segment] = nn.ModuleList(  # type: ignore[assignment]
            Segment(shape, pattern, feedforward, local, latent, latents) for local, latent in stages[:-1]
        )
        self.last = LocalLayers(shape, pattern, feedforward, stages[-1][0])
        self.norm = nn.LayerNorm(shape.dim)
        self.position = mark_position(nn.Parameter(0.02 * torch.randn(self.group, shape.dim)))
        self.latent = nn.Parameter(0.5**0.5 * torch.randn(latents, shape.dim))  # as large as the sinusoids
        self.ahead = int(pattern is Pattern.CAUSAL_CROSS)  # groups of latents without tokens
        self.first = nn.Parameter(0.5**0.5 * torch.randn(latents, shape.dim)) if self.ahead else None

    def forward(
        self, x: Tensor, memory: Tensor | None = None, valid: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        check_memory(self.pattern, memory)
        length = x.shape[1]
        missing = -length % self.group
        real = None  # (B, T n). In causal patterns padding is to the right of every valid token: no mask is needed
        if not self.pattern.causal and (valid is not None or missing):
            real = torch.ones_like(x[..., 0], dtype=torch.bool) if valid is None else valid
            real = F.pad(real, (0, missing)).unflatten(1, (-1, self.group))
        groups = F.pad(x, (0, 0, 0, missing)).unflatten(1, (-1, self.group))
        y = self._run(groups, memory, real, memory_valid).flatten(1, 2)[:, :length]
        return zero_padding(self.norm(y), valid), no_loss(x)

    def prefill(
        self, x: Tensor, memory: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> tuple[Tensor, State]:
        check_causal(self.pattern)
        check_memory(self.pattern, memory)
        count = x.shape[1] // self.group
        whole, rest = x[:, : count * self.group], x[:, count * self.group :]
        state = FITState([SegmentState() for _ in self.segments], count)
        outputs = []
        if count:
            groups = whole.unflatten(1, (count, self.group))
            outputs.append(self.norm(self._run(groups, memory, None, memory_valid, state).flatten(1, 2)))
        else:
            z = self._start(x.shape[0], -self.ahead, self.ahead)  # (B, 0 or 1, m, D)
            for segment, kept in zip(self.segments, state.segments, strict=True):
                if self.ahead:
                    z = segment.think(z, None, memory, memory_valid, kept)
                else:
                    kept.before = x.new_zeros(x.shape[0], self.latents, x.shape[2])
        if rest.shape[1]:
            y, state = self.step(rest, state)
            outputs.append(y)
        return torch.cat(outputs, 1), state

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """Also takes several tokens, if they begin a group and all fit in it."""
        x = x_t + self.position[state.inside : state.inside + x_t.shape[1]]
        for segment, kept in zip(self.segments, state.segments, strict=True):
            x = segment.step(x, kept)
        x = self.last.step(x, state.last)
        state.inside += x.shape[1]
        if state.inside == self.group:
            z = self._start(x.shape[0], state.groups, 1).flatten(1, 2)  # (B, m, D)
            for segment, kept in zip(self.segments, state.segments, strict=True):
                z = segment.close(z, kept)
            state.groups, state.inside, state.last.layers = state.groups + 1, 0, []
        return self.norm(x), state

    def state_size(self, n: int, m: int = 0) -> int:
        groups, inside = divmod(n, self.group)
        numbers = self.last.state_size(inside)
        vectors = 0
        for segment in self.segments:
            numbers += segment.local.state_size(inside)
            vectors += inside  # what the latents will read
            vectors += self.latents * (2 if inside else 1)  # the latents before, or their keys and values
            vectors += 2 * len(segment.latent) * self.latents * (groups + self.ahead)
            vectors += 2 * m if self.pattern.cross else 0
        return numbers + vectors * self.shape.dim

    def _start(self, batch: int, first: int, count: int) -> Tensor:
        """(B, G, m, D): the initial latents of groups first .. first + count - 1."""
        places = sinusoids(first * self.latents, count * self.latents, self.latent).unflatten(0, (count, self.latents))
        own = self.latent.expand(count, -1, -1)
        if first < 0 and self.first is not None:
            own = torch.cat([self.first.unsqueeze(0), own[1:]])
        return (own + places.to(own.dtype)).expand(batch, -1, -1, -1)

    def _run(
        self,
        x: Tensor,
        memory: Tensor | None,
        real: Tensor | None,
        memory_valid: Tensor | None,
        state: FITState | None = None,
    ) -> Tensor:
        """x (B, T, n, D), real (B, T, n), to outputs before the last norm; fills `state` for decoding."""
        batch, count = x.shape[:2]
        z = self._start(batch, -self.ahead, self.ahead + count)  # (B, G, m, D)
        some = None if real is None else real.any(-1).repeat_interleave(self.latents, 1)  # (B, T m)
        real = None if real is None else real.flatten(0, 1)  # (B T, n)
        x = (x + self.position).flatten(0, 1)  # (B T, n, D): groups are rows
        for segment, kept in zip_longest(self.segments, state.segments if state else ()):
            x, z = segment.look(x, z, real, kept)
            z = segment.think(z, some, memory, memory_valid, kept)
            seen = z
            if self.pattern.causal:  # group g reads g - 1
                seen = z[:, :-1] if self.ahead else F.pad(z[:, :-1], (0, 0, 0, 0, 1, 0))
            x = segment.spread(x, seen.flatten(0, 1))
        x = self.last(x, batch, real, None if state is None else state.last)
        return x.unflatten(0, (batch, count))
