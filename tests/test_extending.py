"""What docs/extending.md says about families is followed word for word, from a folder outside of the checkout."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from attentions.base import Attention
from attentions.vanilla import Vanilla
from cab import ROOT
from cab import plan as plan_command
from cab import show as show_command
from cab.check import __main__ as check_command
from cab.compose import compose_one, compose_requests
from cab.config import make_family
from cab.efficiency import __main__ as efficiency_command
from cab.errors import UserError
from cab.slurm import RequeuedCell
from cab.store.fingerprint import fingerprint, own_fingerprint
from cab.store.record import all_records, read_record

TINY = ["model.dim=16", "model.heads=2", "model.depth=1", "model.hidden=32", "model.length=32", "train.steps=2"]
TINY += ["train.batch=2", "train.warmup=1", "train.validations=1", "task.validation_windows=2", "task.test_windows=2"]
TINY += [
    "efficiency.lengths=[16]",
    "efficiency.rounds=3",
    "measure=false",
    "wandb.mode=disabled",
    "device.threads=1",
    "task=lm",
]
SECTION = (ROOT / "docs" / "extending.md").read_text().partition("## Add an attention")[2].partition("\n## ")[0]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", SECTION, re.DOTALL)


def write_example(folder: Path) -> Path:
    """The two files as the document names them."""
    python, yaml = re.findall(r"^`(\S+)`, ", SECTION, re.MULTILINE)
    (folder / yaml).parent.mkdir(parents=True)
    for name, kind in ((python, "python"), (yaml, "yaml")):
        [content] = blocks(kind)
        (folder / name).write_text(content)
    return folder


def call(folder: Path, command: str, *more: str) -> "subprocess.CompletedProcess[str]":
    """Runs `python -m ...` in the folder."""
    python, *arguments = shlex.split(command)
    assert python == "python"
    return subprocess.run(
        [sys.executable, *arguments, *more],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder with the example, which is the current one; what is imported from it is forgotten at the end."""
    folder = write_example(tmp_path / "outside")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    yield folder
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_every_command_of_the_document_works_from_an_empty_folder(tmp_path):
    folder = write_example(tmp_path / "outside")
    lines = [line for block in blocks("console") for line in block.splitlines()]
    assert len(lines) == 5
    said = []
    for line in lines:
        sizes = [] if ".check" in line else TINY
        done = call(folder, line, f"results={tmp_path / 'results'}", *sizes)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        said.append(done.stdout)
    check, plan, *_ = said
    assert check.count("mine, causal_self: ok") == 1
    assert check.count(": unsupported") == 3
    assert "9 cells: 9 new" in plan
    records = [record for _, record in all_records(tmp_path / "results")]
    cells = {(record.kind, record.cell["attention"]): record for record in records}
    assert {record.status for record in records} == {"ok"}
    assert {name for kind, name in cells if kind == "quality"} == {"mine", "vanilla", "none", "MyAttention"}
    record = cells["quality", "mine"]
    command = record.provenance["command"]
    assert command.startswith(f"python -m cab.run --config-dir={folder} attention=mine ")
    assert record.config["attention"].keys() == {"_target_", "_partial_", "_source_", "gain"}
    rows = [row for row in cells["efficiency", "mine"].result["measurements"] if row["phase"] == "decode"]
    assert {row["subject"]: row["decoding"] for row in rows} == {
        **{"vanilla": "state", "eager": "state"},
        "mine": "recomputation",
    }
    again = call(tmp_path, command)  # from anywhere
    assert (again.returncode, "already" in again.stdout) == (0, True), again


@pytest.mark.slow
def test_processes_of_torchrun_find_the_family(tmp_path):
    """In a folder that is not the current one."""
    write_example(tmp_path / "outside")
    command = "python -m torch.distributed.run --standalone --nproc-per-node 2 -m cab.run --config-dir outside"
    done = call(tmp_path, command, "attention=mine", *TINY, "train.micro_batch=1", f"results={tmp_path}")
    assert done.returncode == 0, done
    [(_, record)] = all_records(tmp_path)
    assert record.result["training"]["processes"] == 2


@pytest.mark.slow
def test_jobs_of_a_launcher_find_the_family(tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = write_example(tmp_path / "outside")
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="local")
    executor.update_parameters(timeout_min=5)
    line = [f"--config-dir={folder}", "attention=mine", *TINY, f"results={tmp_path}"]
    assert executor.submit(RequeuedCell(0), line).result() == 0
    [(_, record)] = all_records(tmp_path)
    assert (record.cell["attention"], record.status) == ("mine", "ok")


LEAK = "def mix(x):\n    return x.flip(1).cumsum(1).flip(1)\n"
RIGHT = "def mix(x):\n    return x.cumsum(1)\n"
PACKAGE = """
from torch import nn
from attentions.base import Attention, Pattern, no_loss, zero_padding
from .core import mix

class Own(Attention):
    support = {Pattern.CAUSAL_SELF: "extension"}
    def forward(self, x, memory=None, valid=None, memory_valid=None):
        return zero_padding(mix(zero_padding(x, valid)), valid), no_loss(x)
"""


HELPERS = {
    "a module of the package": ("mypkg.family", "from .core import mix", "mypkg/core.py"),
    "a package below": ("mypkg.family", "from .below.deep import mix", "mypkg/below/deep.py"),
    "from above": ("mypkg.below.family", "from ..core import mix", "mypkg/core.py"),
    "beside the package": ("mypkg.family", "from beside import mix", "beside.py"),
    "by its name": ("mypkg.family", "mix = __import__('importlib').import_module('mypkg.core').mix", "mypkg/core.py"),
    "beside a file": ("family", "from beside import mix", "beside.py"),
}


@pytest.mark.parametrize(
    "where", [pytest.param(where, marks=pytest.mark.slow if place else ()) for place, where in enumerate(HELPERS)]
)
def test_a_leak_in_a_helper_module_after_a_passed_check_is_seen(tmp_path, where):
    module, line, helper = HELPERS[where]
    family = (tmp_path / module.replace(".", "/")).with_suffix(".py")
    for path in (family, tmp_path / helper):
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in {path.parent, family.parent, tmp_path / "mypkg"} - {tmp_path}:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "__init__.py").touch()
    family.write_text(PACKAGE.replace("from .core import mix", line))
    (tmp_path / helper).write_text(RIGHT)
    command = f"python -m cab.check attention=vanilla attention._target_={module}.Own pattern=causal_self"
    first = call(tmp_path, command, f"results={tmp_path / 'results'}")
    assert "Own, causal_self: ok" in first.stdout, first
    (tmp_path / helper).write_text(LEAK)
    second = call(tmp_path, command, f"results={tmp_path / 'results'}")
    assert (second.returncode, "Own, causal_self: failed_check" in second.stdout) == (1, True), second


RUN = [o for o in TINY if not o.startswith(("task", "model.length"))]
RUN += ["pattern=causal_self", "task=recall", "model.length=64"]


@pytest.mark.parametrize(
    "way", [*(pytest.param(way, marks=pytest.mark.slow) for way in ("config-dir", "folder")), "git"]
)
def test_the_recorded_command_makes_the_same_cell_from_anywhere(tmp_path, capsys, way):
    """It names the folders of the user's own files, and the record says what that code was."""
    folder = write_example(tmp_path / "outside")
    chosen = ["attention=vanilla", "attention._target_=my_attention.MyAttention", "++attention.gain=0.5"]
    if way == "config-dir":
        chosen = ["--config-dir", ".", "attention=mine", "attention.gain=0.5"]
    elif way == "git":
        (folder / "mypkg").mkdir()
        (folder / "mypkg" / "__init__.py").write_text("from my_attention import MyAttention as One\n")
        (folder / "mypkg" / "own.py").write_text("from mypkg import One\nclass MyAttention(One): pass\n")
        chosen[1] = "attention._target_=mypkg.own.MyAttention"
        for line in ("init -q", "add -A", "-c user.name=a -c user.email=a@b commit -qm first"):
            subprocess.run(["git", *line.split()], cwd=folder, check=True)
        (folder / "mypkg" / "unused.py").write_text("")
    results = tmp_path / "results"
    done = call(folder, "python -m cab.run", *chosen, *RUN, f"results={results}")
    assert done.returncode == 0, done
    [(path, record)] = all_records(results)
    assert (record.status, record.config["attention"]["gain"]) == ("ok", 0.5)
    command = record.provenance["command"]
    assert str(folder) in command
    [own] = record.provenance["own_code"]
    assert own["source"] == record.identity["attention"]["_source_"]
    assert Path(own["file"]).is_relative_to(folder)
    assert ("revision" in own) == (way == "git")
    assert own.get("dirty", True)
    path.unlink()
    again = call(tmp_path, command)
    assert again.returncode == 0, again
    assert read_record(path).result["metrics"] == record.result["metrics"]  # a file of this name: the same hash
    show_command.main([str(path), str(tmp_path / "shown")])
    shown = capsys.readouterr().out
    assert own["class"] in shown
    assert own["source"] in shown
    assert command in shown
    assert own.get("revision", "")[:10] in shown


@pytest.mark.slow
@pytest.mark.parametrize("swept", ["attention=mine,none", "experiment=smoke"])
def test_the_recorded_commands_of_a_sweep_make_the_same_cells(tmp_path, swept):
    folder = write_example(tmp_path / "outside")
    results = tmp_path / "results"
    sweep = ["-m", swept, *RUN, f"results={results}", *(["seed=0"] if "experiment" in swept else ["seed=0,1"])]
    done = call(folder, "python -m cab.run --config-dir .", *sweep)
    assert done.returncode == 0, done
    found = list(all_records(results))
    assert len(found) > 1
    for _, record in found[:2]:
        again = call(tmp_path, record.provenance["command"])
        assert (again.returncode, "already done" in again.stdout) == (0, True), again


@pytest.mark.slow
def test_a_recorded_efficiency_command_measures_the_same_cell(tmp_path):
    folder = write_example(tmp_path / "outside")
    chosen = ["attention=vanilla", "attention._target_=my_attention.MyAttention", "efficiency.phases=[forward]"]
    done = call(folder, "python -m cab.efficiency", *chosen, *RUN, f"results={tmp_path / 'results'}")
    assert done.returncode == 0, done
    [(_, record)] = all_records(tmp_path / "results")
    again = call(tmp_path, record.provenance["command"])
    assert (again.returncode, "already done" in again.stdout) == (0, True), again


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["attention=vanilla", "attention._target_=my_attention.MyAttention"], "MyAttention"),
        (["attention=mine"], "mine"),
        (["attention=mine", "attention._target_=my_attention.Other"], "Other"),
        (["attention=mine", "attention._target_=attentions.vanilla.Vanilla"], None),
        (["attention=vanilla", "attention._target_=attentions.eager.Eager"], None),
        (["attention=vanilla", "attention._target_=attentions.vanilla.Vanilla"], "vanilla"),
        (["attention=vanilla", "attention._target_=my_attention.Vanilla"], None),
    ],
)
def test_a_family_is_listed_by_what_it_is(outside, arguments, name):
    """Another class than that of the YAML has its own name, and never one that could be taken for ours."""
    with (outside / "my_attention.py").open("a") as file:
        file.write("\n\nclass Other(MyAttention):\n    pass\n\n\nVanilla = Other\n")
    line = [f"--config-dir={outside}", *arguments]
    if name is not None:
        assert compose_one(line).attention == name
        return
    with pytest.raises(UserError, match=r"attention\._target_=") as error:
        compose_one(line)
    assert "\n" not in str(error.value)


def test_an_option_cannot_take_the_place_of_the_name(outside):
    source = (outside / "my_attention.py").read_text().replace("gain: float = 1.0", 'name: str = "a"')
    (outside / "my_attention.py").write_text(source.replace("self.gain = gain", "self.gain = 1.0"))
    (outside / "attention" / "mine.yaml").write_text(
        "_target_: my_attention.MyAttention\n_partial_: true\nname: vanilla\n"
    )
    with pytest.raises(UserError, match=r"attention\.name: in records that is what the family is called"):
        compose_one([f"--config-dir={outside}", "attention=mine"])


def test_a_changed_file_is_a_new_cell(outside):
    arguments = [f"--config-dir={outside}", "attention=mine"]
    before = compose_one(arguments).resolved["attention"]
    assert compose_one(arguments).resolved["attention"] == before
    (outside / "my_attention.py").write_text(blocks("python")[0] + "# changed\n")
    after = compose_one(arguments).resolved["attention"]
    assert before.keys() == after.keys()
    assert [key for key in before if before[key] != after[key]] == ["_source_"]
    assert "_source_" not in compose_one(["attention=lightning"]).resolved["attention"]


@pytest.mark.parametrize("command", [plan_command, check_command, efficiency_command])
def test_a_mistyped_name_lists_the_users_own_families(outside, capsys, command):
    assert command.main(["--config-dir", ".", "attention=mien"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "did you mean mine?" in said
    assert {"lightning", "mine", "none"} < set(said.strip().partition("It has ")[2].split(", "))


@pytest.mark.parametrize("command", [plan_command, check_command, efficiency_command])
def test_the_name_of_a_built_in_family_is_refused(outside, capsys, command):
    (outside / "attention" / "mine.yaml").rename(outside / "attention" / "vanilla.yaml")
    assert command.main(["--config-dir", ".", "attention=none", f"results={outside}"]) == 2
    said = capsys.readouterr().err
    assert said == f"error: {outside}/attention/vanilla.yaml: CAB has attention=vanilla already, rename yours\n"


def test_it_is_refused_by_cab_run_too(tmp_path):
    folder = write_example(tmp_path / "outside")
    (folder / "attention" / "mine.yaml").rename(folder / "attention" / "ssa.yaml")
    done = call(folder, "python -m cab.run --config-dir . attention=ssa", f"results={tmp_path}", *TINY)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    assert "rename yours" in done.stderr


def test_all_families_are_built_in_and_own_ones(outside):
    names = [request.attention for request in check_command.requests_to_check([f"--config-dir={outside}"])]
    assert list(dict.fromkeys(names))[:2] == ["vanilla", "eager"]
    assert names[-4:] == ["mine"] * 4
    assert len(names) == 4 * 10


def test_a_search_path_of_hydra_works_as_well(outside):
    [request] = compose_requests([f"hydra.searchpath=[file://{outside}]", "attention=mine"])
    assert request.family_arguments == [
        f"hydra.searchpath=[file://{outside}]",
        "attention=mine",
        "attention.gain=1.0",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config-dir=/no/such/folder"], "no such folder"),
        (["attention=vanilla", "attention._target_=torch.nn.Linear"], "Attention or Stack"),
        (["attention=vanilla", "attention._target_=nowhere.Mine"], "nowhere"),
        (
            ["attention=vanilla", "attention._target_=my_attention.MyAttention", "+attention.gian=1.0"],
            "did you mean gain",
        ),
        (["attention=vanilla", "attention._target_=my_attention.ssa"], "rename the class"),
    ],
)
def test_what_cannot_be_is_one_line(outside, arguments, words):
    with (outside / "my_attention.py").open("a") as file:
        file.write("\nssa = MyAttention\n")
    with pytest.raises(UserError, match=words) as error:
        compose_one(arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("gain", "words"),
    [("much", "attention.gain='much'"), ("true", "attention.gain=True"), ("null", "attention.gain=None")],
)
def test_its_option_is_checked(outside, gain, words):
    with pytest.raises(UserError, match=words):
        compose_one([f"--config-dir={outside}", "attention=mine", f"attention.gain={gain}"])


class Untyped(Attention):
    def __init__(self, shape, pattern, layer, layers, *, gain):
        pass


class Positional(Attention):
    def __init__(self, shape, pattern, layer, layers, gain: float = 1.0):
        pass


@pytest.mark.parametrize(("family", "words"), [("Untyped", "does not say of what type"), ("Positional", "after `\\*`")])
def test_an_option_that_is_none_is_one_line(family, words):
    options = {"_target_": f"{__name__}.{family}", "_partial_": True, "gain": 1.0}
    with pytest.raises(UserError, match=f"attention.gain: .*{words}"):
        make_family(options)


def test_the_source_is_what_a_family_imports_of_its_own(tmp_path, monkeypatch):
    """Its package, imported or not, and what it imports that is neither the project's nor installed; nothing else."""
    files = {
        "single_file.py": "import beside, json\nimport numpy\nfrom pack_a.inner import x\nclass F: pass\n",
        "beside.py": "def f():\n    import far_beside\n",
        "far_beside.py": "",
        "unused.py": "",
        "pack_a/__init__.py": "",
        "pack_a/inner/__init__.py": "from . import deep\nx = 1\n",
        "pack_a/inner/deep.py": "from ..top import *\n",
        "pack_a/top.py": "",
        "pack_a/unused.py": "",
        "pack_b/__init__.py": "",
        "pack_b/family.py": "import beside, attentions.base\nfrom pack_b import helper\nclass F: pass\n",
        "pack_b/helper.py": "",
        "pack_b/by_name.py": "",  # imported by importlib, or by nobody
        "pack_b/below/__init__.py": "",
        "pack_b/below/deep.py": "from ...too_far import x\n",
        "pack_b/below/broken.py": "no python\n",
        "pack_b/below/compiled.abi3.so": "",
        "pack_b/namespace/alone.py": "import through_namespace\n",
        "through_namespace.py": "",
        "pack_b/.hidden/no_module.py": "",
        "pack_b/notes.txt": "",
        "site-packages/installed.py": "",
        "pack_c/__init__.py": "import installed\nfrom pack_b.family import F\nclass G(F): pass\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(tmp_path)
    import pack_b.family
    import pack_c
    import single_file

    def changed(kind) -> set[str]:
        """The files whose change changes the hash of the family's own source."""
        found, before = set(), own_fingerprint(kind)
        for name, content in files.items():
            (tmp_path / name).write_text(content + "# changed\n")
            if own_fingerprint(kind) != before:
                found.add(name)
            (tmp_path / name).write_text(content)
        return found

    beside = {"beside.py", "far_beside.py"}
    top_a = {"pack_a/__init__.py", "pack_a/inner/__init__.py", "pack_a/inner/deep.py", "pack_a/top.py"}
    assert changed(single_file.F) == {"single_file.py"} | beside | top_a
    all_b = {name for name in files if name.startswith("pack_b") and "hidden" not in name and "txt" not in name}
    of_b = all_b | beside | {"through_namespace.py"}
    assert changed(pack_b.family.F) == of_b
    assert changed(pack_c.G) == of_b | {"pack_c/__init__.py"}  # a base counts with its package
    assert own_fingerprint(pack_b.family.F) != fingerprint(pack_b.family.F)  # the latter has attentions.base too
    assert fingerprint(Vanilla) == fingerprint(Vanilla)


def test_the_readme_shows_the_same_example():
    readme = (ROOT / "README.md").read_text()
    [python], [yaml] = blocks("python"), blocks("yaml")
    assert f"```python\n{python}```" in readme
    assert f"```yaml\n{yaml}```" in readme
