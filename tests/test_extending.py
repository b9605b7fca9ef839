"""What docs/extending.md says about families is followed word for word, from a folder outside of the checkout."""

import sys

import pytest
from helpers.outside_folder import TINY, blocks, call, write_example

from attentions.base import Attention
from cab import ROOT
from cab import plan as plan_command
from cab.check import __main__ as check_command
from cab.compose import compose_one, compose_requests
from cab.config import make_family
from cab.efficiency import __main__ as efficiency_command
from cab.errors import UserError
from cab.slurm import RequeuedCell
from cab.store.record import all_records


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


def test_the_readme_shows_the_same_example():
    readme = (ROOT / "README.md").read_text()
    [python], [yaml] = blocks("python"), blocks("yaml")
    assert f"```python\n{python}```" in readme
    assert f"```yaml\n{yaml}```" in readme
