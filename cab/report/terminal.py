"""The few lines that a command prints at its end."""

from typing import Any

from cab.efficiency.efficiency_length import EfficiencyLength, middle, ratios, time_efficiency_length
from cab.store.record import Record

PHASE = {"forward": "forward pass", "train": "forward + backward", "prefill": "prefill", "decode": "decoding step"}


def quality_lines(record: Record, before: bool) -> list[str]:
    """What a quality record says."""
    if record.status != "ok":
        return [_line("quality", f"{record.status}: {record.reason}", before)]
    result = record.result
    metrics = ", ".join(f"{words(name)} {number(value)}" for name, value in result["metrics"].items())
    trivial, training, model = result["trivial"], result["training"], result["model"]
    score = number(trivial["metrics"][result["headline"]])
    real = "real" if result["data"]["real"] else "generated"
    return [
        _line("quality", f"{metrics}; {trivial['name']} scores {score}", before),
        _line(
            "training",
            f"{training['steps']:,} steps in {training['seconds']:.0f} s on {real} data, "
            f"{model['core_parameters']:,} core parameters, family in {', '.join(model['slots'])}",
        ),
    ]


def efficiency_lines(record: Record, before: bool) -> list[str]:
    """What an efficiency record says: for each phase the ratio at the longest length, and from where on it pays."""
    family = record.cell["attention"]
    if record.status != "ok":
        return [_line("cost", f"{family}: {record.status}: {record.reason}", before)]
    rows = record.result["measurements"]
    baseline = "eager" if family == "vanilla" else "vanilla"
    lines = []
    for phase, batch in dict.fromkeys((row["phase"], row["batch"]) for row in rows):
        where = f"{PHASE[phase]}{f', batch {batch}' if batch > 1 else ''}"
        if measured := ratios(rows, family, baseline, phase, batch):
            last = measured[-1]
            spread = "" if last.low is None else f" ({last.low:.2f} to {last.high:.2f})"
            crossing = pays(time_efficiency_length(rows, family, baseline, phase, batch))
            text = f"{where}: {last.ratio:.2f}{spread} of {baseline}'s time at {last.length:,}; {crossing}"
            lines.append(_line("cost", text, before))
        own = [row for row in rows if (row["subject"], row["phase"], row["batch"]) == (family, phase, batch)]
        if phase == "decode" and (done := [row for row in own if row["status"] == "ok"]):
            last_row = done[-1]
            speed, state = batch / middle(last_row["seconds"]), last_row["state_bytes"] / batch
            text = f"{where}: {speed:,.0f} tokens/s after {last_row['length']:,}, state {state / 1e6:.3g} MB a sequence"
            lines.append(_line("cost", text, before))
        missing = [row for row in own if row["status"] != "ok"]
        if missing:
            lengths = ", ".join(f"{row['length']:,}" for row in missing)
            lines.append(
                _line("cost", f"{where}: no figure at {lengths} ({missing[0]['status']}: {missing[0]['reason']})")
            )
    return lines


def pays(crossing: EfficiencyLength) -> str:
    """An efficiency length in words."""
    if crossing.value is None:
        return "no efficiency length"
    if crossing.censored == "<=":
        return f"cheaper at all lengths measured (from {crossing.value:,.0f})"
    if crossing.censored == ">":
        return f"not cheaper up to {crossing.value:,.0f}"
    return f"cheaper from {crossing.text}"


def words(name: str) -> str:
    return name.replace("_", " ")


def number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"


def _line(what: str, text: str, before: bool = False) -> str:
    return f"  {what:<10}{text}{' (already done)' if before else ''}"
