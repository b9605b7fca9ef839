"""Measured support: `python -m cab.check [attention=vanilla,lightning,...] [pattern=causal_self,...] [results=DIR]`.

Runs the battery (see cab.check.battery) on every family in every pattern, prints the matrix, and writes it to
<results>/leaderboard as checks.csv, checks.png and checks.svg. A selection, made by any override but results= and
rerun=, is written to selected-checks.* instead. Without attention= all families of conf/attention are checked. A family
whose check is done with the same options and source is not checked again (rerun=true does).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from attentions.base import Pattern
from cab import ROOT
from cab.check.gate import Subject, checked
from cab.command import FAILED, command_line
from cab.config import CHECK, family, one_line, user_errors
from cab.errors import UserError
from cab.report.check_matrix import matrix, write


def compose_subjects(overrides: Sequence[str]) -> tuple[list[Subject], list[Pattern], Path, bool]:
    """From the overrides of a command line: families, patterns, the results folder, and whether to check again."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    lists: dict[str, list[str]] = {"attention": all_families(), "pattern": list(Pattern)}
    rest = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key in lists:
            lists[key] = list(dict.fromkeys(value.split(",")))
        else:
            rest.append(override)
    if unknown := set(lists["pattern"]) - set(Pattern):
        raise UserError(f"pattern={min(unknown)}: no such pattern; use {', '.join(Pattern)}")
    subjects = []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for name in lists["attention"]:
            try:
                config = compose("config", [f"attention={name}", *rest])
            except HydraException as error:
                raise UserError(one_line(error)) from error
            with user_errors():
                options = OmegaConf.to_container(config.attention, resolve=True)
            assert isinstance(options, dict)
            kept = {str(key): value for key, value in options.items() if key != CHECK}
            subjects.append(Subject(name, family(config), family(config, small=True), kept))
    return subjects, [Pattern(name) for name in lists["pattern"]], Path(config.results).expanduser(), config.rerun


def all_families() -> list[str]:
    """The names in conf/attention: baselines first, the control last."""
    names = [path.stem for path in (ROOT / "conf" / "attention").glob("*.yaml")]
    return sorted(names, key=lambda name: ({"vanilla": 0, "eager": 1, "none": 3}.get(name, 2), name))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cab.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="as in cab.run; attention= and pattern= take lists")
    overrides = parser.parse_args(arguments).overrides

    def work() -> int:
        subjects, patterns, results, rerun = compose_subjects(overrides)
        records = []
        for subject in subjects:
            for pattern in patterns:
                outcome = checked(subject, pattern, results, rerun)
                record = outcome.record
                took = "already done" if outcome.was_done else f"{record.provenance['seconds']:.1f} s"
                print(f"  {subject.name}, {pattern}: {record.status} ({took})", flush=True)
                records.append(record)
        print(f"\n{matrix(records)}\n")
        complete = all(override.partition("=")[0] in ("results", "rerun") for override in overrides)
        stem = results / "leaderboard" / ("checks" if complete else "selected-checks")
        print(f"files: {', '.join(map(str, write(records, stem)))}")
        return FAILED if any(record.status == "failed_check" for record in records) else 0

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
