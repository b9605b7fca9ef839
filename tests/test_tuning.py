"""Learning rates: which one is chosen, by validation alone, and how cab.tune gets there."""

import pytest
import torch
from helpers import synthetic
from test_run import TINY, records

from cab import run, sweep
from cab import tune as tune_command
from cab.planning import lines, plan
from cab.store.identity import quality_key
from cab.store.record import Record, all_records
from cab.store.store import Store
from cab.tuning import Tuning, next_rates, tuning_of

GRID = [1e-3, 2e-3, 4e-3]


def tuning(*values: float | None, better: str = "lower", rates=GRID, grid=GRID) -> Tuning:
    return Tuning(grid, dict(zip(rates, values, strict=False)), better)


# The choice


@pytest.mark.parametrize(
    ("values", "better", "rate"),
    [
        ((3.0, 2.0, 2.5), "lower", 2e-3),
        ((0.3, 0.9, 0.5), "higher", 2e-3),
        ((3.0, 2.0, None), "lower", 2e-3),
        ((None, 2.0, None), "higher", 2e-3),
        ((2.0, 2.0, 2.0), "lower", 2e-3),  # nothing separates them: the middle
    ],
)
def test_the_best_on_validation_is_chosen(values, better, rate):
    found = tuning(*values, better=better)
    assert (found.missing, found.rate, found.at_edge, found.problem) == ([], rate, False, "")


def test_a_best_rate_at_an_end_of_the_grid_widens_it_once():
    assert next_rates(GRID) == (5e-4, 8e-3)
    assert next_rates([1e-4, 3e-4, 6e-4]) == (3.33333e-5, 1.2e-3)
    high = [*GRID, 8e-3]
    assert tuning(3.0, 2.5, 2.0).missing == [8e-3]
    assert tuning(3.0, 2.5, 2.0).rate is None
    assert tuning(2.0, 2.5, 3.0).missing == [5e-4]
    assert tuning(0.2, 0.3, 0.9, better="higher").missing == [8e-3]
    worse = tuning(3.0, 2.5, 2.0, 2.1, rates=high)
    assert (worse.missing, worse.rate, worse.at_edge) == ([], 4e-3, False)
    diverged = tuning(3.0, 2.5, 2.0, None, rates=high)
    assert (diverged.missing, diverged.rate, diverged.at_edge) == ([], 4e-3, False)
    better = tuning(3.0, 2.5, 2.0, 1.9, rates=high)
    assert (better.missing, better.rate, better.at_edge) == ([], 8e-3, True)


def test_nothing_is_chosen_before_all_rates_are_tried_or_if_none_has_a_result():
    found = tuning(3.0, 2.0)
    assert (found.missing, found.rate) == ([4e-3], None)
    assert found.problem == "rates not all tried: no result at 0.004"
    found = tuning(None, None, None)
    assert (found.missing, found.rate, found.at_edge) == ([], None, False)
    assert found.problem == "no rate of 0.001, 0.002, 0.004 gave a result"


def trial(rate: float, validation: float | None, seed: int = 0, *, test: float = 2.0, **more) -> Record:
    return synthetic.quality("vanilla", seed, score=test, lr=rate, tuned_over=GRID, validation=validation, **more)


def test_records_are_judged_by_validation_and_not_by_test():
    """Test would choose another rate."""
    found = tuning_of([trial(1e-3, 2.5, test=1.0), trial(2e-3, 2.0, test=3.0), trial(4e-3, 2.4, test=2.0)])
    assert (found.rate, found.seed, found.better) == (2e-3, 0, "lower")
    assert found.validations == {1e-3: 2.5, 2e-3: 2.0, 4e-3: 2.4}


def test_trials_that_end_without_a_result_are_worst_and_those_that_failed_are_missing():
    good = [trial(1e-3, 2.5), trial(2e-3, 2.0)]
    for status in ("diverged", "out_of_memory"):
        assert tuning_of([*good, trial(4e-3, None, status=status)]).rate == 2e-3
    for status in ("error", "timeout"):
        assert tuning_of([*good, trial(4e-3, None, status=status)]).missing == [4e-3]
    assert tuning_of([*good, trial(4e-3, None)]).rate == 2e-3  # a validation that is not finite


def test_trials_are_those_of_the_least_seed_with_all_rates():
    others = [trial(2e-3, 9.0, 0), *(trial(rate, value, 3) for rate, value in zip(GRID, (3.0, 2.0, 1.0), strict=True))]
    own = [trial(rate, value, 1) for rate, value in zip(GRID, (3.0, 1.0, 2.0), strict=True)]
    found = tuning_of([*others, *own])
    assert (found.seed, found.rate) == (1, 2e-3)
    assert tuning_of(others).seed == 3
    assert tuning_of(others).missing == [8e-3]
    assert tuning_of([trial(7e-3, 0.1), *own]).rate == 2e-3  # of no grid


# The command

LIST = f"[{','.join(map(str, GRID))}]"


@pytest.fixture
def tune(tmp_path, monkeypatch, capsys):
    """`python -m cab.tune` in this process with cells that train nothing: returns exit code, output and cells run.

    A cell's validation is `values[family][rate]`; its test score is the opposite.
    """

    def write(request, line) -> int:
        cell = (request.attention, request.training.lr, request.seed)
        rate, seed = cell[1:]
        ran.append((*cell, request.measure))
        if call.kill_at == len(ran):
            raise KeyboardInterrupt
        value = call.values[request.attention].get(rate, 9.0)
        status = value if isinstance(value, str) else "ok"
        content = request.build_task().prepare().content
        result = {"data": {"content": content}}
        if status == "ok":
            result = synthetic.quality(data=content, validation=value + seed).result
            result |= {"headline": "loss", "better": {"loss": "lower"}, "metrics": {"loss": -value + seed}}
        key = quality_key(request, torch.device("cpu"))
        store = Store(request.results, request.rerun)
        with store.claim(key):
            store.write(Record(key.kind, status, key.cell, key.identity, reason="why", result=result))
        return 0 if status in ("ok", "unsupported") else 1

    monkeypatch.setattr(run, "run_cell", write)
    monkeypatch.setattr(sweep, "run_cell", write)
    ran: list[tuple] = []

    def call(*overrides: str, rates: str = LIST):
        ran.clear()
        arguments = [f"results={tmp_path}", *TINY, "measure=false", *overrides]
        code = tune_command.main([*arguments, *([f"tune.rates={rates}"] if rates else [])])
        printed = capsys.readouterr()
        return code, printed.out + printed.err, [cell[:3] for cell in ran]

    call.kill_at, call.ran, call.results = None, ran, tmp_path
    call.values = {"vanilla": {1e-3: 2.5, 2e-3: 2.0, 4e-3: 2.4}, "none": {1e-3: 3.5, 2e-3: 3.2, 4e-3: 3.1, 8e-3: 3.3}}
    return call


def trials(family: str, *rates: float) -> list[tuple]:
    return [(family, rate, 0) for rate in rates]


def test_rates_are_tried_with_the_first_seed_and_the_others_run_at_the_best(tune):
    code, out, ran = tune("attention=vanilla,none", "seed=0,1,2")
    assert code == 0, out
    assert ran[:6] == [*trials("vanilla", *GRID), *trials("none", *GRID)]
    assert ran[6:7] == trials("none", 8e-3)
    assert ran[7:] == [("vanilla", 2e-3, 1), ("vanilla", 2e-3, 2), ("none", 4e-3, 1), ("none", 4e-3, 2)]
    assert "vanilla · causal_self · lm · smoke · seed 0 · validation by rate: 0.001: 2.5, 0.002: 2, 0.004: 2.4 ·" in out
    assert "rate 0.002\n" in out
    found = [record for _, record in all_records(tune.results)]
    assert all(record.identity["train"]["tuned_over"] == GRID for record in found)
    code, out, ran = tune("attention=vanilla,none", "seed=0,1,2")
    assert (code, ran) == (0, [])
    assert "6 of 6 cells are done" in out
    assert tune("attention=vanilla", "seed=0,1,2,3")[2] == [("vanilla", 2e-3, 3)]


def test_a_rate_that_is_still_at_the_edge_is_marked(tune):
    tune.values = {"none": {1e-3: 4.0, 2e-3: 3.0, 4e-3: 2.0, 8e-3: 1.0, 1.6e-2: 0.5}}
    code, out, ran = tune("attention=none")
    assert (code, ran) == (0, trials("none", *GRID, 8e-3))
    assert "rate 0.008 (edge: nothing was tried beyond it)" in out


def test_a_tuning_that_is_killed_goes_on(tune):
    for kill_at in (2, 2, 3, 1):
        tune.kill_at = kill_at
        assert tune("attention=vanilla,none", "seed=0,1")[0] == 130
    tune.kill_at = None
    code, out, ran = tune("attention=vanilla,none", "seed=0,1")
    assert code == 0, out
    assert ran == [*trials("none", 2e-3, 4e-3), *trials("none", 8e-3), ("vanilla", 2e-3, 1), ("none", 4e-3, 1)]


def test_trials_that_diverge_are_worst_and_no_failure(tune):
    tune.values = {"none": {1e-3: 3.0, 2e-3: 2.0, 4e-3: "diverged"}}
    code, out, ran = tune("attention=none", "seed=0,1")
    assert (code, ran[3:]) == (0, [("none", 2e-3, 1)])
    assert "0.004: -" in out


@pytest.mark.parametrize(("status", "code"), [("diverged", 1), ("unsupported", 0), ("error", 1)])
def test_without_any_result_no_seed_follows(tune, status, code):
    tune.values = {"none": dict.fromkeys(GRID, status)}
    found, out, ran = tune("attention=none", "seed=0,1")
    assert (found, ran) == (code, trials("none", *GRID))
    assert ("rates not all tried" if status == "error" else "no rate of 0.001, 0.002, 0.004 gave a result") in out


def test_a_rerun_tries_all_rates_again_and_believes_only_those(tune):
    tune("attention=none", "seed=0,1")
    tune.values = {"none": {1e-3: 3.0, 2e-3: 2.0, 4e-3: 2.5, 8e-3: 1.0}}
    code, _, ran = tune("attention=none", "seed=0,1", "rerun=true")
    assert (code, ran) == (0, [*trials("none", *GRID), ("none", 2e-3, 1)])


def test_only_the_chosen_cells_are_measured(tune):
    tune("attention=vanilla", "seed=0,1", "measure=true")
    measured = [(rate, seed) for _, rate, seed, measure in tune.ran if measure]
    assert measured == [(2e-3, 0), (2e-3, 1)]


def test_cells_of_a_fixed_rate_are_others(tune):
    assert run.main([f"results={tune.results}", *TINY, "attention=vanilla", "measure=false", "train.lr=2e-3"]) == 0
    assert len(tune("attention=vanilla")[2]) == 3


def test_what_cannot_be_tuned_is_refused_in_one_line(tune):
    for overrides, rates, words in (
        (("attention=none",), "null", "task=lm size=smoke has no grid of learning rates: give one as tune.rates="),
        (("attention=none", "train.lr=1e-3"), LIST, "train.lr=1e-3: cab.tune chooses the learning rate"),
        (("attention=none",), "[1e-3]", "tune: rates=[0.001]: at least two, above 0 and ascending"),
        (("attention=none",), "[2e-3,1e-3]", "at least two, above 0 and ascending"),
    ):
        code, out, ran = tune(*overrides, rates=rates)
        assert (code, ran, out.count("\n")) == (2, [], 1), out
        assert out.startswith("error: ")
        assert words in out
    code, out, ran = tune("attention=none", "pattern=noncausal_self")
    assert (code, ran) == (2, [])
    assert out.startswith("error: no cell is left: task lm has no pattern noncausal_self: use pattern=causal_self")


def test_a_pattern_that_the_task_does_not_have_is_left_out(tune):
    code, out, ran = tune("attention=vanilla", "pattern=noncausal_self,causal_self")
    assert (code, ran) == (0, trials("vanilla", *GRID))
    assert out.count("left out: ") == 1


def test_a_tuning_is_planned(tune):
    """Before it starts, while rates are missing, and when it is done."""

    def states():
        cells = plan([f"results={tune.results}", *TINY, "measure=false", f"tune.rates={LIST}", *overrides], tune=True)
        found = [dict(override.partition("=")[::2] for override in cell.overrides) for cell in cells]
        text = "\n".join(lines(cells))
        return [
            (each["train.lr"], each["seed"], str(cell.found)) for each, cell in zip(found, cells, strict=True)
        ], text

    overrides = ["attention=none", "seed=0,1"]
    found, text = states()
    assert found == [*((str(rate), "0", "new") for rate in GRID), ("to be chosen", "1", "new")]
    assert "4 cells: 4 new" in text
    tune.kill_at = 4
    assert tune(*overrides)[0] == 130
    found, text = states()
    assert found == [*((str(r), "0", "done") for r in GRID), ("0.008", "0", "new"), ("to be chosen", "1", "new")]
    tune.kill_at = None
    tune(*overrides)
    found, text = states()
    assert sorted(found) == sorted([*((str(r), "0", "done") for r in (*GRID, 8e-3)), ("0.004", "1", "done")])
    assert "5 cells: 5 done" in text


def test_a_tuning_of_real_trainings(tmp_path, capsys):
    """The rate that is chosen is the best on validation of the records, and all seeds are there at it."""
    arguments = [f"results={tmp_path}", *TINY, "measure=false", "seed=0,1"]
    assert tune_command.main([*arguments, "attention=vanilla", "tune.rates=[1e-4,3e-2]"]) == 0
    found = records(tmp_path, "quality")
    tried = {r.identity["train"]["lr"]: r.result["training"]["validation"] for r in found if r.cell["seed"] == 0}
    assert set(tried) == {1e-4, 3e-2, next_rates([1e-4, 3e-2])[1 if tried[3e-2] < tried[1e-4] else 0]}
    [other] = [record for record in found if record.cell["seed"] == 1]
    assert other.identity["train"]["lr"] == min(tried, key=tried.get)
    assert "train.tuned_over=[0.0001,0.03]" in other.provenance["command"].replace("'", "")
    assert "· rate " in capsys.readouterr().out
