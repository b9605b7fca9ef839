"""A program for tests/test_devices.py: one of several processes, each of which trains small models as rank 0 says.

    python tests/helpers/distributed_program.py FOLDER

It is started once per process, with the variables that `torchrun` sets. Everything is float64, so that what differs by
more than rounding stands out.
"""

import contextlib
import sys
from pathlib import Path

import torch
from test_train import Echo, Killed, KilledAtStep, settings
from torch import nn

from attentions.base import Attention, Pattern, Shape
from attentions.routing import Routing
from attentions.vanilla import Vanilla
from cab.quality import distributed
from cab.quality.train import train
from cab.store.checkpoint import Checkpoint
from tasks.base import Data

SHAPE = Shape(8, 2, 1, 0, 6)
DROPOUT = 0.2
KILLED_AT = 7


class Net(nn.Module):
    """`odd` is used by some rows, and so by some batches and in some processes only; `idle` never."""

    def __init__(self, family: type[Attention], dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.attention = family(SHAPE, Pattern.CAUSAL_SELF, 0, 1)
        self.odd, self.idle = nn.Linear(8, 8), nn.Linear(8, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 11)
        self.double()

    def forward(self, tokens):
        x = self.embed(tokens)
        y, auxiliary = self.attention(x)
        y = self.head(self.dropout(x + y))
        odd = tokens[:, 0] % 3 == 0
        if odd.any():
            y = y.index_add(0, odd.nonzero()[:, 0], self.head(self.odd(x[odd])))
        return y, auxiliary


CASES = {
    "plain": (Vanilla, 0.0, None),
    "micro": (Vanilla, 0.0, 1),
    "routing": (Routing, 0.0, 1),
    "whole": (Vanilla, DROPOUT, None),
    "cut": (Vanilla, DROPOUT, None),
}


def run(name: str, folder: Path, together: bool, killed_at: int | None = None) -> dict[str, object]:
    """The curve and the weights of one case, and what is left of its random numbers."""
    family, dropout, micro_batch = CASES[name]
    torch.manual_seed(0)
    device = torch.device("cpu")
    model = Net(family, dropout)
    alone = distributed.single_process_fabric(device, "float32")
    fabric = distributed.multi_process_fabric("cpu", "float32") if together else alone
    task = Echo(Pattern.CAUSAL_SELF, SHAPE, Data(), 0, Path()) if killed_at is None else KilledAtStep(killed_at)
    training = settings(steps=12, micro_batch=micro_batch, validations=2, checkpoint_seconds=0.0)
    wrapped = fabric.setup_module(model)
    checkpoint = Checkpoint(folder / f"{name}.pt", "")
    trained = train(wrapped, task, training, fabric, checkpoint, lambda point: None, alone.setup_module(model))
    return {"curve": trained.curve, "weights": model.state_dict(), "random": torch.get_rng_state()}


def run_and_be_killed(folder: Path) -> dict[str, object]:
    """Every process stops in the middle of the training, without a message to the others, and then starts again."""
    with contextlib.suppress(Killed):
        run("cut", folder, together=True, killed_at=KILLED_AT)
    if distributed.is_rank_zero():
        (folder / "left.pt").write_bytes((folder / "cut.pt").read_bytes())
    return run("cut", folder, together=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    distributed.init_process_group()
    found = {name: run(name, folder, together=True) for name in CASES if name != "cut"}
    found["cut"] = run_and_be_killed(folder)
    torch.save(found, folder / f"found-{distributed.rank()}.pt")
