"""Measured support: what a family does in every pattern, found by changing inputs and comparing outputs.

Runs the battery (see cab.check.battery) on every family in every pattern, prints the matrix, and writes it to
<results>/leaderboard as checks.csv, checks.png and checks.svg. A selection, made by any override but results= and
rerun=, is written to selected-checks.* instead. Without attention= all families of conf/attention are checked. A family
whose check is done with the same options and source is not checked again (rerun=true does).
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cab.arguments import cells_parser, parse_cells
from cab.command import FAILED, command_line, make_results

if TYPE_CHECKING:
    from cab.config import Request

EXAMPLES = ("", "attention=vanilla,lightning pattern=causal_self", "--config-dir . attention=mine", "results=/tmp/try")
NO_SELECTION = {"results", "rerun", "--config-dir"}


def requests_to_check(line: Sequence[str]) -> "list[Request]":
    """A request per family and pattern, the user's own families last. Raises UserError."""
    from attentions.base import Pattern
    from cab.compose import built_in_families, compose_requests

    given = {argument.partition("=")[0] for argument in line}
    everything = {"attention": "glob(*)", "pattern": "glob(*)", "task": "recall"}  # recall has all patterns
    defaults = [f"{key}={value}" for key, value in everything.items() if key not in given]
    families, patterns = built_in_families(), list(Pattern)

    def place(request: "Request") -> tuple[int, str, int]:
        number = families.index(request.attention) if request.attention in families else len(families)
        return number, request.attention, patterns.index(request.pattern)

    return sorted(compose_requests([*line, *defaults]), key=place)


def main(arguments: Sequence[str] | None = None) -> int:
    def work() -> int:
        line = parse_cells(cells_parser("cab.check", __doc__, EXAMPLES), arguments).line
        from cab.check.gate import Subject, checked
        from cab.report.check_matrix import matrix, write

        requests = requests_to_check(line)
        results = requests[0].results
        make_results(results)
        records = []
        for request in requests:
            outcome = checked(Subject.of(request), request.pattern, results, request.rerun)
            record = outcome.record
            took = "already done" if outcome.was_done else f"{record.provenance['seconds']:.1f} s"
            print(f"  {request.attention}, {request.pattern}: {record.status} ({took})", flush=True)
            records.append(record)
        print(f"\n{matrix(records)}\n")
        selection = {argument.partition("=")[0] for argument in line} - NO_SELECTION
        stem = results / "leaderboard" / ("selected-checks" if selection else "checks")
        print(f"files: {', '.join(map(str, write(records, stem)))}")
        return FAILED if any(record.status == "failed_check" for record in records) else 0

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
