"""A program for tests/test_devices.py: one of several processes, each of which trains small models as the first says.

    python tests/helpers/distributed_program.py FOLDER

It is started once per process, with the variables that `torchrun` sets. Everything is float64, so that what differs by
more than rounding stands out.
"""

import sys
from pathlib import Path

import torch
from test_train import Echo, settings
from torch import nn

from attentions.base import Attention, Pattern, Shape
from attentions.routing import Routing
from attentions.vanilla import Vanilla
from cab.quality import distributed
from cab.quality import train as train_module
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


class Killed(Exception):
    pass


def run(name: str, folder: Path, together: bool) -> dict[str, object]:
    """The curve and the weights of one case, and what is left of its random numbers."""
    family, dropout, micro_batch = CASES[name]
    torch.manual_seed(0)
    device = torch.device("cpu")
    model = Net(family, dropout)
    alone = distributed.fabric_alone(device, "float32")
    fabric = distributed.fabric_together("cpu", "float32") if together else alone
    task = Echo(Pattern.CAUSAL_SELF, SHAPE, Data(), 0, Path())
    training = settings(steps=12, micro_batch=micro_batch, validations=2)
    wrapped = fabric.setup_module(model)
    kept = Checkpoint(folder / f"{name}.pt", "")
    trained = train_module.train(wrapped, task, training, fabric, kept, lambda point: None, alone.setup_module(model))
    return {"curve": trained.curve, "weights": model.state_dict(), "random": torch.get_rng_state()}


def run_and_be_killed(folder: Path) -> dict[str, object]:
    """Every process stops in the midst of the training, without a word to the others, and then starts again."""
    step = train_module.optimizer_step

    def last_step(model, task, training, fabric, optimizer, number, move):
        if number == KILLED_AT:
            raise Killed
        return step(model, task, training, fabric, optimizer, number, move)

    train_module.optimizer_step = last_step
    try:
        run("cut", folder, together=True)
    except Killed:
        pass
    finally:
        train_module.optimizer_step = step
    if distributed.rank() == 0:
        (folder / "left.pt").write_bytes((folder / "cut.pt").read_bytes())
    return run("cut", folder, together=True)


if __name__ == "__main__":
    train_module.CHECKPOINT_SECONDS, train_module.LOOK = 0.0, 1
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    distributed.join()
    found = {name: run(name, folder, together=True) for name in CASES if name != "cut"}
    found["cut"] = run_and_be_killed(folder)
    torch.save(found, folder / f"found-{distributed.rank()}.pt")
