"""SR3's U-Net and the diffusion around it: slots as long as what they see, the schedule and the sampler by hand."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from attentions.base import Attention, Pattern, Shape, core_parameters, no_loss
from attentions.lightning import Lightning
from attentions.none import NoAttention
from attentions.slots import Slots
from attentions.vanilla import Vanilla
from tasks.backbones import diffusion
from tasks.backbones.unet import UNet, resolutions

NS = Pattern.NONCAUSAL_SELF


def unet(family: type[Attention] = Vanilla, sizes=(16, 8), multipliers=(1, 2), depth=1, dropout=0.0) -> UNet:
    """Its weights are drawn again, because the head starts at 0."""
    torch.manual_seed(0)
    model = UNet(Slots(partial(family), NS), Shape(16, 2, depth, 0, 256), multipliers, sizes, dropout)
    for parameter in model.head.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def given(count: int = 2, size: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 3, size, size), torch.rand(count, 3, size, size), torch.rand(count)


@pytest.mark.parametrize(
    ("sizes", "depth", "expected"),
    [
        ((16, 8, 4), 1, {16: 3, 8: 3, 4: 4}),
        ((16,), 1, {16: 3, 4: 1}),
        ((8,), 2, {8: 5, 4: 1}),
        ((), 1, {4: 1}),
    ],
)
def test_slots_have_the_sizes_that_they_see(sizes, depth: int, expected: dict[int, int]) -> None:
    """`depth` layers on the way down, one more on the way up, and one in the middle."""
    slots = Slots(partial(NoAttention), NS)
    model = UNet(slots, Shape(16, 2, depth, 0, 256), (1, 2, 3), sizes, 0.0)
    seen: list[Attention] = []
    for module in model.modules():
        if isinstance(module, Attention):

            def look(module, inputs) -> None:
                assert inputs[0].shape[1:] == (module.shape.length, module.shape.dim)
                seen.append(module)

            module.register_forward_pre_hook(look)
    model(*given())
    assert [module.layer for module in seen] == list(range(len(seen)))
    assert {module.layers for module in seen} == {len(seen)}
    lengths = [module.shape.length for module in seen]
    assert {size: lengths.count(size**2) for size in (16, 8, 4) if size**2 in lengths} == expected
    assert slots.took == [f"self.{size}" for size in expected]
    for module in seen:
        width = {256: 16, 64: 32, 16: 48}[module.shape.length]
        assert (module.shape.dim, module.shape.head_dim, module.shape.hidden) == (width, 8, 0)


def test_it_starts_from_nothing_and_then_depends_on_all_it_is_given() -> None:
    fresh = UNet(Slots(partial(Vanilla), NS), Shape(16, 2, 1, 0, 256), (1, 2), (16, 8), 0.0)
    assert fresh(*given())[0].abs().amax() == 0
    model = unet()
    base = model(*given())[0]
    assert base.shape == (2, 3, 16, 16)
    for place in range(3):
        inputs = [tensor.clone() for tensor in given()]
        inputs[place][1] += 0.5
        after = model(*inputs)[0]
        assert (after[1] - base[1]).abs().amax() > 1e-3
        torch.testing.assert_close(after[0], base[0])


def test_attention_carries_far() -> None:
    """Without halving and norms over all pixels only attention joins the corners of an image."""
    far = {}
    for family in (Vanilla, NoAttention):
        model = unet(family, multipliers=(1,), sizes=(16,))
        for module in model.modules():
            if isinstance(module, nn.GroupNorm):
                module.forward = lambda x: x  # type: ignore[method-assign]
        noisy, condition, level = given()
        base = model(noisy, condition, level)[0]
        noisy[:, :, 0, 0] += 1
        far[family] = (model(noisy, condition, level)[0] - base)[:, :, 15, 15].abs().amax()
    assert far[Vanilla] > 1e-6
    assert far[NoAttention] == 0


def test_bfloat16_leaves_the_level_the_stem_and_the_head_alone() -> None:
    """Neighbouring levels stay apart, down to the smallest noise, and images are not rounded to eight bits."""
    model = unet()
    levels = diffusion.levels()[1:].unflatten(0, (-1, 200))[:, :2].flatten()  # pairs of neighbours
    noisy, condition, _ = given(len(levels))
    outputs: dict[str, Tensor] = {}
    for name in ("level", "stem", "middle.0.first", "head"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _, inputs, output, name=name: outputs.update({name: output}))
    with torch.no_grad():
        exact = model(noisy, condition, levels)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(noisy, condition, levels)[0]
    assert outputs["middle.0.first"].dtype == torch.bfloat16
    assert {y.dtype, *(outputs[name].dtype for name in ("level", "stem", "head"))} == {torch.float32}
    torch.testing.assert_close(y, exact, atol=0.05, rtol=0.05)
    one, other = outputs["level"].unflatten(0, (-1, 2)).unbind(1)
    assert (one != other).any(1).all()


def test_all_parameters_learn() -> None:
    model = unet(Lightning)
    y, auxiliary = model(*given())
    (y.square().sum() + auxiliary).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().amax() > 0, name


def test_dropout_is_for_training_only() -> None:
    model, inputs = unet(dropout=0.5), given()
    assert not torch.equal(model(*inputs)[0], model(*inputs)[0])
    model.eval()
    assert torch.equal(model(*inputs)[0], model(*inputs)[0])


def test_the_size_of_the_published_network() -> None:
    """SR3's for 16 x 16 to 128 x 128 has just under 100 million parameters."""
    with torch.device("meta"):
        model = UNet(Slots(partial(Vanilla), NS), Shape(64, 1, 2, 0, 128**2), (1, 2, 4, 8, 8), (128, 64, 32, 16), 0.2)
    assert 95e6 < core_parameters(model) < 105e6


def test_lengths_that_are_no_square() -> None:
    assert resolutions(1024, 3) == [32, 16, 8]
    with pytest.raises(ValueError, match="length=1,000: the pixels of a square image are needed: use 961 for example"):
        resolutions(1000, 1)
    with pytest.raises(ValueError, match="length=900: 30 pixels cannot be halved 2 times: use fewer multipliers"):
        resolutions(900, 3)


# Diffusion


class Knows(nn.Module):
    """Predicts perfectly: the noise, or what the image adds to the condition."""

    def __init__(self, image: Tensor, prediction: diffusion.Prediction) -> None:
        super().__init__()
        self.image, self.prediction, self.asked = image, prediction, list[Tensor]()

    def forward(self, noisy: Tensor, condition: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(level)
        signal = level.view(-1, 1, 1, 1)
        if self.prediction == "image":
            return (self.image - condition) / diffusion.RESIDUAL, no_loss(noisy)
        return (noisy - signal * self.image) / (1 - signal**2).sqrt(), no_loss(noisy)


def test_the_schedule_is_the_published_one() -> None:
    levels = diffusion.levels().double()
    assert len(levels) == 2001
    assert levels[0] == 1
    assert (levels.diff() < 0).all()
    ratio = (levels[1:] / levels[:-1]) ** 2
    assert 1 - ratio[0] == pytest.approx(1e-6, rel=0.1)
    assert 1 - ratio[-1] == pytest.approx(1e-2, rel=1e-3)
    assert levels[-1] ** 2 == pytest.approx(4.4e-5, rel=0.05)


@pytest.mark.parametrize("prediction", ["noise", "image"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_sampling_ends_at_what_is_known(prediction, steps: int) -> None:
    torch.manual_seed(0)
    image, condition, noise = torch.rand(2, 3, 8, 8) * 2 - 1, torch.rand(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    model = Knows(image, prediction)
    made = diffusion.sample(model, prediction, condition, noise, steps)
    torch.testing.assert_close(made, image, atol=2e-4, rtol=0)
    asked = torch.stack([level[0] for level in model.asked])
    assert len(asked) == steps
    assert asked[0] == diffusion.levels()[-1]
    assert (asked.diff() > 0).all()
    assert (asked < 1).all()


def test_a_step_by_hand() -> None:
    """Two steps of a network that says what it is shown."""
    torch.manual_seed(0)
    levels, noise, condition = diffusion.levels(), torch.randn(1, 3, 4, 4), torch.rand(1, 3, 4, 4)

    class Says(nn.Module):
        def forward(self, seen, condition, level):
            return seen, no_loss(seen)

    def estimate(x: Tensor, level: Tensor) -> Tensor:
        weight = 0.1 * level / (0.01 * level**2 + 1 - level**2)
        return (condition + 0.1 * weight * (x - level * condition)).clamp(-1, 1)

    first, second = levels[2000], levels[1000]
    before = estimate(noise, first)
    left = (noise - first * before) / (1 - first**2).sqrt()
    x = second * before + (1 - second**2).sqrt() * left
    made = diffusion.sample(Says(), "image", condition, noise, 2)
    torch.testing.assert_close(made, estimate(x, second))
    made = diffusion.sample(Says(), "noise", condition, noise, 1)
    torch.testing.assert_close(made, ((noise - (1 - first**2).sqrt() * noise) / first).clamp(-1, 1))


def test_what_is_shown_is_the_least_squares_estimate() -> None:
    """Of r, among all multiples of the noisy image without the condition's share."""
    torch.manual_seed(0)
    r, noise, condition = torch.randn(3, 1, 200, 200), torch.randn(3, 1, 200, 200), torch.rand(3, 1, 200, 200)
    level = torch.tensor([0.9, 0.99, 1.0])
    noisy = diffusion.noisy(condition + diffusion.RESIDUAL * r, noise, level)
    estimate = diffusion.network_input("image", noisy, condition, level)
    best = (estimate * r).sum((1, 2, 3)) / estimate.square().sum((1, 2, 3))
    torch.testing.assert_close(best, torch.ones(3), atol=0.15, rtol=0)
    torch.testing.assert_close(estimate[2], r[2], atol=1e-4, rtol=0)
    assert diffusion.network_input("noise", noisy, condition, level) is noisy


def test_losses_by_hand() -> None:
    torch.manual_seed(0)
    image, condition, noise, level = (
        torch.rand(2, 3, 4, 4),
        torch.rand(2, 3, 4, 4),
        torch.randn(2, 3, 4, 4),
        torch.rand(2),
    )
    seen = []

    class Tenth(nn.Module):
        def forward(self, noisy, condition, level):
            seen.append((noisy, condition, level))
            return torch.full_like(noisy, 0.1), torch.ones(())

    loss, auxiliary = diffusion.loss(Tenth(), "noise", image, condition, noise, level)
    torch.testing.assert_close(loss, (noise - 0.1).abs().sum())
    assert auxiliary == 1
    loss, _ = diffusion.loss(Tenth(), "image", image, condition, noise, level)
    torch.testing.assert_close(loss, ((image - condition) / 0.1 - 0.1).abs().sum())
    for i in range(2):
        shown = level[i] * image[i] + (1 - level[i] ** 2).sqrt() * noise[i]
        torch.testing.assert_close(seen[0][0][i], shown)
        torch.testing.assert_close(seen[1][0][i], diffusion.network_input("image", shown, condition[i], level[i])[0])
    assert torch.equal(seen[0][1], condition)
    assert torch.equal(seen[0][2], level)
