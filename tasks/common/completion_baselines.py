"""Baselines of point cloud completion without learning: what a trained model has to beat.

Beside the given points and the mean of all train shapes, the train shapes that fit the given points best, which needs a
memory of all of them and no model. How badly given points x fit a shape Y is the first half of CD-L1, mean_x d(x, Y),
of some x that are spread out and some points of Y. At most 4,096 train shapes are compared, drawn with a fixed seed.

Nothing is tuned. On the synthetic solids (`smoke`), 16 shapes instead of 4, shrunk by 15%, score 26.5 instead of 27.6:
a Chamfer distance favours points that are near to all places where the surface may be.
"""

import numpy as np
import torch
from torch import Tensor

from tasks.backbones.pointops import ENTRIES, comparison_factors

MOST_SHAPES = 4096
GIVEN_POINTS, SHAPE_POINTS = 64, 128
"""Points by which a cloud and a shape are compared."""
MIXED_SHAPES = 4
"""Several shapes are mixed, because one of them alone is too much of a guess."""


class CompletionBaselines:
    """All baselines, from the train shapes (S, T, 3); completed clouds have at most `count` points."""

    def __init__(self, shapes: np.ndarray, count: int, most_shapes: int = MOST_SHAPES) -> None:
        rng = np.random.default_rng(0)
        pooled = shapes[rng.integers(len(shapes), size=count), rng.integers(shapes.shape[1], size=count)]
        self.mean = torch.from_numpy(pooled).unsqueeze(0)
        self.shapes, self.count = shapes, count
        self.compared = np.sort(rng.permutation(len(shapes))[:most_shapes])
        self.shape_points = torch.from_numpy(np.ascontiguousarray(shapes[self.compared, :SHAPE_POINTS]))

    def __call__(self, given: Tensor) -> dict[str, Tensor]:
        """Clouds (B, N, 3) in farthest point order to completed clouds (B, at most `count`, 3) by baseline."""
        count = self.count - given.shape[1]
        mean = self.mean.expand(len(given), -1, -1)
        places = self.compared[self.nearest(given, min(MIXED_SHAPES, len(self.compared))).numpy()]  # (B, k)
        several = places.shape[1]
        found = {
            "mean shape (points of all train shapes)": mean,
            "what is given": given,
            "what is given and the mean shape": torch.cat([given, mean[:, :count]], 1),
            "what is given and its reflection through the middle": torch.cat([given, -given], 1),
            "nearest train shape": self._points(places[:, :1], self.count),
            "what is given and the nearest train shape": torch.cat([given, self._points(places[:, :1], count)], 1),
        }
        if several > 1:
            mixed = self._points(places, -(-count // several))
            found[f"what is given and the {several} nearest train shapes"] = torch.cat([given, mixed[:, :count]], 1)
        return found

    def nearest(self, given: Tensor, count: int) -> Tensor:
        """(B, count) indices into `compared`, the best first."""
        probes = given[:, :GIVEN_POINTS]  # (B, n, 3)
        at_once = max(1, ENTRIES["cpu"] // (probes.shape[1] * self.shape_points.shape[1]))
        found = []
        for cloud in probes:
            parts = []
            for shapes in self.shape_points.split(at_once):
                left, right = comparison_factors(cloud.unsqueeze(0), shapes.flatten(0, 1).unsqueeze(0))
                squares = (left @ right)[0].unflatten(1, shapes.shape[:2]).amin(2)  # (n, S)
                distances = (squares + cloud.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
                parts.append(distances.mean(0))
            found.append(torch.cat(parts).topk(count, largest=False).indices)
        return torch.stack(found)

    def _points(self, places: np.ndarray, count: int) -> Tensor:
        """The first `count` points, which are in random order, of the shapes (B, k): (B, k count, 3)."""
        return torch.from_numpy(self.shapes[places, :count]).flatten(1, 2)
