"""Code of a user's own identifies a cell: every module of a family's package, the recorded command, its revision."""

import subprocess
from pathlib import Path

import pytest
from helpers.outside_folder import TINY, call, write_example

from attentions.vanilla import Vanilla
from cab import show as show_command
from cab.store.fingerprint import fingerprint, own_fingerprint
from cab.store.record import all_records, read_record

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
