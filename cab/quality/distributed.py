"""Several processes that train one cell together, one for each device, each with its share of every batch.

`torchrun` or `srun` starts them; a process that neither has started is alone. The first one is the run: it decides what
is to be done, evaluates, measures, writes and speaks. The others help: each waits until the first one tells what to
train, trains along (see cab.quality.worker), and waits again until it is told None.

The group of processes exists all the while, also when the first one works alone: nothing may take part in it because
it is there, only because it was handed a Fabric of several processes.
"""

import atexit
import contextlib
import gc
import os
import re
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cab.errors import UserError

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import ClusterEnvironment

    from cab.config import Request

PATIENCE = timedelta(days=1)
"""How long a process waits for another one: the first may prepare data or evaluate for hours."""

_parted = False


def world(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes there are."""
    if _torchrun(environment):
        return int(environment["WORLD_SIZE"])
    return int(environment.get("SLURM_STEP_NUM_TASKS", 1))  # of srun's step, not of the job around it


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """Which of them this is, from 0."""
    if world(environment) == 1:
        return 0
    return int(environment["RANK" if _torchrun(environment) else "SLURM_PROCID"])


def check(request: "Request") -> None:
    """Raises UserError if this number of processes cannot train the cell."""
    count, training, device = world(), request.training, request.device.name
    if count == 1:
        return
    if count % (here := _on_this_node(os.environ)):
        raise UserError(f"{count} processes, {here} of them here: start as many on every node")
    share, rest = divmod(training.batch, count)
    if rest:
        raise UserError(f"train.batch={training.batch} cannot be cut over {count} processes: use a multiple of {count}")
    if share % min(training.micro_batch or share, share):
        whose = f"the {share} examples of each of {count} processes"
        raise UserError(f"train.micro_batch={training.micro_batch} does not divide {whose}: use a divisor, or null")
    if ":" in device:
        raise UserError(f"device={device}: {count} processes take one device each: use {device.partition(':')[0]}")


def join() -> bool:
    """Meets the other processes, once. True for the first one, and for one that is alone."""
    if world() == 1:
        return True
    from torch import distributed

    if _parted:
        raise UserError("another cell failed, and the processes have parted: run the same line again for the rest")
    if not distributed.is_initialized():
        environment = _environment()
        os.environ["MASTER_ADDR"] = environment.main_address
        os.environ["MASTER_PORT"] = str(environment.main_port)
        # Without a backend: gloo for what lies on the CPU, and NCCL, where it is there, for CUDA devices.
        distributed.init_process_group(rank=rank(), world_size=world(), timeout=PATIENCE)
        if rank() == 0:
            atexit.register(_dismiss)
    return rank() == 0


def part(kind: str) -> None:
    """After a failure on devices of this kind: the others shall notice, instead of waiting for this process. NCCL would
    wait for them in turn; there the end of this process is what its launcher notices."""
    global _parted
    from torch import distributed

    _parted = True
    if kind == "cpu" and distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()  # connections close with the last tensor, model or traceback that holds them


def lost(error: Exception) -> bool:
    """Whether the error says that another process is gone."""
    return isinstance(error, RuntimeError) and ("gloo" in str(error) or "NCCL" in str(error))


def tell(job: Any) -> None:
    """From the first process to all others, which `hear` it; None: there is nothing left to do."""
    from torch import distributed

    distributed.broadcast_object_list([sys.path], src=0)  # where rank 0 found modules of the user's own
    distributed.broadcast_object_list([job], src=0)


def hear() -> Any:
    from torch import distributed

    path, box = [sys.path], [None]
    distributed.broadcast_object_list(path, src=0)
    sys.path[:] = path[0]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def fabric_alone(device: "torch.device", precision: str) -> "Fabric":
    """Of this process, whether there are others or not."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment

    devices: Any = 1 if device.type == "cpu" else [device.index]
    plain = LightningEnvironment()  # else the engine looks for others, and has opinions on how they were started
    return Fabric(accelerator=device.type, devices=devices, precision=_autocast(precision), plugins=[plain])


def fabric_together(kind: str, precision: str) -> "Fabric":
    """Of all processes, each on a device of this kind of its own."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    here = _on_this_node(os.environ)
    strategy = DDPStrategy(
        cluster_environment=_environment(),
        find_unused_parameters=True,  # `none` leaves norms, and in cross patterns a whole encoder, without a gradient
    )
    nodes = world() // here
    fabric = Fabric(accelerator=kind, devices=here, num_nodes=nodes, strategy=strategy, precision=_autocast(precision))
    fabric.launch()
    return fabric


def _dismiss() -> None:
    with contextlib.suppress(RuntimeError, ValueError):  # they are gone already
        tell(None)


def _autocast(precision: str) -> Any:
    return "bf16-mixed" if precision == "bfloat16" else "32-true"


def _torchrun(environment: Mapping[str, str]) -> bool:
    return "TORCHELASTIC_RUN_ID" in environment


def _on_this_node(environment: Mapping[str, str]) -> int:
    """How many of the processes are on this machine, as on every other."""
    if _torchrun(environment):
        return int(environment["LOCAL_WORLD_SIZE"])
    return int(re.split(r"\D", environment["SLURM_STEP_TASKS_PER_NODE"])[0])  # "2" or, on three nodes, "2(x3)"


def _environment() -> "ClusterEnvironment":
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if _torchrun(os.environ):
        return TorchElasticEnvironment()
    os.environ["SLURM_NTASKS"] = str(world())  # the engine looks at these, which may be of the job and not of its step
    os.environ["SLURM_NTASKS_PER_NODE"] = str(_on_this_node(os.environ))
    return SLURMEnvironment()
