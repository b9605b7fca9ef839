"""Denoising diffusion of images under a condition: the noise schedule, the prediction targets, the sampler.

SR3 (Saharia et al. 2021, arXiv 2104.07636) after DDPM (Ho et al. 2020, arXiv 2006.11239). With x the image and
gamma_t = prod_{s<=t} (1 - beta_s), beta linear,

    noisy_gamma = gamma^1/2 x + (1 - gamma)^1/2 e,   e ~ N(0, 1)

A network sees noisy_gamma, the condition c and the level gamma^1/2, which is continuous: uniform between two neighbours
of a step t that is drawn uniformly (section 2.1; Chen et al. 2020, arXiv 2009.00713). It predicts, with SR3's absolute
error (a squared one neglects smooth images, where there is little to add),

    noise   e (SR3)
    image   r = (x - c) / RESIDUAL. The input is not noisy_gamma but the expectation of r given noisy_gamma, for
            r ~ N(0, 1): almost 0 at most levels, r itself without noise (after Karras et al. 2022, arXiv 2206.00364),
                E[r | noisy_gamma] = RESIDUAL gamma^1/2 (noisy_gamma - gamma^1/2 c) / (gamma RESIDUAL^2 + 1 - gamma).
            An untrained network estimates c, so that little training and few steps suffice.

Sampling is deterministic (DDIM with eta = 0, Song et al. 2021, arXiv 2010.02502): from pure noise through a few levels,

    x' = x(noisy, c, gamma),  e' = (noisy - gamma^1/2 x') / (1 - gamma)^1/2,  noisy <- next^1/2 x' + (1 - next)^1/2 e'

SR3 draws new noise at every step instead. Here an image is a function of its first noise only, the same network can be
sampled in any number of steps, and both targets use the same sampler. Estimates are clipped to [-1, 1].
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Prediction = Literal["noise", "image"]
STEPS, FIRST_BETA, LAST_BETA = 2000, 1e-6, 1e-2
"""SR3's schedule, CAB's as well."""
RESIDUAL = 0.1
"""The scale of image - condition, so that a network predicts numbers of size 1."""


def levels() -> Tensor:
    """(STEPS + 1,) gamma^1/2 from 1, no noise, down to almost 0."""
    betas = torch.linspace(FIRST_BETA, LAST_BETA, STEPS, dtype=torch.float64)
    return torch.cat([torch.ones(1), (1 - betas).cumprod(0).sqrt()]).float()


def noisy(image: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """image and noise (B, 3, S, S) at level (B,)."""
    signal = level.view(-1, 1, 1, 1)
    return signal * image + _noise_share(signal) * noise


def network_input(prediction: Prediction, noisy: Tensor, condition: Tensor, level: Tensor) -> Tensor:
    """The network's input from the noisy image (B, 3, S, S)."""
    if prediction == "noise":
        return noisy
    signal = level.view(-1, 1, 1, 1)
    return RESIDUAL * signal * (noisy - signal * condition) / ((RESIDUAL * signal) ** 2 + 1 - signal**2)


def loss(
    model: nn.Module, prediction: Prediction, image: Tensor, condition: Tensor, noise: Tensor, level: Tensor
) -> tuple[Tensor, Tensor]:
    """The sum over all pixels and colours, and the auxiliary loss."""
    inputs = network_input(prediction, noisy(image, noise, level), condition, level)
    predicted, auxiliary = model(inputs, condition, level)
    target = noise if prediction == "noise" else (image - condition) / RESIDUAL
    return (predicted.float() - target).abs().sum(), auxiliary


def sample(model: nn.Module, prediction: Prediction, condition: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Images (B, 3, S, S) within [-1, 1] after so many evaluations of the model."""
    grid = levels()[torch.linspace(STEPS, 0, steps + 1).round().long()].to(noise.device)
    x, estimate = noise, condition
    for level, following in pairwise(grid):
        every = level.expand(len(x))
        predicted = model(network_input(prediction, x, condition, every), condition, every)[0].float()
        if prediction == "noise":
            estimate = (x - _noise_share(level) * predicted) / level
        else:
            estimate = condition + RESIDUAL * predicted
        estimate = estimate.clamp(-1, 1)
        x = following * estimate + _noise_share(following) * (x - level * estimate) / _noise_share(level)
    return estimate


def _noise_share(level: Tensor) -> Tensor:
    return (1 - level**2).clamp(min=0).sqrt()
