"""Super-resolution: a large image from a small one, by a diffusion model, with SR3's U-Net.

CAB's task (Zhang et al., ICML 2023, arXiv 2210.07661): SR3 (Saharia et al. 2021, arXiv 2104.07636) from 16 x 16 to 128
x 128, trained on FFHQ and tested on CelebA-HQ, attention at 16, 32, 64 and 128. CAB left vanilla out of 128; here every
family gets the same slots. CAB's data, 70,000 faces of FFHQ for training and CelebA-HQ for the test, are data=local
with both in train/ and test/; without val/, 7,000 of train/ are validation. With data=hub the test is 7,000 held-out
faces of FFHQ instead.

The small image is the large one, downsampled by Pillow's antialiased bicubic filter; the model's condition is the small
image, upsampled by the same filter; both have 8 bits. The condition is also the baseline.

`shape.length` is the number of pixels of the large image, the longest attention of the U-Net; `shape.dim` and
`shape.heads` are those at that resolution, `shape.depth` the blocks at each (one more on the way up), `shape.hidden` is
0, because there is no feed-forward, `shape.memory` is not used. Efficiency is measured on one attention layer of that
width at other lengths (efficiency.level=attention in the recipes), because the model has no stack.

Scores are of RGB images in [0, 1], not rounded: means over images of PSNR (range 1, over all pixels and colours, at
most 100 dB) and SSIM (range 1, Gaussian window of 11 pixels and standard deviation 1.5, mean over all complete windows
and the three colours; Wang et al. 2004), both by scikit-image.

A training example is a random square of an image, mirrored or not, with a random noise level and noise. In evaluation
the initial noise is a function of the example: it depends neither on the seed nor on the batch.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.slots import Slots
from tasks.backbones import diffusion
from tasks.backbones.diffusion import Prediction
from tasks.backbones.unet import COLOURS, UNet, resolutions
from tasks.base import Batch, Evaluation, Metric, Move, Predictor, Row, Source, Split, Task, TaskContext
from tasks.base import Options as BaseOptions
from tasks.data.epochs import Epochs
from tasks.data.image_sources import collection
from tasks.data.images import Crop, Squares, resized, squares
from tasks.data.packed_samples import pack_image

PIXELS_PER_BATCH = 2**15
"""Pixels in an evaluation batch."""
LEAST_SIZE = 16
"""SSIM needs a complete window."""
BEST_PSNR = 100.0
"""PSNR of an image without error, in dB."""
SHOWN_IMAGES = 6
"""Rows of the table `images`, evenly spread over the test images."""
TRAIN, EVALUATION = 1, 2
"""Seeds that separate the random numbers of both."""

WANG: Any = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
"""SSIM as in Wang et al. 2004, with a window of 11 pixels."""

Score = tuple[float, float]
"""PSNR and SSIM."""


class Options(BaseOptions):
    factor: int = Field(4, ge=2)
    """How many times smaller the small image is."""
    multipliers: list[Annotated[int, Field(ge=1)]] = Field([1, 2, 2], min_length=1)
    """Channels at each resolution, as multiples of model.dim; the resolution halves from one to the next."""
    attention_sizes: list[int] = Field([32, 16, 8])
    """Resolutions with attention."""
    dropout: float = Field(0.0, ge=0, lt=1)
    prediction: Prediction = "image"
    sampling_steps: int = Field(4, ge=1, le=diffusion.STEPS)
    """Evaluations of the network for each image."""
    crop: Crop = "tiles"
    validation_images: int = Field(32, ge=1)
    test_images: int = Field(256, ge=1)
    image_column: str = "image"
    """Of a hub data set."""


class SuperResolution(Task):
    name = "super_resolution"
    patterns = (Pattern.NONCAUSAL_SELF,)
    metrics = (Metric("psnr", "higher"), Metric("ssim", "higher"))
    uses_memory = False
    options: Options
    _squares: dict[Split, Squares]
    _epochs: Epochs

    def __init__(self, context: TaskContext, options: Options) -> None:
        super().__init__(context, options)
        if self.data.source != "hub":
            self.refuse_option("image_column", f"with data.source={self.data.source}")
        shape = self.shape
        if shape.hidden:
            raise ValueError(f"hidden={shape.hidden}: the U-Net has no feed-forward: use model.hidden=0")
        sizes = resolutions(shape.length, len(options.multipliers))
        self.size = sizes[0]
        if self.size < LEAST_SIZE:
            raise ValueError(f"length={shape.length}: at least {LEAST_SIZE} x {LEAST_SIZE} = {LEAST_SIZE**2} is needed")
        for size in options.attention_sizes:
            if size not in sizes:
                raise ValueError(f"attention_sizes: {size} is no resolution here: use {', '.join(map(str, sizes))}")
        if self.size % options.factor:
            raise ValueError(f"factor={options.factor}: a divisor of {self.size} pixels is needed")
        self.counts: dict[Split, int] = {"validation": options.validation_images, "test": options.test_images}
        self.levels = diffusion.levels().numpy()
        self.images_per_batch = max(1, PIXELS_PER_BATCH // shape.length)
        """In an evaluation."""

    def prepare(self) -> Source:
        found = collection(self.data, self.options.image_column, self.cache)
        self._squares = squares(found, self.size, self.options.crop, self.cache)
        self._epochs = Epochs(self.seed, len(self._squares["train"]))
        facts = found.facts | {"size": self.size, "small_size": self.size // self.options.factor}
        facts |= {f"{split}_squares": len(own) for split, own in self._squares.items()}
        return Source(found.description, True, found.content, facts | {"test_evaluated": self.examples("test")})

    def build(self, slots: Slots) -> nn.Module:
        return UNet(slots, self.shape, self.options.multipliers, self.options.attention_sizes, self.options.dropout)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """`image`, `condition` and `noise` (B, 3, S, S), images within [-1, 1]; in training `level` (B,)."""
        if split == "train":
            return self._train(ids)
        images = [self._image(split, index) for index in ids]
        noises = [self._noise(np.random.default_rng((EVALUATION, split == "test", index))) for index in ids]
        return self._pairs(images) | {"noise": torch.from_numpy(np.stack(noises))}

    def examples(self, split: Split) -> int:
        own = self._squares[split]
        return len(own) if split == "train" else min(self.counts[split], len(own))

    def targets(self, batch: Batch) -> int:
        return batch["image"].numel()

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        names = ("image", "condition", "noise", "level")
        return diffusion.loss(model, self.options.prediction, *(batch[name] for name in names))

    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        found: list[Score] = []
        shown: list[Row] = []
        evenly = np.linspace(0, self.examples(split) - 1, SHOWN_IMAGES).round().astype(int)
        wanted = set(evenly.tolist()) if split == "test" else set()
        for batch in self.batches(split, self.images_per_batch, move):
            images = diffusion.sample(
                model, self.options.prediction, batch["condition"], batch["noise"], self.options.sampling_steps
            )
            for image, score in zip(images, scores(images, batch["image"]), strict=True):
                if len(found) in wanted:
                    shown.append(self._row(split, len(found), image, score))
                found.append(score)
        return Evaluation(_means(found), {"images": shown} if shown else {})

    def predictors(self) -> list[Predictor]:
        found: list[Score] = []
        for batch in self.batches("test", self.images_per_batch, lambda batch: batch):
            found += scores(batch["condition"], batch["image"])
        return [Predictor("bicubic", _means(found))]

    def _image(self, split: Split, index: int) -> np.ndarray:
        """Evaluated squares are evenly spread over all of the split."""
        own, last = self._squares[split], self.examples(split) - 1
        return own.square(index * (len(own) - 1) // max(1, last))

    def _train(self, ids: Sequence[int]) -> Batch:
        images, noises, drawn = [], [], []
        for index, place in zip(ids, self._epochs(ids), strict=True):
            generator = np.random.default_rng((TRAIN, self.seed, index))
            images.append(self._squares["train"].anywhere(int(place), generator))
            noises.append(self._noise(generator))
            step = generator.integers(1, len(self.levels))
            drawn.append(generator.uniform(self.levels[step], self.levels[step - 1]))
        extra = {"noise": torch.from_numpy(np.stack(noises)), "level": torch.tensor(drawn, dtype=torch.float32)}
        return self._pairs(images) | extra

    def _noise(self, generator: np.random.Generator) -> np.ndarray:
        return generator.standard_normal((COLOURS, self.size, self.size), np.float32)

    def _small(self, image: np.ndarray) -> np.ndarray:
        return resized(image, self.size // self.options.factor)

    def _pairs(self, images: Sequence[np.ndarray]) -> Batch:
        conditions = [resized(self._small(image), self.size) for image in images]
        return {"image": _tensor(images), "condition": _tensor(conditions)}

    def _row(self, split: Split, index: int, image: Tensor, score: Score) -> Row:
        """A row of the table: the scores, and small, bicubic, generated and true image side by side."""
        true = self._image(split, index)
        small = self._small(true)
        nearest = small.repeat(self.options.factor, 0).repeat(self.options.factor, 1)
        made = ((image.cpu().numpy().transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)
        strip = pack_image(np.concatenate([nearest, resized(small, self.size), made, true], 1))
        return {"example": index, **_means([score]), "small_bicubic_generated_true": strip}


def scores(images: Tensor, truths: Tensor) -> list[Score]:
    """PSNR in dB and SSIM of each image; both within [-1, 1], (B, 3, S, S)."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    found = []
    for image, truth in zip(*((each.double().cpu().numpy() + 1) / 2 for each in (images, truths)), strict=True):
        with np.errstate(divide="ignore"):  # no error at all
            psnr = peak_signal_noise_ratio(truth, image, data_range=1.0)
        ssim = structural_similarity(truth, image, data_range=1.0, channel_axis=0, **WANG)
        found.append((min(float(psnr), BEST_PSNR), float(ssim)))
    return found


def _means(found: Sequence[Score]) -> dict[str, float]:
    return {
        name: math.fsum(values) / len(values)
        for name, values in zip(("psnr", "ssim"), zip(*found, strict=True), strict=True)
    }


def _tensor(images: Sequence[np.ndarray]) -> Tensor:
    """(H, W, 3) uint8 each, to (B, 3, H, W) within [-1, 1]."""
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
