"""One cell, or with -m a sweep.

Trains and evaluates the family on the task, measures its efficiency beside the baselines, and writes a record of each.
A cell that is done does not run again (with rerun=true it does), one that another process runs is skipped, and one that
was interrupted resumes from its checkpoint.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cab.arguments import cells_parser, is_own, next_command, parse_cells
from cab.command import CellCode, cell_exit_code, command_line, make_results, summary, title
from cab.errors import UserError
from cab.quality.distributed import init_process_group, is_rank_zero

if TYPE_CHECKING:
    from cab.config import Request

EXAMPLES = (
    "attention=lightning pattern=causal_self task=lm",
    "-m attention=vanilla,lightning,none seed=0,1,2",
    "-m experiment=smoke",
    "attention=fit train.steps=100 measure=false results=/tmp/try",
    "--config-dir . attention=mine",
    "-m hydra/launcher=slurm 'attention=glob(*)' task=lm,recall",
)


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line(lambda: on_rank_zero(lambda: run(arguments)))


def run(arguments: Sequence[str] | None) -> int:
    """Runs what a command line asks for; returns an exit code. Raises UserError."""
    parser = cells_parser("cab.run", __doc__, EXAMPLES)
    given = parse_cells(
        parser, arguments, multirun="a sweep over all combinations of the values; what is done is skipped"
    )
    if given.multirun:
        from cab.sweep import sweep

        return sweep(given.line)
    for argument in given.line:
        if argument.startswith(("hydra/launcher", "hydra.launcher.", "hydra.sweeper.max_batch_size")):
            raise UserError(f"{argument}: says how a sweep is launched: add -m (python -m cab.run -m ...)")
    from cab.compose import compose_one

    return run_cell(compose_one(given.line), given.line)


def on_rank_zero(work: Callable[[], int]) -> int:
    """Does the work on rank 0 of the processes, which the others take part in (see cab.quality.distributed)."""
    init_process_group()
    if is_rank_zero():
        return work()
    from cab.quality.worker import run_worker

    return run_worker()


def run_cell(request: "Request", line: Sequence[str]) -> int:
    """Runs the cell with this command line; returns an exit code. Raises UserError."""
    from cab.efficiency.cell import efficiency_cells
    from cab.machine import set_threads
    from cab.quality.cell import quality_cell
    from cab.quality.distributed import check_request
    from cab.report.mirror import mirror_costs
    from cab.report.terminal import efficiency_lines, quality_lines
    from cab.store.lock import Busy
    from cab.store.record import record_path
    from cab.store.store import wants_efficiency

    command = [*request.own_arguments, *(argument for argument in line if not is_own(argument))]
    set_threads(request.device.threads)
    check_request(request)
    make_results(request.results)
    start = time.monotonic()
    print(title(request))
    try:
        quality = quality_cell(request, "cab.run", command)
    except Busy as busy:
        print(f"  skipped: being run by {busy}\n", flush=True)
        return CellCode(0, title(request), f"skipped, being run by {busy}")
    print("\n".join(quality_lines(quality.record, quality.was_done)))
    records = [quality.record]
    if wants_efficiency(request, quality.record):
        [efficiency] = efficiency_cells([request], "cab.run", command)
        if not efficiency.was_done:
            mirror_costs(request, efficiency.record)
        print("\n".join(efficiency_lines(efficiency.record, efficiency.was_done)))
        records.append(efficiency.record)
    for record in records:
        print(f"  record      {record_path(request.results, record.kind, record.hash)}")
    tables = next_command("cab.leaderboard", request.results)
    print(f"  {time.monotonic() - start:.0f} s in all; tables and plots: {tables}\n", flush=True)
    return CellCode(cell_exit_code(*records), title(request), summary(quality.record))


if __name__ == "__main__":
    sys.exit(main())
