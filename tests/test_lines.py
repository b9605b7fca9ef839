"""Command lines that ask for what cannot be done: exit code 2 and a line that says what to do, in every command."""

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import random_lines
from helpers.announcements import without_announcements
from test_run import TINY, cab, records  # noqa: F401

from cab import ROOT, leaderboard, plan, run, show, tune
from cab.arguments import quoted, unquoted
from cab.check import __main__ as check
from cab.command import command_line
from cab.compose import compose_one, expand
from cab.efficiency import __main__ as efficiency
from cab.quality import train as training
from cab.quality.progress import Progress

COMMANDS = {"run": run, "tune": tune, "plan": plan, "check": check, "efficiency": efficiency}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """The error of a line that is refused by a command: exit code 2, nothing but errors, at most five lines."""

    def call(command: str, *arguments: str) -> str:
        given = [] if any("results" in argument for argument in arguments) else [f"results={tmp_path}/results"]
        code = COMMANDS[command].main([*given, *arguments])
        printed = capsys.readouterr()
        assert (code, printed.out) == (2, ""), printed
        assert printed.err.startswith("error: ")
        assert len(printed.err.splitlines()) <= 5
        assert not (tmp_path / "results" / "runs").exists()
        return printed.err

    monkeypatch.chdir(tmp_path)
    with random_lines.nothing_is_done(monkeypatch):
        yield call


# What every command refuses: the line, and words of the answer.
EVERYWHERE = {
    "attention=nope": "attention=nope: no such choice; did you mean none? It has block_transformer, ",
    "attention=lighning": "did you mean lightning?",
    "experiment=smokee": "did you mean smoke?",
    "train.stepz=5": "train.stepz: no such option; did you mean steps?",
    "+train.stepz=5": "train.stepz=5: no such option; did you mean steps?",
    "sede=5": "sede: no such option; did you mean seed?",
    "+foo=1": "foo=1: no such option",
    "train=null": "train=None: it has options, and is none: give them as train.OPTION=...",
    "train=5": "train",
    "efficiency=''": "efficiency",
    "attention=[vanilla,eager]": "attention=[vanilla,eager]: no such choice",
    "data=[null]": "data=[null]: no such choice",
    "task=null": "task=null: no such choice",
    "size=''": "size='': no such choice",
    "~train": "~train: nothing can be left out",
    "~task": "~task: nothing can be left out",
    "attention._partial_=0": "attention._partial_=0: its YAML needs _partial_: true",
    "attention._target_=builtins.print": "=builtins.print: a subclass of Attention or Stack is needed",
    "attention._target_=none.Such": "attention._target_=none.Such: ModuleNotFoundError: No module named 'none'",
    "task._target_=os.system": "task._target_=os.system: a subclass of Task is needed",
    "train.betas=[nan,2]": "train.betas.0=nan: Input should be a finite number",
    "train.betas=[0.9,2]": "train.betas.1=2: Input should be less than 1",
    "train.lr=inf": "train.lr=inf: Input should be a finite number",
    "model.length=true": "model.length=True: Input should be a valid integer",
    "device.threads=100000": "device.threads=100000: Input should be less than or equal to 1024",
    "efficiency.budget=-1": "efficiency.budget=-1: Input should be greater than 0",
    "efficiency.budget=nan": "efficiency.budget=nan: Input should be a finite number",
    "efficiency.phases=[]": "efficiency.phases=: use some of forward, train, prefill, decode, each once",
    "hydra.run.dir=/proc/x": "hydra.run.dir=/proc/x: of Hydra's own settings CAB takes hydra/launcher=",
    "hydra/sweeper=basic": "of Hydra's own settings CAB takes",
    "hydra.searchpath=[/nope]": "no such folder",
    "seed=${nope}": "Interpolation key 'nope' not found",
    "seed": "'seed': options are given as name=value, as in seed=1",
    "зерно=1": "'зерно' is no name of an option",
    "seed=[1": "brackets or quotes do not match",
    "results=''": "results='': a folder is needed",
    "--resolve": "--resolve: no such option: python -m cab.",
    "--config-dir=/nope": "--config-dir /nope: no such folder",
}


@pytest.mark.parametrize("line", EVERYWHERE)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_what_every_command_refuses(command, line, refused):
    assert EVERYWHERE[line] in refused(command, line)


@pytest.mark.parametrize("command", ["tune", "check", "efficiency"])
@pytest.mark.parametrize("line", [*list(EVERYWHERE)[::6], "attention=[vanilla,eager]", "device.threads=5000"])
def test_the_other_commands_refuse_the_same(command, line, refused):
    assert EVERYWHERE.get(line, line) in refused(command, line)


SWEEPS = {
    "seed=range(0,0)": "seed=range(0,0): a sweep over no value",
    "attention=glob(zzz*)": "attention=glob(zzz*): a sweep over no value: there is block_transformer, eager",
    "seed=choice()": "empty choice is not legal",
    "seed=interval(0,1)": "a sweep takes single values, as in seed=0,1,2 or seed=range(0,3)",
    "seed=range(0,1000000000)": "seed=range(0,1000000000): more than 100,000 values",
    "attention=vanilla,lighning": "attention=lighning: no such choice; did you mean lightning?",
    "hydra.sweeper.max_batch_size=0": "a whole number from 1 up",
    "hydra/launcher=submitit_local": "use slurm, slurm_gpu or a YAML of your own that starts from them",
}


@pytest.mark.parametrize("line", SWEEPS)
def test_a_sweep_that_is_none(line, refused):
    assert SWEEPS[line] in refused("run", "-m", line)


def test_cells_of_which_none_is_left(refused):
    for command in ("run", "plan", "tune"):
        arguments = ["-m", "task=lm", "pattern=noncausal_self,causal_cross"]
        assert "no cell is left: task lm has no pattern noncausal_self" in refused(command, *arguments)


def test_a_sweep_without_m(refused):
    for line in ("seed=0,1", "seed=range(0,2)", "attention=vanilla,none", "attention=glob(*)"):
        assert f"error: {line}: several values are a sweep: add -m" in refused("run", line)
    assert "experiment=smoke is a sweep over attention, pattern, task: add -m" in refused("run", "experiment=smoke")
    assert "hydra/launcher=slurm: says how a sweep is launched: add -m" in refused("run", "hydra/launcher=slurm")


def test_a_cell_of_an_experiment_needs_no_m(tmp_path):
    cell = expand([f"results={tmp_path}", "experiment=smoke"])[0]
    assert "experiment=smoke" in cell
    assert compose_one(cell).attention == "vanilla"


@pytest.mark.parametrize("path", ["/tmp/a=b", "/tmp/a#b", "~/x~y", "/tmp/данные", "/tmp/a(1)", "/tmp/it's", '/tmp/"q"'])
def test_a_path_that_has_to_be_quoted_says_how(path, refused, tmp_path):
    for name in ("data.path", "results"):
        answer = refused("run", "data=local", f"{name}={path}")
        assert "goes into quotes: " in answer
        [written] = shlex.split(answer.partition("quotes: ")[2])
        request = compose_one([f"results={tmp_path}", "data=local", "data.path=x", written])
        found = request.data.path if name == "data.path" else str(request.results)
        assert found == (str(Path(path).expanduser()) if name == "results" else path)


@pytest.mark.parametrize(
    "text", ["a", "/a/b.c", "5", "null", "a=b", 'a"b', "it's", "a\\b", "a\\", 'a\\"', "ж ж", "", "1e3"]
)
def test_what_is_quoted_is_that_text_to_hydra_and_to_the_other_commands(text, tmp_path):
    override = f"data.path={quoted(text)}"
    assert compose_one([f"results={tmp_path}", "data=local", override]).data.path == text
    assert unquoted(quoted(text)) == text


def test_the_results_folder_is_named_in_either_way(tmp_path, refused, capsys):
    (tmp_path / "file").write_text("")
    odd = tmp_path / "a=b и #"
    for command in ("run", "plan"):
        assert f"results={tmp_path / 'file'}: {tmp_path / 'file'} is no folder" in refused(
            command, f"results={tmp_path}/file"
        )
        assert "is no folder" in refused(command, "--results", f"{tmp_path}/file/below")
    assert "given twice" in refused("run", "--results", "a", "results=b")
    assert "results=/proc/x: No such file or directory: choose another folder" in refused("run", "results=/proc/x")
    assert run.main(["--results", str(odd), "wandb.mode=disabled"]) == 0
    printed = capsys.readouterr().out
    module, *arguments = shlex.split(printed.partition("tables and plots: python -m ")[2].splitlines()[0])
    assert module == "cab.leaderboard"
    assert leaderboard.main(arguments) == 2
    assert f"results={odd}: no records" in capsys.readouterr().err


def test_commands_without_cells_name_what_is_not_there(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for command, arguments, words in (
        (leaderboard, ["--results", "/nope"], "results=/nope: no such folder"),
        (leaderboard, ["results=/nope"], "results=/nope: no such folder"),
        (leaderboard, [f"results={tmp_path}/file"], "a file"),
        (leaderboard, ["results=/a", "--results", "/b"], "one folder at a time"),
        (leaderboard, ["/nope"], "/nope: it has results=DIR, --results DIR"),
        (leaderboard, ["--no-plot"], "--no-plot: no such option"),
        (show, ["/nope"], "/nope: no such file"),
        (show, ["/nope", "/tmp"], "/nope: no such file"),
        (show, [str(tmp_path)], "result.json: no such file"),
        (show, [str(tmp_path / "file")], "not valid JSON"),
        (show, [], "RECORD or RECORD FOLDER is needed"),
    ):
        assert command.main(arguments) == 2
        printed = capsys.readouterr()
        assert words in printed.err
        assert (printed.out, printed.err.count("\n")) == ("", 1)


@pytest.mark.parametrize("name", ["run", "tune", "plan", "check", "efficiency", "leaderboard", "show"])
def test_help_needs_no_torch_and_says_what_there_is(name):
    code = f"import sys; from cab.{name}{'.__main__' if name in ('check', 'efficiency') else ''} import main\n"
    code += (
        "try: main(['--help'])\nfinally: print([m for m in ('torch', 'hydra', 'pandas', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert f"python -m cab.{name}" in done.stdout
    if name not in ("leaderboard", "show"):
        for words in ("examples:", "--multirun", "130  Ctrl-C", "task=       forecasting, lm", "--results DIR"):
            assert words in done.stdout


# What ends a command from outside.


@pytest.fixture
def ending(cab, monkeypatch):  # noqa: F811
    """Runs a cell that an error ends after its second step, and then the same command again: both answers."""

    def call(error: BaseException, module, name: str):
        cell = ["attention=none", "measure=false", "train.checkpoint_seconds=0"]
        real, calls = getattr(module, name), []

        def fail(*arguments):
            calls.append(arguments)
            if len(calls) == 3:
                raise error
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            ended = cab(*cell)
        assert not records(cab.results, "quality")
        assert len(list(cab.results.glob("runs/quality/*/checkpoint.pt"))) == 1
        return ended, cab(*cell)

    return call


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(ending):
    (code, _, err), (again, out, _) = ending(KeyboardInterrupt(), training, "optimizer_step")
    assert (code, err) == (130, "interrupted: the same command goes on where this one ended\n")
    assert again == 0
    assert "continues at step 2 of 6" in out


def test_a_pipe_that_is_closed_is_no_result_of_the_cell(ending):
    (code, _, err), (again, out, _) = ending(BrokenPipeError(32, "Broken pipe"), Progress, "update")
    assert code == 1
    assert err == "error: the output is closed: the same command goes on where this one ended\n"
    assert again == 0
    assert "continues at step " in out


def test_a_terminal_that_cannot_print_everything(tmp_path, monkeypatch):
    shown = io.BytesIO()
    with random_lines.nothing_is_done(monkeypatch):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
        assert run.main([f"results={tmp_path}", "attention=none"]) == 0
    assert b"none ? causal_self ? lm" in shown.getvalue()


def test_a_machine_without_a_home_gives_libraries_one(monkeypatch):
    monkeypatch.delenv("HOME")
    assert command_line(lambda: 0) == 0
    assert Path(os.environ["HOME"]).is_dir()


@pytest.mark.slow
def test_a_reader_that_leaves_and_a_machine_without_a_home(tmp_path):
    line = shlex.join(
        [sys.executable, "-m", "cab.run", f"results={tmp_path}", *TINY, "attention=none", "measure=false"]
    )
    line = line.replace("wandb.mode=disabled", "wandb.mode=offline")
    command = f"cd {ROOT} && unset HOME && set -o pipefail && {line} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stdout) == (1, "none · causal_self · lm · smoke · seed 0\n")
    assert (
        without_announcements(done.stderr)
        == "error: the output is closed: the same command goes on where this one ended\n"
    )
    done = subprocess.run(
        ["bash", "-c", command.removesuffix(" | head -1")], capture_output=True, text=True, timeout=250
    )
    assert (done.returncode, without_announcements(done.stderr)) == (0, "")
