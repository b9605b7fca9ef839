import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from helpers import synthetic

from cab.leaderboard import main, standings
from cab.report.costs import analyse
from cab.report.figures import costplot, plots
from cab.report.figures.style import FIXED, PALETTE, Label, families, is_drawn, place_labels, save, style
from cab.report.rows import groups


def texts(figure) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def lines_of(*names: str) -> list[dict]:
    records = [synthetic.quality(name, seed) for name in names for seed in range(2)]
    ((_, lines),) = standings(records, [analyse(synthetic.efficiency(name)) for name in names])
    return lines


def test_every_figure_is_written_twice_and_legible(tmp_path):
    for name in ("vanilla", "lightning", "none"):
        synthetic.write(tmp_path, synthetic.quality(name, 0), synthetic.quality(name, 1), synthetic.efficiency(name))
    assert main(["--results", str(tmp_path)]) == 0
    folder = tmp_path / "leaderboard/plots"
    stems = {path.stem for path in folder.iterdir()}
    sizes = "d128_h4_l3_f512"
    expected = {f"{kind}_lm_causal_self_smoke" for kind in ("curves", "tradeoff", "time")}
    expected |= {f"costs_causal_self_stack_{sizes}", "benefit_smoke"}
    assert stems == expected
    for stem in stems:
        assert (folder / f"{stem}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        root = ET.parse(folder / f"{stem}.svg").getroot()
        written = [node for node in root.iter() if node.tag.endswith("}text") and (node.text or "").strip()]
        assert len(written) > 8  # text stays text


def test_a_figure_is_drawn_again_only_if_what_it_shows_changed(tmp_path):
    synthetic.write(tmp_path, synthetic.quality("vanilla", 0), synthetic.quality("recall", 0, task="recall"))
    main(["--results", str(tmp_path)])
    folder = tmp_path / "leaderboard/plots"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    synthetic.write(tmp_path, synthetic.quality("vanilla", 1))
    main(["--results", str(tmp_path)])
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {
        "curves_lm_causal_self_smoke.png",
        "curves_lm_causal_self_smoke.svg",
    }


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


def test_costs_name_crossings_bounds_and_ends():
    records = [synthetic.efficiency(name, phases=("train",)) for name in ("lightning", "routing", "vanilla")]
    said = texts(costplot.costs(records))
    summaries = [analyse(record).summary for record in records]
    assert f"{summaries[0]['time_from_vanilla_length']:,.0f}" in said.splitlines()  # beside its ring
    assert summaries[0]["time_from_vanilla"] in said
    assert "> 2,048" in said
    assert "≤ 128" in said
    assert "not measured: eager from 2,048 on (memory)" in said
    assert "training step: time" in said
    assert "training step: peak memory" in said


def test_times_of_a_busier_run_are_aligned_at_vanilla():
    """Each record has its own vanilla: drawn as measured, the slower run's family would lie above it everywhere."""
    records = [
        synthetic.efficiency("lightning", phases=("train",), speed=5),
        synthetic.efficiency("vanilla", phases=("train",)),
    ]
    drawn = {line.get_label(): line for line in costplot.costs(records).axes[0].get_lines()}
    assert drawn["lightning"].get_ydata()[-1] < drawn["vanilla"].get_ydata()[-1]
    assert drawn["lightning"].get_ydata()[0] > drawn["vanilla"].get_ydata()[0]


@pytest.mark.filterwarnings("error")
def test_one_family_alone_has_room_around_it():
    for axes in plots.tradeoff(lines_of("vanilla")).axes:
        low, high = axes.get_xlim()
        assert 4 < high / low < 16


@pytest.mark.parametrize("options", [None, {"window": 128, "latents": 16}])
def test_notes_of_costs_do_not_run_into_each_other(monkeypatch, options):
    monkeypatch.setattr(costplot, "_text", lambda crossing: "> 16,384 (11,041 to > 16,384)")  # the longest
    records = [synthetic.efficiency("block_transformer", phases=("train",), options=options)]
    records.append(synthetic.efficiency("block_transformer", phases=("train",)))
    below = costplot.costs(records).axes[2]
    notes = [text.get_window_extent() for text in below.texts if text.get_text()]
    for box in notes:
        assert not any(box.overlaps(other) for other in notes if other is not box)
        assert box.x1 <= below.get_window_extent().x1


def test_costs_without_measurements_is_no_figure():
    assert costplot.costs([synthetic.efficiency("fit", status="unsupported", reason="no")]) is None


def test_curves_average_only_where_every_seed_is():
    records = [synthetic.quality("vanilla", seed) for seed in range(3)]
    records[1].result["curve"] = records[1].result["curve"][:10]
    (group,) = groups(records)
    figure = plots.curves(group.rows)
    (loss,) = figure.axes[0].get_lines()
    assert len(loss.get_xdata()) == 10
    mean = sum(record.result["curve"][4]["loss"] for record in records) / 3
    assert loss.get_ydata()[4] == pytest.approx(mean)


def test_tradeoff_shows_every_row_and_an_arrow_for_what_lies_outside():
    lines = lines_of("vanilla", "eager", "lightning", "none")
    said = texts(plots.tradeoff(lines))
    none = next(line for line in lines if line["attention"] == "none")
    for name in ("vanilla", "lightning", "eager at 1,024"):
        assert name in said.splitlines()
    assert f"none, outside: {none['mean']:.4g}" in said
    assert "bits per byte (lower is better)" in said


def test_tradeoff_without_costs_is_no_figure():
    ((_, lines),) = standings([synthetic.quality()], [])
    assert plots.tradeoff(lines) is None


def test_labels_do_not_overlap():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    figure = Figure(figsize=(7, 6))
    axes = figure.subplots()
    labels = [Label(1 + 0.01 * i, 2 + 0.012 * (i % 3), f"family number {i}", "black") for i in range(9)]
    axes.plot([label.x for label in labels], [label.y for label in labels], "o")
    axes.set(xlim=(0.5, 1.5), ylim=(1.5, 2.5))
    figure.draw_without_rendering()
    place_labels(axes, labels)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for text in axes.texts:
        text.update_positions(renderer)
    extents = [Text.get_window_extent(text, renderer) for text in axes.texts]
    frame = axes.get_window_extent(renderer)
    for i, one in enumerate(extents):
        assert frame.x0 <= one.x0
        assert one.x1 <= frame.x1
        assert not any(one.overlaps(other) for other in extents[i + 1 :])


def test_saving_is_repeatable_and_stamped(tmp_path: Path):
    for name in ("a", "b"):
        save(plots.curves(groups([synthetic.quality()])[0].rows), tmp_path / name, "stamp-1")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert is_drawn(tmp_path / "a", "stamp-1")
    assert not is_drawn(tmp_path / "a", "stamp-2")
    assert not is_drawn(tmp_path / "c", "stamp-1")


def test_a_long_title_stays_inside_the_figure():
    """Settings that differ in much make long titles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    rows = groups([synthetic.quality("vanilla", seed) for seed in range(2)])[0].rows
    figure = plots.curves(rows, "lm, causal self, smoke, " + " ".join(f"train.option_{i}=0.00{i}" for i in range(14)))
    FigureCanvasAgg(figure).draw()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1
