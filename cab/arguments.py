"""What a command takes on its command line, and its help. Light to import: `--help` needs neither torch nor Hydra."""

import argparse
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cab import ROOT
from cab.errors import UserError, instead

CONFIG_DIR = "--config-dir="
SEARCH_PATH = "hydra.searchpath"
RESULTS = "results="
EXIT_CODES = """\
exit codes:
  0    all cells are done; an unsupported one is
  1    a cell failed, which is recorded
  2    the request cannot be met, and nothing is recorded; one line says why
  130  Ctrl-C; the same command goes on where it ended"""
WORDS = ("null", "true", "false", "nan", "inf")
"""Values that are no text unless they are quoted."""


class Parser(argparse.ArgumentParser):
    """An error is a UserError. What starts with no dash is left over, and returned by `parse`."""

    def __init__(self, module: str, description: str | None, usage: str, examples: Sequence[str], end: str) -> None:
        epilog = "\n".join(["examples:", *(f"  python -m {module} {example}" for example in examples), "", end])
        super().__init__(
            prog=f"python -m {module}",
            usage=f"python -m {module} {usage}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse(self, arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
        given, rest = self.parse_known_args(arguments)
        for argument in rest:
            if argument.startswith("-"):
                self.error(f"{argument}: no such option")
        return given, rest

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: {self.prog} --help shows what there is")


@dataclass(frozen=True)
class Cells:
    """The command line of a command that takes cells."""

    line: list[str]
    """Overrides, and a `--config-dir=` if there is one."""
    multirun: bool
    options: dict[str, Any]
    """What else the command takes."""


def parse_cells(parser: Parser, arguments: Sequence[str] | None, multirun: str = "") -> Cells:
    """`multirun` is the help of -m, by default that it is not needed."""
    parser.add_argument("-m", "--multirun", action="store_true", help=multirun or "not needed; as in cab.run")
    parser.add_argument("--results", metavar="DIR", help="the same as results=DIR: the folder of the records")
    parser.add_argument(
        "--config-dir", "-cd", metavar="DIR", help="a folder with YAML of your own: DIR/attention/mine.yaml"
    )
    options, overrides = parser.parse(arguments)
    given = vars(options)
    results, folder = given.pop("results"), given.pop("config_dir")
    if results is not None:
        if any(override.startswith(RESULTS) for override in overrides):
            parser.error("--results and results=: the folder is given twice")
        overrides.append(results_override(results))
    own = []
    if folder is not None:
        if not folder:
            parser.error("--config-dir: no folder is named")
        own = [f"{CONFIG_DIR}{Path(folder).absolute()}"]
    return Cells(own + overrides, given.pop("multirun"), given)


def cells_parser(module: str, description: str | None, examples: Sequence[str]) -> Parser:
    """For a command that takes the cells of cab.run."""
    return Parser(
        module, description, "[-m] [--config-dir DIR] [name=value ...]", examples, f"{groups()}\n\n{EXIT_CODES}"
    )


def groups() -> str:
    """The groups and their choices."""
    lines = ["groups, of which one choice each makes a cell:"]
    for folder in sorted(path for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "hydra"):
        choices = sorted(path.stem for path in folder.glob("*.yaml"))
        if folder.name == "recipe":  # one for each task and size
            continue
        lines.append(f"  {folder.name + '=':<12}{', '.join(choices)}")
    lines.append("and any value in them: train.steps=100 seed=0; lists in quotes: 'efficiency.lengths=[256,512]'")
    lines.append("a sweep (-m) takes several values: attention=vanilla,fit seed=range(0,3) attention=glob(*)")
    return "\n".join(lines)


def results_folder(parser: Parser, given: str | None, rest: Sequence[str]) -> Path:
    """The folder that `--results DIR` or results=DIR names, for a command that takes no cells."""
    folders = [given] if given is not None else []
    for argument in rest:
        if not argument.startswith(RESULTS):
            parser.error(f"{argument}: {instead(argument, ['results=DIR', '--results DIR'])}")
        folders.append(unquoted(argument.removeprefix(RESULTS)))
    if len(folders) > 1:
        parser.error(f"results={' '.join(folders)}: one folder at a time")
    if "" in folders:
        parser.error("results=: no folder is named")
    return Path(folders[0]).expanduser() if folders else ROOT / "results"


def is_own(argument: str) -> bool:
    """Whether an argument names a folder with a user's own YAML."""
    return argument.startswith((CONFIG_DIR, f"{SEARCH_PATH}="))


def results_override(folder: Path | str) -> str:
    """The override that names a results folder."""
    return f"{RESULTS}{quoted(str(folder))}"


def quoted(value: str) -> str:
    """The value in an override that gives this text; in quotes if anything in it has a meaning of its own."""
    if re.fullmatch(r"[A-Za-z/_][\w/.%@+-]*", value, re.ASCII) and value.lower() not in WORDS:
        return value
    escaped = re.sub(r'(\\*)(")', r'\1\1\\"', value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f'"{escaped}"'


def unquoted(value: str) -> str:
    """The inverse of `quoted`."""
    if len(value) < 2 or value[0] != value[-1] or value[0] not in "'\"":
        return value
    return re.sub(r"(\\+)(?=[\"']|$)", lambda found: found[1][: len(found[1]) // 2], value[1:-1])


def next_command(module: str, results: Path) -> str:
    """The command that goes on with the records of a folder."""
    where = [] if results == ROOT / "results" else [results_override(results)]
    return shlex.join(["python", "-m", module, *where])
