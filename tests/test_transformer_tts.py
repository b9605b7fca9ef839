"""Transformer-TTS: steps equal the full pass, nothing leaks from later frames or padding, generation."""

from functools import partial

import pytest
import torch
from torch import Tensor

from attentions.base import Pattern, Shape, Unsupported
from attentions.block_transformer import BlockTransformer
from attentions.fit import FIT
from attentions.lightning import Lightning
from attentions.none import NoAttention
from attentions.routing import Routing
from attentions.slots import Slots
from attentions.ssa import SSA
from attentions.vanilla import Vanilla
from tasks.backbones.positions import PositionKind
from tasks.backbones.transformer_tts import Prenet, TransformerTTS, generate

NS, CS, CC = Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS
SHAPE = Shape(dim=16, heads=2, depth=2, hidden=64, length=12, memory=20)
SYMBOLS, FEATURES, PRENET, POSTNET = 9, 6, 8, 10
FAMILIES = [
    partial(Vanilla),
    partial(NoAttention),
    partial(Lightning, block=4),
    partial(Routing),
    partial(SSA),
    partial(BlockTransformer),
    partial(FIT),
]
ADMITTED = [(f, p) for f in FAMILIES for p in (NS, CS, CC) if p is not CS or f.func not in (BlockTransformer, FIT)]


def make(family=FAMILIES[0], pattern: Pattern = CC, kind: PositionKind = "sinusoidal") -> TransformerTTS:
    torch.manual_seed(0)
    slots = Slots(family, pattern)
    return TransformerTTS(slots, SHAPE, SYMBOLS, FEATURES, PRENET, POSTNET, 0.5, kind).double().eval()


def text(rows: int, n: int) -> Tensor:
    return torch.randint(0, SYMBOLS, (rows, n), generator=torch.Generator().manual_seed(1))


def frames(rows: int, n: int) -> Tensor:
    return torch.randn(rows, n, FEATURES, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def kept(rows: int, n: int) -> Tensor:
    return torch.rand(rows, n, 2, PRENET, generator=torch.Generator().manual_seed(3)) > 0.5


def valid(*lengths: int) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


@pytest.mark.parametrize(("family", "pattern"), ADMITTED, ids=lambda value: getattr(value, "func", value))
@torch.no_grad()
def test_steps_equal_forward_on_padded_text(family, pattern: Pattern) -> None:
    model, symbols, previous, keep = make(family, pattern), text(3, 20), frames(3, 12), kept(3, 12)
    real = valid(20, 7, 1)
    full = model(symbols, real, previous, keep, valid(12, 12, 12))
    for prompt in (1, 5):
        before, stop, state = model.prefill(symbols, real, previous[:, :prompt], keep[:, :prompt])
        parts = [(before, stop)]
        for t in range(prompt, 12):
            before, stop, state = model.step(previous[:, t : t + 1], keep[:, t : t + 1], state)
            parts.append((before, stop))
        for found, wanted in zip(zip(*parts, strict=True), (full[0], full[2]), strict=True):
            torch.testing.assert_close(torch.cat(found, 1), wanted)


@pytest.mark.parametrize(("family", "pattern"), ADMITTED, ids=lambda value: getattr(value, "func", value))
@torch.no_grad()
def test_padding_changes_nothing(family, pattern: Pattern) -> None:
    model, symbols, previous, keep = make(family, pattern), text(2, 20), frames(2, 12), kept(2, 12)
    together = model(symbols, valid(20, 7), previous, keep, valid(12, 5))
    alone = model(symbols[1:, :7], valid(7), previous[1:, :5], keep[1:, :5], valid(5))
    for padded, short in zip(together[:3], alone[:3], strict=True):
        torch.testing.assert_close(padded[1:, :5], short)


@pytest.mark.parametrize("kind", ["sinusoidal", "learned", "none"])
@torch.no_grad()
def test_later_frames_change_nothing_before_the_postnet(kind: PositionKind) -> None:
    model, symbols, previous, keep = make(kind=kind), text(1, 20), frames(1, 12), kept(1, 12).fill_(True)

    def out(symbols: Tensor, previous: Tensor) -> Tensor:
        before, _, stop, _ = model(symbols, valid(20), previous, keep, valid(12))
        return torch.cat([before, stop.unsqueeze(-1)], -1)

    base = out(symbols, previous)
    for place in range(1, 12):
        other = previous.clone()
        other[:, place] *= -3
        torch.testing.assert_close(out(symbols, other)[:, :place], base[:, :place])
        assert ((out(symbols, other) - base)[:, place:].abs().amax(-1) > 1e-6).all()
    for place in (0, 10, 19):
        other = symbols.clone()
        other[0, place] = (other[0, place] + 1) % SYMBOLS
        assert ((out(other, previous) - base).abs().amax(-1) > 1e-6).all()


@torch.no_grad()
def test_the_postnet_sees_ten_steps_on_both_sides_and_none_of_the_padding() -> None:
    model = make()
    before = frames(1, 40)
    other = before.clone()
    other[:, 20] += 3
    changed = (model.refine(other, valid(40)) - model.refine(before, valid(40)))[0].abs().amax(-1) > 1e-9
    assert changed.nonzero().flatten().tolist() == list(range(10, 31))
    real = valid(40) & (torch.arange(40) < 15)
    torch.testing.assert_close(model.refine(other, real)[:, :15], model.refine(before, real)[:, :15])


def test_prenet_by_hand() -> None:
    prenet = Prenet(3, 4, 0.25)
    x, keep = torch.randn(2, 5, 3), torch.rand(2, 5, 2, 4) > 0.25
    wanted = x
    for i in range(2):
        weight, bias = prenet.layers[i].weight, prenet.layers[i].bias
        wanted = torch.clamp(wanted @ weight.T + bias, min=0) * keep[:, :, i] / 0.75
    torch.testing.assert_close(prenet(x, keep), wanted)


def test_the_family_fills_its_slots() -> None:
    took = {}
    for family in (FAMILIES[1], FAMILIES[5]):
        for pattern in (NS, CS, CC):
            slots = Slots(family, pattern)
            try:
                TransformerTTS(slots, SHAPE, SYMBOLS, FEATURES, PRENET, POSTNET, 0.5, "none")
            except Unsupported as error:
                took[family.func, pattern] = str(error)
            else:
                took[family.func, pattern] = slots.took
    assert took == {
        (NoAttention, NS): ["encoder.self"],
        (NoAttention, CS): ["decoder.self"],
        (NoAttention, CC): ["decoder.cross"],
        (BlockTransformer, NS): ["encoder.self"],
        (BlockTransformer, CS): "a whole stack in decoder.self also takes decoder.cross",
        (BlockTransformer, CC): ["decoder.self", "decoder.cross"],
    }


def test_design_lengths_go_to_their_stacks_and_every_parameter_learns() -> None:
    model = make(kind="learned")
    assert (len(model.text_positions.positions.table), len(model.step_positions.positions.table)) == (20, 12)
    encoder, decoder = model.encoder.layers[0], model.decoder.layers[0]
    assert (encoder.self_attention.shape.length, encoder.self_attention.shape.memory) == (20, 0)
    assert (decoder.cross_attention.shape.length, decoder.cross_attention.shape.memory) == (12, 20)
    before, after, stop, _ = model(text(2, 20), valid(20, 9), frames(2, 12), kept(2, 12), valid(12, 7))
    (after.square().sum() + before.abs().sum() + stop.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in model.parameters())


# Generation


@torch.no_grad()
def test_generation_is_what_repeated_full_passes_say() -> None:
    """Written out for one row at a time; padded and batched it must be the same."""
    model, symbols, keep = make(), text(6, 20), kept(6, 12)
    lengths = [20, 3, 11, 1, 17, 9]
    model.stop.weight.mul_(8)
    found, steps = generate(model, symbols, valid(*lengths), keep)
    ends = set()
    for row, length in enumerate(lengths):
        previous = torch.zeros(1, 1, FEATURES, dtype=torch.float64)
        while True:
            n = previous.shape[1]
            before, after, stop, _ = model(
                symbols[row : row + 1, :length], valid(length), previous, keep[row : row + 1, :n], valid(n)
            )
            if stop[0, -1] > 0 or n == 12:
                break
            previous = torch.cat([previous, before[:, -1:]], 1)
        ends.add(n)
        assert steps[row] == n
        torch.testing.assert_close(found[row, :n], after[0])
        assert (found[row, n:] == 0).all()
    assert len(ends) > 2
    assert found.shape[1] == max(ends)


class Scripted:
    """Speaks for as many steps as the first symbol says, then wants to stop. Counts its calls."""

    def __init__(self) -> None:
        self.frames = torch.nn.Linear(1, 2)
        self.prefilled = self.stepped = 0

    def prefill(self, symbols: Tensor, symbols_valid: Tensor, previous: Tensor, kept: Tensor):
        self.prefilled += 1
        assert (previous == 0).all()
        return self._say(symbols[:, :1], 1)

    def step(self, previous: Tensor, kept: Tensor, state):
        self.stepped += 1
        ends, count = state
        assert (previous == count).all()
        return self._say(ends, count + 1)

    def refine(self, before: Tensor, valid: Tensor) -> Tensor:
        self.valid = valid
        return before + 100

    def _say(self, ends: Tensor, count: int):
        return torch.full((len(ends), 1, 2), float(count)), torch.where(ends == count, 1.0, -1.0), (ends, count)


def test_a_row_stops_once_and_all_stop_at_the_longest() -> None:
    model = Scripted()
    symbols = torch.tensor([[2], [1], [3]])
    found, steps = generate(model, symbols, valid(1, 1, 1), torch.ones(3, 50, 2, 4))  # type: ignore[arg-type]
    assert steps.tolist() == [2, 1, 3]
    assert found[..., 0].tolist() == [[101, 102, 0], [101, 0, 0], [101, 102, 103]]
    assert model.valid.tolist() == valid(2, 1, 3).tolist()
    assert (model.prefilled, model.stepped) == (1, 2)
    found, steps = generate(model, torch.tensor([[90], [2]]), valid(1, 1), torch.ones(2, 6, 2, 4))  # type: ignore[arg-type]
    assert steps.tolist() == [6, 2]
    assert found.shape[1] == 6
    assert model.stepped == 2 + 5
