"""Efficiency cells: `python -m cab.efficiency attention=vanilla,lightning pattern=causal_self [task=lm ...]`.

Measures time, memory, FLOPs, parameters and decoding state of several families in one process, in rounds with the
baselines vanilla and eager (see cab.efficiency.sweep), and writes one record per family. The task and size determine
the shape; efficiency does not depend on data or seed. `cab.run` does the same for its one family.
"""

import sys
from collections.abc import Sequence

from cab.command import ExitCode, cell_exit_code, command_line
from cab.compose import CONFIG_DIR, Composer, expand, parse_arguments
from cab.config import Request
from cab.efficiency.cell import efficiency_cells
from cab.errors import UserError
from cab.quality import distributed
from cab.report.mirror import mirror_costs
from cab.report.terminal import efficiency_lines


def main(arguments: Sequence[str] | None = None) -> int:
    overrides = parse_arguments("cab.efficiency", __doc__, arguments)

    def work() -> int:
        if (count := distributed.world_size()) > 1:
            raise UserError(
                f"started as {count} processes: efficiency is measured by one; use neither torchrun nor srun"
            )
        composer = Composer()
        groups: dict[tuple[str, ...], dict[str, Request]] = {}  # by the choice of attention=
        for cell in expand(overrides):
            rest = tuple(override for override in cell if not override.startswith("attention="))
            choices = [override.removeprefix("attention=") for override in cell if override.startswith("attention=")]
            request = composer.request(cell)
            groups.setdefault(rest, {})[choices[0] if choices else request.attention] = request
        exit_code = ExitCode()
        for rest, group in groups.items():
            requests = list(group.values())
            given = [override for override in rest if not override.startswith((CONFIG_DIR, "hydra.searchpath="))]
            command = [*requests[0].own_arguments, f"attention={','.join(group)}", *given]
            outcomes = efficiency_cells(requests, "cab.efficiency", command)
            for request, outcome in zip(requests, outcomes, strict=True):
                record = outcome.record
                if not outcome.was_done:
                    mirror_costs(request, record)
                title = f"{record.cell['attention']} · {record.cell['pattern']}"
                print("\n".join([title, *efficiency_lines(record, outcome.was_done)]), flush=True)
                exit_code.record(cell_exit_code(record))
        return exit_code.worst

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
