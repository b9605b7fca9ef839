"""What a sweep would do.

Takes the arguments of `python -m cab.run`, -m and experiment= too, and runs nothing. Every cell of the product is

  done            and does not run again
  unsupported     which is recorded, and does not run again
  left out        the task has no such pattern
  running         another process runs it now
  interrupted     resumes from its checkpoint
  to measure      trained, but its efficiency is not measured yet
  stale data      trained on data that has changed since; runs again
  no data         has a record, but its data cannot be read on this machine
  failed          with an error, a timeout or a failed check; runs again
  damaged record  runs again
  new             nothing is known of it

With --tune it plans `python -m cab.tune` with the same arguments: the trials of the first seed, and all seeds at the
rate that is chosen. Before all rates are tried, that rate is not known, nor whether one more will be tried.

The expected time is that of earlier trainings in the same folder: the median of cells with the same task, model and
training, whatever the rate, of the same family if there are any. Precision and efficiency are those of this machine.
Nothing is written, except that the data of cells with a record may be prepared in <results>/cache, as in `cab.run`; it
is not downloaded.
"""

import os
import sys
from collections.abc import Sequence

from cab.arguments import cells_parser, parse_cells
from cab.command import command_line

EXAMPLES = (
    "attention=vanilla,fit task=lm,recall seed=0,1,2",
    "-m experiment=recall size=small",
    "--tune experiment=books",
)


def main(arguments: Sequence[str] | None = None) -> int:
    def work() -> int:
        parser = cells_parser("cab.plan", __doc__, EXAMPLES)
        parser.add_argument("--tune", action="store_true", help="plan cab.tune instead of cab.run")
        given = parse_cells(parser, arguments)
        from cab.planning import lines, plan

        print("\n".join(lines(plan(given.line, tune=given.options["tune"]))))
        return 0

    return command_line(work)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # data that is not here is not downloaded for a plan
    sys.exit(main())
