"""Statistics of cost against samples whose truth is known."""

import subprocess
import sys
from math import comb, inf

import numpy as np
import pytest
from scipy import stats

from cab.efficiency.efficiency_length import (
    EfficiencyLength,
    cab_fit,
    efficiency_length,
    growth,
    interval,
    memory_efficiency_length,
    paired,
    rank,
    ratios,
    summary,
    time_efficiency_length,
)

LENGTHS = [128, 256, 512, 1024, 2048]
ABC_LENGTHS = [256, 512, 1024, 2048, 4096, 8192]
ABC_TIME = [0.648, 0.590, 0.602, 0.910, 1.006, 1.509]
VANILLA_TIME = [0.472, 0.628, 0.721, 0.981, 3.670, 18.437]


def noisy(curve, rounds=9, noise=0.0, seed=0, common=None):
    generator = np.random.default_rng(seed)
    own = np.exp(noise * generator.standard_normal((len(curve), rounds)))
    return list(np.asarray(curve, dtype=float)[:, None] * own * (1 if common is None else common))


def rows(subject, samples, phase="forward", batch=1, peaks=None):
    peaks = peaks or [None] * len(samples)
    return [
        {
            "subject": subject,
            "phase": phase,
            "length": n,
            "batch": batch,
            "status": "ok",
            "seconds": list(s),
            "peak_bytes": p,
        }
        for n, s, p in zip(LENGTHS, samples, peaks, strict=True)
    ]


def crossing(ratio_by_length, rounds=9, noise=0.0, seed=0):
    return efficiency_length(LENGTHS, noisy(ratio_by_length, rounds, noise, seed), noisy([1] * len(LENGTHS), rounds))


def test_power_laws_cross_where_they_cross():
    linear, quadratic = [700 * n for n in LENGTHS], [n * n for n in LENGTHS]
    found = efficiency_length(LENGTHS, noisy(linear), noisy(quadratic))
    assert found.value == pytest.approx(700)
    assert found.censored == ""
    assert found.text == "700"  # no noise: the interval is the value


def test_cheaper_everywhere_and_nowhere_are_bounds():
    assert crossing([0.9, 0.8, 0.7, 0.6, 0.5]).text == "<= 128"
    never = crossing([5, 4, 3, 2, 1.1])
    assert (never.text, never.value, never.censored) == ("> 2,048", 2048, ">")
    assert crossing([1] * 5).text == "> 2,048"  # equal is not cheaper
    assert crossing([0.5, 0.5, 0.5, 0.5, 1.5]).text == "> 2,048"  # cheaper, then slower to the end: not for good


def test_last_crossing_counts():
    found = crossing([0.8, 2.0, 0.8, 1.25, 0.8])  # cheaper, slower, cheaper, slower, cheaper
    assert found.value == pytest.approx(np.sqrt(1024 * 2048))


def test_interval_ends_are_bounds_where_they_fall_off():
    left = crossing([1.001, 0.5, 0.5, 0.5, 0.5], noise=0.2, seed=1)
    assert left.low_censored == "<="
    assert left.high_censored == ""
    assert left.text.startswith(("128 (<= 128 to ", "<= 128 (<= 128 to ", "1"))
    right = crossing([2, 2, 2, 2, 0.99], noise=0.2, seed=1)
    assert right.high_censored == ">"
    assert right.text.endswith("to > 2,048)")


def inside(found: EfficiencyLength, length: float) -> bool:
    """Whether the interval has it. `length` may be inf: never cheaper."""
    low = 0 if found.low_censored == "<=" else inf if found.low_censored == ">" else found.low
    return low <= length <= (inf if found.high_censored == ">" else found.high)


@pytest.mark.parametrize("rounds", [3, 6, 7, 8, 9, 15])
@pytest.mark.parametrize("heavy", [False, True])
def test_the_interval_of_the_crossing_has_the_truth_at_least_95_times_in_100(rounds, heavy):
    """One crossing, one of a ratio that stays near 1, and none."""
    near, tries = [1.001, 0.999, 0.999, 0.999, 0.999], 100
    cases = {600: [(600 / n) ** 0.5 for n in LENGTHS], np.sqrt(128 * 256): near, inf: [1] * 5}
    for place, (truth, ratio) in enumerate(cases.items()):
        generator = np.random.default_rng((rounds, place))
        covered = 0
        for _ in range(tries):
            noise = draws(generator, (len(LENGTHS), rounds), heavy)
            samples = np.asarray(ratio)[:, None] * np.exp(0.1 * noise)
            covered += inside(efficiency_length(LENGTHS, list(samples), noisy([1] * 5, rounds)), truth)
        assert covered >= 0.95 * tries, truth


def test_too_few_rounds_leave_the_crossing_open():
    """One round is no exact figure."""
    for rounds in range(1, 7):
        found = crossing([2, 2, 0.5, 0.5, 0.5], rounds)
        assert (found.low_censored, found.high_censored, found.verdict) == ("<=", ">", "tie"), rounds
        assert found.text == "tie (<= 128 to > 2,048)"
    assert crossing([2, 2, 0.5, 0.5, 0.5], 8).text == "362"


def test_a_crossing_whose_interval_does_not_carry_it_is_a_tie():
    spread = [0.5, 0.6, 0.7, 0.8, 0.9, 1.5, 1.6, 1.7, 1.8]  # median 0.9
    found = efficiency_length([128, 256], [[2.0] * 9, spread], [[1.0] * 9] * 2)
    assert (found.censored, found.high_censored, found.verdict) == ("", ">", "tie")
    assert found.text.startswith("tie (")
    found = efficiency_length([128, 256], [spread, spread], [[1.0] * 9] * 2)
    assert found.text == "tie (<= 128 to > 256)"
    assert efficiency_length([128, 256], [spread, [2.0] * 9], [[1.0] * 9] * 2).verdict == "not cheaper"
    assert efficiency_length([128, 256], [spread, [0.5] * 9], [[1.0] * 9] * 2).verdict == "cheaper"


def test_interval_is_not_vacuous():
    found = crossing([(600 / n) ** 0.5 for n in LENGTHS], rounds=15, noise=0.05)
    assert 500 < found.low < found.high < 720


def test_noise_that_a_round_shares_cancels():
    common = np.exp(np.random.default_rng(5).standard_normal((len(LENGTHS), 9)))  # the machine is up to 10 times slower
    linear, quadratic = [700 * n for n in LENGTHS], [n * n for n in LENGTHS]
    found = efficiency_length(LENGTHS, noisy(linear, common=common), noisy(quadratic, common=common))
    assert found.low == pytest.approx(700)
    assert found.high == pytest.approx(700)
    both = rows("f", noisy(linear, common=common)) + rows("v", noisy(quadratic, common=common))
    assert [r.verdict for r in ratios(both, "f", "v", "forward")] == ["slower"] * 3 + ["cheaper"] * 2


def test_verdicts_by_interval():
    spread = np.array([0.8, 0.85, 0.9, 0.95, 1, 1 / 0.95, 1 / 0.9, 1 / 0.85, 1 / 0.8])
    both = rows("f", [ratio * spread for ratio in (0.5, 0.99, 1, 1.01, 2)]) + rows("v", noisy([1] * 5))
    found = ratios(both, "f", "v", "forward")
    assert [r.verdict for r in found] == ["cheaper", "tie", "tie", "tie", "slower"]
    assert [(r.length, r.n) for r in found] == [(n, 9) for n in LENGTHS]
    assert 0.4 < found[0].low < 0.5 < found[0].high < 0.625
    assert found[0].low <= found[0].ratio <= found[0].high


@pytest.mark.parametrize("tail", [0.025, 0.0125, 0.005, 0.4])
def test_ranks_are_those_of_the_binomial_distribution(tail):
    """The k-th smallest is above the median where fewer than k of n samples are below it."""
    for n in range(1, 61):
        k = rank(n, tail)
        assert stats.binom.cdf(k - 1, n, 0.5) <= tail < stats.binom.cdf(k, n, 0.5)
    assert [rank(n, 0.025) for n in (5, 6, 8, 9, 15)] == [0, 1, 1, 2, 4]  # as in printed tables


def draws(generator: np.random.Generator, shape: tuple[int, ...], heavy: bool) -> np.ndarray:
    """Of median 0: normal, or Cauchy, whose tails are as heavy as they get (cut where exp would overflow)."""
    return generator.standard_cauchy(shape).clip(-500, 500) if heavy else generator.standard_normal(shape)


@pytest.mark.parametrize("rounds", range(3, 31))
@pytest.mark.parametrize("heavy", [False, True])
def test_equal_subjects_are_told_apart_at_most_5_times_in_100(rounds, heavy):
    """As often as combinatorics says: all samples at the ends of `2^n` equally likely patterns of signs."""
    tries = 2000
    samples = draws(np.random.default_rng(rounds), (tries, rounds), heavy)
    ends = np.array([interval(each) for each in samples])
    wrong = np.mean((ends[:, 0] > 0) | (ends[:, 1] < 0))
    k = max((k for k in range(rounds) if 2 * sum(comb(rounds, i) for i in range(k)) <= 0.05 * 2**rounds), default=0)
    level = 2 * sum(comb(rounds, i) for i in range(k)) / 2**rounds
    assert level <= 0.05
    assert abs(wrong - level) <= 4 * np.sqrt(level * (1 - level) / tries)
    assert (level > 0) == (rounds >= 6)  # not by never telling any apart


@pytest.mark.parametrize("rounds", [2, 5, 6, 7, 9, 13])
def test_verdicts_of_equal_subjects(rounds):
    """The same through the rows of a record; of 7 rounds a bootstrap of the median told 12 in 100 apart."""
    wrong = 0
    for seed in range(100):
        both = rows("f", noisy([1] * 5, rounds, 0.1, seed)) + rows("v", noisy([1] * 5, rounds, 0.1, 1000 + seed))
        found = ratios(both, "f", "v", "forward")
        wrong += sum(r.verdict != "tie" for r in found)
        assert {r.low is None for r in found} == {rounds < 6}
    assert wrong / 500 <= 0.05


@pytest.mark.parametrize("rounds", [8, 15])
@pytest.mark.parametrize("heavy", [False, True])
def test_the_interval_of_an_exponent_has_the_truth_at_least_95_times_in_100(rounds, heavy):
    generator, tries = np.random.default_rng(rounds), 300
    costs = np.array([n**1.5 for n in LENGTHS])[:, None]
    covered = 0
    for _ in range(tries):
        found = growth(LENGTHS, list(costs * np.exp(0.1 * draws(generator, (len(LENGTHS), rounds), heavy))))
        covered += found.low <= 1.5 <= found.high
    assert covered >= 0.95 * tries
    few = growth(LENGTHS, noisy([n**1.5 for n in LENGTHS], rounds=6))
    assert (few.low, few.high, few.text) == (None, None, "1.50 (no interval)")


def test_one_round_decides_nothing():
    both = rows("f", noisy([0.5] * 5, 1)) + rows("v", noisy([1] * 5, 1))
    assert {(r.verdict, r.low, r.high) for r in ratios(both, "f", "v", "forward")} == {("tie", None, None)}


def test_rows_are_matched_by_phase_length_and_batch():
    both = rows("f", noisy([1] * 5)) + rows("v", noisy([2] * 5)) + rows("v", noisy([3] * 5), batch=8)
    both += rows("v", noisy([4] * 5), phase="train")
    both[0]["status"] = "error"
    found = paired(both, "f", "v", "forward")
    assert [(length, batch) for length, batch, *_ in found] == [(n, 1) for n in LENGTHS[1:]]
    assert found[0][3][0] == 2
    assert time_efficiency_length(both, "f", "v", "forward").text == "<= 256"
    assert time_efficiency_length(both, "f", "v", "prefill").text == "not measured"


@pytest.mark.parametrize(("failed", "text"), [(128, "<= 256"), (512, "<= 1,024"), (2048, "> 2,048")])
def test_where_memory_runs_out_a_family_is_not_cheaper(failed, text):
    """It takes half the time and memory wherever it ends."""
    both = rows("f", noisy([0.5] * 5), peaks=[1] * 5) + rows("v", noisy([1] * 5), peaks=[2] * 5)
    both[LENGTHS.index(failed)]["status"] = "out_of_memory"
    assert time_efficiency_length(both, "f", "v", "forward").text == text
    assert memory_efficiency_length(both, "f", "v", "forward").text == text
    both[5 + LENGTHS.index(failed)]["status"] = "out_of_memory"  # the baseline, too: nothing is known of that length
    assert time_efficiency_length(both, "f", "v", "forward").text == ("<= 256" if failed == 128 else "<= 128")


def test_memory_is_a_single_value():
    ours, theirs = [700 * n for n in LENGTHS], [n * n for n in LENGTHS]
    both = rows("f", noisy([1] * 5), peaks=ours) + rows("v", noisy([1] * 5), peaks=theirs)
    found = memory_efficiency_length(both, "f", "v", "forward")
    assert (found.text, found.low, found.high) == ("700", None, None)


def test_samples_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="do not pair"):
        efficiency_length([128], [[1.0, 2.0]], [[1.0]])
    with pytest.raises(ValueError, match="ascend"):
        efficiency_length([256, 128], [[1.0], [1.0]], [[1.0], [1.0]])


def test_cab_fit_gives_the_published_numbers_and_the_curves_do_not():
    assert round(cab_fit(ABC_LENGTHS, ABC_TIME, VANILLA_TIME)) == 1877
    memory = cab_fit(ABC_LENGTHS, [42, 80, 156, 308, 612, 1220], [81, 265, 952, 3604, 14020, 55300], kind="memory")
    assert memory == pytest.approx(69.5, abs=0.05)
    measured = efficiency_length(ABC_LENGTHS, [[t] for t in ABC_TIME], [[t] for t in VANILLA_TIME])
    assert 440 < measured.value < 480


def test_cab_fit_without_a_root_is_none():
    quadratic = [1 + n**2 for n in LENGTHS]
    assert cab_fit(LENGTHS, [0.5] * 5, quadratic) is None
    assert cab_fit(LENGTHS[:2], [1, 1], [1, 1]) is None


def test_growth_is_of_the_longer_half():
    lengths = [128, 256, 512, 1024, 2048, 4096]
    curve = [1e6, 1e6, 1e6, 1024**2, 2048**2, 4096**2]  # overhead first, then quadratic
    found = growth(lengths, noisy(curve))
    assert (found.exponent, found.points) == (pytest.approx(2), 3)
    assert growth(lengths[:2], noisy(curve[:2])) is None
    assert growth(lengths[2:], noisy(curve[2:])).points == 3
    spread = growth(lengths, noisy([n**1.5 for n in lengths], rounds=15, noise=0.05))
    assert spread.low < 1.5 < spread.high
    assert spread.high - spread.low < 0.2


def test_summary_gives_quartiles_from_five_on():
    few, many = summary([3.0, 1.0, 2.0, 4.0]), summary([3.0, 1.0, 2.0, 4.0, 5.0])
    assert (few.n, few.minimum, few.maximum, few.median) == (4, 1, 4, None)
    assert (many.n, many.median, many.low_quartile, many.high_quartile) == (5, 3, 2, 4)


def test_no_torch_and_no_pandas_are_loaded():
    code = "import sys, cab.efficiency.efficiency_length; sys.exit(bool({'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
