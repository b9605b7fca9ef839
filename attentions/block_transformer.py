"""Block Transformer: attention between blocks of tokens, then attention inside each block.

Ho et al. 2024, "Block Transformer: Global-to-Local Language Modeling for Fast Inference", NeurIPS 2024,
arXiv 2406.02657. For blocks b of L tokens:

    e_b = [E x_bL, ..., E x_bL+L-1]          embedder: D -> D/L for each token, concatenated
    c_b = blocks(e_0, ..., e_b)              block stack: a transformer over N/L units
    y_b = tokens([P c_b-1, x_b])             token stack: a transformer over p prefixes and the L tokens of one block

Time O(N (D^2 + (L + p) D) + (N/L)^2 D), memory O(N D): attention between units costs 1/L^2 of vanilla's, feed-forwards
of the block stack 1/L, those of the token stack (L + p) / L. A decoder keeps keys and values of N/L units, touched once
per L tokens, and of one block of tokens.

Causality: y_t may use x_t, so the tokens of block b read the context of blocks < b (c_b would leak the block's own
future), and x of their own block up to t. Blocks are counted from the left end at any length: a prefix of an input
gives a prefix of the outputs, and a prompt may end inside a block. In causal patterns a learned start vector is unit -1
of the block stack, so that block 0 has a context and every token gets an output (the authors' code never predicts the
first block).

Deviations from the paper: inputs are features, not token ids, so the embedder is a linear map instead of a table, and
the token stack takes x. Both stacks have rotary positions (paper), of units and inside windows; where positions are in
the input instead, the token stack adds a learned table of its p + L places. Depth is split 1:1; with an odd depth the
block stack gets one more. The last token layer computes no outputs for prefixes, because nothing reads them. A short
convolution (`shape.conv`) is before token layers only, and runs over the tokens of all blocks.

Patterns: causal_self is the paper's. Extensions: noncausal_self runs both stacks in both directions and block b reads
its own c_b. Cross patterns add a cross attention over the memory to every layer of the block stack (not of the token
stack): noncausal_cross otherwise as noncausal_self, causal_cross as causal_self. There block b sees the memory only
through queries of blocks < b (block 0 through the start vector): what x_t asks for arrives from the next block on, 1 to
L tokens later. In a recall task that is a delay by construction.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

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
from attentions.ops.short_convolution import ShortConvolution
from attentions.residual import MLP, MakeFeedForward, ResidualStack
from attentions.vanilla import Softmax, Vanilla

LARGEST_BATCH = 2**16 - 1
"""The largest batch of fused CUDA kernels (pytorch issue 146704). Every window is a row of the batch."""


class BlockTransformer(Stack):
    """`block` is L, `prefixes` is p, the number of tokens that a context becomes."""

    support = dict.fromkeys(Pattern, "extension") | {Pattern.CAUSAL_SELF: "paper"}
    positions = "rotary in both stacks"
    min_depth = 2

    def __init__(
        self, shape: Shape, pattern: Pattern, feedforward: MakeFeedForward = MLP, *, block: int = 4, prefixes: int = 2
    ) -> None:
        super().__init__(shape, pattern)
        _check_options(shape, block, prefixes)
        self.block, self.prefixes = block, prefixes
        own = Pattern.CAUSAL_SELF if pattern.causal else Pattern.NONCAUSAL_SELF
        depth = shape.depth // 2
        windows = replace(shape, depth=depth, length=prefixes + block, memory=0)
        units = replace(shape, depth=shape.depth - depth, length=math.ceil(shape.length / block), conv=0)

        def between(kind: Pattern) -> list[Vanilla]:
            return [Vanilla(units, kind, layer, units.depth) for layer in range(units.depth)]

        self.embed = nn.Linear(shape.dim, shape.dim // block, bias=False)
        self.blocks = ResidualStack(units, between(own), between(pattern) if pattern.cross else (), feedforward)
        self.prefix = nn.Linear(shape.dim, prefixes * shape.dim)
        self.tokens = TokenStack(windows, own, feedforward, prefixes)
        table = None if shape.rotary else mark_position(nn.Parameter(0.02 * torch.randn(prefixes + block, shape.dim)))
        self.places = table
        self.start = nn.Parameter(torch.randn(shape.dim)) if pattern.causal else None

    def forward(
        self, x: Tensor, memory: Tensor | None = None, valid: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        check_memory(self.pattern, memory)
        length, mask = x.shape[1], valid
        lacking = -length % self.block
        if mask is None and lacking and not self.pattern.causal:  # in causal patterns nothing reads to the right
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        x = F.pad(zero_padding(x, valid), (0, 0, 0, lacking)).unflatten(1, (-1, self.block))  # (B, n, L, D), n = N / L
        if mask is not None:
            mask = F.pad(mask, (0, lacking)).unflatten(1, (-1, self.block))  # (B, n, L)
        units = self._shifted(self._units(x[:, :-1])) if self.pattern.causal else self._units(x)  # (B, n, D)
        # Unit b is of block b or, shifted, of the one before. Nothing reads it if block b has no token.
        context, auxiliary = self.blocks(units, memory, None if mask is None else mask.any(-1), memory_valid)
        y, more = self._inside(context, x, mask)
        return zero_padding(y.flatten(1, 2)[:, :length], valid), auxiliary + more

    def prefill(
        self, x: Tensor, memory: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> tuple[Tensor, State]:
        check_causal(self.pattern)
        check_memory(self.pattern, memory)
        begin = (x.shape[1] - 1) // self.block * self.block  # of the last block, which has 1 to L tokens
        past, last = x[:, :begin].unflatten(1, (begin // self.block, self.block)), x[:, begin:]
        context, blocks = self.blocks.prefill(self._shifted(self._units(past)), memory, memory_valid)
        tails: list[State] = []
        if begin:
            before, _ = self._inside(context[:, :-1], past, None, tails)
        y, tokens = self.tokens.begin_block(self._windows(context[:, -1:], last.unsqueeze(1)), tails)
        if begin:
            y = torch.cat([before.flatten(1, 2), y], 1)
        return y, (list(self.embed(last).split(1, dim=1)), tokens, blocks)

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        embedded, tokens, blocks = state  # embedded: the tokens of the block so far, (B, 1, D/L) each
        if len(embedded) < self.block:
            place = self.prefixes + len(embedded)
            y, tokens = self.tokens.step(x_t if self.places is None else x_t + self.places[place], tokens)
        else:
            context, blocks = self.blocks.step(torch.cat(embedded, -1), blocks)
            tails, _ = tokens
            y, tokens = self.tokens.begin_block(self._windows(context, x_t.unsqueeze(1)), tails)
            embedded = []
        return y, ([*embedded, self.embed(x_t)], tokens, blocks)

    def state_size(self, n: int, m: int = 0) -> int:
        past = (n - 1) // self.block  # blocks that are units; the start vector is one more
        inside = n - past * self.block
        return (
            self.blocks.state_size(past + 1, m)
            + self.tokens.state_size(self.prefixes + inside)
            + inside * self.embed.out_features
        )

    def _units(self, x: Tensor) -> Tensor:
        """Blocks (B, n, L, D) to units (B, n, D)."""
        return self.embed(x).flatten(-2)

    def _shifted(self, units: Tensor) -> Tensor:
        """The start vector, then the units: (B, n + 1, D). Block b may read the output at b."""
        assert self.start is not None
        return torch.cat([self.start.expand(units.shape[0], 1, -1), units], 1)

    def _windows(self, context: Tensor, x: Tensor) -> Tensor:
        """Contexts (B, n, D) and up to L first tokens of each block (B, n, l, D) to windows (B n, p + l, D)."""
        prefixes = self.prefix(context).unflatten(-1, (self.prefixes, -1))  # (B, n, p, D)
        window = torch.cat([prefixes, x], 2)
        if self.places is not None:
            window = window + self.places[: window.shape[2]]
        return window.flatten(0, 1)

    def _inside(
        self, context: Tensor, x: Tensor, mask: Tensor | None, tails: list[State] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Contexts (B, n, D), blocks (B, n, L, D) and which tokens are real (B, n, L) to y (B, n, L, D) and a loss.

        Adds the state of each convolution to `tails`."""
        if mask is not None:
            mask = F.pad(mask, (self.prefixes, 0), value=True).flatten(0, 1)  # (B n, p + L)
        y, auxiliary = self.tokens.all_blocks(self._windows(context, x), x.shape[1], mask, tails)
        return y.unflatten(0, x.shape[:2]), auxiliary


class TokenStack(ResidualStack):
    """Windows (W, p + l, D) to the outputs of their l tokens (W, l, D)."""

    def __init__(self, shape: Shape, pattern: Pattern, feedforward: MakeFeedForward, prefixes: int) -> None:
        layers = [WindowAttention(shape, pattern, layer, shape.depth) for layer in range(shape.depth)]
        super().__init__(replace(shape, conv=0), layers, (), feedforward)
        self.prefixes = prefixes
        self.convs: Sequence[ShortConvolution] = nn.ModuleList(  # type: ignore[assignment]
            ShortConvolution(shape.dim, shape.conv, pattern.causal) for _ in layers if shape.conv
        )

    def all_blocks(
        self, x: Tensor, blocks: int, valid: Tensor | None, tails: list[State] | None
    ) -> tuple[Tensor, Tensor]:
        """The windows of all `blocks` of every row; adds the state of each convolution to `tails`."""
        auxiliary = no_loss(x)
        for index, layer in enumerate(self.layers):
            if self.convs:
                x = self._convolved(self.convs[index], x, blocks, valid, tails)
            if index < len(self.layers) - 1:
                x, more = layer(x, None, valid, None)
                auxiliary = auxiliary + more
        return self._last(x, valid)[0], auxiliary

    def begin_block(self, x: Tensor, tails: Sequence[State]) -> tuple[Tensor, State]:
        """The windows of one block, (B, p + l, D), and the state; `tails` is that of each convolution so far."""
        states, after = [], []
        for index, layer in enumerate(self.layers):
            if self.convs:
                tokens, conv = x[:, self.prefixes :], self.convs[index]
                tokens, tail = conv.step(tokens, tails[index]) if tails else conv.prefill(tokens)
                x = torch.cat([x[:, : self.prefixes], tokens], 1)
                after.append(tail)
            if index < len(self.layers) - 1:
                x, state = layer.prefill(x, None, None)
                states.append(state)
        y, own = self._last(x, None)
        return y, (after, [*states, (None, own, None)])

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        tails, states = state
        after, later = [], []
        for index, layer in enumerate(self.layers):
            if self.convs:
                x_t, tail = self.convs[index].step(x_t, tails[index])
                after.append(tail)
            x_t, one = layer.step(x_t, states[index])
            later.append(one)
        return self.norm(x_t), (after, later)

    def state_size(self, n: int, m: int = 0) -> int:
        return super().state_size(n, m) + sum(conv.state_size() for conv in self.convs)

    def _convolved(
        self, conv: ShortConvolution, x: Tensor, blocks: int, valid: Tensor | None, tails: list[State] | None
    ) -> Tensor:
        """Windows (B n, p + L, D) with their tokens convolved along all n blocks of each row."""
        tokens = x[:, self.prefixes :].unflatten(0, (-1, blocks)).flatten(1, 2)  # (B, n L, D)
        if tails is not None:
            tokens, tail = conv.prefill(tokens)
            tails.append(tail)
        else:
            real = None if valid is None else valid[:, self.prefixes :].unflatten(0, (-1, blocks)).flatten(1, 2)
            tokens = conv(tokens, real)
        return torch.cat([x[:, : self.prefixes], tokens.unflatten(1, (blocks, -1)).flatten(0, 1)], 1)

    def _last(self, x: Tensor, valid: Tensor | None) -> tuple[Tensor, State]:
        """The last layer, in which prefixes are keys and values only, and the final norm; and the layer's cache."""
        layer = self.layers[-1]
        own: WindowAttention = layer.self_attention  # type: ignore[assignment]
        inner = layer.self_norm(x)
        queries = inner[:, self.prefixes :]
        q = own.placed_queries(queries, start=self.prefixes)
        mixed, state = own.mixer.prefill(q, *own.placed_keys_values(inner), valid)
        x = x[:, self.prefixes :] + own.output(mixed, queries)
        y = self.norm(layer.with_feedforward(x, None if valid is None else valid[:, self.prefixes :]))
        return y, (inner.shape[1], state)


class WindowAttention(Vanilla):
    def __init__(self, shape: Shape, pattern: Pattern, layer: int, layers: int) -> None:
        super().__init__(shape, pattern, layer, layers)
        self.mixer = WindowSoftmax(shape, pattern)


class WindowSoftmax(Softmax):
    """Softmax attention whose queries may be fewer than the keys: they are the last ones."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """`mask` (W, 1, 1, M)."""
        queries, keys = q.shape[2], k.shape[2]
        if causal and queries < keys:
            causal = False
            if queries > 1:
                mask = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
        fused = super().attend
        if q.shape[0] <= LARGEST_BATCH:
            return fused(q, k, v, mask, causal)
        rows = [slice(cut, cut + LARGEST_BATCH) for cut in range(0, q.shape[0], LARGEST_BATCH)]
        masks = [mask[row] if mask is not None and mask.ndim == 4 else mask for row in rows]
        return torch.cat([fused(q[row], k[row], v[row], m, causal) for row, m in zip(rows, masks, strict=True)])


def _check_options(shape: Shape, block: int, prefixes: int) -> None:
    check_whole("block", block)
    check_whole("prefixes", prefixes)
    if block > shape.length:
        raise ValueError(
            f"block={block} is longer than the design length {shape.length}: use attention.block<={shape.length}"
        )
    if shape.dim % block:
        lower = next(value for value in range(block, 0, -1) if shape.dim % value == 0)
        raise ValueError(f"dim={shape.dim} is not a multiple of block={block}: use attention.block={lower}")
