"""Ridge regression from the known steps of a window to those to forecast: what a linear model is worth.

    y - x_L = W (x - x_L) + b,    W, b = argmin mean |error|^2 + strength |W|^2

One W (H, L) for all channels, which sees a channel at a time, relative to its last known value: NLinear of Zeng et al.
(AAAI 2023, arXiv 2205.13504), who showed that it beats Informer, in closed form and in float64. It costs
O(R L (L + H) + L^3) for R rows, a window of a channel each.
"""

from dataclasses import dataclass

import numpy as np

STRENGTHS = tuple(10.0**exponent for exponent in range(-5, 2))
MOST_ROWS = 2**18
"""Where the train part has more, windows evenly spread over it are used."""
ROWS_AT_ONCE = 2**13


@dataclass(frozen=True)
class Moments:
    """Means over rows of products of inputs, the constant 1 the last of them."""

    inputs: np.ndarray
    """(L + 1, L + 1)"""
    targets: np.ndarray
    """(L + 1, H), of inputs and targets."""


def moments(values: np.ndarray, length: int, horizon: int) -> Moments:
    """Of the windows of a train part (T, C)."""
    windows = np.lib.stride_tricks.sliding_window_view(values, length + horizon, axis=0)  # (windows, C, L + H)
    channels = values.shape[1]
    count = min(len(windows), max(1, MOST_ROWS // channels))
    chosen = np.arange(count) * (len(windows) - 1) // max(1, count - 1)
    inputs, targets = np.zeros((length + 1, length + 1)), np.zeros((length + 1, horizon))
    for part in np.array_split(chosen, -(-count * channels // ROWS_AT_ONCE)):
        rows = windows[part].reshape(-1, length + horizon).astype(np.float64)
        x, y = _inputs(rows[:, :length]), rows[:, length:] - rows[:, length - 1 : length]
        inputs, targets = inputs + x.T @ x, targets + x.T @ y
    return Moments(inputs / (count * channels), targets / (count * channels))


def fitted(found: Moments, strength: float) -> np.ndarray:
    """The weights (L + 1, H) and, in the last row, the constant, which is free."""
    penalty = np.full(len(found.inputs), strength)
    penalty[-1] = 0
    return np.linalg.solve(found.inputs + np.diag(penalty), found.targets)


def forecast(weights: np.ndarray, past: np.ndarray) -> np.ndarray:
    """(B, L, C) to (B, H, C)."""
    rows = past.transpose(0, 2, 1).astype(np.float64)  # (B, C, L)
    return (_inputs(rows) @ weights + rows[..., -1:]).transpose(0, 2, 1)


def _inputs(known: np.ndarray) -> np.ndarray:
    """(..., L) to (..., L + 1)."""
    return np.concatenate([known - known[..., -1:], np.ones_like(known[..., :1])], -1)
