import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from helpers import synthetic

from cab.leaderboard import main
from cab.report.efficiency import analyse
from cab.report.efficiency_table import EfficiencyTable
from cab.report.figures import lengths, plots
from cab.report.figures.axes import binary_ticks, log_ticks, main_range
from cab.report.figures.files import save
from cab.report.figures.style import FIXED, PALETTE, RC, families, style, styles
from cab.report.groups import Group, make_groups
from cab.store.record import Record


def texts(figure) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def group_of(*records: Record) -> Group:
    efficiency = EfficiencyTable(analyse(record) for record in records if record.kind == "efficiency")
    (group,) = make_groups([record for record in records if record.kind == "quality"], efficiency)
    return group


def measured_group(*names: str) -> Group:
    quality = [synthetic.quality(name, seed) for name in names for seed in range(2)]
    return group_of(*quality, *map(synthetic.efficiency, names))


def test_every_figure_is_written_twice_and_legible(tmp_path):
    for name in ("vanilla", "lightning", "none"):
        synthetic.write(tmp_path, synthetic.quality(name, 0), synthetic.quality(name, 1), synthetic.efficiency(name))
    assert main(["--results", str(tmp_path)]) == 0
    folder = tmp_path / "leaderboard/plots"
    stems = {path.stem for path in folder.iterdir()}
    sizes = "d128_h4_l3_f512"
    expected = {f"{kind}_lm_causal_self_smoke" for kind in ("curves", "tradeoff", "time")}
    expected |= {f"efficiency_causal_self_stack_{sizes}", "gain_smoke"}
    assert stems == expected
    for stem in stems:
        assert (folder / f"{stem}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        root = ET.parse(folder / f"{stem}.svg").getroot()
        written = [node for node in root.iter() if node.tag.endswith("}text") and (node.text or "").strip()]
        assert len(written) > 8  # text stays text


def test_a_figure_that_is_no_longer_true_goes(tmp_path):
    (path,) = synthetic.write(tmp_path, synthetic.quality("vanilla", 0, task="recall"))
    synthetic.write(tmp_path, synthetic.quality("vanilla", 0))
    main(["--results", str(tmp_path)])
    path.unlink()
    main(["--results", str(tmp_path)])
    names = {path.stem for path in (tmp_path / "leaderboard/plots").iterdir()}
    assert names == {"curves_lm_causal_self_smoke"}


def test_colours_are_fixed_for_baselines_and_distinct_for_families(tmp_path):
    assert style("vanilla").color == "#000000"
    assert style("eager").color == FIXED["eager"].color
    assert style("none").line != "-"
    names = [name for name in families() if name not in FIXED]
    assert len({style(name).color for name in names}) == min(len(names), len(PALETTE))
    assert style("lightning", 1).color == style("lightning").color
    assert style("lightning", 1).line != style("lightning").line
    assert style("never heard of") == style("never heard of")


def test_families_get_their_colour_from_the_configuration(tmp_path):
    for name in ("zeta", "alpha", "vanilla"):
        (tmp_path / f"{name}.yaml").touch()
    assert families(tmp_path) == ("alpha", "zeta")


def test_lengths_mark_where_a_family_becomes_cheaper():
    records = [synthetic.efficiency(name, phases=("train",)) for name in ("lightning", "routing", "vanilla")]
    figure = lengths.draw(records)
    time, memory = figure.axes
    crossing = analyse(records[0]).efficiency("lightning").time_from_vanilla
    (note,) = time.texts
    assert (note.get_text(), note.xy[0]) == (f"{crossing.value:,.0f}", pytest.approx(crossing.value))
    rings = [line for line in time.get_lines() if line.get_markerfacecolor() == "none"]
    black = [ring for ring in rings if ring.get_markeredgecolor() == FIXED["vanilla"].color]
    assert [ring.get_xdata()[0] for ring in black] == [pytest.approx(crossing.value)]
    assert {ring.get_markeredgecolor() for ring in rings} == {FIXED["vanilla"].color, FIXED["eager"].color}
    eager = next(line for line in time.get_lines() if line.get_label() == "eager")
    assert eager.get_xdata()[-1] == 1024  # not measured at 2,048
    assert (time.get_title(), memory.get_title()) == ("training step: time", "training step: peak memory")


def test_times_of_a_busier_run_are_aligned_at_vanilla():
    """Each record has its own vanilla: drawn as measured, the slower run's family would lie above it everywhere."""
    records = [  # vanilla is drawn from the first
        synthetic.efficiency("vanilla", phases=("train",)),
        synthetic.efficiency("lightning", phases=("train",), speed=5),
    ]
    drawn = {line.get_label(): line for line in lengths.draw(records).axes[0].get_lines()}
    assert drawn["lightning"].get_ydata()[-1] < drawn["vanilla"].get_ydata()[-1]
    assert drawn["lightning"].get_ydata()[0] > drawn["vanilla"].get_ydata()[0]


@pytest.mark.filterwarnings("error")
def test_one_family_alone_has_room_around_it():
    group = measured_group("vanilla")
    for axes in plots.tradeoff(group, group.variants).axes:
        low, high = axes.get_xlim()
        assert 4 < high / low < 16


def test_without_measurements_there_is_no_figure(tmp_path):
    synthetic.write(tmp_path, synthetic.quality(), synthetic.efficiency("fit", status="unsupported", reason="no"))
    assert main(["--results", str(tmp_path)]) == 0
    assert {path.stem for path in (tmp_path / "leaderboard/plots").iterdir()} == {"curves_lm_causal_self_smoke"}


def test_curves_average_only_where_every_seed_is():
    records = [synthetic.quality("vanilla", seed) for seed in range(3)]
    records[1].result["curve"] = records[1].result["curve"][:10]
    figure = plots.curves(group_of(*records).variants)
    (loss,) = figure.axes[0].get_lines()
    assert len(loss.get_xdata()) == 10
    mean = sum(record.result["curve"][4]["loss"] for record in records) / 3
    assert loss.get_ydata()[4] == pytest.approx(mean)


def test_tradeoff_names_every_row_and_what_lies_outside():
    group = measured_group("vanilla", "eager", "lightning", "none")
    shown = texts(plots.tradeoff(group, group.variants))
    none = next(variant for variant in group.variants if variant.attention == "none")
    for name in ("vanilla", "lightning", "eager at 1,024"):
        assert name in shown.splitlines()
    assert f"none, outside: {none.mean.value:.4g}" in shown
    assert "bits per byte (lower is better)" in shown


def test_rows_of_one_family_differ_in_the_legend():
    names = {f"{name} ({n})": name for name, count in {"vanilla": 1, "ssa": 5, "none": 3}.items() for n in range(count)}
    assert len({(look.color, look.marker) for look in styles(names).values()}) == len(names)


def test_a_row_looks_the_same_in_both_panels():
    records = [synthetic.quality("ssa", s, options={"latents": n}, score=n + s) for n in (8, 4) for s in range(2)]
    measured = [synthetic.efficiency("ssa", options={"latents": 4}, phases=("train",))]
    measured.append(synthetic.efficiency("ssa", options={"latents": 8}))
    group = group_of(*records, *measured)
    looks = [
        {bar.get_label(): bar.lines[0].get_marker() for bar in axes.containers}
        for axes in plots.tradeoff(group, group.variants).axes
    ]
    assert set(looks[0]) == {"ssa (latents=4)", "ssa (latents=8)"}
    assert looks[1] == {"ssa (latents=8)": looks[0]["ssa (latents=8)"]}


def test_saving_is_repeatable(tmp_path: Path):
    for name in ("a", "b"):
        save(plots.curves(group_of(synthetic.quality()).variants), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_long_title_stays_inside_the_figure():
    """Settings that differ in much make long titles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    group = group_of(*(synthetic.quality("vanilla", seed) for seed in range(2)))
    figure = plots.curves(
        group.variants, "lm, causal self, smoke, " + " ".join(f"train.option_{i}=0.00{i}" for i in range(14))
    )
    FigureCanvasAgg(figure).draw()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1


def drawn(figure):
    """Laid out, as it is saved."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    return figure


def ticks(axis, limits) -> list[str]:
    """What is written at the ticks within the limits."""
    low, high = sorted(limits)
    return [t.label1.get_text() for t in axis.get_major_ticks() if low <= t.get_loc() <= high and t.label1.get_text()]


@pytest.mark.parametrize("names", [("vanilla",), ("vanilla", "lightning"), ("vanilla", "eager", "lightning", "none")])
def test_every_axis_has_two_ticks_and_all_type_one_size(names):
    from matplotlib.text import Text

    group = measured_group(*names)
    records = [synthetic.efficiency(name) for name in names]
    figures = [plots.curves(group.variants), plots.tradeoff(group, group.variants), lengths.draw(records)]
    for figure in map(drawn, figures):
        for axes in figure.axes:
            assert len(ticks(axes.xaxis, axes.get_xlim())) >= 2, axes.get_title()
            assert len(ticks(axes.yaxis, axes.get_ylim())) >= 2, axes.get_title()
        assert {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()} == {RC["font.size"]}


@pytest.mark.parametrize("ratio", [1.06, 1.5, 2, 3.9, 7, 40, 300, 1e6])
def test_logarithmic_axes_have_ticks_wherever_they_begin(ratio):
    for start in (0.0031, 0.62, 1.01, 8.7, 53_000.0):
        found = log_ticks(start, start * ratio)
        assert 2 <= len(found) <= 12
        assert all(start <= tick <= start * ratio for tick in found)
    assert log_ticks(0.6, 1.1) != [1.0]
    assert binary_ticks(3.0, 20.0) == [4, 8, 16]


def test_a_slow_family_does_not_press_the_others_together():
    records = [synthetic.quality(name, seed) for name in ("vanilla", "lightning", "none") for seed in range(2)]
    group = group_of(*records)
    assert plots.curves(group.variants).axes[1].get_xscale() == "linear"
    for record in records[:2]:
        for point in record.result["curve"]:
            point["seconds"] *= 50
    right = plots.curves(group.variants).axes[1]
    assert right.get_xscale() == "log"
    assert len(ticks(right.xaxis, right.get_xlim())) >= 2
    assert main_range([2.0, 2.1, 2.2, 9.0]) == (2.0, 2.2)
    assert main_range([1.0, 7.9, 8.0, 8.1]) == (7.9, 8.1)
    assert main_range([2.0, 2.1, 2.2, 2.5]) == (2.0, 2.5)


def test_the_first_marker_of_a_curve_is_whole():
    for axes in plots.curves(group_of(synthetic.quality()).variants).axes:
        assert axes.get_xlim()[0] < 0
