"""Point cloud completion: a complete shape from the points that are visible from one side, with PoinTr.

CAB's task (Zhang et al., ICML 2023, arXiv 2210.07661): PoinTr (Yu et al., ICCV 2021, arXiv 2108.08839) on PCN, Chamfer
distances and F-score (`tasks.metrics.chamfer`). noncausal_self puts the family under test into the encoder's and the
decoder's own attention, noncausal_cross into the decoder's attention to the encoder.

`shape.length` is the number of queries, the decoder's tokens, and `shape.memory` that of proxies, the encoder's tokens:
3,584 and 1,536 in CAB. `shape.depth` is the encoder's. Efficiency is measured on stacks of this width, heads and depth,
at other lengths. The completed cloud has `length` x `fold`^2 predicted points and the `points` of the input, as
published.

The loss is the sum of CD-L1 of the coarse and of the dense cloud, as published. An epoch is all views of all shapes in
random order. CD-L1 is the headline, in thousandths of the bounding box's diagonal.
"""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.slots import Slots
from tasks.backbones.pointops import NEIGHBOURS
from tasks.backbones.pointr import PoinTr
from tasks.base import SPLITS, Batch, Evaluation, Metric, Move, Predictor, Row, Source, Split, Task, TaskContext
from tasks.base import Options as BaseOptions
from tasks.common.completion_baselines import CompletionBaselines
from tasks.data.cloud_views import Sizes
from tasks.data.clouds import Clouds, clouds
from tasks.data.epochs import Epochs
from tasks.data.packed_samples import pack_cloud
from tasks.metrics.chamfer import chamfer_l1, scores

POINTS_PER_BATCH = 2**15
"""Of completed clouds in an evaluation batch."""
SHOWN_CLOUDS = 4
"""Rows of the table `clouds`, evenly spread over the clouds."""
MOST_GROUPS = 32
"""Rows of the table `by_group`."""
HELD_OUT = 1024
"""Synthetic solids in validation and in test, where all of them are evaluated."""


class Options(BaseOptions):
    points: int = Field(512, ge=1)
    """Points of a partial cloud."""
    truth: int = Field(1024, ge=1)
    """Points of a whole cloud."""
    decoder_layers: int = Field(2, ge=1)
    geometric_layers: int = Field(1, ge=0)
    """Of the encoder and of the decoder."""
    width: int = Field(256, ge=8)
    """Features of a whole cloud."""
    fold: int = Field(2, ge=1)
    """A query becomes fold x fold points."""
    views: int = Field(1, ge=1)
    """Partial clouds of each shape; of synthetic data and PCN: of each train shape, PCN at most 8."""
    solids: int = Field(4096, ge=1)
    """Synthetic shapes to train on."""
    validation_clouds: int | None = Field(64, ge=1)
    """None = all; of synthetic data 1,024."""
    test_clouds: int | None = Field(256, ge=1)


class PointCloud(Task):
    name = "point_cloud"
    patterns = (Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS)
    metrics = (Metric("cd_l1", "lower"), Metric("cd_l2", "lower"), Metric("f_score", "higher"))
    options: Options
    clouds: Clouds
    _epochs: Epochs

    def __init__(self, context: TaskContext, options: Options) -> None:
        super().__init__(context, options)
        if self.data.source != "embedded":
            self.refuse_option("solids", f"with data.source={self.data.source}")
        shape, points = self.shape, options.points
        if shape.memory < NEIGHBOURS or shape.length < NEIGHBOURS:
            sizes = f"memory={shape.memory}, length={shape.length}"
            raise ValueError(f"{sizes}: at least {NEIGHBOURS} proxies and queries are needed: use larger model sizes")
        if shape.memory > points:
            raise ValueError(f"memory={shape.memory}: {points} points give as many proxies at most: use a smaller one")
        if shape.hidden < 1:
            raise ValueError(f"hidden={shape.hidden}: at least 1 is needed")
        self.counts: dict[Split, int | None] = {"validation": options.validation_clouds, "test": options.test_clouds}
        held_out = max(HELD_OUT if count is None else count for count in self.counts.values())
        self.sizes = Sizes(points, options.truth, options.views, options.solids, held_out)
        self.clouds_per_batch = max(1, POINTS_PER_BATCH // max(self.completed_points, options.truth))
        """In an evaluation."""

    @property
    def completed_points(self) -> int:
        return self.shape.length * self.options.fold**2 + self.options.points

    def prepare(self) -> Source:
        self.clouds = found = clouds(self.data, self.sizes, self.cache)
        self._epochs = Epochs(self.seed, len(found.splits["train"].partial))
        facts: dict[str, int | float | str] = {}
        for split in SPLITS:
            facts |= {f"{split}_shapes": len(found.splits[split].groups)}
            facts |= {f"{split}_clouds": len(found.splits[split].partial)}
        facts |= {"test_clouds_evaluated": self.examples("test"), "completed_points": self.completed_points}
        return Source(found.description, found.real, found.content, facts)

    def build(self, slots: Slots) -> nn.Module:
        options = self.options
        return PoinTr(slots, self.shape, options.decoder_layers, options.geometric_layers, options.width, options.fold)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """`partial` (B, N, 3) in farthest point order, and `complete` (B, T, 3)."""
        indices, views = self._indices(split, ids), self.clouds.splits[split]
        arrays = {"partial": views.partial[indices], "complete": views.complete[views.owner[indices]]}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def examples(self, split: Split) -> int:
        wanted, most = self.counts.get(split), len(self.clouds.splits[split].partial)
        return most if wanted is None else min(wanted, most)

    def targets(self, batch: Batch) -> int:
        return len(batch["complete"])

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        coarse, dense, auxiliary = model(batch["partial"])
        truth = batch["complete"]
        return (chamfer_l1(coarse, truth) + chamfer_l1(dense, truth)).sum(), auxiliary

    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        found: dict[str, list[Tensor]] = {metric.name: [] for metric in self.metrics}
        shown: list[Row] = []
        wanted = np.unique(np.linspace(0, self.examples(split) - 1, SHOWN_CLOUDS).round().astype(int))
        for batch in self.batches(split, self.clouds_per_batch, move):
            start = len(torch.cat(found["cd_l1"])) if found["cd_l1"] else 0
            dense = model(batch["partial"])[1]
            for name, score in scores(dense, batch["complete"]).items():
                found[name].append(score.cpu())
            for index in wanted[(wanted >= start) & (wanted < start + len(dense))] - start:
                trio = {"partial": batch["partial"], "completed": dense, "complete": batch["complete"]}
                texts = {name: pack_cloud(clouds[index].cpu().numpy()) for name, clouds in trio.items()}
                group = self._group(split, start + int(index))
                shown.append({"shape": group, "cd_l1": found["cd_l1"][-1][index].item(), **texts})
        values = {name: torch.cat(parts).numpy() for name, parts in found.items()}
        metrics = {name: float(value.mean()) for name, value in values.items()}
        return Evaluation(metrics, {"by_group": self._by_group(split, values), "clouds": shown})

    def predictors(self) -> list[Predictor]:
        """All completion baselines."""
        baselines = CompletionBaselines(self.clouds.splits["train"].complete, self.completed_points)
        means: dict[str, dict[str, float]] = {}
        for batch in self.batches("test", self.clouds_per_batch, lambda batch: batch):
            for name, completed in baselines(batch["partial"]).items():
                own = means.setdefault(name, dict.fromkeys((metric.name for metric in self.metrics), 0.0))
                for metric, values in scores(completed, batch["complete"]).items():
                    own[metric] += values.sum().item() / self.examples("test")
        return [Predictor(name, own) for name, own in means.items()]

    def _indices(self, split: Split, ids: Sequence[int]) -> np.ndarray:
        """The indices of the partial clouds of these ids."""
        if split == "train":
            return self._epochs(ids)
        most, count = len(self.clouds.splits[split].partial), self.examples(split)
        return np.asarray(ids) * (most - 1) // max(1, count - 1)

    def _group(self, split: Split, id: int) -> str:
        views = self.clouds.splits[split]
        return views.groups[views.owner[self._indices(split, [id])[0]]]

    def _by_group(self, split: Split, values: dict[str, np.ndarray]) -> list[Row]:
        names = np.array([self._group(split, id) for id in range(self.examples(split))])
        rows: list[Row] = []
        for name in np.unique(names)[:MOST_GROUPS]:
            own = names == name
            means = {metric: float(value[own].mean()) for metric, value in values.items()}
            rows.append({"group": str(name), "clouds": int(own.sum()), **means})
        return rows
