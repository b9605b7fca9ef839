"""Point cloud completion: the whole of a shape from the points that are seen from one side, with PoinTr.

CAB's task (Zhang et al., ICML 2023, arXiv 2210.07661): PoinTr (Yu et al., ICCV 2021, arXiv 2108.08839) on PCN, Chamfer
distances and F-score (`tasks.metrics.chamfer`). noncausal_self puts the family under test into the encoder's and the
decoder's own attention, noncausal_cross into the decoder's attention to the encoder.

`shape.length` is the number of queries, which are the decoder's tokens, and `shape.memory` that of proxies, the
encoder's: CAB's 3,584 and 1,536. `shape.depth` is the encoder's. Costs are measured on stacks of the model's width,
heads and depth at lengths of their own (memory as long as the queries), so that neither enters there. The completed
cloud has `length` x `fold`^2 points that are predicted and the `points` that are given, as published.

The loss is the CD-L1 of the coarse cloud and that of the dense one, as published. Train ids go through all views of all
shapes in an order of their own in every epoch. CD-L1 is the headline, in thousandths of the bounding box's diagonal.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from attentions.base import Pattern, Shape, check_whole
from attentions.slots import Slots
from tasks.backbones.pointops import NEIGHBOURS
from tasks.backbones.pointr import PoinTr
from tasks.base import Batch, Data, Evaluation, Metric, Move, Source, Split, Task, Trivial
from tasks.common.completion_baselines import Untrained
from tasks.data.clouds import Clouds, clouds
from tasks.data.epochs import Epochs
from tasks.data.packed import pack_cloud
from tasks.data.text import SPLITS
from tasks.data.views import Sizes
from tasks.metrics.chamfer import chamfer_l1, scores

EVALUATED_AT_ONCE = 2**15
"""Points of completed clouds in an evaluation batch."""
TRIED = 128
"""Test clouds by which the trivial predictor is chosen."""
SHOWN = 4
"""Rows of the table `clouds`, evenly spread."""
GROUPS = 32
"""Rows of the table by groups at most."""

HELD_OUT = 1024
"""Generated solids in validation and in test, where all of them are evaluated."""

Row = dict[str, int | float | str]


class PointCloud(Task):
    """Options: how many `points` are given and how many are the `truth`, `decoder_layers`, how many layers of encoder
    and decoder are `geometric_layers`, the `width` of features of a whole cloud, `fold` (squared, points that a query
    becomes), `views` of each shape (generated and PCN: of each train shape, PCN at most 8), generated `solids`, and how
    many clouds are evaluated (null = all; generated: 1,024)."""

    name = "point_cloud"
    patterns = (Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS)
    metrics = (Metric("cd_l1", "lower"), Metric("cd_l2", "lower"), Metric("f_score", "higher"))
    clouds: Clouds
    _epochs: Epochs

    def __init__(
        self,
        pattern: Pattern,
        shape: Shape,
        data: Data,
        seed: int,
        cache: Path,
        *,
        points: int = 512,
        truth: int = 1024,
        decoder_layers: int = 2,
        geometric_layers: int = 1,
        width: int = 256,
        fold: int = 2,
        views: int = 1,
        solids: int = 4096,
        validation_clouds: int | None = 64,
        test_clouds: int | None = 256,
    ) -> None:
        super().__init__(pattern, shape, data, seed, cache)
        wholes = {"points": points, "truth": truth, "decoder_layers": decoder_layers, "width": width, "fold": fold}
        wholes |= {"views": views, "solids": solids}
        optional = {"validation_clouds": validation_clouds, "test_clouds": test_clouds}
        for name, value in (wholes | {name: value for name, value in optional.items() if value is not None}).items():
            check_whole(name, value)
        check_whole("geometric_layers", geometric_layers, 0)
        if shape.memory < NEIGHBOURS or shape.length < NEIGHBOURS:
            sizes = f"memory={shape.memory}, length={shape.length}"
            raise ValueError(f"{sizes}: at least {NEIGHBOURS} proxies and queries are needed: use larger model sizes")
        if shape.memory > points:
            raise ValueError(f"memory={shape.memory}: {points} points give as many proxies at most: use a smaller one")
        if shape.hidden < 1 or width < 8:
            raise ValueError(f"hidden={shape.hidden}, width={width}: at least 1 and at least 8 are needed")
        self.points, self.truth, self.width, self.fold = points, truth, width, fold
        self.decoder_layers, self.geometric_layers = decoder_layers, geometric_layers
        self.counts: dict[Split, int | None] = {"validation": validation_clouds, "test": test_clouds}
        held_out = max(HELD_OUT if count is None else count for count in self.counts.values())
        self.sizes = Sizes(points, truth, views, solids, held_out)

    @property
    def completed_points(self) -> int:
        return self.shape.length * self.fold**2 + self.points

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
        return PoinTr(slots, self.shape, self.decoder_layers, self.geometric_layers, self.width, self.fold)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """`partial` (B, N, 3) in farthest point order, and `complete` (B, T, 3)."""
        places, views = self._places(split, ids), self.clouds.splits[split]
        arrays = {"partial": views.partial[places], "complete": views.complete[views.owner[places]]}
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
        wanted = np.unique(np.linspace(0, self.examples(split) - 1, SHOWN).round().astype(int))
        for batch in self.batches(split, self._at_once(), move):
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

    def trivial(self) -> Trivial:
        """The best completion baseline on some evenly spread test clouds, with its score on all of them."""
        complete, count = Untrained(self.clouds.splits["train"].complete, self.completed_points), self.examples("test")
        some = np.unique(np.linspace(0, count - 1, min(TRIED, count)).round().astype(int))
        tried = self._untrained(complete, some.tolist())
        name = min(tried, key=lambda name: tried[name]["cd_l1"])
        return Trivial(name, self._untrained(complete, range(count), name)[name])

    def _untrained(self, complete: Untrained, ids: Sequence[int], only: str = "") -> dict[str, dict[str, float]]:
        """Mean scores on test clouds by the name of the way."""
        sums: dict[str, dict[str, float]] = {}
        for start in range(0, len(ids), self._at_once()):
            batch = self.batch("test", ids[start : start + self._at_once()])
            for name, completed in complete(batch["partial"]).items():
                if only in ("", name):
                    own = sums.setdefault(name, dict.fromkeys((metric.name for metric in self.metrics), 0.0))
                    for metric, values in scores(completed, batch["complete"]).items():
                        own[metric] += values.sum().item() / len(ids)
        return sums

    def _at_once(self) -> int:
        return max(1, EVALUATED_AT_ONCE // max(self.completed_points, self.truth))

    def _places(self, split: Split, ids: Sequence[int]) -> np.ndarray:
        """The partial clouds behind ids."""
        if split == "train":
            return self._epochs(ids)
        most, count = len(self.clouds.splits[split].partial), self.examples(split)
        return np.asarray(ids) * (most - 1) // max(1, count - 1)

    def _group(self, split: Split, id: int) -> str:
        views = self.clouds.splits[split]
        return views.groups[views.owner[self._places(split, [id])[0]]]

    def _by_group(self, split: Split, values: dict[str, np.ndarray]) -> list[Row]:
        names = np.array([self._group(split, id) for id in range(self.examples(split))])
        rows: list[Row] = []
        for name in np.unique(names)[:GROUPS]:
            own = names == name
            means = {metric: float(value[own].mean()) for metric, value in values.items()}
            rows.append({"group": str(name), "clouds": int(own.sum()), **means})
        return rows
