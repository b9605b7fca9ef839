"""A synthetic series: hourly, seven channels, twenty months of thirty days.

    value_c(t) = a_c(t) day_c(t) + week_c(t) + trend_c(t) + noise_c(t)

day_c and week_c are sums of harmonics with random phases, week_c has another level at weekends; the amplitude a_c
drifts over weeks, the trend is a line and a level that drifts over months. The noise of the first channels, the
drivers, is autoregressive with a memory of a day; each other channel follows a driver one to three days later, with
some noise of its own. So a forecast gains from the calendar (the seasons), from the whole window (the amplitude and the
level), and from single distant steps of another channel (a driver). Repeating yesterday repeats its noise.
"""

import numpy as np

VERSION = 1
"""Increased when the same call would give other values."""
STEPS = 20 * 30 * 24
DRIVERS, FOLLOWERS = 3, 4
START = np.datetime64("2018-01-01T00:00:00")
DAY, WEEK = 24, 168
SEED = 20_210_207
LAGS = (26, 38, 50, 66)
"""Hours by which each follower is behind its driver."""
NOISE_HOURS, DRIFT_HOURS, LEVEL_HOURS = 24, 20 * DAY, 60 * DAY


def seasonal() -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names of the channels, dates (T,) in seconds, values (T, C). The same on every call."""
    rng = np.random.default_rng(SEED)
    channels = DRIVERS + FOLLOWERS
    hours = np.arange(STEPS)[:, None]  # from a Monday
    day = _harmonics(rng, hours, DAY, (1.0, 0.5), channels)
    week = _harmonics(rng, hours, WEEK, (0.3,), channels)
    weekend = rng.normal(0, 0.4, channels) * (hours % WEEK >= 5 * DAY)
    amplitude = 1 + 0.35 * _drift(rng, STEPS, channels, DRIFT_HOURS)
    line = rng.normal(0, 0.3, channels) * hours / STEPS
    trend = line + 0.3 * _drift(rng, STEPS, channels, LEVEL_HOURS)
    values = amplitude * day + week + weekend + trend + noise_of_channels(rng)
    units = rng.uniform(0.5, 20, channels)
    dates = START + np.arange(STEPS) * np.timedelta64(3600, "s")
    return _names(), dates, 5 * units + units * values


def _names() -> tuple[str, ...]:
    return (*(f"driver{i}" for i in range(DRIVERS)), *(f"follower{i}" for i in range(FOLLOWERS)))


def _harmonics(
    rng: np.random.Generator, hours: np.ndarray, period: int, sizes: tuple[float, ...], channels: int
) -> np.ndarray:
    """(T, C): a sum of cosines, the first of one period, each of about the size given and of a random phase."""
    total = np.zeros((len(hours), channels))
    for number, size in enumerate(sizes, 1):
        heights, phases = size * rng.uniform(0.6, 1.4, channels), rng.uniform(0, 2 * np.pi, channels)
        total += heights * np.cos(2 * np.pi * number * hours / period + phases)
    return total


def noise_of_channels(rng: np.random.Generator) -> np.ndarray:
    """(T, C): the drivers' own noise, and the followers' delayed copies with noise of their own."""
    before = max(LAGS)
    drivers = 0.8 * _drift(rng, before + STEPS, DRIVERS, NOISE_HOURS)
    own = 0.3 * _drift(rng, STEPS, FOLLOWERS, NOISE_HOURS)
    late = np.stack([drivers[before - lag :][:STEPS, i % DRIVERS] for i, lag in enumerate(LAGS)], 1)
    return np.concatenate([drivers[before:], late + own], 1)


def _drift(rng: np.random.Generator, steps: int, channels: int, hours: int) -> np.ndarray:
    """(steps, channels): autoregressive of order 1, mean 0, variance 1, with a memory of `hours`."""
    keep = np.exp(-1 / hours)
    path = rng.normal(size=(steps, channels))
    path[1:] *= np.sqrt(1 - keep**2)
    for t in range(1, steps):
        path[t] += keep * path[t - 1]
    return path
