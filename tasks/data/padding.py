"""Rows of several lengths as one tensor."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def padded(rows: Sequence[np.ndarray], filler: int = 0) -> tuple[Tensor, Tensor]:
    """Rows (n, ...) as one tensor (B, longest, ...), padded with `filler`, and its mask (B, longest)."""
    lengths = np.array([len(row) for row in rows])
    valid = np.arange(lengths.max()) < lengths[:, None]
    filled = np.full((*valid.shape, *rows[0].shape[1:]), filler, rows[0].dtype)
    filled[valid] = np.concatenate(rows)
    return torch.from_numpy(filled), torch.from_numpy(valid)
