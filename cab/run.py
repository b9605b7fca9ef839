"""One cell, or with -m a sweep: `python -m cab.run attention=lightning pattern=causal_self task=lm`.

Trains and evaluates the family on the task, measures its efficiency beside the baselines, and writes a record of each.
A cell that is done does not run again (with rerun=true it does), one that another process runs is skipped, and one that
was interrupted resumes from its checkpoint.
"""

import sys
import time

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cab import ROOT
from cab.command import cell_exit_code, command_line, exit_code, title
from cab.compose import request_of
from cab.quality.distributed import check_request, init_process_group, is_rank_zero

sys.path.append(str(ROOT))  # Hydra finds hydra_plugins there, whatever the working directory is


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="config")
def main(config: DictConfig) -> int:
    def work() -> int:
        init_process_group()
        return run_cell(config) if is_rank_zero() else work_for_rank_zero()

    code = command_line(work)
    exit_code.record(code)
    return code


def command() -> int:
    """Runs the command line of this process; returns its exit code."""
    exit_code.worst = 0
    main()
    return exit_code.worst


def run_cell(config: DictConfig) -> int:
    """Runs the cell that a composed configuration asks for; returns an exit code."""
    hydra_config = HydraConfig.get()
    request = request_of(config, hydra_config)
    overrides = [*request.own_arguments, *hydra_config.overrides.task]

    from cab.efficiency.cell import efficiency_cells, make_plan
    from cab.machine import resolve_device, set_threads
    from cab.quality.cell import quality_cell
    from cab.report.mirror import mirror_costs
    from cab.report.terminal import efficiency_lines, quality_lines
    from cab.store.lock import Busy
    from cab.store.record import record_path
    from cab.store.store import wants_efficiency

    set_threads(request.device.threads)
    check_request(request)
    make_plan(request, resolve_device(request.device.name), families=1)  # raises UserError before the training
    start = time.monotonic()
    print(title(request))
    try:
        quality = quality_cell(request, "cab.run", overrides)
    except Busy as busy:
        print(f"  skipped: being run by {busy}\n", flush=True)
        return 0
    print("\n".join(quality_lines(quality.record, quality.was_done)))
    records = [quality.record]
    if wants_efficiency(request, quality.record):
        [efficiency] = efficiency_cells([request], "cab.run", overrides)
        if not efficiency.was_done:
            mirror_costs(request, efficiency.record)
        print("\n".join(efficiency_lines(efficiency.record, efficiency.was_done)))
        records.append(efficiency.record)
    for record in records:
        print(f"  record      {record_path(request.results, record.kind, record.hash)}")
    print(f"  {time.monotonic() - start:.0f} s in all; tables and plots: python -m cab.leaderboard\n", flush=True)
    return cell_exit_code(*records)


def work_for_rank_zero() -> int:
    """What ranks other than 0 do; returns an exit code."""
    from cab.quality.worker import run_worker

    return run_worker()


if __name__ == "__main__":
    init_process_group()
    sys.exit(command() if is_rank_zero() else work_for_rank_zero())
