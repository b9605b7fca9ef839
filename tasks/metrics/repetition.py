"""How much of what leads to a token is a repetition of something earlier in the same window.

Copies of names, identifiers and phrases are what attention can do and counts of neighbours cannot, so a language
model's loss is broken down by the length of the longest repetition that a label ends.
"""

import numpy as np

LONGEST = 255


def repetition_lengths(tokens: np.ndarray) -> np.ndarray:
    """tokens (B, N + 1) to (B, N): for each token but the first, the length of the longest run that ends with it and
    that also ends somewhere earlier in its row, at most LONGEST; 0 for a token that its row did not have before."""
    longest = np.zeros((tokens.shape[0], tokens.shape[1] - 1), np.uint8)
    for distance in range(1, tokens.shape[1]):
        same = tokens[:, distance:] == tokens[:, :-distance]  # (B, N + 1 - distance)
        place = np.arange(1, same.shape[1] + 1)
        last_difference = np.maximum.accumulate(np.where(same, 0, place), axis=1)
        run = np.minimum(place - last_difference, LONGEST).astype(np.uint8)
        np.maximum(longest[:, distance - 1 :], run, out=longest[:, distance - 1 :])
    return longest
