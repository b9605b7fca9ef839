import numpy as np
import pytest
from helpers import synthetic
from helpers.leaderboard_files import build, one, page

from cab.report.rows import Row, groups
from cab.report.stats import T_975, t_interval, welch_interval
from cab.store.record import Record


def ranked(**scores: list[float]) -> dict[str, Row]:
    """The rows of a group in which each family has these scores, one per seed."""
    records = [
        synthetic.quality(name, seed, score=s) for name, values in scores.items() for seed, s in enumerate(values)
    ]
    (group,) = groups(records)
    return {row.attention: row for row in group.rows}


# Seeds, means, intervals


def test_mean_std_and_t_interval_over_seeds(tmp_path):
    scores = (1.90, 1.94, 1.98)
    made = build(tmp_path, *(synthetic.quality("lightning", seed, score=s) for seed, s in enumerate(scores)))
    (row,) = made["leaderboard"]
    assert row["n"] == "3"
    assert float(row["mean"]) == pytest.approx(1.94)
    assert float(row["std"]) == pytest.approx(0.04)
    half = 4.303 * 0.04 / 3**0.5
    assert float(row["low"]) == pytest.approx(1.94 - half)
    assert float(row["high"]) == pytest.approx(1.94 + half)
    assert "1.94 (1.841 to 2.039)" in page(tmp_path)


def test_t_quantiles_are_right():
    """The density of Student's t, integrated numerically up to each quantile."""
    import math

    for freedom in range(1, 60):
        low, high = t_interval([-1.0, *[0.0] * (freedom - 1), 1.0]) or (0.0, 0.0)
        t = (high - low) / 2 / np.std([-1.0, *[0.0] * (freedom - 1), 1.0], ddof=1) * math.sqrt(freedom + 1)
        x = np.linspace(0, t, 20001)
        log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
        density = np.exp(log_scale - (freedom + 1) / 2 * np.log1p(x**2 / freedom))
        assert np.trapezoid(density, x) == pytest.approx(0.475, abs=1e-4)
    assert len(T_975) == 30


def test_one_seed_has_no_interval_and_no_rank(tmp_path):
    made = build(tmp_path, synthetic.quality("vanilla", 0), synthetic.quality("none", 0))
    for row in made["leaderboard"]:
        assert row["n"] == "1"
        assert row["mean"]
        assert not row["std"]
        assert not row["low"]
        assert not row["rank"]
    assert "| -      | vanilla" in page(tmp_path)


@pytest.mark.parametrize("status", ["diverged", "error", "timeout", "out_of_memory", "failed_check"])
def test_a_row_with_a_failed_seed_has_no_mean(tmp_path, status):
    made = build(
        tmp_path,
        synthetic.quality("lightning", 0, score=1.0),
        synthetic.quality("lightning", 1, score=1.1),
        synthetic.quality("lightning", 2, status=status, reason="why it ended"),
    )
    (row,) = made["leaderboard"]
    assert row["n"] == "2"
    assert not row["mean"]
    assert not row["rank"]
    assert row["status"] == f"2 ok, 1 {status}"
    assert row["reason"] == "why it ended"
    assert f"2 ok, 1 {status}: why it ended" in page(tmp_path)
    failed = one(made["quality"], seed="2")
    assert (failed["status"], failed["reason"], failed["score"]) == (status, "why it ended", "")


def test_a_score_that_is_missing_counts_as_missing(tmp_path):
    records = [synthetic.quality("lightning", 0), synthetic.quality("lightning", 1, score=float("nan"))]
    (row,) = build(tmp_path, *records)["leaderboard"]
    assert (row["n"], row["mean"], row["status"]) == ("1", "", "1 ok, 1 no score")


def test_a_seed_that_others_have_is_named_where_it_is_missing(tmp_path):
    build(tmp_path, *(synthetic.quality("vanilla", s) for s in range(3)), synthetic.quality("lightning", 0))
    assert "ok; no seed 1, 2" in page(tmp_path)


# Ranks and benefit


def test_overlapping_intervals_share_a_rank():
    rows = ranked(a=[1.00, 1.02], b=[1.01, 1.03], c=[5.00, 5.001], d=[9.0, 9.001])
    assert [(rows[name].rank, rows[name].tie) for name in "abcd"] == [(1, True), (1, True), (3, False), (4, False)]


def test_overlap_through_a_third_row_is_a_tie():
    rows = ranked(a=[1.0, 1.0001, 1.0002], b=[0.9, 1.3, 1.1], c=[1.4, 1.4001, 1.4002])
    assert rows["a"].interval[1] < rows["c"].interval[0]
    assert {row.rank for row in rows.values()} == {1}


def test_ranks_follow_the_metric_direction():
    def upward(name: str, score: float) -> list[Record]:
        made = [synthetic.quality(name, seed, score=score + seed * 1e-3) for seed in range(2)]
        return [
            Record(**{**vars(r), "result": {**r.result, "better": {"bits_per_byte": "higher"}}})  # type: ignore[arg-type]
            for r in made
        ]

    (group,) = groups([*upward("none", 1.0), *upward("vanilla", 3.0), *upward("lightning", 2.0)])
    assert [(row.attention, row.rank) for row in group.rows] == [("vanilla", 1), ("lightning", 2), ("none", 3)]
    assert group.benefit(group.rows[0]) == pytest.approx(2.0)
    assert group.benefit(group.rows[2]) is None


def test_benefit_is_the_gain_over_none(tmp_path):
    made = build(tmp_path, synthetic.quality("none", 0, score=2.5), synthetic.quality("vanilla", 0, score=2.0))
    assert float(one(made["leaderboard"], attention="vanilla")["benefit"]) == pytest.approx(0.5)
    assert not one(made["leaderboard"], attention="none")["benefit"]


def test_the_interval_of_a_difference():
    low, high = welch_interval([27.5, 21.0, 19.0, 23.6, 17.0], [27.1, 22.0, 20.8, 23.4]) or (0.0, 0.0)
    # by hand: means 21.62 and 23.325, variances 16.772 and 7.4625 over 5 and 4, 6.86 degrees of freedom, taken as 6
    assert low == pytest.approx(-1.705 - 2.447 * 2.28474, abs=2e-3)
    assert high == pytest.approx(-1.705 + 2.447 * 2.28474, abs=2e-3)
    assert welch_interval([1.0], [1.0, 2.0]) is None
    assert welch_interval([3.0, 3.0], [1.0, 1.0]) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("own", "others", "helps"),
    [
        ([2.0], [2.5], True),
        ([2.6], [2.5], False),
        ([2.0, 2.02], [2.5, 2.52], True),
        ([2.0, 2.9], [2.5, 2.6], False),  # better on average, within the noise
    ],
)
def test_a_table_says_where_attention_does_not_help(tmp_path, own, others, helps):
    seeds = {"vanilla": own, "none": others}
    made = build(tmp_path, *(synthetic.quality(n, s, score=x) for n, xs in seeds.items() for s, x in enumerate(xs)))
    row = one(made["leaderboard"], attention="vanilla")
    assert bool(row["benefit_low"]) == (len(own) > 1)
    assert ("Attention does not help here" in page(tmp_path)) == (not helps)
    if len(own) > 1:
        expected = welch_interval(others, own)  # lower is better
        assert expected is not None
        assert (float(row["benefit_low"]), float(row["benefit_high"])) == pytest.approx(expected)
        assert f" ({expected[0]:+.3g} to {expected[1]:+.3g})" in page(tmp_path)


def test_without_none_there_is_no_benefit(tmp_path):
    made = build(tmp_path, synthetic.quality("vanilla", 0), synthetic.quality("none", 0, status="error", reason="x"))
    assert not one(made["leaderboard"], attention="vanilla")["benefit"]
