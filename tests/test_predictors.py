"""The strongest predictor of a record, in every table that names it."""

import pytest
from helpers import synthetic

from cab.report.load import load, quality_row
from cab.report.predictors import predictors, strongest_predictor
from cab.report.terminal import quality_lines


def result(better: str, **scores: float | None) -> dict:
    listed = [{"name": name, "metrics": {"score": score, "other": -1.0}} for name, score in scores.items()]
    return {"headline": "score", "better": {"score": better}, "predictors": listed}


@pytest.mark.parametrize(("better", "expected"), [("lower", ("two", 1.0)), ("higher", ("three", 5.0))])
def test_strongest_by_the_headline_in_its_direction(better, expected):
    assert strongest_predictor(result(better, one=3.0, two=1.0, three=5.0)) == expected


def test_predictors_without_a_score_are_left_out():
    """A number that is not finite is None in a record."""
    found = result("lower", one=None, two=2.0)
    found["predictors"].append({"name": "three", "metrics": {"other": 0.1}})
    assert predictors(found) == [("two", 2.0)]
    assert strongest_predictor({}) is None


def test_every_table_names_the_strongest():
    record = synthetic.quality("vanilla", score=2.0)
    assert "bits per byte 2, perplexity 4; best predictor: 5-gram 4.6" in quality_lines(record, done=False)[0]
    row = quality_row(record)
    assert (row["predictor"], row["predictor_score"]) == ("5-gram", 4.6)
    assert (row["predictor.xz"], row["predictor.unigram"]) == (4.7, 4.9)


@pytest.mark.parametrize("listed", [{"name": "unigram"}, ["unigram"], [{"name": "unigram"}]])
def test_a_record_with_other_predictors_is_left_out(tmp_path, listed):
    record = synthetic.quality("vanilla")
    record.result["predictors"] = listed
    record.write(tmp_path)
    loaded = load(tmp_path)
    assert not loaded.quality
    assert loaded.problems[0].reason.startswith("result.predictors")
