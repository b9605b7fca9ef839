"""The battery catches every planted fault by the checks made for it, passes what is right, and guards the cells."""

import csv
import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers import leaking_attentions

from attentions.base import Pattern, Shape, Unsupported
from attentions.fit import FIT
from attentions.lightning import Lightning
from attentions.local import Local
from attentions.none import NoAttention
from attentions.vanilla import Vanilla
from cab import run
from cab.check import __main__ as check_command
from cab.check import gate as check
from cab.check.battery import TOLERANCE, Battery, Finding, checks
from cab.check.models import REAL, SMALL, models_under_test
from cab.compose import built_in_families
from cab.efficiency import __main__ as efficiency
from cab.store.fingerprint import fingerprint
from cab.store.record import all_records, read_record, record_path
from cab.store.store import Outcome

NS, CS, NC, CC = Pattern
FUTURE = {"leak", "truncation", "decode"}
"""What depends on the future also changes when it is cut off, and cannot be decoded."""
FAULTS = {
    "LeaksByOne": (CS, FUTURE),
    "LeaksInTraining": (CS, {"leak"}),
    "LeaksAfterSteps": (CS, FUTURE),
    "LeaksByMany": (CS, {"leak"}),
    "LeaksByStatistics": (CS, FUTURE),
    "LeaksByMembership": (CS, FUTURE),
    "PoolsFutureQueries": (CC, FUTURE),
    "IgnoresPast": (CS, {"dependence"}),
    "IgnoresPastInTraining": (CS, {"dependence"}),
    "WithoutLastKey": (CS, {"dependence", "decode"}),
    "WithOneKeyMore": (CS, {"dependence", "decode"}),
    "WindowOfBlocks": (NS, {"dependence"}),
    "IgnoresItsWindow": (CS, {"dependence"}),
    "JoinsMasksByAnd": (NS, {"padding"}),
    "MisplacesInRing": (CS, {"decode"}),
    "DropsLastBlock": (NS, {"dependence"}),
    "MasksMemory": (CC, {"dependence"}),
    "SeesPaddingContent": (NS, {"padding"}),
    "SeesPaddingAmount": (NS, {"padding"}),
    "SeesMemoryPadding": (NC, {"padding"}),
    "WritesIntoPadding": (NS, {"padding"}),
    "CouplesRows": (CS, {"batch"}),
    "CouplesLengths": (NS, {"batch"}),
    "ForgetsInDecoding": (CS, {"decode"}),
    "SlopeOfRoot": (NS, {"gradients"}),
    "WrongGradient": (NS, {"gradients"}),
    "CountsInForward": (NS, {"padding", "batch", "gradients"}),
}


def failed(kind, pattern, small=None, settings=(SMALL,)):
    battery = Battery(partial(kind), pattern, small, settings)
    findings = {name: battery.run(name) for name in checks(pattern)}
    return {name for name, finding in findings.items() if not finding.passed}, findings


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught_by_the_checks_that_are_there_for_it(name):
    pattern, expected = FAULTS[name]
    found, findings = failed(getattr(leaking_attentions, name), pattern)
    assert found == expected, findings


def test_every_check_catches_something():
    assert set.union(*(expected for _, expected in FAULTS.values())) == set(TOLERANCE)


def test_a_leak_through_membership_has_no_gradient():
    """Why inputs are changed: the derivative of the leak is 0."""
    layer = leaking_attentions.LeaksByMembership(Shape(8, 2, 1, 0, 12), CS, 0, 1).double()
    x = torch.randn(1, 12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    early = layer(x)[0][:, :6]
    [gradient] = torch.autograd.grad(early.sum(), x)
    assert gradient[:, 6:].abs().max() == 0
    changed = x.detach().clone()
    changed[:, 6:] += 4
    assert (layer(changed)[0][:, :6] - early).abs().max() > 0.1


def test_a_fault_at_real_lengths_only():
    assert failed(leaking_attentions.LeaksAtLength, CS)[0] == set()
    battery = Battery(partial(leaking_attentions.LeaksAtLength), CS, None, (REAL,))
    assert not battery.run("leak").passed


@pytest.mark.parametrize("pattern", Pattern)
@pytest.mark.parametrize("kind", [partial(Vanilla), partial(Lightning, block=4)], ids=["vanilla", "lightning"])
def test_what_is_right_passes(kind, pattern):
    assert failed(kind, pattern)[0] == set()


@pytest.mark.parametrize("window", [1, 2, 5, 40])
@pytest.mark.parametrize("pattern", [NS, CS])
def test_a_window_passes_by_its_declared_reach(pattern, window):
    kind = partial(Local, window=window)
    assert failed(kind, pattern)[0] == set()
    assert [model.module.reach() for model in models_under_test(kind, pattern, SMALL)] == (
        2 * [(2 * window - 2, 0) if pattern is CS else (window // 2 * 2,) * 2]  # two layers, with a convolution or not
        + 2 * [(window - 1, 0) if pattern is CS else (window // 2,) * 2]
    )


@pytest.mark.parametrize("pattern", Pattern)
def test_none_fails_dependence_only(pattern):
    found, findings = failed(NoAttention, pattern)
    assert found == {"dependence"}
    status, reason = check.verdict(list(findings.values()), NoAttention.control)
    assert (status, "control" in reason) == ("ok", True)
    assert check.verdict([Finding("leak", 1.0, "somewhere")], control=True)[0] == "failed_check"


def test_parameters_are_randomized_and_the_global_random_state_is_preserved():
    models = models_under_test(partial(Vanilla), CS, SMALL)
    assert [(model.level, model.seed) for model in models] == [(a, b) for a in ("stack", "layer") for b in (0, 1)]
    for model in models:
        for name, parameter in model.module.named_parameters():
            assert parameter.dtype == torch.float64
            assert parameter.std() > 0.02, name  # biases were 0, weights of norms 1
        assert 0.05 < model(*model.inputs(2)).std() < 5
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Battery(partial(Vanilla), CS, None, (SMALL,)).run("truncation")
    assert torch.equal(torch.rand(3), expected)


def test_real_options_longer_than_the_design_length_get_a_longer_design():
    [model] = models_under_test(partial(FIT, group=300), CS, REAL)
    assert model.module.shape.length == 512
    with pytest.raises(ValueError, match="group=64"):
        models_under_test(partial(FIT, group=64), CS, SMALL)


def test_an_error_fails_its_check_and_unsupported_is_no_failure():
    class Broken(Vanilla):
        support = dict.fromkeys((CS,), "paper")

        def step(self, x_t, state):
            raise RuntimeError("no cache")

    found = {finding.check: finding for finding in check.examine(partial(Broken), CS)}
    assert not found["decode"].passed
    assert found["decode"].detail == "RuntimeError: no cache"
    assert all(finding.passed for name, finding in found.items() if name != "decode")
    with pytest.raises(Unsupported, match="Broken has no noncausal_self"):
        check.examine(partial(Broken), NS)


def test_the_fingerprint_follows_imports_and_nothing_else(tmp_path, monkeypatch):
    assert fingerprint(Vanilla) == fingerprint(Vanilla)
    assert fingerprint(Vanilla) != fingerprint(Lightning)
    (tmp_path / "attentions_outside.py").write_text("from attentions.vanilla import Vanilla\nclass F(Vanilla): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    from attentions_outside import F

    before = fingerprint(F)
    (tmp_path / "attentions_outside.py").write_text("# changed\n")
    assert fingerprint(F) != before


@pytest.fixture
def quick(monkeypatch):
    """Examining takes no time: gives the number of times it was done, and what it found."""
    state = SimpleNamespace(calls=0, found=[Finding("padding", 0.0, "")])

    def examine(family, pattern, small):
        state.calls += 1
        return state.found

    monkeypatch.setattr(check, "examine", examine)
    monkeypatch.setattr(check, "_examined", {})
    return state


def subject(**changes):
    content = {"name": "vanilla", "family": partial(Vanilla), "small": partial(Vanilla), "options": {}}
    return check.Subject(**(content | changes))


def test_an_answer_is_kept_by_options_and_source(tmp_path, quick, monkeypatch):
    first = check.checked(subject(), CS, tmp_path)
    record = first.record
    assert (record.status, first.was_done, quick.calls) == ("ok", False, 1)
    assert read_record(record_path(tmp_path, "checks", record.hash)) == record
    assert check.checked(subject(), CS, tmp_path) == Outcome(record, was_done=True)
    assert check.checked(subject(), CS, tmp_path / "other") == Outcome(record, was_done=False)
    assert read_record(record_path(tmp_path / "other", "checks", record.hash)) == record
    assert quick.calls == 1
    for changes in ({"options": {"block": 4}}, {"small": partial(Vanilla, block=4)}, {"family": partial(Lightning)}):
        check.checked(subject(**changes), CS, tmp_path)
    check.checked(subject(), NS, tmp_path)
    check.checked(subject(), CS, tmp_path, rerun=True)
    assert quick.calls == 6
    monkeypatch.setattr(check, "fingerprint", lambda *_: "changed")
    check.checked(subject(), CS, tmp_path)
    assert quick.calls == 7
    assert not list(all_records(tmp_path))  # checks are no cells


TINY = ["model.dim=16", "model.heads=2", "model.depth=1", "model.hidden=32", "model.length=32", "train.steps=4"]
TINY += ["train.batch=2", "train.warmup=1", "train.validations=1", "efficiency.lengths=[32,64]", "efficiency.budget=2"]
TINY += ["efficiency.rounds=3", "wandb.mode=disabled", "task=lm"]


def test_a_cell_of_a_family_that_failed_is_recorded_and_not_run(tmp_path, quick, monkeypatch, capsys):
    quick.found = [Finding("leak", 0.5, "output 3 reacts to input 9")]
    arguments = [f"results={tmp_path}", *TINY, "pattern=causal_self"]
    assert run.main([*arguments, "attention=vanilla"]) == 1
    assert efficiency.main([*arguments, "attention=lightning", "attention.block=16"]) == 1
    assert "failed_check" in capsys.readouterr().out
    found = {record.kind: record for _, record in all_records(tmp_path)}
    assert set(found) == {"quality", "efficiency"}
    for record in found.values():
        assert record.status == "failed_check"
        assert record.reason == "leak (5.0e-01): output 3 reacts to input 9"
        assert not record.final  # the source may be mended
    assert found["efficiency"].result == {}
    assert "metrics" not in found["quality"].result
    quick.found = [Finding("leak", 0.0, "")]
    monkeypatch.setattr(check, "fingerprint", lambda *_: "mended")
    run.main([*arguments, "attention=vanilla"])
    assert {record.status for _, record in all_records(tmp_path) if record.kind == "quality"} == {"ok"}


def test_small_options_are_no_part_of_a_cell(tmp_path, quick):
    arguments = ["attention.block=16", "attention.check.block=2", "pattern=causal_self"]
    run.main([f"results={tmp_path}", *TINY, "attention=lightning", "measure=false", *arguments])
    [(_, record)] = all_records(tmp_path)
    assert record.config["attention"] == {"_target_": "attentions.lightning.Lightning", "_partial_": True, "block": 16}
    assert record.identity["attention"].keys() == {"name", "_target_", "_partial_", "block"}
    [path] = tmp_path.glob("runs/checks/*/result.json")
    assert read_record(path).config["check"] == {"block": 2}


def test_the_command_prints_the_matrix_and_writes_its_files(tmp_path, quick, monkeypatch, capsys):
    quick.found = [Finding("dependence", 0.0, "any output to input 0"), Finding("padding", 1e-16, "")]
    arguments = [f"results={tmp_path}", "pattern=causal_self,noncausal_cross", "attention=vanilla,none"]
    assert check_command.main(arguments) == 1
    said = capsys.readouterr().out
    assert said.count("FAIL: dependence") == 2
    assert said.count("control: dependence") == 2
    assert "vanilla, causal_self: dependence (0.0e+00): any output to input 0" in said
    folder = tmp_path / "leaderboard"
    lines = list(csv.DictReader((folder / "selected-checks.csv").open()))
    assert len(lines) == 8
    assert {(line["family"], line["check"], line["status"]) for line in lines} == {
        ("vanilla", "dependence", "fail"),
        ("vanilla", "padding", "pass"),
        ("none", "dependence", "control"),
        ("none", "padding", "pass"),
    }
    assert (folder / "selected-checks.png").stat().st_size > 5000
    assert "<svg" in (folder / "selected-checks.svg").read_text()
    assert not (folder / "checks.csv").exists()  # a part does not stand for the whole
    assert check_command.main([f"results={tmp_path}", "attention=none"]) == 0
    assert json.loads(next(tmp_path.glob("runs/checks/*/result.json")).read_text())["kind"] == "checks"
    quick.found = [Finding("padding", 0.0, "")]
    assert check_command.main([f"results={tmp_path}", "rerun=true"]) == 0
    assert {line["family"] for line in csv.DictReader((folder / "checks.csv").open())} == set(built_in_families())


@pytest.mark.parametrize(
    ("override", "word"),
    [("pattern=diagonal", "diagonal"), ("attention=lighning", "lighning"), ("attention.check.blok=4", "blok")],
)
def test_a_mistyped_command_ends_in_a_clear_line(tmp_path, quick, capsys, override, word):
    attention = [] if "attention=" in override else ["attention=lightning"]
    prefix = "+" if "blok" in override else ""
    assert check_command.main([f"results={tmp_path}", *attention, prefix + override]) == 2
    assert word in capsys.readouterr().err
    assert quick.calls == 0


@pytest.mark.slow
def test_every_family_of_the_project_passes_where_it_says_so(tmp_path, capsys):
    code = check_command.main([f"results={tmp_path}"])
    said = capsys.readouterr().out
    assert (code, "FAIL" in said) == (0, False), said
