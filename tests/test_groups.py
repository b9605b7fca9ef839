import pytest
from helpers import synthetic
from helpers.leaderboard_files import build, one, page

from cab.report.groups import make_groups
from cab.report.stats import welch_interval
from cab.report.variant import Variant
from cab.store.record import Record


def ranked(**scores: list[float]) -> dict[str, Variant]:
    """The variants of a group in which each family has these scores, one per seed."""
    records = [
        synthetic.quality(name, seed, score=s) for name, values in scores.items() for seed, s in enumerate(values)
    ]
    (group,) = make_groups(records)
    return {variant.attention: variant for variant in group.variants}


# Seeds, means, intervals


def test_mean_std_and_t_interval_over_seeds(tmp_path):
    scores = (1.90, 1.94, 1.98)
    made = build(tmp_path, *(synthetic.quality("lightning", seed, score=s) for seed, s in enumerate(scores)))
    (row,) = made["leaderboard"]
    assert row["n"] == "3"
    assert float(row["mean"]) == pytest.approx(1.94)
    assert float(row["std"]) == pytest.approx(0.04)
    half = 4.302653 * 0.04 / 3**0.5
    assert float(row["mean_low"]) == pytest.approx(1.94 - half)
    assert float(row["mean_high"]) == pytest.approx(1.94 + half)
    assert "1.94 (1.841 to 2.039)" in page(tmp_path)


def test_one_seed_has_no_interval_and_no_rank(tmp_path):
    made = build(tmp_path, synthetic.quality("vanilla", 0), synthetic.quality("none", 0))
    for row in made["leaderboard"]:
        assert row["n"] == "1"
        assert row["mean"]
        assert not row["std"]
        assert not row["mean_low"]
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


# Ranks and gain


def test_overlapping_intervals_share_a_rank():
    rows = ranked(a=[1.00, 1.02], b=[1.01, 1.03], c=[5.00, 5.001], d=[9.0, 9.001])
    assert [(rows[name].rank, rows[name].tie) for name in "abcd"] == [(1, True), (1, True), (3, False), (4, False)]


def test_overlap_through_a_third_row_is_a_tie():
    rows = ranked(a=[1.0, 1.0001, 1.0002], b=[0.9, 1.3, 1.1], c=[1.4, 1.4001, 1.4002])
    assert rows["a"].mean.interval.high < rows["c"].mean.interval.low
    assert {row.rank for row in rows.values()} == {1}


def test_ranks_follow_the_metric_direction():
    def upward(name: str, score: float) -> list[Record]:
        made = [synthetic.quality(name, seed, score=score + seed * 1e-3) for seed in range(2)]
        return [
            Record(**{**vars(r), "result": {**r.result, "better": {"bits_per_byte": "higher"}}})  # type: ignore[arg-type]
            for r in made
        ]

    (group,) = make_groups([*upward("none", 1.0), *upward("vanilla", 3.0), *upward("lightning", 2.0)])
    assert [(each.attention, each.rank) for each in group.variants] == [("vanilla", 1), ("lightning", 2), ("none", 3)]
    assert group.variants[0].gain.value == pytest.approx(2.0)
    assert group.variants[2].gain is None


def test_the_gain_is_the_gain_over_none(tmp_path):
    made = build(tmp_path, synthetic.quality("none", 0, score=2.5), synthetic.quality("vanilla", 0, score=2.0))
    assert float(one(made["leaderboard"], attention="vanilla")["gain"]) == pytest.approx(0.5)
    assert not one(made["leaderboard"], attention="none")["gain"]


def test_the_interval_of_the_gain_is_welchs(tmp_path):
    seeds = {"vanilla": [2.0, 2.9], "none": [2.5, 2.6]}
    made = build(tmp_path, *(synthetic.quality(n, s, score=x) for n, xs in seeds.items() for s, x in enumerate(xs)))
    row = one(made["leaderboard"], attention="vanilla")
    expected = welch_interval(seeds["none"], seeds["vanilla"])  # lower is better
    assert expected is not None
    assert (float(row["gain_low"]), float(row["gain_high"])) == pytest.approx(expected)
    assert f" ({expected[0]:+.3g} to {expected[1]:+.3g})" in page(tmp_path)


def test_without_none_there_is_no_gain(tmp_path):
    made = build(tmp_path, synthetic.quality("vanilla", 0), synthetic.quality("none", 0, status="error", reason="x"))
    assert not one(made["leaderboard"], attention="vanilla")["gain"]
