"""The syntax of overrides, and what they choose, checked before Hydra composes anything from them."""

import itertools
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString, RangeSweep
from hydra.errors import HydraException

from cab.arguments import SEARCH_PATH, quoted
from cab.errors import UserError, instead, one_line

LAUNCHER = "hydra/launcher"
BATCH = "hydra.sweeper.max_batch_size"
OPTIONAL = "experiment"
"""The group of which there may be no choice."""
MOST_CELLS = 100_000


def parse(arguments: Sequence[str], loader: ConfigLoader) -> list[Override]:
    """The overrides of a command line. Raises UserError."""
    parser = OverridesParser.create(loader)
    overrides = []
    for argument in arguments:
        try:
            [override] = parser.parse_overrides([argument])
        except (HydraException, ValueError) as error:
            raise UserError(_syntax(argument, one_line(error))) from error
        _check(override, loader)
        overrides.append(override)
    return overrides


def is_for_sweeps(override: Override) -> bool:
    """Whether an override says how cells are launched, and not what a cell is."""
    return override.key_or_group in (LAUNCHER, BATCH) or override.key_or_group.startswith("hydra.launcher.")


def products(overrides: Sequence[Override]) -> list[list[str]]:
    """The command lines of all cells of a sweep: every combination of the values. Raises UserError."""
    values: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        values[key] = [f"{key}={value}" for value in _values(override)]
    if (count := math.prod(map(len, values.values()))) > MOST_CELLS:
        raise UserError(f"{count:,} cells: a sweep has at most {MOST_CELLS:,}")
    return [list(cell) for cell in itertools.product(*values.values())]


def refuse_sweep(overrides: Sequence[Override]) -> None:
    """Raises UserError if there are several values for one option."""
    for override in overrides:
        if override.is_sweep_override():
            line = str(override.input_line)
            text = f"; a text with a comma goes into quotes: {_in_quotes(line)}" if "/" in line else ""
            raise UserError(f"{line}: several values are a sweep: add -m (python -m cab.run -m ...){text}")


def _values(override: Override) -> list[str]:
    line = override.input_line
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise UserError(f"{line}: a sweep takes single values, as in seed=0,1,2 or seed=range(0,3)")
    try:
        if isinstance(override._value, RangeSweep) and _count(override._value) > MOST_CELLS:
            raise UserError(f"{line}: more than {MOST_CELLS:,} values")
        found = list(override.sweep_string_iterator())
    except (ValueError, TypeError, HydraException) as error:
        raise UserError(f"{line}: {one_line(error)}") from error
    if not found:
        group = override.key_or_group
        known = f": there is {', '.join(_choices(override, group))}" if isinstance(override._value, Glob) else ""
        raise UserError(f"{line}: a sweep over no value{known}")
    return found


def _count(sweep: RangeSweep) -> int:
    """The number of values, or of more than MOST_CELLS that many."""
    return sum(1 for _ in itertools.islice(iter(sweep.range()), MOST_CELLS + 1))


def _check(override: Override, loader: ConfigLoader) -> None:
    """Raises UserError for a choice that there is not, and for what no cell can do with or without."""
    name, line = override.key_or_group, override.input_line
    if override.is_delete():
        raise UserError(f"{line}: nothing can be left out; give a value, as in {name}=...")
    if override.package is not None:
        raise UserError(f"{line}: a choice goes where it belongs: {name}=...")
    if name == "hydra" or name.startswith(("hydra.", "hydra/")):
        _check_setting(override)
    if name != LAUNCHER and name not in loader.list_groups(""):
        return
    known = _choices(override, name)
    given: list[Any] = [override._value]
    if override.is_sweep_override():
        if isinstance(override._value, Glob) or not override.is_choice_sweep():
            return
        given = list(override.sweep_iterator())
    for value in given:
        choice = value.text if isinstance(value, QuotedString) else value
        if choice is None and name == OPTIONAL:
            continue
        if not isinstance(choice, str) or choice not in known:
            shown = line if len(given) == 1 else f"{name}={choice}"
            raise UserError(f"{shown}: no such choice; {instead(str(choice), known)}")


def _check_setting(override: Override) -> None:
    """Raises UserError for a setting of Hydra's that would have no effect, or break the command."""
    name, line = override.key_or_group, override.input_line
    if name not in (LAUNCHER, BATCH, SEARCH_PATH) and not name.startswith("hydra.launcher."):
        allowed = f"{LAUNCHER}=, hydra.launcher.NAME=, {BATCH}= and {SEARCH_PATH}="
        raise UserError(f"{line}: of Hydra's own settings CAB takes {allowed}")
    if override.is_sweep_override():
        raise UserError(f"{line}: one value for a whole sweep")
    value = override.value()
    if name == BATCH and value is not None and not (type(value) is int and value > 0):
        raise UserError(f"{line}: a whole number from 1 up, or null for all cells at once")
    if name == SEARCH_PATH:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise UserError(f"{line}: a list, as in {SEARCH_PATH}=[file:///absolute/path]")
        for each in value:
            if "://" not in each or (each.startswith("file://") and not Path(each[7:]).is_dir()):
                raise UserError(f"{line}: no such folder; as in {SEARCH_PATH}=[file:///absolute/path]")


def _choices(override: Override, group: str) -> list[str]:
    assert override.config_loader is not None
    return sorted(override.config_loader.get_group_options(group, ObjectType.CONFIG))


def _syntax(argument: str, reason: str) -> str:
    """What is wrong with an argument that is no override."""
    name, equals, value = argument.partition("=")
    if not equals:
        return f"{argument!r}: options are given as name=value, as in seed=1"
    if not re.fullmatch(r"[+~]*[A-Za-z_][\w/.-]*(@[\w/.:-]*)?", name, re.ASCII):
        return f"{argument!r}: {name!r} is no name of an option"
    if "while evaluating" in reason:
        return f"{argument}: {reason.partition(' while evaluating ')[2].partition(': ')[2] or reason}"
    odd = sorted(
        {letter for letter in value if not (letter.isascii() and (letter.isalnum() or letter in " _/-\\+.$%*@?|:,"))}
    )
    if odd and value[0] not in "[{('\"":
        return f"{argument}: {' '.join(odd)} goes into quotes: {_in_quotes(argument)}"
    return f"{argument}: brackets or quotes do not match; a text goes into quotes: {_in_quotes(argument)}"


def _in_quotes(argument: str) -> str:
    """The argument as it is written in a shell to give its value as a text."""
    name, _, value = argument.partition("=")
    return shlex.quote(f"{name}={quoted(value)}")
