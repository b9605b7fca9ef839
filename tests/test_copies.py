"""Where a language model gains over none: by position, and by the length of a repetition."""

import pytest
from helpers import synthetic
from helpers.analysed import by_bin, material, one

from cab.report.analyses import copies
from cab.report.stats import welch_interval
from cab.store.record import Record

POSITIONS = ((0, 1, 0.1), (1, 64, 0.3), (64, 256, 0.6))
"""From, to, share."""


def broken_down(name: str, seed: int, *bits: float, table: str = "loss_by_position", **about) -> Record:
    record = synthetic.quality(name, seed, **about)
    record.result["tables"][table] = [by_bin(*row, value) for row, value in zip(POSITIONS, bits, strict=True)]
    return record


def none() -> list[Record]:
    return [broken_down("none", 0, 5.0, 3.0, 3.0), broken_down("none", 1, 5.2, 3.1, 3.2)]


def fit() -> list[Record]:
    return [broken_down("fit", 0, 5.1, 2.5, 2.0), broken_down("fit", 1, 5.0, 2.4, 2.1)]


def test_the_gain_is_that_over_none_in_bits_per_byte():
    lines = copies.lines(material(*none(), *fit()))
    assert [(line.attention, line.start, line.end, line.share) for line in lines] == [
        ("fit", 0, 1, 0.1),
        ("fit", 1, 64, 0.3),
        ("fit", 64, 256, 0.6),
    ]
    line = one(lines, start=64)
    assert (line.n, line.n_none) == (2, 2)
    assert line.gain.value == pytest.approx(3.1 - 2.05)
    assert line.gain.interval == pytest.approx(welch_interval([3.0, 3.2], [2.0, 2.1]))
    assert one(lines, start=0).gain.value == pytest.approx(0.05)


def test_a_bin_that_a_seed_lacks_has_no_gain():
    short = broken_down("fit", 1, 5.0, 2.4, 2.1)
    del short.result["tables"]["loss_by_position"][1]
    assert [line.start for line in copies.lines(material(*none(), fit()[0], short))] == [0, 64]
    empty = broken_down("fit", 0, 5.0, 2.4, 2.1)
    empty.result["tables"]["loss_by_position"][2] |= {"tokens": 0, "bits_per_byte": 0.0}
    assert [line.start for line in copies.lines(material(*none(), empty))] == [0, 1]


def test_without_none_there_is_nothing_to_gain_over():
    assert not copies.lines(material(*fit()))
    failed = synthetic.quality("none", 2, status="diverged", reason="loss is not finite")
    assert not copies.lines(material(*none(), failed, *fit()))
    assert not copies.lines(material(*none(), synthetic.quality("fit")))


def test_the_figure_has_a_panel_for_each_table_and_one_line_a_family():
    records = [*none(), *fit(), broken_down("fit", 0, 1.0, 1.0, 1.0, options={"latents": 2})]
    for record in records:
        record.result["tables"]["loss_by_repetition"] = record.result["tables"]["loss_by_position"]
    lines = copies.lines(material(*records))
    assert {line.label for line in lines if not line.figure} == {"fit (latents=2)"}
    figure = copies.draw([line for line in lines if line.figure])
    positions, repetitions = figure.axes
    for axes in (positions, repetitions):
        [drawn] = [bar.lines[0] for bar in axes.containers]
        assert list(drawn.get_ydata()) == pytest.approx([0.05, 0.6, 1.05])
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0\n10%", "1-63\n30%", "64-255\n60%"]
    assert positions.get_xlabel().startswith("position in the window")
    assert repetitions.get_xlabel().startswith("length of the repetition")


def test_one_table_makes_one_panel():
    lines = copies.lines(material(*none(), *fit()))
    assert len(copies.draw(lines).axes) == 1
