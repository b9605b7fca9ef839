"""Encoder-decoder: decoding equals the full pass with padded documents, slots, one embedding; greedy decoding."""

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
from tasks.backbones.seq2seq import Seq2Seq, greedy

NS, CS, CC = Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS
SHAPE = Shape(dim=16, heads=2, depth=2, hidden=64, length=12, memory=20)
VOCABULARY, SEPARATOR = 13, 12
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


def make(family=FAMILIES[0], pattern: Pattern = CC, kind: PositionKind = "sinusoidal") -> Seq2Seq:
    torch.manual_seed(0)
    return Seq2Seq(Slots(family, pattern), SHAPE, VOCABULARY, kind).double().eval()


def tokens(rows: int, n: int, seed: int = 1) -> Tensor:
    return torch.randint(0, VOCABULARY - 1, (rows, n), generator=torch.Generator().manual_seed(seed))


def valid(*lengths: int) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


@pytest.mark.parametrize(("family", "pattern"), ADMITTED, ids=lambda value: getattr(value, "func", value))
@torch.no_grad()
def test_steps_equal_forward_on_padded_documents(family, pattern: Pattern) -> None:
    model, source, target = make(family, pattern), tokens(3, 20), tokens(3, 12, 2)
    real = valid(20, 7, 1)
    full, _ = model(source, real, target, valid(12, 12, 12))
    for prompt in (1, 5):
        logits, state = model.prefill(source, real, target[:, :prompt])
        parts = [logits]
        for t in range(prompt, 12):
            logits, state = model.step(target[:, t : t + 1], state)
            parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, 1), full)


@pytest.mark.parametrize(("family", "pattern"), ADMITTED, ids=lambda value: getattr(value, "func", value))
@torch.no_grad()
def test_padding_changes_nothing(family, pattern: Pattern) -> None:
    model, source, target = make(family, pattern), tokens(2, 20), tokens(2, 12, 2)
    together, _ = model(source, valid(20, 7), target, valid(12, 5))
    alone, _ = model(source[1:, :7], valid(7), target[1:, :5], valid(5))
    torch.testing.assert_close(together[1:, :5], alone)


@pytest.mark.parametrize("kind", ["sinusoidal", "learned", "none"])
@torch.no_grad()
def test_logits_depend_on_the_document_and_on_earlier_tokens_only(kind: PositionKind) -> None:
    model, source, target = make(kind=kind), tokens(1, 20), tokens(1, 12, 2)

    def logits(source: Tensor, target: Tensor) -> Tensor:
        return model(source, valid(20), target, valid(12))[0]

    before = logits(source, target)
    for place in (0, 10, 19):
        other = source.clone()
        other[0, place] = (other[0, place] + 1) % SEPARATOR
        assert ((logits(other, target) - before).abs().amax(-1) > 1e-6).all()
    other = target.clone()
    other[0, 7] = (other[0, 7] + 1) % SEPARATOR
    torch.testing.assert_close(logits(source, other)[:, :7], before[:, :7])
    assert ((logits(source, other) - before)[:, 7:].abs().amax(-1) > 1e-6).all()


def test_the_family_fills_its_slots() -> None:
    took = {}
    for family in (FAMILIES[1], FAMILIES[5]):
        for pattern in (NS, CS, CC):
            slots = Slots(family, pattern)
            try:
                Seq2Seq(slots, SHAPE, VOCABULARY, "none")
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


def test_design_lengths_go_to_their_stacks() -> None:
    model = make(kind="learned")
    assert (len(model.source_positions.table), len(model.target_positions.table)) == (20, 12)
    encoder, decoder = model.encoder.layers[0], model.decoder.layers[0]
    assert (encoder.self_attention.shape.length, encoder.self_attention.shape.memory) == (20, 0)
    assert (decoder.cross_attention.shape.length, decoder.cross_attention.shape.memory) == (12, 20)


def test_one_embedding_and_moderate_first_logits() -> None:
    torch.manual_seed(0)
    shape = Shape(dim=128, heads=4, depth=2, hidden=256, length=40, memory=60)
    model = Seq2Seq(Slots(partial(Vanilla), CC), shape, 257, "sinusoidal")
    assert [name for name, p in model.named_parameters() if 257 in p.shape] == ["embedding.weight"]
    source, target = torch.randint(0, 257, (4, 60)), torch.randint(0, 257, (4, 41))
    logits, _ = model(source, valid(60, 60, 60, 60), target[:, :-1], valid(40, 40, 40, 40))
    assert 0.5 < logits.std() < 2
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten())
    assert loss < 12  # log 257 = 5.55; a token's own logit starts at about 128^1/2, as each sees itself best
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# Greedy decoding


@pytest.mark.parametrize("least", [0, 4])
@torch.no_grad()
def test_greedy_is_what_repeated_full_passes_choose(least: int) -> None:
    """Written out for one row at a time; padded and batched it must be the same."""
    model = make()
    generator = torch.Generator().manual_seed(3)
    model.embedding.weight.normal_(generator=generator)
    model.decoder.norm.weight.normal_(generator=generator)  # else every token is followed by itself
    source, lengths = tokens(8, 20), [20, 3, 11, 1, 17, 9, 20, 6]
    found = greedy(model, source, valid(*lengths), SEPARATOR, 12, least)
    ends = set()
    for row, length in enumerate(lengths):
        target = [SEPARATOR]
        while len(target) <= 12:
            logits, _ = model(source[row : row + 1, :length], valid(length), torch.tensor([target]), valid(len(target)))
            ranked = logits[0, -1].argsort(descending=True).tolist()
            target.append(ranked[1] if len(target) <= least and ranked[0] == SEPARATOR else ranked[0])
            if target[-1] == SEPARATOR:
                break
        ends.add(len(target))
        wanted = [*target[1:], *[SEPARATOR] * (found.shape[1] + 1 - len(target))]
        assert found[row].tolist() == wanted
    assert len(ends) > 1
    assert min(ends) > least + 1


class Scripted:
    """Writes what the first token of the source says: this many tokens, then the end. Counts its calls."""

    def __init__(self) -> None:
        self.prefilled = self.stepped = 0

    def _logits(self, left: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.where(left > 0, 5, SEPARATOR), VOCABULARY).double().unsqueeze(1)

    def prefill(self, source: Tensor, valid: Tensor, target: Tensor):
        self.prefilled += 1
        return self._logits(source[:, 0]), source[:, 0]

    def step(self, token: Tensor, left: Tensor):
        self.stepped += 1
        return self._logits(left - 1), left - 1


def test_greedy_computes_nothing_twice_and_stops_when_all_have_ended() -> None:
    model, source = Scripted(), torch.tensor([[2], [0], [3]])
    found = greedy(model, source, valid(1, 1, 1), SEPARATOR, 50)  # type: ignore[arg-type]
    assert found.tolist() == [[5, 5, 12, 12], [12, 12, 12, 12], [5, 5, 5, 12]]
    assert (model.prefilled, model.stepped) == (1, 3)
    found = greedy(model, torch.tensor([[90], [1]]), valid(1, 1), SEPARATOR, 6)  # type: ignore[arg-type]
    assert found.tolist() == [[5] * 6, [5, 12, 12, 12, 12, 12]]
    assert model.stepped == 3 + 5
