"""The lines that a command prints about a record."""

import statistics
from collections.abc import Iterator, Sequence

from cab.efficiency.efficiency_length import EfficiencyLength, Ratio, Row, ratios, time_efficiency_length
from cab.report.predictors import strongest_predictor
from cab.report.text import number, words
from cab.sizes import size_text
from cab.store.record import Record

PHASE = {"forward": "forward pass", "train": "forward + backward", "prefill": "prefill", "decode": "decoding step"}


def quality_lines(record: Record, done: bool) -> list[str]:
    """Scores and training."""
    if record.status != "ok":
        return [_line("quality", f"{record.status}: {record.reason}", done)]
    result = record.result
    metrics = ", ".join(f"{words(name)} {number(value)}" for name, value in result["metrics"].items())
    training, model = result["training"], result["model"]
    strongest = strongest_predictor(result)
    beside = f"; best predictor: {strongest.name} {number(strongest.score)}" if strongest else ""
    selected = training["selected_step"]
    weights = f", tested at step {selected:,}" if selected != training["steps"] else ""
    real = "real" if result["data"]["real"] else "synthetic"
    return [
        _line("quality", metrics + beside, done),
        _line(
            "training",
            f"{training['steps']:,} steps in {training['seconds']:.0f} s on {real} data{weights}, "
            f"{model['core_parameters']:,} core parameters, family in {', '.join(model['slots'])}",
        ),
    ]


def efficiency_lines(record: Record, done: bool) -> list[str]:
    """For each phase the ratio at the longest length, and the length from which the family is cheaper."""
    family = record.cell["attention"]
    if record.status != "ok":
        return [_line("efficiency", f"{family}: {record.status}: {record.reason}", done)]
    rows = record.result["measurements"]
    texts = []
    for phase, batch in dict.fromkeys((row["phase"], row["batch"]) for row in rows):
        title = f"{PHASE[phase]}{f', batch {batch}' if batch > 1 else ''}"
        texts += [f"{title}: {text}" for text in _phase(rows, family, phase, batch)]
    return [_line("efficiency", text, done) for text in texts]


def _phase(rows: Sequence[Row], family: str, phase: str, batch: int) -> Iterator[str]:
    baseline = "eager" if family == "vanilla" else "vanilla"
    if found := ratios(rows, family, baseline, phase, batch):
        crossing = crossing_text(time_efficiency_length(rows, family, baseline, phase, batch))
        yield f"{ratio_text(found[-1], baseline)}; {crossing}"
    own = [row for row in rows if (row["subject"], row["phase"], row["batch"]) == (family, phase, batch)]
    measured = [row for row in own if row["status"] == "ok"]
    if phase == "decode" and measured:
        longest = measured[-1]
        speed, state = batch / statistics.median(longest["seconds"]), longest["state_bytes"] / batch
        recomputed = ", recomputed" if longest.get("decoding") == "recomputation" else ""
        length = f"{longest['length']:,}{recomputed}"
        yield f"{speed:,.0f} tokens/s after {length}, state {size_text(state)} a sequence"
    missing = [row for row in own if row["status"] != "ok"]
    if missing:
        lengths = ", ".join(f"{row['length']:,}" for row in missing)
        yield f"no figure at {lengths} ({missing[0]['status']}: {missing[0]['reason']})"


def ratio_text(ratio: Ratio, baseline: str) -> str:
    """A ratio of times in words. What an interval does not carry, or no interval, is a tie."""
    where = f"of {baseline}'s time at {ratio.length:,}"
    if ratio.low is None:
        return f"{ratio.ratio:.2f} {where} (a tie: {ratio.n} round{'s' * (ratio.n > 1)}, no interval)"
    tie = " (a tie)" if ratio.verdict == "tie" else ""
    return f"{ratio.ratio:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) {where}{tie}"


def crossing_text(crossing: EfficiencyLength) -> str:
    """An efficiency length in words, as far as its interval carries it."""
    if crossing.value is None:
        return "no efficiency length"
    if crossing.verdict == "not cheaper":
        return f"not cheaper up to {crossing.value:,.0f}"
    if crossing.verdict == "tie":
        return f"no length from which it is cheaper beyond the noise {crossing.text.removeprefix('tie ')}"
    if crossing.high_censored == "<=" or (crossing.low is None and crossing.censored == "<="):
        return f"cheaper at all lengths measured (from {crossing.value:,.0f})"
    return f"cheaper from {crossing.text}"


def _line(name: str, text: str, done: bool = False) -> str:
    return f"  {name:<11}{text}{' (already done)' if done else ''}"
