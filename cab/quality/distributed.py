"""Several processes that train one cell together, one per device, each with its share of every batch.

`torchrun` or `srun` starts them; a process started otherwise is alone. Rank 0 runs the command: it decides what to do,
evaluates, measures, and writes output and records. The other ranks are workers (see cab.quality.worker): each waits for
a `TrainingJob` from rank 0, takes part in that training, and waits again until it receives None.

The process group also exists while rank 0 works alone. Code uses several processes only if it is given a Fabric of
several processes.

Light to import: `cab/__init__.py` asks for the world size before torch is imported.
"""

import atexit
import contextlib
import gc
import os
import re
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from cab.errors import UserError

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import ClusterEnvironment

    from cab.config import Request

TIMEOUT = timedelta(days=1)
"""How long a process waits for another one: rank 0 may prepare data or evaluate for hours."""

_aborted = False


class TrainingJob(NamedTuple):
    """What a worker needs to take part in a training."""

    request: "Request"
    device_type: str
    precision: str


def world_size(environment: Mapping[str, str] = os.environ) -> int:
    """The number of processes."""
    if _started_by_torchrun(environment):
        return int(environment["WORLD_SIZE"])
    return int(environment.get("SLURM_STEP_NUM_TASKS", 1))  # of srun's step, not of the job around it


def local_world_size(environment: Mapping[str, str] = os.environ) -> int:
    """The number of processes on this node, as on every other node. Only defined for several processes."""
    if _started_by_torchrun(environment):
        return int(environment["LOCAL_WORLD_SIZE"])
    return int(re.split(r"\D", environment["SLURM_STEP_TASKS_PER_NODE"])[0])  # "2" or, on three nodes, "2(x3)"


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """The number of this process, from 0."""
    if world_size(environment) == 1:
        return 0
    return int(environment["RANK" if _started_by_torchrun(environment) else "SLURM_PROCID"])


def is_rank_zero() -> bool:
    return rank() == 0


def check_request(request: "Request") -> None:
    """Raises UserError if this number of processes cannot train the cell."""
    processes, training, device = world_size(), request.training, request.device.name
    if processes == 1:
        return
    if processes % local_world_size():
        raise UserError(f"{processes} processes, {local_world_size()} on this node: start as many on every node")
    share, rest = divmod(training.batch, processes)
    if rest:
        raise UserError(
            f"train.batch={training.batch} cannot be divided over {processes} processes: use a multiple of {processes}"
        )
    if share % min(training.micro_batch or share, share):
        raise UserError(
            f"train.micro_batch={training.micro_batch} does not divide the {share} examples of each of {processes}"
            " processes: use a divisor, or null"
        )
    if ":" in device:
        raise UserError(f"device={device}: {processes} processes use one device each: use {device.partition(':')[0]}")


def init_process_group() -> None:
    """Connects the processes, if there are several and they are not connected yet.

    Raises UserError if an earlier failure has ended the group.
    """
    if world_size() == 1:
        return
    from torch import distributed

    if _aborted:
        raise UserError("another cell failed and ended the process group: run the same command again for the rest")
    if distributed.is_initialized():
        return
    environment = _cluster_environment()
    os.environ["MASTER_ADDR"] = environment.main_address
    os.environ["MASTER_PORT"] = str(environment.main_port)
    # Without a backend torch uses gloo for CPU tensors and, where it is available, NCCL for CUDA tensors.
    distributed.init_process_group(rank=rank(), world_size=world_size(), timeout=TIMEOUT)
    if is_rank_zero():
        atexit.register(_stop_workers)


def broadcast(job: TrainingJob | None = None) -> TrainingJob | None:
    """Sends rank 0's job to the other ranks; returns it on all ranks. None tells the workers to stop."""
    from torch import distributed

    path = [sys.path]  # rank 0 may have found modules of the user's own
    distributed.broadcast_object_list(path, src=0)
    sys.path[:] = path[0]
    box = [job]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def abort(device_type: str) -> None:
    """Ends the process group after a failure, so that the other ranks fail instead of waiting for this one.

    On CUDA devices NCCL would wait for the other ranks; there the launcher notices when this process ends.
    """
    global _aborted
    from torch import distributed

    _aborted = True
    if device_type == "cpu" and distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()  # connections close with the last tensor, model or traceback that refers to them


def is_peer_failure(error: Exception) -> bool:
    """Whether the error says that another process ended."""
    return isinstance(error, RuntimeError) and ("gloo" in str(error) or "NCCL" in str(error))


def single_process_fabric(device: "torch.device", precision: str) -> "Fabric":
    """A Fabric of this process alone, whether or not there are others."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment

    devices: Any = 1 if device.type == "cpu" else [device.index]
    environment = LightningEnvironment()  # otherwise Fabric detects torchrun or SLURM, and expects all its processes
    return Fabric(
        accelerator=device.type, devices=devices, precision=_fabric_precision(precision), plugins=[environment]
    )


def multi_process_fabric(device_type: str, precision: str) -> "Fabric":
    """A Fabric of all processes, each on a device of this type."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    strategy = DDPStrategy(
        cluster_environment=_cluster_environment(),
        find_unused_parameters=True,  # `none` leaves norms, and in cross patterns a whole encoder, without a gradient
    )
    fabric = Fabric(
        accelerator=device_type,
        devices=local_world_size(),
        num_nodes=world_size() // local_world_size(),
        strategy=strategy,
        precision=_fabric_precision(precision),
    )
    fabric.launch()
    return fabric


def _stop_workers() -> None:
    with contextlib.suppress(RuntimeError, ValueError):  # they have ended already
        broadcast(None)


def _fabric_precision(precision: str) -> Any:
    return "bf16-mixed" if precision == "bfloat16" else "32-true"


def _started_by_torchrun(environment: Mapping[str, str]) -> bool:
    return "TORCHELASTIC_RUN_ID" in environment


def _cluster_environment() -> "ClusterEnvironment":
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if _started_by_torchrun(os.environ):
        return TorchElasticEnvironment()
    # Fabric reads these two, which may describe the SLURM job and not the step of srun.
    os.environ["SLURM_NTASKS"] = str(world_size())
    os.environ["SLURM_NTASKS_PER_NODE"] = str(local_world_size())
    return SLURMEnvironment()
