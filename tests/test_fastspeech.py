"""FastSpeech 2: symbols last as long as said, padding and neighbours do not matter, everything told counts."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from attentions.base import Attention, Pattern, Shape, core_parameters
from attentions.none import NoAttention
from attentions.slots import Slots
from attentions.vanilla import Vanilla
from cab.compose import compose_requests
from tasks.backbones.fastspeech import (
    BINS,
    WIDEST,
    Binned,
    ConvolutionalFeedForward,
    FastSpeech2,
    Predictor,
    integer_frames,
    repeat_frames,
)
from tasks.backbones.positions import PositionKind

NS = Pattern.NONCAUSAL_SELF
FAMILIES = ("vanilla", "eager", "none", "lightning", "routing", "ssa", "block_transformer", "fit")
SHAPE = Shape(dim=16, heads=2, depth=2, hidden=56, length=96, memory=32)
"""A unit of width is 2 x 9 x dim parameters, so that below about 50 units no width is within 1%."""


def make(family: partial | None = None, shape: Shape = SHAPE) -> tuple[FastSpeech2, Slots]:
    torch.manual_seed(0)
    slots = Slots(family or partial(Vanilla), NS)
    return FastSpeech2(slots, shape, symbols=12, bands=5, positions="sinusoidal").eval(), slots


def texts(*lengths: int) -> tuple[Tensor, Tensor]:
    valid = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    generator = torch.Generator().manual_seed(1)
    return torch.randint(12, valid.shape, generator=generator).masked_fill(~valid, 0), valid


def told(valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Durations, pitch and energy."""
    generator = torch.Generator().manual_seed(2)
    durations = torch.randint(0, 6, valid.shape, generator=generator)
    durations[:, 0] = 2
    pitch, energy = (torch.randn(valid.shape, generator=generator) for _ in range(2))
    return durations.masked_fill(~valid, 0), pitch, energy


def test_stretching_by_hand() -> None:
    x = torch.arange(1.0, 9).view(2, 4, 1)
    y, valid = repeat_frames(x, torch.tensor([[2, 0, 1, 3], [1, 1, 0, 0]]), longest=10)
    assert y[..., 0].tolist() == [[1, 1, 3, 4, 4, 4], [5, 6, 0, 0, 0, 0]]
    assert valid.sum(1).tolist() == [6, 2]
    y, valid = repeat_frames(x, torch.tensor([[2, 0, 9, 3], [0, 0, 0, 0]]), longest=5)
    assert y[..., 0].tolist() == [[1, 1, 3, 3, 3], [8, 0, 0, 0, 0]]  # at most 5, at least 1
    y, _ = repeat_frames(x, torch.tensor([[0, 3, 2, 1], [0, 0, 3, 1]]), longest=10)
    assert y[..., 0].tolist() == [[2, 2, 2, 3, 3, 4], [7, 7, 7, 8, 0, 0]]  # the first may last no frame at all


def test_integer_frames_undo_the_logarithm() -> None:
    frames = torch.tensor([[0, 1, 7, 30]])
    everywhere = torch.ones_like(frames, dtype=torch.bool)
    assert integer_frames(frames.float().log1p(), everywhere, 96).tolist() == frames.tolist()
    odd = torch.tensor([[-3.0, 1000.0, 0.1]])
    assert integer_frames(odd, torch.tensor([[True, True, False]]), 96).tolist() == [[0, 96, 0]]


def test_bins() -> None:
    bins = Binned(4)
    found = (bins(torch.tensor([-99.0, 99.0, 0.0])) - bins.embedding.weight[[0, BINS - 1, BINS // 2 - 1]]).abs()
    assert found.max() == 0
    width = 2 * WIDEST / (BINS - 2)
    near = bins(torch.tensor([0.1 * width, 0.9 * width, 1.1 * width]))
    assert (near[0] == near[1]).all()
    assert (near[1] != near[2]).any()


@pytest.mark.parametrize("module", [ConvolutionalFeedForward(8, 12), Predictor(8)])
def test_convolutions_see_nothing_of_padding(module: torch.nn.Module) -> None:
    x, valid = torch.randn(2, 20, 8), torch.arange(20) < torch.tensor([[20], [11]])
    y = module(x, valid)
    x[1, 11:] = 1e3
    alone = module(x[1:, :11], valid[1:, :11])
    torch.testing.assert_close(module(x, valid)[valid], y[valid])
    torch.testing.assert_close(y[1:, :11], alone)


def test_the_feedforward_reaches_four_neighbours_twice() -> None:
    module, x = ConvolutionalFeedForward(8, 12), torch.randn(1, 40, 8)
    other = x.clone()
    other[0, 20] += 1
    changed = (module(x) - module(other)).abs().amax(-1)[0] > 0
    assert changed.nonzero().flatten().tolist() == list(range(12, 29))


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_are_alone(name: str) -> None:
    """Each text by itself says what it says in a batch, both when told and when speaking."""
    (request,) = compose_requests([f"attention={name}", f"pattern={NS}", "task=tts_fastspeech2"])
    model, slots = make(request.small_family)
    assert slots.took == ["encoder.self", "decoder.self"]
    symbols, valid = texts(19, 7, 12)
    durations, pitch, energy = told(valid)
    with torch.no_grad():
        model.duration.head.bias.fill_(1.2)  # so that an untrained model says something
        both, spoken = model(symbols, valid, durations, pitch, energy), model(symbols, valid)
        assert both.valid.sum(1).tolist() == durations.sum(1).tolist()
        assert both.frames.shape == (3, durations.sum(1).max(), 5)
        assert spoken.valid.any(1).all()
        for row, length in enumerate((19, 7, 12)):
            own = slice(row, row + 1), slice(length)
            alone = model(symbols[own], valid[own], durations[own], pitch[own], energy[own])
            torch.testing.assert_close(both.frames[row][both.valid[row]], alone.frames[0], atol=2e-5, rtol=1e-4)
            for given in ("log_durations", "pitch", "energy"):
                torch.testing.assert_close(getattr(both, given)[own], getattr(alone, given), atol=2e-5, rtol=1e-4)
            alone = model(symbols[own], valid[own])
            torch.testing.assert_close(spoken.frames[row][spoken.valid[row]], alone.frames[0], atol=2e-5, rtol=1e-4)


def test_what_speech_depends_on() -> None:
    """All that is told matters, everywhere; what is told does not change what is predicted before it."""
    model, _ = make()
    symbols, valid = texts(20)
    durations, pitch, energy = told(valid)
    with torch.no_grad():
        base = model(symbols, valid, durations, pitch, energy)
        for place in (0, 10, 19):
            other = symbols.clone()
            other[0, place] = (other[0, place] + 1) % 12
            moved = model(other, valid, durations, pitch, energy)
            for name in ("frames", "log_durations", "pitch", "energy"):
                change = (getattr(moved, name) - getattr(base, name)).abs()
                assert change.flatten(2).amax(-1).min() > 0 if name == "frames" else change.min() > 0
        louder = model(symbols, valid, durations, pitch, energy + 1)
        assert (louder.frames - base.frames).abs().amax() > 1e-4
        torch.testing.assert_close(louder.energy, base.energy, atol=0, rtol=0)
        higher = model(symbols, valid, durations, pitch + 1, energy)
        torch.testing.assert_close(higher.pitch, base.pitch, atol=0, rtol=0)
        assert (higher.energy - base.energy).abs().amax() > 1e-4
        assert (higher.frames - base.frames).abs().amax() > 1e-4


def test_speaking_uses_what_is_predicted() -> None:
    model, _ = make()
    symbols, valid = texts(9)
    with torch.no_grad():
        model.duration.head.bias.fill_(1.5)
        spoken = model(symbols, valid)
        frames = integer_frames(spoken.log_durations, valid, 96)
        assert spoken.frames.shape[1] == frames.sum() > 9
        again = model(symbols, valid, frames, spoken.pitch, spoken.energy)
        torch.testing.assert_close(again.frames, spoken.frames)
        model.duration.head.bias.fill_(9.0)
        assert model(symbols, valid).frames.shape[1] == 96
        model.duration.head.bias.fill_(-9.0)
        assert model(symbols, valid).frames.shape[1] == 1


def test_slots_have_the_lengths_that_they_see() -> None:
    model, slots = make(partial(NoAttention))
    found = [(type(m), m.shape.length, m.shape.memory) for m in model.modules() if isinstance(m, Attention)]
    assert found == [(NoAttention, 32, 0)] * 2 + [(NoAttention, 96, 0)] * 2
    assert slots.took == ["encoder.self", "decoder.self"]


@pytest.mark.parametrize("name", FAMILIES)
def test_equal_budgets(name: str) -> None:
    shape = Shape(dim=64, heads=4, depth=2, hidden=128, length=384, memory=64)
    (request,) = compose_requests([f"attention={name}", f"pattern={NS}", "task=tts_fastspeech2"])
    with torch.device("meta"):
        model, slots = make(request.family, shape)
        vanilla, _ = make(None, shape)
    assert core_parameters(model) == pytest.approx(core_parameters(vanilla), rel=0.01)
    assert slots.excess == 0


@pytest.mark.parametrize("positions", ["learned", "none"])
def test_positions(positions: PositionKind) -> None:
    torch.manual_seed(0)
    model = FastSpeech2(Slots(partial(NoAttention), NS), replace(SHAPE, memory=64), 12, 5, positions)
    symbols, valid = torch.full((1, 64), 3), torch.ones(1, 64, dtype=torch.bool)
    with torch.no_grad():
        said = model(symbols, valid, valid.long(), torch.zeros(1, 64), torch.zeros(1, 64))
    same = (said.log_durations[0, 31] - said.log_durations[0, 32]).abs() < 1e-6
    assert same == (positions == "none")  # far from both ends, in a text of one letter
