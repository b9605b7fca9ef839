"""GPT: logits, the head tied to the embedding, decoding equal to the full pass, causal."""

from functools import partial

import pytest
import torch

from attentions.base import Pattern, Shape
from attentions.none import NoAttention
from attentions.slots import Slots
from attentions.vanilla import Vanilla
from tasks.backbones.gpt import GPT
from tasks.backbones.positions import PositionKind, Positions, sinusoidal

SHAPE = Shape(dim=16, heads=2, depth=2, hidden=24, length=12)
VOCABULARY = 11
KINDS: list[PositionKind] = ["sinusoidal", "learned", "none"]


def gpt(kind: PositionKind = "sinusoidal", family=Vanilla) -> GPT:
    torch.manual_seed(0)
    return GPT(Slots(partial(family), Pattern.CAUSAL_SELF), SHAPE, VOCABULARY, kind).double().eval()


def tokens(n: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (2, n), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", [1, 5, 11])
def test_prefill_and_steps_equal_forward(kind: PositionKind, prompt: int) -> None:
    model, x = gpt(kind), tokens(12)
    with torch.no_grad():
        full, _ = model(x)
        logits, state = model.prefill(x[:, :prompt])
        parts = [logits]
        for t in range(prompt, 12):
            logits, state = model.step(x[:, t : t + 1], state)
            parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), full)


def test_later_tokens_do_not_change_earlier_logits() -> None:
    model, x = gpt(), tokens(12)
    changed = x.clone()
    changed[:, 7] = (changed[:, 7] + 1) % VOCABULARY
    with torch.no_grad():
        before, after = model(x)[0], model(changed)[0]
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_head_is_the_embedding_and_counts_once() -> None:
    model = gpt()
    assert [name for name, p in model.named_parameters() if VOCABULARY in p.shape] == ["embedding.weight"]
    loss = model(tokens(4))[0].sum()
    loss.backward()
    assert model.embedding.weight.grad is not None
    assert (model.embedding.weight.grad.abs().sum(1) > 0).all()  # ids that are no input get a gradient from the head


def test_first_logits_are_of_moderate_size() -> None:
    torch.manual_seed(0)
    shape = Shape(dim=128, heads=4, depth=2, hidden=256, length=64)
    model = GPT(Slots(partial(Vanilla), Pattern.CAUSAL_SELF), shape, 257, "sinusoidal")
    x = torch.randint(0, 257, (4, 64))
    logits, _ = model(x[:, :-1])
    assert 0.5 < logits.std() < 2
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
    assert loss < 12  # log 257 = 5.55; a token's own logit starts at about 128^1/2, as each sees itself best


def test_the_family_fills_the_decoder() -> None:
    slots = Slots(partial(NoAttention), Pattern.CAUSAL_SELF)
    GPT(slots, SHAPE, VOCABULARY, "none")
    assert slots.took == ["decoder.self"]


def test_sinusoids_do_not_depend_on_where_they_start() -> None:
    torch.testing.assert_close(sinusoidal(0, 9, 7)[4:], sinusoidal(4, 5, 7))


def test_learned_positions_start_as_sinusoids_and_end() -> None:
    positions = Positions("learned", 6, 8)
    x = torch.zeros(1, 3, 8)
    torch.testing.assert_close(positions(x, 3)[0], sinusoidal(3, 3, 8))
    with pytest.raises(ValueError, match="learned positions end at 6: use positions=sinusoidal"):
        positions(x, 4)


def test_unknown_positions() -> None:
    with pytest.raises(ValueError, match="positions='alibi': use rotary, sinusoidal, learned, none"):
        Positions("alibi", 6, 8)  # type: ignore[arg-type]
