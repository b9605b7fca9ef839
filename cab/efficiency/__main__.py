"""Efficiency cells: `python -m cab.efficiency attention=vanilla,lightning pattern=causal_self [task=lm ...]`.

Measures time, memory, FLOPs, parameters and decoding state of several families in one process, in rounds with the
baselines vanilla and eager (see cab.efficiency.sweep), and writes one record per family. The task and size choose the
shape; cost does not depend on data or seed. `cab.run` does the same for its one family.
"""

import argparse
import sys
from collections.abc import Sequence

from cab.command import FAILED, command_line
from cab.compose import Composer, expand, parse_arguments
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
    overrides = parse_arguments(parser, arguments)

    def work() -> int:
        if (count := distributed.world()) > 1:
            raise UserError(
                f"started as {count} processes: cost is that of one device, start it without torchrun or srun"
            )
        composer = Composer()
        together: dict[tuple[str, ...], dict[str, Request]] = {}  # by choice of attention=
        for chosen in expand(overrides):
            rest = tuple(one for one in chosen if not one.startswith("attention="))
            request = composer.request(chosen)
            choices = [one.removeprefix("attention=") for one in chosen if one.startswith("attention=")]
            together.setdefault(rest, {})[choices[0] if choices else request.attention] = request
        failed = False
        for rest, chosen_requests in together.items():
            requests = list(chosen_requests.values())
            found = efficiency_cells(requests, "cab.efficiency", [f"attention={','.join(chosen_requests)}", *rest])
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
