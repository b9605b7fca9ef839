"""A sweep in which every family gets its own learning rate.

Takes the arguments of `cab.run -m` and uses the same launcher. Every rate of the recipe's grid (tune.rates) is tried
with the first seed, the best on validation is chosen, and all seeds run at it (see cab.trials). What is done is not run
again, so that the same command resumes.
"""

import sys
from collections.abc import Sequence

from cab.arguments import cells_parser, parse_cells
from cab.command import command_line
from cab.run import on_rank_zero

EXAMPLES = (
    "attention=vanilla,fit task=lm seed=0,1,2",
    "attention=vanilla,fit 'tune.rates=[1e-3,2e-3,4e-3]'",
    "experiment=recall size=small",
)


def main(arguments: Sequence[str] | None = None) -> int:
    def work() -> int:
        given = parse_cells(cells_parser("cab.tune", __doc__, EXAMPLES), arguments)
        from cab.sweep import sweep

        return sweep(given.line, tuned=True)

    return command_line(lambda: on_rank_zero(work))


if __name__ == "__main__":
    sys.exit(main())
