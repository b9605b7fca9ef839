"""Distance of a generated spectrogram from a reference: MCD and MSD with dynamic time warping.

For log-mel spectrograms x (frames, K) and y, K = 80 bands, natural logarithm of magnitudes:

    c_m(t) = 2/K sum_k x_k(t) cos(pi m (k + 1/2) / K)
    MCD    = 1/U sum over the path of (10 / ln 10) sqrt(2 sum_{m=1..13} (c_m(t) - c'_m(u))^2)     Kubichek 1993
    MSD    = 1/U sum over the path of (20 / ln 10) sqrt(1/K sum_k (x_k(t) - y_k(u))^2)

U is the number of the reference's frames. Both are dB: MSD is the root mean square difference of two frames, MCD the
same of their envelopes, smoothed to 13 cosines and without loudness (m = 0), so that MCD <= MSD for a pair of frames.
The path goes from the first to the last frames by steps (1, 0), (0, 1), (1, 1) of equal weight and has the smallest sum
of distances, for each measure separately.

The sum is not divided by the length of the path: otherwise speech that continues in silence or repeats itself would
lower its score with a longer path. Here a repeated frame never lowers it, and an appended frame only by as much as it
is nearer to the reference's last frames than the frame before it.

CAB takes both from fairseq, which makes waves first (Griffin-Lim), takes from them windows of 50 ms every 12.5 ms over
all frequencies, the power in place of the magnitude, an orthonormal cosine transform with m = 0..12, the root of the
mean of squares without a factor, and divides the sums of a whole set by its reference frames, so that long clips count
more. So its numbers do not compare with these; here no vocoder is between a model and its score.
"""

import math

import numpy as np

COEFFICIENTS = 13
DECIBEL = 10 / math.log(10)


def mcd(generated: np.ndarray, reference: np.ndarray) -> float:
    """Mel cepstral distortion in dB of log-mel spectrograms (frames, 80) and (frames, 80)."""
    one, two = (_cepstrum(spectrogram) for spectrogram in _checked(generated, reference))
    return DECIBEL * math.sqrt(2) * warped(_distances(one, two))


def msd(generated: np.ndarray, reference: np.ndarray) -> float:
    """Mel spectral distortion in dB of log-mel spectrograms (frames, 80) and (frames, 80)."""
    one, two = _checked(generated, reference)
    return 2 * DECIBEL / math.sqrt(one.shape[1]) * warped(_distances(one, two))


def warped(distances: np.ndarray) -> float:
    """The smallest sum of distances (M, N) over a path, divided by N.

    Anti-diagonals i + j = s are computed at once, each from the two before it.
    """
    rows, columns = distances.shape
    flat = distances.ravel()
    sums = np.full((3, rows + 1), np.inf)  # row i is at index i + 1
    sums[1, 0] = 0  # the predecessor of (0, 0), by a diagonal step
    for s in range(rows + columns - 1):
        low, high = max(0, s - columns + 1), min(rows, s + 1)
        before, twice = (s - 1) % 3, (s - 2) % 3
        here, above = slice(low + 1, high + 1), slice(low, high)
        least = np.minimum(np.minimum(sums[twice, above], sums[before, above]), sums[before, here])
        sums[s % 3] = np.inf
        sums[s % 3, here] = least + flat[np.arange(low, high) * (columns - 1) + s]
    return float(sums[(rows + columns - 2) % 3, rows] / columns)


def _checked(generated: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    for name, spectrogram in (("generated", generated), ("reference", reference)):
        if spectrogram.ndim != 2 or not len(spectrogram) or spectrogram.shape[1] != reference.shape[-1]:
            raise ValueError(f"{name} is {spectrogram.shape}: frames x bands are needed, as many bands in both")
    return generated.astype(np.float64), reference.astype(np.float64)


def _cepstrum(spectrogram: np.ndarray) -> np.ndarray:
    """(T, K) to (T, 13)."""
    bands = spectrogram.shape[1]
    places = (np.arange(bands) + 0.5)[:, None] * np.arange(1, COEFFICIENTS + 1)
    return spectrogram @ np.cos(np.pi * places / bands) * 2 / bands


def _distances(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(M, N): Euclidean."""
    squared = (one**2).sum(1)[:, None] + (two**2).sum(1) - 2 * one @ two.T
    return np.sqrt(np.maximum(squared, 0))
