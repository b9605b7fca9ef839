import numpy as np
import pytest
from helpers import synthetic
from helpers.leaderboard_files import build, one, page

from cab.report.efficiency import Efficiency, analyse
from cab.report.efficiency_table import EfficiencyTable
from cab.report.groups import make_groups
from cab.store.record import Record


def find(efficiency: list[Record], quality: list[Record]) -> list[Efficiency]:
    return EfficiencyTable(map(analyse, efficiency)).find(quality)


def test_efficiency_is_joined_by_family_pattern_and_shape(tmp_path):
    wide = synthetic.MODEL | {"dim": 256}
    made = build(
        tmp_path,
        synthetic.quality("lightning", 0),
        synthetic.quality("routing", 0),
        synthetic.efficiency("lightning"),
        synthetic.efficiency("lightning", model=wide, speed=50),
        synthetic.efficiency("routing", pattern="noncausal_self"),
        synthetic.efficiency("routing", level="attention"),
    )
    row = one(made["leaderboard"], attention="lightning")
    assert float(row["train_ratio"]) == pytest.approx(0.77, abs=0.05)
    assert float(row["train_ratio_low"]) < float(row["train_ratio"]) < float(row["train_ratio_high"])
    assert row["train_length"] == "2048"
    assert 700 < float(row["time_from_vanilla_length"]) < 1300
    assert 250 < float(row["time_from_eager_length"]) < 600
    assert row["memory_from_vanilla"] == "> 2,048"
    assert row["memory_from_vanilla_bound"] == ">"
    assert row["memory_from_eager"] == "<= 128"
    assert float(row["decode_tokens_per_second"]) == pytest.approx(2500, rel=0.1)
    assert float(row["decode_speedup"]) == pytest.approx(1.1, abs=0.05)
    assert row["state_bytes"] == str(4 * 32 * 32 * 3 * 4.0)
    assert not one(made["leaderboard"], attention="routing")["train_ratio"]


def test_a_baseline_is_not_compared_to_itself(tmp_path):
    made = build(tmp_path, synthetic.quality("vanilla", 0), synthetic.efficiency("vanilla"))
    (row,) = made["leaderboard"]
    assert row["train_ratio"] == "1.0"
    assert not row["time_from_vanilla"]
    assert row["time_from_eager"] == "<= 128"


@pytest.mark.parametrize("baseline", ["vanilla", "eager"])
def test_a_baseline_without_a_record_of_its_own_was_measured_along(baseline):
    along, elsewhere = synthetic.efficiency("lightning"), synthetic.efficiency("routing", pattern="noncausal_self")
    quality = [synthetic.quality(name) for name in ("lightning", baseline, "none")]
    _, found, control = find([along, elsewhere], quality)
    (own,) = find([synthetic.efficiency(baseline)], quality[1:2])
    assert found.efficiency_record == along.hash
    assert control == Efficiency()
    for name in ("train_length", "time_from_eager", "time_from_vanilla", "decode_length", "state_bytes"):
        assert getattr(found, name) == getattr(own, name), name
    assert found.train_ratio.value == pytest.approx(own.train_ratio.value, rel=0.1)


def test_a_baseline_whose_own_measurement_failed_was_measured_along():
    along, failed = synthetic.efficiency("lightning"), synthetic.efficiency("eager", status="error")
    quality = [synthetic.quality(name) for name in ("lightning", "eager")]
    assert find([failed, along], quality)[1].efficiency_record == along.hash
    assert find([failed], quality)[1].efficiency_status == "error"


def test_efficiency_of_a_group_comes_from_one_machine():
    elsewhere = synthetic.efficiency("routing")
    elsewhere = Record(**{**vars(elsewhere), "cell": {**elsewhere.cell, "device": "a GPU"}})  # type: ignore[arg-type]
    elsewhere.identity["device"] = "a GPU"
    here = [synthetic.efficiency(name) for name in ("vanilla", "lightning")]
    quality = [synthetic.quality(name) for name in ("vanilla", "lightning", "routing")]
    (group,) = make_groups(quality, EfficiencyTable(map(analyse, (*here, elsewhere))))
    devices = {variant.attention: variant.efficiency.efficiency_device for variant in group.variants}
    assert devices == {"vanilla": "a CPU", "lightning": "a CPU", "routing": None}


def test_of_two_measurements_the_newer_one_counts():
    old, new = synthetic.efficiency("lightning"), synthetic.efficiency("lightning", rounds=11)
    new.provenance["started"] = "2026-02-02T00:00:00"
    (found,) = find([new, old], [synthetic.quality("lightning")])
    assert found.efficiency_record == new.hash


@pytest.mark.parametrize("status", ["error", "unsupported", "timeout"])
def test_a_measurement_that_failed_does_not_hide_an_older_one(status):
    good, failed = synthetic.efficiency("lightning"), synthetic.efficiency("lightning", status=status, rounds=11)
    failed.provenance["started"] = "2026-02-02T00:00:00"
    (found,) = find([failed, good], [synthetic.quality("lightning")])
    assert found.efficiency_record == good.hash
    (found,) = find([failed], [synthetic.quality("lightning")])
    assert found.efficiency_status == status


def test_efficiency_of_a_group_is_of_one_batch_size():
    """Most were measured at batch 1, and the later measurement at another is left out."""
    other = synthetic.efficiency("lightning", rounds=11)
    other.identity["batch"] = 8
    other.provenance["started"] = "2026-02-02T00:00:00"
    own = [synthetic.efficiency(name) for name in ("vanilla", "lightning")]
    quality = [synthetic.quality(name) for name in ("vanilla", "lightning")]
    found = find([*own, other], quality)
    assert [each.efficiency_record for each in found] == [record.hash for record in own]


def test_efficiency_table_has_every_measurement(tmp_path):
    record = synthetic.efficiency("lightning", batches=(1, 16))
    made = build(tmp_path, record, synthetic.efficiency("fit", status="unsupported", reason="no layer"))
    rows = [row for row in made["efficiency"] if row["attention"] == "lightning"]
    assert len(rows) == len(record.result["measurements"])
    row = one(rows, subject="lightning", phase="train", length="2048")
    assert row["n"] == "9"
    assert float(row["seconds_low"]) <= float(row["seconds_median"]) <= float(row["seconds_high"])
    assert row["spread"] == "quartiles"
    assert row["verdict_vanilla"] == "cheaper"
    assert not row["ratio_eager"]
    missing = one(rows, subject="eager", phase="train", length="2048")
    assert (missing["status"], missing["reason"], missing["seconds_median"]) == ("not_measured", "memory", "")
    failed = one(made["efficiency"], attention="fit")
    assert (failed["status"], failed["reason"]) == ("unsupported", "no layer")


def test_few_rounds_give_a_range_and_no_median(tmp_path):
    made = build(tmp_path, synthetic.efficiency("lightning", rounds=3))
    row = one(made["efficiency"], subject="lightning", phase="train", length="512")
    assert (row["n"], row["spread"], row["seconds_median"]) == ("3", "range", "")


def test_quality_without_efficiency_and_the_reverse(tmp_path):
    made = build(tmp_path / "quality", synthetic.quality())
    assert not made["efficiency"]
    assert not one(made["leaderboard"])["train_ratio"]
    made = build(tmp_path / "efficiency", synthetic.efficiency())
    assert not made["leaderboard"]
    assert made["efficiency"]
    assert "no quality records" in page(tmp_path / "efficiency")


def test_cabs_own_fit_stands_beside_the_efficiency_length():
    """Against eager, from the median times of a training step: as computed by hand from the record's samples."""
    made = synthetic.efficiency("lightning")
    rows = [row for row in made.result["measurements"] if row["phase"] == "train" and row["status"] == "ok"]
    times = {
        name: {row["length"]: float(np.median(row["seconds"])) for row in rows if row["subject"] == name}
        for name in ("lightning", "eager")
    }
    at = sorted(times["lightning"].keys() & times["eager"].keys())
    quadratic = np.polyfit(at, [times["eager"][n] for n in at], 2)
    line = np.polyfit(at[1:], [times["lightning"][n] for n in at[1:]], 1)
    roots = np.roots(quadratic - [0.0, *line])
    assert analyse(made).efficiency("lightning").cab_fit_time == pytest.approx(max(roots.real))
    assert analyse(synthetic.efficiency("eager")).efficiency("eager").cab_fit_time is None


def test_decoding_by_recomputation_is_marked(tmp_path):
    """The mark is absent in older records, in which every family decodes from a state."""
    recomputed = synthetic.efficiency("routing")
    for row in recomputed.result["measurements"]:
        if row["phase"] == "decode":
            row["decoding"] = "recomputation" if row["subject"] == "routing" else "state"
    names = ("vanilla", "lightning", "routing")
    made = build(tmp_path, *map(synthetic.quality, names), synthetic.efficiency("lightning"), recomputed)
    decoding = {row["attention"]: row["decoding"] for row in made["leaderboard"]}
    assert decoding == {"vanilla": "state", "lightning": "state", "routing": "recomputation"}
    marked = [line for line in page(tmp_path).splitlines() if " at 2,048, recomputed, " in line]
    assert [line.split("|")[2].strip() for line in marked] == ["routing"]
