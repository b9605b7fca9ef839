"""Recall against state, and by pairs and length."""

import pytest
from helpers import synthetic
from helpers.analysed import material, one, recall, setting

from cab.report.analyses import recall as by_difficulty
from cab.report.analyses import state
from cab.report.stats import t_interval
from cab.store.record import Record


def of_width(name: str, dim: int, accuracy: float, seed: int = 0, **about) -> Record:
    return recall(name, seed, accuracy, model=synthetic.MODEL | {"dim": dim}, **about)


def names(figure) -> set[str]:
    return {text.get_text() for text in figure.legends[0].texts}


# State


def test_the_state_is_that_of_the_record_in_bytes_of_float32():
    about = {"state": 12_345}
    lines = state.lines(material(recall("fit", 0, 0.2, **about), recall("fit", 1, 0.4, **about), recall("none", 0, 0)))
    line = one(lines, attention="fit")
    assert (line.state_numbers, line.state_bytes, line.n) == (12_345, 4 * 12_345, 2)
    assert line.mean.value == pytest.approx(0.3)
    assert line.mean.interval == t_interval([0.2, 0.4])
    assert one(lines, attention="none").state_bytes == 0


def test_models_of_several_sizes_and_options_share_a_figure():
    records = [of_width("vanilla", dim, 0.9) for dim in (64, 128, 256)]
    records += [recall("fit", 0, 0.5, options={"latents": n}, state=n * 1000) for n in (4, 8)]
    records.append(recall("none", 0, 0.04))
    made = material(*records)
    assert len(made.groups) == 3
    lines = state.lines(made)
    assert {line.figure for line in lines} == {"causal_self_smoke"}
    assert sorted(line.dim for line in lines if line.attention == "vanilla") == [64, 128, 256]
    figure = state.draw(lines)
    assert "dim 64, 128, 256" in figure._suptitle.get_text()
    assert names(figure) == {"vanilla", "fit", "none (control)", "constant: 0.05"}


@pytest.mark.parametrize(
    "other",
    [{"size": "base"}, {"data": "b" * 64}, {"steps": 400}, {"pattern": "causal_cross"}, {"lr": 1.0}],
)
def test_what_differs_in_more_than_size_has_a_figure_of_its_own(other):
    lines = state.lines(material(of_width("vanilla", 64, 0.8), of_width("vanilla", 128, 0.9, **other)))
    assert len(lines) == 2
    assert len({line.figure for line in lines}) == 2
    elsewhere = of_width("vanilla", 128, 0.9)  # the same request, where the data differs
    elsewhere.result["data"]["content"] = "c" * 64
    assert len({line.figure for line in state.lines(material(of_width("vanilla", 128, 0.8), elsewhere))}) == 2
    longer = recall("vanilla", 0, 0.7, model=synthetic.MODEL | {"length": 512})
    assert len({line.figure for line in state.lines(material(recall("vanilla", 0, 0.8), longer))}) == 2


def test_points_are_joined_in_the_order_of_their_states_at_the_best_of_each():
    states = {32: (0.5, 3000), 8: (0.3, 1000), 16: (0.4, 2000), 17: (0.2, 2000)}
    records = [recall("fit", 0, x, options={"latents": n}, state=size) for n, (x, size) in states.items()]
    axes = state.draw(state.lines(material(*records))).axes[0]
    [joined] = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]
    assert list(joined.get_xdata()) == pytest.approx([1000 / 256, 2000 / 256, 3000 / 256])  # KiB
    assert list(joined.get_ydata()) == pytest.approx([0.3, 0.4, 0.5])
    points = [bar.lines[0] for bar in axes.containers]
    assert sorted(float(point.get_ydata()[0]) for point in points) == pytest.approx([0.2, 0.3, 0.4, 0.5])


def test_without_state_a_row_stands_left_of_all_others_and_a_constant_is_a_line():
    figure = state.draw(state.lines(material(recall("vanilla", 0, 0.9), recall("none", 0, 0.1))))
    axes = figure.axes[0]
    at = {bar.get_label(): float(bar.lines[0].get_xdata()[0]) for bar in axes.containers}
    assert at["none (control)"] < at["vanilla"] / 2
    assert axes.get_xlim()[0] < at["none (control)"]
    ticks = dict(zip(axes.get_xticks(), (text.get_text() for text in axes.get_xticklabels()), strict=True))
    assert ticks[at["none (control)"]] == "0"
    [constant] = [line for line in axes.get_lines() if line.get_label() == "constant: 0.05"]
    assert list(constant.get_ydata()) == [0.05, 0.05]


def test_where_nothing_decodes_there_is_no_figure():
    assert not state.lines(material(recall("vanilla", 0, 0.9, pattern="noncausal_self"), synthetic.quality("vanilla")))


def test_a_row_without_a_score_is_named():
    records = [recall("vanilla", 0, 0.9), synthetic.quality(
        "ssa", task="recall", pattern="causal_self", real=False, status="diverged", reason="loss is not finite"
    )]  # fmt: skip
    lines = state.lines(material(*records))
    assert {line.attention: line.reason for line in lines} == {"vanilla": "", "ssa": "diverged"}
    assert "not shown: ssa (diverged)" in state.draw(lines).axes[0].get_xlabel()


# Pairs and lengths


def at_settings(name: str, seed: int, rows: dict[tuple[int, int], float], **about) -> Record:
    record = recall(name, seed, 0.5, **about)
    found = [setting(length, pairs, value, length < 512) for (length, pairs), value in rows.items()]
    record.result["tables"]["accuracy_by_setting"] = found
    return record


ROWS = {(256, 4): 0.9, (256, 16): 0.5, (64, 4): 1.0, (512, 4): 0.7, (512, 16): 0.1}


def test_every_setting_is_a_mean_over_seeds():
    other = {key: value - 0.1 for key, value in ROWS.items()}
    lines = by_difficulty.lines(material(at_settings("fit", 0, ROWS), at_settings("fit", 1, other)))
    assert len(lines) == 5
    line = one(lines, length=512, pairs=4)
    assert (line.n, line.trained) == (2, False)
    assert (line.mean.value, line.lowest, line.highest) == pytest.approx((0.65, 0.6, 0.7))
    assert one(lines, length=64, pairs=4).trained is True
    partly = {key: value for key, value in ROWS.items() if key != (64, 4)}
    lines = by_difficulty.lines(material(at_settings("fit", 0, ROWS), at_settings("fit", 1, partly)))
    assert (64, 4) not in {(line.length, line.pairs) for line in lines}


def test_pairs_are_at_the_design_length_and_lengths_at_the_pairs_with_most_of_them():
    figure = by_difficulty.draw(by_difficulty.lines(material(at_settings("fit", 0, ROWS))))
    pairs, length = figure.axes
    assert pairs.get_title() == "by pairs, at 256 tokens"
    assert length.get_title() == "by length, with 4 pairs"
    assert [list(values) for values in pairs.get_lines()[0].get_data()] == [[4, 16], [0.9, 0.5]]
    assert [list(values) for values in length.get_lines()[0].get_data()] == [[64, 256, 512], [1.0, 0.9, 0.7]]
    assert set(length.get_lines()[1].get_xdata()) == {256}


def test_the_figure_has_one_line_a_family_and_the_file_has_all():
    records = [at_settings("fit", seed, ROWS, options={"latents": 8}) for seed in (0, 1)]
    records += [at_settings("fit", 0, ROWS, options={"latents": 4}), at_settings("vanilla", 0, ROWS)]
    lines = by_difficulty.lines(material(*records))
    assert {line.label for line in lines} == {"fit (latents=4)", "fit (latents=8)", "vanilla"}
    assert {line.label for line in lines if line.figure} == {"fit (latents=8)", "vanilla"}
