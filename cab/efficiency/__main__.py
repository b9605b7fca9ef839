"""Measures time, memory, FLOPs, parameters and decoding state of families, without training them.

All families of a line are measured in one process, in rounds with the baselines vanilla and eager (see
cab.efficiency.sweep), with one record for each. The task and size determine the shape; efficiency does not depend on
data or seed. `cab.run` does the same for its one family.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cab.arguments import cells_parser, is_own, parse_cells
from cab.command import cell_exit_code, command_line, make_results
from cab.errors import UserError
from cab.quality import distributed

if TYPE_CHECKING:
    from cab.config import Request

EXAMPLES = (
    "attention=vanilla,lightning pattern=causal_self task=lm",
    "attention=fit 'efficiency.lengths=[512,1024,2048]' 'efficiency.phases=[train]'",
    "experiment=efficiency",
)


def requests_by_shape(line: Sequence[str]) -> "dict[tuple[str, ...], dict[str, Request]]":
    """The requests, by all of their command line but the family, and by that. Raises UserError."""
    from cab.compose import Composer, expand

    composer = Composer()
    groups: dict[tuple[str, ...], dict[str, Request]] = {}
    for cell in expand(line):
        rest = tuple(override for override in cell if not override.startswith("attention="))
        choices = [override.removeprefix("attention=") for override in cell if override.startswith("attention=")]
        request = composer.request(cell)
        groups.setdefault(rest, {})[choices[0] if choices else request.attention] = request
    return groups


def main(arguments: Sequence[str] | None = None) -> int:
    def work() -> int:
        line = parse_cells(cells_parser("cab.efficiency", __doc__, EXAMPLES), arguments).line
        if (count := distributed.world_size()) > 1:
            raise UserError(
                f"started as {count} processes: efficiency is measured by one; use neither torchrun nor srun"
            )
        from cab.efficiency.cell import efficiency_cells
        from cab.report.mirror import mirror_costs
        from cab.report.terminal import efficiency_lines

        worst = 0
        for rest, group in requests_by_shape(line).items():
            requests = list(group.values())
            given = [argument for argument in rest if not is_own(argument)]
            command = [*requests[0].own_arguments, f"attention={','.join(group)}", *given]
            make_results(requests[0].results)
            outcomes = efficiency_cells(requests, "cab.efficiency", command)
            for request, outcome in zip(requests, outcomes, strict=True):
                record = outcome.record
                if not outcome.was_done:
                    mirror_costs(request, record)
                title = f"{record.cell['attention']} · {record.cell['pattern']}"
                print("\n".join([title, *efficiency_lines(record, outcome.was_done)]), flush=True)
                worst = max(worst, cell_exit_code(record))
        return worst

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
