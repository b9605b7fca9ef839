"""SLURM for sweeps: the jobs are those of hydra-submitit-launcher, sending them and waiting for them is done here.

Every cell is a job of one array. Shortly before its time is up a job gets SIGUSR2: it queues itself again, and goes on
from the cell's checkpoint, as a preempted one does. A job that was killed, cancelled or over its memory leaves no
answer: the others are waited for, it is named at the end, and the same command line runs it again.

Whether a job is alive is asked of squeue, which every cluster has. (submitit asks sacct: without accounting it would
wait for ever. And it takes the answers in order, so that the first lost job would end the wait for all.)

The folder has to be called hydra_plugins: Hydra takes launchers from nowhere else.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from submitit import Job

ASK_SECONDS = 10.0
"""Between two questions to squeue. Answers are files, and looked for every second."""
GRACE_SECONDS = 30.0
"""A job has to be out of the queue for so long before it counts as lost: a shared file system shows its answer late."""
OVER = (
    "GONE",
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)
"""States after which nothing comes, unless the job is queued again within the grace. GONE: SLURM has forgotten it."""


class Cell:
    """What a job calls: the cell, as often as its time is up and at most `timeouts` times more."""

    def __init__(self, call: Any, timeouts: int) -> None:
        self.call, self.timeouts = call, timeouts

    def __call__(self, *arguments: Any) -> JobReturn:
        returned: JobReturn = self.call(*arguments)
        return returned

    def checkpoint(self, *arguments: Any) -> Any:
        """What is to be called after the time was up. Ends the job after the last time, in a way that nothing takes for
        an error of the cell: it leaves no record, and its checkpoint stays."""
        from submitit.helpers import DelayedSubmission

        if not self.timeouts:
            raise SystemExit("out of time once more than hydra.launcher.max_num_timeout")
        return DelayedSubmission(Cell(self.call, self.timeouts - 1), *arguments)


class SlurmLauncher(Launcher):
    """`hydra/launcher=slurm`. Its parameters are those of conf/hydra/launcher/slurm.yaml, which has a schema."""

    def __init__(self, **parameters: Any) -> None:
        self.parameters = parameters

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Callable

        call = Callable()
        call.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.cell = Cell(call, self.parameters["max_num_timeout"])

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from cab.command import FAILED, exit_code

        jobs = self.submit(job_overrides, initial_job_idx)
        array = jobs[0].job_id.split("_")[0]
        print(
            f"cells sent to SLURM as job {array}: {len(jobs)}; what they print is in {jobs[0].paths.folder.parent}",
            flush=True,
        )
        cells = {job.job_id: varying(own, job_overrides) for job, own in zip(jobs, job_overrides, strict=True)}
        try:
            ends = wait(jobs, cells)
        except KeyboardInterrupt:
            print(f"job {array} goes on without this command; scancel {array} ends it", file=sys.stderr)
            raise SystemExit(FAILED) from None
        returns = [end for end in ends.values() if isinstance(end, JobReturn)]
        if missing := [f"{name} ({end})" for name, end in ends.items() if isinstance(end, str)]:
            exit_code.record(FAILED)
            print(
                f"error: {len(missing)} of {len(jobs)} jobs ended without an answer: {', '.join(missing)}; the same"
                " command runs their cells again, from the last checkpoint",
                file=sys.stderr,
            )
        return returns

    def submit(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> "list[Job[Any]]":
        """A job for each cell, in their order. If SLURM does not take them, the command ends with one line."""
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
        from submitit import AutoExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        if shutil.which("sbatch") is None:
            refuse("hydra/launcher=slurm needs a machine that submits to a SLURM cluster: no sbatch here")
        parameters: dict[str, Any] = {
            name: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
            for name, value in self.parameters.items()
        }
        folder, timeouts = parameters.pop("submitit_folder"), parameters.pop("max_num_timeout")
        executor = AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=timeouts + 1)  # Cell counts them itself
        common = {field.name for field in fields(BaseQueueConf)}  # what submitit has for every kind of cluster
        executor.update_parameters(**{k if k in common else f"slurm_{k}": v for k, v in parameters.items()})
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        try:
            return executor.map_array(
                self.cell,
                [list(overrides) for overrides in job_overrides],
                ["hydra.sweep.dir"] * len(numbers),
                numbers,
                [str(number) for number in numbers],
                [Singleton.get_state()] * len(numbers),
            )
        except (FailedJobError, FailedSubmissionError) as error:
            refuse(" ".join(str(error).split()))


def refuse(why: str) -> NoReturn:
    from cab.command import REFUSED

    print(f"error: {why}", file=sys.stderr)
    raise SystemExit(REFUSED)


def varying(own: Sequence[str], all_overrides: Sequence[Sequence[str]]) -> str:
    """What tells this cell from the others."""
    return " ".join(one for one in own if not all(one in overrides for overrides in all_overrides))


def wait(jobs: "Sequence[Job[Any]]", cells: Mapping[str, str]) -> dict[str, JobReturn | str]:
    """Until every job has answered or is lost, and says so of each. Its answer, or the last state of a lost one."""
    ends: dict[str, JobReturn | str] = {}
    waiting = {job.job_id: job for job in jobs}
    alive = dict.fromkeys(waiting, time.monotonic())  # when it was last seen so
    asked = time.monotonic()
    while waiting:
        time.sleep(1)
        over: dict[str, JobReturn | str] = {name: answer(job) for name, job in waiting.items() if answered(job)}
        if time.monotonic() - asked > ASK_SECONDS:
            asked = time.monotonic()
            over |= lost(waiting.keys() - over.keys(), alive)
        for name, end in over.items():
            del waiting[name]
            print(f"  {name}  {cells[name]}  {how(end)}; {len(waiting)} to go", flush=True)
        ends |= over
    return ends


def how(end: JobReturn | str) -> str:
    if isinstance(end, str):
        return f"lost: {end}"
    return "done" if end.status is JobStatus.COMPLETED and not end.return_value else "failed"


def answer(job: "Job[Any]") -> JobReturn | str:
    """What the first task of a job that has answered gave; a state if that is an error outside of its cell."""
    from submitit.core.utils import UncompletedJobError

    try:
        given: JobReturn = job.results()[0]
        return given
    except UncompletedJobError as error:
        print(error, file=sys.stderr)
        return "FAILED"


def lost(names: Iterable[str], alive: dict[str, float]) -> dict[str, str]:
    """The states of those of the jobs that are over without an answer. Brings `alive` up to date."""
    if (states := queue()) is None:
        return {}
    now = time.monotonic()
    over = {name: states.get(name, "GONE") for name in names}
    alive |= {name: now for name, state in over.items() if state not in OVER}
    return {name: state for name, state in over.items() if now - alive[name] > GRACE_SECONDS}


def answered(job: "Job[Any]") -> bool:
    """Whether the file is there that every task of a job leaves when it comes to its end."""
    files = [job.task(number).paths.result_pickle for number in range(job.num_tasks)]
    return all(file.name in os.listdir(file.parent) for file in files)  # listing refreshes what NFS remembers


def queue() -> dict[str, str] | None:
    """The state of each job of this user that SLURM knows; None where it does not answer."""
    command = ["squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i %T"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split() for line in said.splitlines())
