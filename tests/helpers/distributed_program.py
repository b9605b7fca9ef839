"""A program for tests/test_devices.py: one of several processes that train small models together.

    python tests/helpers/distributed_program.py FOLDER

It is started once per process, with the variables that `torchrun` sets. Everything is float64, so that a difference
beyond rounding stands out.
"""

import contextlib
import sys
from pathlib import Path

import torch
from test_selection import Scripted
from test_train import Killed, KilledAtStep, settings
from torch import nn

from attentions.base import Attention, Pattern, Shape
from attentions.routing import Routing
from attentions.vanilla import Vanilla
from cab.quality import distributed
from cab.quality.train import train
from cab.store.checkpoint import Checkpoint

SHAPE = Shape(8, 2, 1, 0, 6)
DROPOUT = 0.2
STEPS = 12
KILLED_AT = 7


class Net(nn.Module):
    """`odd` is used by some rows, and so in some batches and in some processes only; `idle` never."""

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
    "undisturbed": (Vanilla, DROPOUT, None),
    "interrupted": (Vanilla, DROPOUT, None),
}
"""Family, dropout, micro_batch."""
VALIDATIONS = (5.0, 4.0, 1.0, 3.0, 2.0, 6.0)
"""Of rank 0 in the cases of `SELECTIONS`."""
SELECTIONS = {"best": {"select": "best"}, "stopped": {"stop_at": 1.5}}


def run(name: str, folder: Path, together: bool, killed_at: int = STEPS) -> dict[str, object]:
    """The curve and the weights of one case, and the state of its random numbers."""
    family, dropout, micro_batch = CASES.get(name, CASES["plain"])
    selection = SELECTIONS.get(name, {})
    torch.manual_seed(0)
    device = torch.device("cpu")
    model = Net(family, dropout)
    alone = distributed.single_process_fabric(device, "float32")
    fabric = distributed.multi_process_fabric("cpu", "float32") if together else alone
    validations = len(VALIDATIONS) if selection else 2
    training = settings(
        steps=STEPS, micro_batch=micro_batch, validations=validations, checkpoint_seconds=0.0, **selection
    )
    trained = train(
        fabric.setup_module(model),
        Scripted(*VALIDATIONS) if selection else KilledAtStep(killed_at),
        training,
        fabric,
        Checkpoint(folder / f"{name}.pt", ""),
        lambda point: None,
        alone.setup_module(model),
    )
    return {"curve": trained.curve, "weights": model.state_dict(), "random": torch.get_rng_state()}


def run_with_an_interruption(folder: Path) -> dict[str, object]:
    """All processes stop in the middle of the training, and then start again."""
    with contextlib.suppress(Killed):
        run("interrupted", folder, together=True, killed_at=KILLED_AT)
    if distributed.is_rank_zero():
        (folder / "checkpoint.pt").write_bytes((folder / "interrupted.pt").read_bytes())
    return run("interrupted", folder, together=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    distributed.init_process_group()
    results = {name: run(name, folder, together=True) for name in (*CASES, *SELECTIONS) if name != "interrupted"}
    results["interrupted"] = run_with_an_interruption(folder)
    torch.save(results, folder / f"results-{distributed.rank()}.pt")
