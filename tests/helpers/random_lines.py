"""Random command lines, right and wrong, made from conf/ by a seed, and what a command answers to one.

What a line asks for is not done: a cell that is accepted is neither trained nor measured (see `nothing_is_done`).
"""

import contextlib
import io
import random
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from cab import ROOT

CONF = ROOT / "conf"
GROUPS = {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in CONF.iterdir() if path.is_dir()}
del GROUPS["hydra"]
FOR_CELLS = ("cab.run", "cab.tune", "cab.plan", "cab.check", "cab.efficiency")
COMMANDS = (*FOR_CELLS, "cab.leaderboard", "cab.show", "dev.bench")

NO_GROUP = ["null", "5", "1.5", "true", "[]", "[null]", "[{0},{1}]", "''", "{{a: 1}}", "${{nope}}", "???", "a b", "nan"]
"""Values where a choice or a mapping belongs; {0} and {1} are choices of the group."""
NO_MAPPING = ["null", "5", "1.5", "true", "[]", "[null]", "[a,b]", "''", "${nope}", "???", "a b", "nan"]
NO_NUMBER = ["abc", "[1,2]", "{a: 1}", "''", "${nope}", "nan", "-inf", "[]", "true"]
SYNTAX = ["", "seed", "=5", "seed=(", "seed=1=2", "train={steps: 5", "@x=1", "attention@here=vanilla", "seed:3"]
SYNTAX += [
    "зерно=1",
    "seed=[1",
    "train.=5",
    ".steps=5",
    "train..steps=5",
    "'",
    "seed='1",
    "+",
    "~",
    "~nothing",
    "+foo=1",
]
FLAGS = ["--resolve", "--cfg=job", "--bogus", "-x", "--info", "--run", "--config-dir=/nope", "--config-name=other"]
FLAGS += [
    "--config-dir",
    "--results",
    "--hydra-help",
    "--version",
    "--package=train",
    "--no-plot",
    "--shell-completion",
]
OF_HYDRA = ["hydra.run.dir=/proc/x", "hydra/launcher=slurmm", "hydra/launcher=null", "hydra/sweeper=basic"]
OF_HYDRA += ["hydra.mode=MULTIRUN", "hydra.job.chdir=true", "hydra.output_subdir=here", "hydra=null", "~hydra"]
OF_HYDRA += ["hydra.sweeper.max_batch_size=0", "hydra.sweeper.max_batch_size=many", "hydra.sweeper=null"]
OF_HYDRA += ["hydra.launcher.nope=1", "hydra.searchpath=5", "hydra.searchpath=[/nope]", "hydra.verbose=true"]
OF_HYDRA += ["hydra/job_logging=default", "hydra.sweeper.params=5", "hydra.sweep.dir=/proc/x", "hydra.launcher=null"]
TARGETS = ["builtins.print", "os.system", "none.such.Thing", "5", "null", "[]", "torch.nn.Linear", "cab.plan", "''"]
EMPTY_SWEEPS = ["seed=range(0,0)", "attention=glob(zzz*)", "pattern=glob(*,exclude=*)", "seed=choice()", "seed=0,"]
EMPTY_SWEEPS += ["seed=interval(0,1)", "seed=range(0,1000000000)", "task=glob([])", "seed=range(0,5,0)"]
PATHS = ["/tmp/a=b", "/tmp/a#b", "~/a~b", "/tmp/данные", "/tmp/[a", "/tmp/a;b", "/tmp/a&b", "/tmp/a(1)"]


@dataclass(frozen=True)
class Line:
    command: str
    arguments: list[str]
    wrong: bool
    """Only exit code 2 is right. Other lines may be right or wrong."""

    def __str__(self) -> str:
        return " ".join([self.command, *map(repr, self.arguments)])


@dataclass(frozen=True)
class Answer:
    code: Any
    out: str
    err: str
    crash: str = ""
    """The exception that left the command."""

    @property
    def outcome(self) -> str:
        if self.crash or "Traceback" in self.out + self.err:
            return "traceback"
        return f"exit {self.code}"

    @property
    def too_long(self) -> bool:
        return len((self.out + self.err).splitlines()) > 20 or (self.code == 2 and len(self.err.splitlines()) > 5)

    def problem(self, line: Line) -> str:
        """What is wrong with the answer; empty if nothing is."""
        if self.outcome not in ("exit 0", "exit 1", "exit 2"):
            return self.outcome
        if self.too_long:
            return "too long"
        if self.code == 2 and not self.err.strip():
            return "no reason"
        return f"{self.outcome} on nonsense" if line.wrong and self.code != 2 else ""


def lines(seed: int, count: int, folder: Path) -> list[Line]:
    """Lines whose results are in this folder, which has a file `file` and an empty folder `empty`."""
    draw = random.Random(seed)
    return [_line(draw, folder) for _ in range(count)]


def _line(draw: random.Random, folder: Path) -> Line:
    command = draw.choices(COMMANDS, weights=[8, 2, 4, 3, 4, 1, 1, 1])[0]
    if command not in FOR_CELLS:
        return _other(draw, command, folder)
    task = draw.choice(["lm", *sorted(PATTERNS)])
    right = [f"results={folder}/results", "wandb.mode=disabled", f"attention={draw.choice(GROUPS['attention'])}"]
    right += [f"task={task}", f"pattern={draw.choice(PATTERNS[task])}"]
    if many := draw.random() < 0.2:
        right += ["seed=0,1"]
    arguments = [*(["-m"] if (many and command == "cab.run") or draw.random() < 0.1 else []), *right]
    if draw.random() < 0.08:
        return Line(command, arguments, wrong=False)
    make = draw.choice(FAULTS)
    fault, wrong = make(draw, command, folder)
    if not fault:
        return Line(command, arguments, wrong=False)
    changed = {argument.partition("=")[0].lstrip("+~-") for argument in fault}
    arguments = [one for one in arguments if one.partition("=")[0] not in changed]
    place = draw.randint(0, len(arguments))
    return Line(command, arguments[:place] + fault + arguments[place:], wrong)


def _patterns() -> dict[str, list[str]]:
    """The patterns of each task."""
    found = {}
    for name in GROUPS["task"]:
        module, _, kind = yaml.safe_load((CONF / "task" / f"{name}.yaml").read_text())["_target_"].rpartition(".")
        found[name] = [str(pattern) for pattern in getattr(import_module(module), kind).patterns]
    return found


PATTERNS = _patterns()

Fault = tuple[list[str], bool]
"""Arguments, and whether they are wrong for certain."""


def _typo(draw: random.Random, word: str) -> str:
    place = draw.randrange(len(word))
    return draw.choice([word[:place] + word[place + 1 :], word + "x", word[:place] + "z" + word[place:], word.upper()])


def _no_such_choice(draw: random.Random, command: str, folder: Path) -> Fault:
    group = draw.choice(sorted(GROUPS))
    choice = _typo(draw, draw.choice(GROUPS[group]))
    return [f"{group}={choice}"], choice not in ("", *GROUPS[group])


def _no_such_group(draw: random.Random, command: str, folder: Path) -> Fault:
    group = draw.choice(sorted(GROUPS))
    return [f"{draw.choice(['', '+', '++'])}{_typo(draw, group)}={draw.choice(GROUPS[group])}"], True


def _no_choice(draw: random.Random, command: str, folder: Path) -> Fault:
    group, value = draw.choice(sorted(GROUPS)), draw.choice(NO_GROUP)
    choices = GROUPS[group]
    wrong = not (group == "experiment" and value in ("null", "[]"))
    return [f"{group}={value.format(choices[0], choices[-1])}"], wrong


def _mappings() -> dict[str, dict[str, Any]]:
    """The mappings of the configuration, with the values of one cell."""
    found: dict[str, dict[str, Any]] = {}
    names = ["config", "recipe/lm_smoke", "size/smoke", "logger/wandb"]
    of_groups = {"device": "device/auto", "data": "data/embedded", "task": "task/lm", "attention": "attention/routing"}
    for name in names:
        for key, value in yaml.safe_load((CONF / f"{name}.yaml").read_text()).items():
            if isinstance(value, dict) and key != "hydra":
                found.setdefault(key, {}).update(value)
    for key, name in of_groups.items():
        content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
        found[key] = {option: value for option, value in content.items() if not option.startswith("_")}
    return found


MAPPINGS = _mappings()


def _no_mapping(draw: random.Random, command: str, folder: Path) -> Fault:
    name = draw.choice(["train", "model", "efficiency", "tune", "wandb"])
    return [f"{draw.choice(['', '', '++'])}{name}={draw.choice(NO_MAPPING)}"], True


def _missing(draw: random.Random, command: str, folder: Path) -> Fault:
    name = draw.choice(["seed", "results", "rerun", "measure", "pattern", "size", *sorted(MAPPINGS)])
    if name in MAPPINGS and draw.random() < 0.5:
        return [*_chosen(name), f"~{name}.{draw.choice(sorted(MAPPINGS[name]))}"], True
    return [f"~{name}"], True


def _chosen(name: str) -> list[str]:
    """What makes MAPPINGS those of the line."""
    return {"task": ["task=lm", "pattern=causal_self"], "attention": ["attention=routing"]}.get(name, [])


def _no_such_option(draw: random.Random, command: str, folder: Path) -> Fault:
    name = draw.choice(sorted(MAPPINGS))
    option = draw.choice(sorted(MAPPINGS[name]))
    mistyped = _typo(draw, option)
    wrong = mistyped not in MAPPINGS[name] and mistyped != ""
    return [*_chosen(name), f"{draw.choice(['', '', '+', '++'])}{name}.{mistyped}=1"], wrong


def _no_number(draw: random.Random, command: str, folder: Path) -> Fault:
    numbers = [
        (name, option)
        for name, options in sorted(MAPPINGS.items())
        for option, value in sorted(options.items())
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    name, option = draw.choice(numbers)
    return [*_chosen(name), f"{name}.{option}={draw.choice(NO_NUMBER)}"], True


def _any_value(draw: random.Random, command: str, folder: Path) -> Fault:
    name = draw.choice(sorted(MAPPINGS))
    option = draw.choice(sorted(MAPPINGS[name]))
    value = draw.choice([*NO_NUMBER, "null", "-1", "0", "[nan,2]", "[null]", "1e400", "inf", "-0.5"])
    return [*_chosen(name), f"{name}.{option}={value}"], False


def _out_of_range(draw: random.Random, command: str, folder: Path) -> Fault:
    lines = ["device.threads=100000", "device.threads=5000", "device.threads=0", "efficiency.budget=-1", "train.lr=nan"]
    lines += ["efficiency.budget=0", "efficiency.phases=[]", "efficiency.lengths=[]", "train.betas=[nan,2]", "seed=-1"]
    lines += [
        "train.betas=[0.9,1]",
        "train.lr=inf",
        "train.clip=nan",
        "tune.rates=[]",
        "tune.rates=[nan,1]",
        "seed=1.5",
    ]
    lines += [
        "efficiency.rounds=0",
        "efficiency.level=''",
        "efficiency.phases=[train,train]",
        "results=''",
        "seed=true",
    ]
    lines += [
        "results=null",
        "results=5",
        "rerun=maybe",
        "measure=2",
        "train.batch=0",
        "train.micro_batch=0",
        "model.heads=0",
    ]
    lines += ["model.heads=3", "device.name=tpu", "device.precision=float8", "wandb.mode=x", "train.warmup=100000"]
    return [draw.choice(lines)], True


def _syntax(draw: random.Random, command: str, folder: Path) -> Fault:
    return [draw.choice(SYNTAX)], True


def _flag(draw: random.Random, command: str, folder: Path) -> Fault:
    flag = draw.choice(FLAGS)
    return [flag], flag not in ("--results", "--config-dir")  # these may take the next argument


def _hydra(draw: random.Random, command: str, folder: Path) -> Fault:
    return [draw.choice(OF_HYDRA)], True


def _target(draw: random.Random, command: str, folder: Path) -> Fault:
    name, choice = draw.choice([("attention", "lightning"), ("task", "lm")])
    if draw.random() < 0.6:
        return [*_chosen(name), f"{name}={choice}", f"{name}._target_={draw.choice(TARGETS)}"], True
    special = draw.choice(
        ["_partial_=0", "_partial_=false", "_partial_=null", "_args_=[1]", "_recursive_=5", "_convert_=x"]
    )
    prefix = "" if "partial" in special else "+"
    return [*_chosen(name), f"{name}={choice}", f"{prefix}{name}.{special}"], True


def _sweep(draw: random.Random, command: str, folder: Path) -> Fault:
    if draw.random() < 0.6:
        return [draw.choice(EMPTY_SWEEPS)], True
    sweep = draw.choice(["seed=0,1", "attention=vanilla,none", "experiment=smoke", "seed=range(0,3)"])
    return [sweep], False


def _path(draw: random.Random, command: str, folder: Path) -> Fault:
    odd = draw.choice(PATHS)
    return draw.choice(
        [
            ([f"results={folder}/file"], True),
            ([f"results={folder}/file/below"], True),
            ([f"results={odd}"], True),
            (["--results", f"{folder}/file"], True),
            (["data=local", f"data.path={odd}"], True),
            (["data=local"], True),
            (["data=local", f"data.path={folder}/file"], False),
            (["data=local", f"data.path={folder}/empty"], False),
        ]
    )


FAULTS: Sequence[Callable[[random.Random, str, Path], Fault]] = (
    _no_such_choice,
    _no_such_group,
    _no_choice,
    _no_mapping,
    _missing,
    _no_such_option,
    _no_number,
    _any_value,
    _out_of_range,
    _syntax,
    _flag,
    _hydra,
    _target,
    _sweep,
    _path,
)


def _other(draw: random.Random, command: str, folder: Path) -> Line:
    """A line of a command that takes no cells."""
    nowhere, file, empty = (str(folder / name) for name in ("nowhere", "file", "empty"))
    wrong = {
        "cab.leaderboard": [
            ["--results", nowhere], [f"--results={file}"], [f"results={nowhere}"], ["--no-plot"], ["attention=vanilla"],
            ["--results"], [nowhere], ["results="], ["results=", "--results", file], ["--results", empty],
        ],
        "cab.show": [
            [], [nowhere], [nowhere, empty], [file, empty], [empty], [empty, file], ["--bogus"], [file, empty, empty],
        ],
        "dev.bench": [
            ["--device=tpu"], ["--device"], ["--bogus"], ["attention=vanilla"], ["--device", "cuda:99"], ["--device="],
        ],
    }  # fmt: skip
    return Line(command, draw.choice(wrong[command]), wrong=True)


def answer(line: Line) -> Answer:
    """What a command answers, in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    argv, path = sys.argv, list(sys.path)
    sys.argv = [line.command, *line.arguments]
    code, crash = None, ""
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # runpy's: the module is imported already
            runpy.run_module(line.command, run_name="__main__", alter_sys=False)
    except SystemExit as end:
        code = end.code or 0
    except Exception as error:
        crash = f"{type(error).__name__}: {error}"
    finally:
        sys.argv, sys.path = argv, path
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return Answer(code, *texts, crash)


@contextlib.contextmanager
def nothing_is_done(patch: Any) -> Iterator[None]:
    """Cells that are accepted get a record that says so, without training, measuring, checking or writing.

    `patch` is pytest's MonkeyPatch.
    """
    import torch

    import cab.check.gate
    import cab.config
    from cab.store.record import Record
    from cab.store.store import Outcome

    def outcome(kind: Any, request: Any) -> Any:
        cell = {"attention": request.attention, "pattern": str(request.pattern)}
        return Outcome(Record(kind, "unsupported", cell, {}, reason="nothing is done here"), was_done=False)

    def quality_cell(request: Any, *others: Any) -> Any:
        with cab.config.user_errors():
            task = request.build_task()
            if request.data.source == "local":
                task.prepare()
        return outcome("quality", request)

    def checked(subject: Any, pattern: Any, *others: Any) -> Any:
        record = Record("checks", "ok", {"attention": "a", "pattern": str(pattern)}, {}, provenance={"seconds": 0.0})
        return Outcome(record, was_done=False)

    patch.setattr("cab.quality.cell.quality_cell", quality_cell)
    patch.setattr(
        "cab.efficiency.cell.efficiency_cells",
        lambda requests, *others: [outcome("efficiency", request) for request in requests],
    )
    patch.setattr("cab.check.gate.checked", checked)
    patch.setattr("cab.report.check_matrix.matrix", lambda records: "matrix")
    patch.setattr("cab.report.check_matrix.write", lambda records, stem: [stem])
    patch.setattr("cab.efficiency.sweep.sweep", lambda *arguments: [])
    patch.setattr("cab.machine.gemm_gflops", lambda *arguments: 1.0)
    patch.setattr(torch, "set_num_threads", lambda threads: None)
    yield
