"""SLURM for sweeps: submits a job for every cell and waits for them. hydra-submitit-launcher defines what a job has.

The cells are the jobs of one array. Shortly before its time limit a job gets SIGUSR2: it queues itself again and
resumes from the cell's checkpoint, as it does after preemption. A job that was killed or cancelled, or exceeded its
memory, leaves no result. The launcher waits for the other jobs and names the lost ones at the end; the same command
runs them again.

The launcher asks squeue whether a job is active, as every cluster has it. (submitit asks sacct: without accounting it
would wait for ever. It also takes the results in order, so that the first lost job would end the wait for all.)
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.command import FAILED, INTERRUPTED, CellCode, command_line
from cab.compose import compose_one
from cab.errors import UserError
from cab.run import on_rank_zero, run_cell
from tasks.data.set_aside import make_way

if TYPE_CHECKING:
    from submitit import Job

SQUEUE_SECONDS = 10.0
"""Time between two calls of squeue. Results are files, which are checked every second."""
GRACE_SECONDS = 30.0
"""A job is lost after so long outside the queue: a shared file system may show its result late."""
FORGOTTEN = "GONE"
"""The state of a job that squeue no longer lists."""
FINISHED_STATES = (
    FORGOTTEN,
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
"""States without a further result, unless the job is queued again within the grace period."""


class RequeuedCell:
    """What a job calls: runs the cell with a command line, and is queued again at most `requeues` times when the time
    limit is reached."""

    def __init__(self, requeues: int) -> None:
        self.requeues = requeues

    def __call__(self, line: Sequence[str]) -> int:
        """The exit code."""
        return command_line(lambda: on_rank_zero(lambda: run_cell(compose_one(line), line)))

    def checkpoint(self, line: Sequence[str]) -> Any:
        """Called by submitit at the time limit; returns what to queue.

        At the last time limit it ends the job with SystemExit, which is no error of the cell: the cell gets no record
        and keeps its checkpoint.
        """
        from submitit.helpers import DelayedSubmission

        if not self.requeues:
            raise SystemExit("out of time once more than hydra.launcher.max_num_timeout")
        return DelayedSubmission(RequeuedCell(self.requeues - 1), line)


def launch(parameters: Mapping[str, Any], cells: Sequence[Sequence[str]]) -> int:
    """Runs cells, given by their command lines, as jobs with the parameters of conf/hydra/launcher/slurm.yaml.

    Returns the worst exit code. Raises UserError if SLURM refuses the jobs.
    """
    jobs = submit(parameters, cells)
    array = jobs[0].job_id.split("_")[0]
    print(f"submitted {len(jobs)} cells as SLURM job {array}; output: {jobs[0].paths.folder.parent}", flush=True)
    titles = {job.job_id: varying_overrides(own, cells) for job, own in zip(jobs, cells, strict=True)}
    try:
        results = wait(jobs, titles)
    except KeyboardInterrupt:
        print(f"job {array} continues without this command; scancel {array} ends it", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    lost = [f"{name} ({state})" for name, state in results.items() if isinstance(state, str)]
    if lost:
        print(
            f"error: {len(lost)} of {len(jobs)} jobs ended without a result: {', '.join(lost)}; the same command"
            " runs their cells again, from the last checkpoint",
            file=sys.stderr,
        )
    return max(FAILED if isinstance(result, str) else result for result in results.values())


def submit(parameters: Mapping[str, Any], cells: Sequence[Sequence[str]]) -> "list[Job[Any]]":
    """Submits one job per cell and returns them in order. Raises UserError if SLURM refuses."""
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from submitit import AutoExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    if shutil.which("sbatch") is None:
        raise UserError("hydra/launcher=slurm needs a machine that submits to a SLURM cluster: no sbatch here")
    wanted = dict(parameters)
    folder, requeues = wanted.pop("submitit_folder"), wanted.pop("max_num_timeout")
    make_way(Path(folder).parent, "folder")
    # RequeuedCell counts the time limits, so that submitit's own count must not end the job first.
    executor = AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=requeues + 1)
    common = {field.name for field in fields(BaseQueueConf)}  # parameters that submitit has for all clusters
    executor.update_parameters(**{k if k in common else f"slurm_{k}": v for k, v in wanted.items()})
    try:
        return executor.map_array(RequeuedCell(requeues), [list(line) for line in cells])
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(" ".join(str(error).split())) from error


def varying_overrides(own: Sequence[str], all_overrides: Sequence[Sequence[str]]) -> str:
    """The overrides that not all cells have; of a single cell all."""
    others = [overrides for overrides in all_overrides if overrides is not own]
    return " ".join(one for one in own if not others or not all(one in overrides for overrides in others))


def wait(jobs: "Sequence[Job[Any]]", titles: Mapping[str, str]) -> dict[str, int | str]:
    """Waits until every job has a result or is lost, and prints a line for each.

    Returns the exit code, or the last state of a lost job, by job id.
    """
    results: dict[str, int | str] = {}
    waiting = {job.job_id: job for job in jobs}
    last_active = dict.fromkeys(waiting, time.monotonic())
    last_squeue = time.monotonic()
    while waiting:
        time.sleep(1)
        ended: dict[str, int | str] = {name: result(job) for name, job in waiting.items() if has_result(job)}
        if time.monotonic() - last_squeue > SQUEUE_SECONDS:
            last_squeue = time.monotonic()
            ended |= lost_jobs(waiting.keys() - ended.keys(), last_active)
        for name, end in ended.items():
            del waiting[name]
            print(f"  {name}  {describe(end, titles[name])}; {len(waiting)} to go", flush=True)
        results |= ended
    return results


def describe(end: int | str, overrides: str) -> str:
    """The cell and how it ended, with its score. `overrides` are those that not all cells have."""
    if isinstance(end, str):
        return f"{overrides}  lost: {end}"
    word = "failed" if end else "done"
    if not isinstance(end, CellCode):
        return f"{overrides}  {word}"
    named = ("attention=", "pattern=", "task=", "size=", "seed=")  # in the title
    rest = "".join(f" {one}" for one in overrides.split() if not one.startswith(named))
    return f"{end.title}{rest}  {word}, {end.outcome}"


def result(job: "Job[Any]") -> int | str:
    """The exit code of the first task of a job, or "FAILED" for an error outside its cell."""
    from submitit.core.utils import UncompletedJobError

    try:
        code: int = job.results()[0]
        return code
    except UncompletedJobError as error:
        print(error, file=sys.stderr)
        return "FAILED"


def has_result(job: "Job[Any]") -> bool:
    """Whether all tasks of a job have written their result files."""
    files = [job.task(number).paths.result_pickle for number in range(job.num_tasks)]
    return all(file.name in os.listdir(file.parent) for file in files)  # listing refreshes the cache of NFS


def lost_jobs(names: Iterable[str], last_active: dict[str, float]) -> dict[str, str]:
    """The states of those of these jobs that have been inactive for too long. Updates `last_active`."""
    queue = query_squeue()
    if queue is None:
        return {}
    now = time.monotonic()
    states = {name: queue.get(name, FORGOTTEN) for name in names}
    last_active |= {name: now for name, state in states.items() if state not in FINISHED_STATES}
    return {name: state for name, state in states.items() if now - last_active[name] > GRACE_SECONDS}


def query_squeue() -> dict[str, str] | None:
    """The state of each of this user's jobs that SLURM lists; None if it does not respond."""
    command = ["squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i %T"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split() for line in output.splitlines())
