"""The leaderboard of tuned families: which records a row shows, its marks, and what shares a table."""

from collections.abc import Mapping, Sequence

import pytest
from helpers import synthetic
from helpers.leaderboard_files import build, one, page

from cab.report.contents import _group_figures
from cab.report.figures import rates
from cab.report.groups import Group, make_groups
from cab.store.record import Record

GRID = [1e-3, 2e-3, 4e-3]


def family(
    name: str, validations: Mapping[float, float | None], chosen: float | None, seeds: Sequence[int] = (1, 2), **more
) -> list[Record]:
    """A trial with seed 0 at every rate, and the other seeds at one rate. The test score is 10 minus the validation."""
    common = {"tuned_over": GRID, **more}
    trials = [
        synthetic.quality(name, 0, lr=rate, validation=value, score=None if value is None else 10 - value, **common)
        for rate, value in validations.items()
    ]
    return trials + [synthetic.quality(name, seed, lr=chosen, score=8.0, **common) for seed in seeds if chosen]


VANILLA = family("vanilla", {1e-3: 2.5, 2e-3: 2.0, 4e-3: 2.4}, 2e-3)
LIGHTNING = family("lightning", {1e-3: 3.5, 2e-3: 3.0, 4e-3: 2.0, 8e-3: 2.1}, 4e-3)
EDGE = family("none", {1e-3: 3.5, 2e-3: 3.0, 4e-3: 2.5, 8e-3: 2.2}, 8e-3)


def group_of(*records: Record) -> Group:
    [group] = make_groups(records)
    return group


def test_a_row_shows_the_seeds_at_the_rate_that_is_best_on_validation(tmp_path):
    """On test every other rate is better."""
    rows = build(tmp_path, *VANILLA, *LIGHTNING, *EDGE)["leaderboard"]
    assert len(rows) == 3
    for name, rate, at_edge, tried in (
        ("vanilla", "0.002", "False", "0.001, 0.002, 0.004"),
        ("lightning", "0.004", "False", "0.001, 0.002, 0.004, 0.008"),
        ("none", "0.008", "True", "0.001, 0.002, 0.004, 0.008"),
    ):
        row = one(rows, attention=name)
        assert (row["learning_rate"], row["rate_at_edge"], row["rates_tried"]) == (rate, at_edge, tried)
        assert (row["n"], row["seeds"], row["status"]) == ("3", "0 1 2", "ok")
    assert float(one(rows, attention="vanilla")["mean"]) == pytest.approx(8.0)
    text = page(tmp_path)
    assert "0.008 (edge)" in text
    assert "ok; its rate 0.008 is at the edge of those tried" in text
    assert text.count("(edge)") == 1
    assert "Learning rates tuned over 0.001, 0.002, 0.004, on validation." in text


def test_tuned_rows_never_share_a_table_with_rows_of_a_fixed_rate(tmp_path):
    fixed = [synthetic.quality("vanilla", seed, lr=2e-3) for seed in range(3)]
    made = build(tmp_path, *VANILLA, *LIGHTNING, *fixed)["leaderboard"]
    assert sorted((row["attention"], row["difference"]) for row in made) == [
        ("lightning", "train.lr=tuned over 0.001, 0.002, 0.004"),
        ("vanilla", "train.lr=0.002"),
        ("vanilla", "train.lr=tuned over 0.001, 0.002, 0.004"),
    ]
    assert len({row["settings"] for row in made}) == 2
    assert one(made, difference="train.lr=0.002")["rate_at_edge"] == ""
    assert one(made, difference="train.lr=0.002")["learning_rate"] == "0.002"


def test_rates_of_another_grid_are_another_table():
    other = [synthetic.quality("vanilla", 0, lr=rate, validation=2.0, tuned_over=[1e-3, 2e-3]) for rate in (1e-3, 2e-3)]
    assert len(make_groups([*VANILLA, *other])) == 2


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (VANILLA[1:], "no result at 0.001"),
        (LIGHTNING[:3], "no result at 0.008"),
        (family("vanilla", {1e-3: 2.5, 2e-3: 2.0}, 2e-3), "no result at 0.004"),
        (
            [*VANILLA[:2], synthetic.quality(lr=4e-3, tuned_over=GRID, status="error", reason="?")],
            "no result at 0.004; error: ?",
        ),
        (
            [synthetic.quality(lr=rate, tuned_over=GRID, status="failed_check", reason="leak") for rate in GRID],
            "no result at 0.001, 0.002, 0.004; failed_check: leak",
        ),
    ],
)
def test_a_tuning_that_is_not_complete_has_no_score_and_says_so(tmp_path, records, reason):
    [row] = build(tmp_path, *records)["leaderboard"]
    assert (row["status"], row["reason"]) == ("rates not all tried", reason)
    assert (row["n"], row["mean"], row["rank"], row["learning_rate"]) == ("0", "", "", "")
    assert f"rates not all tried: {reason}" in page(tmp_path)


def test_a_trial_without_a_result_is_worst_and_a_family_without_any_says_so(tmp_path):
    lost = synthetic.quality("vanilla", lr=4e-3, tuned_over=GRID, status="diverged", reason="loss nan")
    [row] = build(tmp_path / "one", *VANILLA[:2], lost)["leaderboard"]
    assert (row["learning_rate"], row["status"], row["n"]) == ("0.002", "ok", "1")
    none = [synthetic.quality(lr=r, tuned_over=GRID, status="out_of_memory", reason="too large") for r in GRID]
    [row] = build(tmp_path / "two", *none)["leaderboard"]
    assert (row["learning_rate"], row["status"], row["mean"]) == ("", "out_of_memory", "")
    assert row["reason"] == "no rate of 0.001, 0.002, 0.004 gave a result; too large"


def test_seeds_at_another_rate_are_named(tmp_path):
    build(tmp_path, *VANILLA, synthetic.quality("vanilla", 7, lr=1e-3, tuned_over=GRID))
    assert "left out, at other rates: seed 7" in page(tmp_path)


def test_the_figure_shows_every_trial_and_rings_the_chosen_one():
    group = group_of(*VANILLA, *LIGHTNING)
    assert [figure.draw for figure in _group_figures(group)].count(rates.draw) == 1
    [axes] = rates.draw(group).axes
    lines = [list(zip(*line.get_data(), strict=True)) for line in axes.get_lines()]
    assert sorted(lines, key=str) == sorted(
        [
            [(1e-3, 2.5), (2e-3, 2.0), (4e-3, 2.4)],
            [(2e-3, 2.0)],
            [(1e-3, 3.5), (2e-3, 3.0), (4e-3, 2.0), (8e-3, 2.1)],
            [(4e-3, 2.0)],
        ],
        key=str,
    )
    assert not any(figure.draw is rates.draw for figure in _group_figures(group_of(synthetic.quality())))


def test_the_figure_of_a_family_without_a_result():
    lost = [synthetic.quality("fit", lr=r, tuned_over=GRID, status="diverged", reason="loss nan") for r in GRID]
    group = group_of(*VANILLA, *(Record(**(vars(r) | {"result": {"data": VANILLA[0].result["data"]}})) for r in lost))
    labels = [text.get_text() for text in rates.draw(group).legends[0].get_texts()]
    assert labels == ["vanilla", "fit (3 without a result)"]
