"""One cell, or with -m a sweep: `python -m cab.run attention=lightning pattern=causal_self task=lm`.

Trains and evaluates the family on the task, measures its cost beside the baselines, and writes a record of each. What
is recorded already is not run again (rerun=true runs it again), what another process is at is skipped, and what was
interrupted goes on from its checkpoint.
"""

import sys
import time

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cab import ROOT
from cab.command import FAILED, command_line, exit_codes
from cab.compose import own_arguments, request_of
from cab.quality.distributed import check, join

sys.path.append(str(ROOT))  # for hydra_plugins, wherever the command is typed


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="config")
def main(config: DictConfig) -> int:
    code = command_line(lambda: run_cell(config) if join() else help_out())
    exit_codes.append(code)
    return code


def run_cell(config: DictConfig) -> int:
    """Runs the cell that a composed configuration asks for; returns an exit code."""
    hydra_config = HydraConfig.get()
    request = request_of(config, hydra_config)
    overrides = [*own_arguments(hydra_config), *hydra_config.overrides.task]

    from cab.efficiency.cell import efficiency_cells, make_plan
    from cab.machine import resolve_device, set_threads
    from cab.quality.cell import quality_cell
    from cab.report.mirror import mirror_costs
    from cab.report.terminal import efficiency_lines, quality_lines
    from cab.store.identity import MEASURED, title
    from cab.store.lock import Busy

    set_threads(request.device.threads)
    check(request)
    make_plan(request, resolve_device(request.device.name), families=1)  # what is wrong with it is said before training
    clock = time.monotonic()
    print(title(request))
    try:
        quality, before = quality_cell(request, "cab.run", overrides)
    except Busy as busy:
        print(f"  skipped: being run by {busy}\n", flush=True)
        return 0
    print("\n".join(quality_lines(quality, before)))
    records = [quality]
    if request.measure and quality.status in MEASURED:
        [(cost, before)] = efficiency_cells([request], "cab.run", overrides)
        if not before:
            mirror_costs(request, cost)
        print("\n".join(efficiency_lines(cost, before)))
        records.append(cost)
    for record in records:
        print(f"  record      {request.results}/runs/{record.kind}/{record.hash}/result.json")
    print(f"  {time.monotonic() - clock:.0f} s in all; tables and plots: python -m cab.leaderboard\n", flush=True)
    failed = any(record.status not in ("ok", "unsupported") for record in records)
    return FAILED if failed else 0


def help_out() -> int:
    """What the other processes do where `torchrun` or `srun` started several; returns an exit code."""
    from cab.quality.worker import lend

    return lend()


if __name__ == "__main__":
    if join():
        main()
    else:
        exit_codes.append(help_out())
    sys.exit(max(exit_codes))
