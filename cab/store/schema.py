"""What every record of schema 1 has, by kind and status: names and types of what commands and tables read.

A digest only says that a file is as somebody wrote it. A value of another type, or one that is missing, would end a
command or a table in the middle; `misfit` finds it when the record is read. Fields that are not here may be anything.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

Whole = Annotated[int, Strict()]
Text = Annotated[str, Strict()]
YesNo = Annotated[bool, Strict()]
Number = Annotated[float, Strict()]
MaybeNumber = Number | None
"""None where a number was not finite."""
Scores = dict[Text, MaybeNumber]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Device(_Part):
    name: Text | None = None
    threads: Whole | None = None
    system: Text | None = None


class _Git(_Part):
    revision: Text | None = None
    dirty: YesNo | None = None


class _OwnCode(_Git):
    kind: Text = Field(alias="class")
    source: Text


class _Provenance(_Part):
    command: Text = ""
    git: _Git = Field(default_factory=_Git)
    own_code: list[_OwnCode] = []
    versions: dict[Text, Text] = {}
    device: _Device = Field(default_factory=_Device)
    started: Text = ""
    seconds: Number = 0.0


class _Data(_Part):
    content: Text
    source: Text | None = None
    description: Text | None = None
    real: YesNo | None = None
    facts: dict[Text, Any] = {}


class _Model(_Part):
    parameters: Whole
    core_parameters: Whole
    slots: list[Text]
    excess: Number = 0
    positions: Text | None = None
    state: Whole | None = None


class _Training(_Part):
    steps: Whole
    seconds: Number
    selected_step: Whole | None = None
    validation: MaybeNumber = None
    stopped_early: YesNo = False
    examples_per_second: Number = 0.0
    processes: Whole = 1


class _Point(_Part):
    step: Whole
    loss: MaybeNumber
    learning_rate: Number
    seconds: Number
    validation: Scores | None = None


class _Predictor(_Part):
    name: Text
    metrics: Scores


class _Bin(_Part):
    start: Whole = Field(alias="from")
    end: Whole = Field(alias="to")
    tokens: Whole
    share: Number
    bits_per_byte: MaybeNumber = None


class _Context(_Part):
    context: Whole
    reason: Text | None = None
    bits_per_byte: MaybeNumber = None
    perplexity: MaybeNumber = None


class _Setting(_Part):
    length: Whole
    pairs: Whole
    memory: Whole
    trained: YesNo
    accuracy: Number


class _Tables(_Part):
    """Those that an analysis reads; every other is rows of anything."""

    __pydantic_extra__: dict[str, list[dict[str, Any]]] = Field(init=False)
    loss_by_position: list[_Bin] = []
    loss_by_repetition: list[_Bin] = []
    loss_by_context: list[_Context] = []
    accuracy_by_setting: list[_Setting] = []


class _Quality(_Part):
    """Of a cell that ended early: what was known by then."""

    data: _Data | None = None
    model: _Model | None = None
    training: _Training | None = None
    curve: list[_Point] = []


class _GoodQuality(_Part):
    data: _Data
    model: _Model
    training: _Training
    curve: list[_Point] = []
    metrics: Scores
    headline: Text
    better: dict[Text, Literal["lower", "higher"]]
    predictors: list[_Predictor] = []
    tables: _Tables = Field(default_factory=_Tables)


class _Measurement(_Part):
    subject: Text
    phase: Literal["forward", "train", "prefill", "decode"]
    length: Annotated[int, Strict(), Field(ge=1)]
    batch: Annotated[int, Strict(), Field(ge=1)]
    status: Text
    reason: Text = ""
    seconds: list[Annotated[float, Strict(), Field(gt=0)]]
    peak_bytes: MaybeNumber = None
    flops: MaybeNumber = None
    parameters: MaybeNumber = None
    state_numbers: MaybeNumber = None
    state_bytes: MaybeNumber = None
    decoding: Text | None = None


class _Efficiency(_Part):
    measurements: list[_Measurement] = []


class _GoodEfficiency(_Part):
    measurements: Annotated[list[_Measurement], Field(min_length=1)]


class _Check(_Part):
    check: Text
    worst: MaybeNumber
    tolerance: Number
    status: Literal["pass", "fail", "control"]
    detail: Text


class _Checks(_Part):
    declared: Text | None
    control: YesNo
    checks: list[_Check]


class _QualityCell(_Part):
    attention: Text
    pattern: Text
    task: Text
    size: Text
    seed: Whole


class _EfficiencyCell(_Part):
    attention: Text
    pattern: Text
    level: Text
    dim: Whole
    heads: Whole
    depth: Whole
    hidden: Whole
    device: Text
    precision: Text


class _ChecksCell(_Part):
    attention: Text
    pattern: Text


class _Train(_Part):
    lr: Number | None = None
    steps: Whole | None = None
    batch: Whole | None = None
    tuned_over: list[Number] = []


class _Shape(_Part):
    dim: Whole | None = None
    heads: Whole | None = None
    depth: Whole | None = None
    hidden: Whole | None = None
    length: Whole | None = None
    memory: Whole | None = None


class _Identity(_Part):
    """Also of `config`."""

    attention: dict[Text, Any] = {}
    model: _Shape | None = None
    train: _Train | None = None
    data: dict[Text, Any] | None = None
    precision: Text | None = None


_CELLS: dict[str, type[_Part]] = {"quality": _QualityCell, "efficiency": _EfficiencyCell, "checks": _ChecksCell}
_RESULTS: dict[str, type[_Part]] = {"quality": _Quality, "efficiency": _Efficiency, "checks": _Checks}
_GOOD: dict[str, type[_Part]] = _RESULTS | {"quality": _GoodQuality, "efficiency": _GoodEfficiency}


def misfit(kind: str, status: str, parts: Mapping[str, Any]) -> str:
    """Why the parts of a record (cell, identity, result, config, provenance) are not those of its kind and status;
    empty if they are."""
    models: dict[str, type[_Part]] = {
        "cell": _CELLS[kind],
        "identity": _Identity,
        "result": (_GOOD if status == "ok" else _RESULTS)[kind],
        "config": _Identity,
        "provenance": _Provenance,
    }
    for name, model in models.items():
        try:
            model.model_validate(parts[name])
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join([name, *(str(part) for part in first["loc"])])
            return (
                f"{where} is missing"
                if first["type"] == "missing"
                else f"{where}: {first['msg'].partition(' or instance of')[0]}"
            )
    if kind == "quality" and status == "ok":
        headline = parts["result"]["headline"]
        if not all(headline in parts["result"][name] for name in ("metrics", "better")):
            return f"result.headline: no metric is called {headline}"
    if kind == "efficiency" and not _paired(parts["result"].get("measurements") or []):
        return "result.measurements: not as many seconds of every subject"
    return _contradiction(parts["cell"], parts["identity"])


def _paired(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all subjects that were measured at a length have one time of every round."""
    rounds: dict[tuple[Any, ...], int] = {}
    return all(
        rounds.setdefault((row["phase"], row["length"], row["batch"]), len(row["seconds"])) == len(row["seconds"])
        for row in rows
        if row["status"] == "ok"
    )


def _contradiction(cell: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """Where the cell says something else than the identity."""
    for name, value in cell.items():
        said = identity.get(name, value)
        if isinstance(said, Mapping):
            said = said.get("name", value)
        if said != value:
            return f"cell.{name} is {value!r}, its identity says {said!r}"
    return ""
