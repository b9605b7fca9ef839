"""The contract carries every backbone that the benchmark needs: shape-only skeletons ask `Slots` for what they use."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Attention, Pattern, Shape, Stack, Unsupported, core_parameters, no_loss
from attentions.none import NoAttention
from attentions.residual import MLP, FeedForward
from attentions.slots import Slots
from attentions.vanilla import Vanilla

NS, CS, NC, CC = Pattern
FAMILIES = [partial(Vanilla), partial(NoAttention)]


class WholeStack(Stack):
    """A stand-in for families that are stacks: a token-wise network, wide enough to meet the budget."""

    support = dict.fromkeys(Pattern, "extension")
    min_depth = 2

    def __init__(self, shape: Shape, pattern: Pattern, feedforward=MLP) -> None:
        super().__init__(shape, pattern)
        self.layers = nn.ModuleList(feedforward(shape.dim, shape.hidden) for _ in range(shape.depth))

    def forward(self, x, memory=None, valid=None, memory_valid=None):
        for layer in self.layers:
            x = x + layer(x, valid)
        return x, no_loss(x)


class EncoderDecoder(nn.Module):
    patterns = (NS, CS, CC)

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        shape = Shape(32, 4, 2, 64, length=20, memory=30)
        self.encoder = slots.stack("encoder", Shape(32, 4, 2, 64, length=30), NS)
        self.decoder = slots.stack("decoder", shape, CS, CC)

    def forward(self) -> Tensor:
        source, valid = torch.randn(2, 30, 32), torch.arange(30) < torch.tensor([[30], [17]])
        memory, _ = self.encoder(source, None, valid)
        return self.decoder(torch.randn(2, 20, 32), memory, None, valid)[0]


class Informer(nn.Module):
    """Encoder layers with distilling (a stride-2 convolution) between them; a decoder of layer slots."""

    patterns = (NS, NC)

    def __init__(self, slots: Slots, depth: int = 3) -> None:
        super().__init__()
        shapes = [Shape(32, 4, depth, 64, length=48 // 2**i) for i in range(depth)]
        self.encoder = nn.ModuleList(slots.layer("encoder.self", NS, s, i, depth) for i, s in enumerate(shapes))
        self.feed = nn.ModuleList(MLP(32, layer.shape.hidden) for layer in self.encoder)
        self.distil = nn.ModuleList(nn.Conv1d(32, 32, 3, stride=2, padding=1) for _ in range(depth - 1))
        shape = Shape(32, 4, 1, 64, length=24, memory=12)
        self.own = slots.layer("decoder.self", CS, shape, 0, 1)
        self.cross = slots.layer("decoder.cross", NC, shape, 0, 1)

    def forward(self) -> Tensor:
        x = torch.randn(2, 48, 32)
        for i, (layer, feed) in enumerate(zip(self.encoder, self.feed, strict=True)):
            x = x + layer(x)[0]
            x = x + feed(x)
            if i < len(self.distil):
                x = self.distil[i](x.transpose(1, 2)).transpose(1, 2)
        y = torch.randn(2, 24, 32)
        y = y + self.own(y)[0]
        return y + self.cross(y, x)[0]


class UNet(nn.Module):
    """Attention at three resolutions, without any feed-forward."""

    patterns = (NS,)

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        sides = (16, 8, 4)
        self.attentions = nn.ModuleList(
            slots.layer(f"down{side}.self", NS, Shape(32, 4, 1, 0, length=side * side), 0, 1) for side in sides
        )

    def forward(self) -> Tensor:
        image = torch.randn(2, 32, 16, 16)
        for attention in self.attentions:
            tokens = image.flatten(2).transpose(1, 2)  # (B, N, D)
            tokens = tokens + attention(tokens)[0]
            image = F.avg_pool2d(tokens.transpose(1, 2).reshape(image.shape), 2)
        return image


class PoinTrPair(nn.Module):
    """The first layer of encoder and decoder merges attention with features of geometric neighbours."""

    patterns = (NS, NC)

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        encoder, decoder = Shape(32, 4, 2, 64, length=40), Shape(32, 4, 2, 64, length=24, memory=40)
        self.encoder = nn.ModuleList(slots.layer("encoder.self", NS, encoder, i, 2) for i in range(2))
        self.own = nn.ModuleList(slots.layer("decoder.self", NS, decoder, i, 2) for i in range(2))
        self.cross = nn.ModuleList(slots.layer("decoder.cross", NC, decoder, i, 2) for i in range(2))
        self.merge = nn.Linear(64, 32)

    def forward(self) -> Tensor:
        points, x, queries = torch.randn(2, 40, 3), torch.randn(2, 40, 32), torch.randn(2, 24, 32)
        nearest = torch.cdist(points, points).topk(4, largest=False).indices  # (B, N, 4)
        for i, attention in enumerate(self.encoder):
            y = attention(x)[0]
            if i == 0:
                local = torch.stack([row[index].amax(1) for row, index in zip(x, nearest, strict=True)])
                y = self.merge(torch.cat([y, local], -1))
            x = x + y
        for own, cross in zip(self.own, self.cross, strict=True):
            queries = queries + own(queries)[0]
            queries = queries + cross(queries, x)[0]
        return queries


class Conv(FeedForward):
    """FastSpeech's feed-forward: two convolutions over time, blind to padding."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv1d(dim, hidden, 9, padding=4), nn.Conv1d(hidden, dim, 1)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        if valid is not None:
            x = x * valid.unsqueeze(-1)
        return self.narrow(self.wide(x.transpose(1, 2)).relu()).transpose(1, 2)


class FastSpeech(nn.Module):
    patterns = (NS,)

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self.encoder = slots.stack("encoder", Shape(32, 4, 2, 64, length=20), NS, feedforward=Conv)
        self.decoder = slots.stack("decoder", Shape(32, 4, 2, 64, length=60), NS, feedforward=Conv)

    def forward(self) -> Tensor:
        text = self.encoder(torch.randn(2, 20, 32))[0]
        return self.decoder(text.repeat_interleave(3, dim=1))[0]


BACKBONES = [EncoderDecoder, Informer, UNet, PoinTrPair, FastSpeech]
CELLS = [(backbone, pattern) for backbone in BACKBONES for pattern in backbone.patterns]
LAYERED = (Informer, UNet, PoinTrPair)


def ids(value: object) -> str | None:
    return value.__name__ if isinstance(value, type) else getattr(getattr(value, "func", None), "__name__", None)


@pytest.mark.parametrize("family", FAMILIES, ids=ids)
@pytest.mark.parametrize(("backbone", "pattern"), CELLS, ids=ids)
def test_every_backbone_runs_and_only_the_pattern_is_taken(backbone, pattern, family):
    slots = Slots(family, pattern)
    model = backbone(slots)
    assert model().isfinite().all()
    under_test = [m for m in model.modules() if isinstance(m, Attention) and m.pattern is pattern]
    others = [m for m in model.modules() if isinstance(m, Attention) and m.pattern is not pattern]
    assert under_test
    assert all(type(m) is family.func for m in under_test)
    assert all(type(m) is Vanilla for m in others)
    kind = "cross" if pattern.cross else "self"
    assert slots.took
    assert all(name.endswith(kind) for name in slots.took)


@pytest.mark.parametrize("backbone", LAYERED, ids=ids)
def test_a_whole_stack_is_refused_where_the_slot_is_a_layer(backbone):
    with pytest.raises(Unsupported, match="single layer"):
        backbone(Slots(partial(WholeStack), backbone.patterns[0]))


def test_a_whole_stack_takes_the_decoder_whole_and_only_under_cross():
    slots = Slots(partial(WholeStack), CC)
    assert EncoderDecoder(slots)().isfinite().all()
    assert slots.took == ["decoder.self", "decoder.cross"]
    with pytest.raises(Unsupported, match=r"also takes decoder\.cross"):
        EncoderDecoder(Slots(partial(WholeStack), CS))


def test_a_whole_stack_needs_its_depth():
    with pytest.raises(Unsupported, match="depth 1 is below 2"):
        Slots(partial(WholeStack), NS).stack("encoder", Shape(32, 4, 1, 64, length=8), NS)


@pytest.mark.parametrize("feedforward", [MLP, Conv], ids=ids)
@pytest.mark.parametrize("family", [*FAMILIES, partial(WholeStack)], ids=ids)
@pytest.mark.parametrize("pattern", [NS, CS, NC, CC])
def test_equal_budgets(family, pattern, feedforward):
    """Core parameters within 1% of vanilla's, whatever the family brings or leaves out."""
    shape = Shape(64, 4, 2, 256, length=32, memory=32 if pattern.cross else 0)
    own, cross = (CS if pattern.causal else NS), (pattern if pattern.cross else None)
    vanilla, other = (
        Slots(f, pattern).stack("decoder", shape, own, cross, feedforward) for f in (partial(Vanilla), family)
    )
    assert core_parameters(other) == pytest.approx(core_parameters(vanilla), rel=0.01)


def test_a_layer_slot_with_feedforward_gets_its_width():
    slots = Slots(partial(NoAttention), NS)
    layer = slots.layer("encoder.self", NS, Shape(64, 4, 1, 256, length=32), 0, 1)
    both = core_parameters(layer) + core_parameters(MLP(64, layer.shape.hidden))
    vanilla = core_parameters(Vanilla(Shape(64, 4, 1, 256, length=32), NS, 0, 1)) + core_parameters(MLP(64, 256))
    assert both == pytest.approx(vanilla, rel=0.01)


def test_excess_without_feedforward_is_counted():
    class Gated(Vanilla):
        def __init__(self, shape: Shape, pattern: Pattern, layer: int, layers: int) -> None:
            super().__init__(shape, pattern, layer, layers)
            self.gate = nn.Linear(shape.dim, shape.dim, bias=False)

    slots = Slots(partial(Gated), NS)
    UNet(slots)
    assert slots.excess == 3 * 32 * 32
    slots = Slots(partial(Vanilla), NS)
    UNet(slots)
    assert slots.excess == 0


def test_a_budget_that_cannot_be_met_is_unsupported():
    class Heavy(Vanilla):
        def __init__(self, shape: Shape, pattern: Pattern, layer: int, layers: int) -> None:
            super().__init__(shape, pattern, layer, layers)
            self.more = nn.Linear(8 * shape.dim, 8 * shape.dim)

    with pytest.raises(Unsupported, match="without a feed-forward"):
        Slots(partial(Heavy), NS).stack("encoder", Shape(32, 4, 2, 64, length=8), NS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "multiple of heads=3"),
        ({"depth": 0}, "depth=0"),
        ({"hidden": -8}, "hidden=-8"),
        ({"dim": 2.5}, "dim=2.5"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    good = {"dim": 32, "heads": 4, "depth": 2, "hidden": 64, "length": 16}
    with pytest.raises(ValueError, match=message):
        Shape(**(good | change))


@pytest.mark.parametrize("pattern", Pattern)
def test_state_of_the_slots_at_the_design_lengths(pattern):
    """Keys and values of self and of cross attention, and the last inputs of a convolution in each layer."""
    shape = Shape(8, 2, 3, 16, length=10, memory=7 if pattern.cross else 0, conv=4)
    slots = Slots(partial(Vanilla), pattern)
    own = Pattern.CAUSAL_SELF if pattern.causal else Pattern.NONCAUSAL_SELF
    slots.stack("decoder", shape, own, pattern if pattern.cross else None)
    expected = 3 * (2 * 10 * 8 + (2 * 7 * 8 if pattern.cross else 0) + 3 * 8)
    assert slots.state == (expected if pattern.causal else 0)
