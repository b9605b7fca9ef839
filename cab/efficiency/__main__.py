"""Efficiency cells: `python -m cab.efficiency attention=vanilla,lightning pattern=causal_self [task=lm ...]`.

Measures time, memory, FLOPs, parameters and decoding state of several families in one process, in rounds with the
baselines vanilla and eager (see cab.efficiency.sweep), and writes one record per family. The task and size choose the
shape; cost does not depend on data or seed. `cab.run` does the same for its one family.
"""

import argparse
import sys
from collections.abc import Sequence

from cab.command import FAILED, command_line, compose_one, expand
from cab.config import Request
from cab.efficiency.cell import efficiency_cells
from cab.errors import UserError
from cab.quality import distributed
from cab.report.mirror import mirror_costs
from cab.report.terminal import efficiency_lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cab.efficiency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "overrides", nargs="*", help="as in cab.run -m; what differs in attention= only is measured in turns"
    )
    overrides = parser.parse_args(arguments).overrides

    def work() -> int:
        if (count := distributed.world_size()) > 1:
            raise UserError(
                f"started as {count} processes: cost is that of one device, start it without torchrun or srun"
            )
        together: dict[tuple[str, ...], list[Request]] = {}
        for chosen in expand(overrides):
            rest = tuple(one for one in chosen if not one.startswith("attention="))
            together.setdefault(rest, []).append(compose_one(chosen))
        failed = False
        for rest, requests in together.items():
            families = ",".join(request.attention for request in requests)
            found = efficiency_cells(requests, "cab.efficiency", [f"attention={families}", *rest])
            for request, (record, before) in zip(requests, found, strict=True):
                if not before:
                    mirror_costs(request, record)
                title = f"{record.cell['attention']} · {record.cell['pattern']}"
                print("\n".join([title, *efficiency_lines(record, before)]), flush=True)
                failed |= record.status not in ("ok", "unsupported")
        return FAILED if failed else 0

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
