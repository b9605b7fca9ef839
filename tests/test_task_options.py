"""Options and patterns of tasks: defaults are those of the YAML, a limit is one line with the option and the value."""

import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest
from omegaconf import OmegaConf

from attentions.base import Pattern, Shape
from cab import ROOT
from cab.checked import checked
from cab.config import task_factory
from cab.errors import UserError
from tasks.base import Data, Options, Task, TaskContext

TASKS = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in (ROOT / "conf" / "task").glob("*.yaml")}
SHAPE = Shape(dim=16, heads=2, depth=1, hidden=0, length=64**2, memory=64)
COUNTS = {
    "forecasting": ["horizon", "label", "decoder_layers", "period", "validation_windows", "test_windows"],
    "lm": ["validation_windows", "test_windows"],
    "mlm": ["validation_windows", "test_windows"],
    "point_cloud": [
        *("points", "truth", "decoder_layers", "fold", "views", "solids", "validation_clouds", "test_clouds"),
    ],
    "recall": ["validation_examples", "test_examples"],
    "summarization": ["validation_documents", "test_documents"],
    "super_resolution": ["sampling_steps", "validation_images", "test_images"],
    "tts": ["frames_per_step", "prenet", "postnet", "validation_clips", "test_clips"],
    "tts_fastspeech2": ["validation_clips", "test_clips"],
}
AT_LEAST_ONE = "Input should be greater than or equal to 1"
POSITIONS = "Input should be 'sinusoidal', 'learned' or 'none'"
VOCABULARY = "use bytes, or a number from 257 to 262,144 for BPE"


def task_class(task: str) -> type[Task]:
    module, name = str(TASKS[task]["_target_"]).rsplit(".", 1)
    return getattr(import_module(module), name)


def options_of(task: str) -> type[Options]:
    return get_type_hints(task_class(task))["options"]


@pytest.mark.parametrize("task", TASKS)
def test_the_yaml_has_every_option_at_its_default(task: str) -> None:
    given = {name: value for name, value in TASKS[task].items() if not name.startswith("_")}
    assert checked("task", options_of(task), given) == options_of(task)()
    assert given.keys() == options_of(task).model_fields.keys()


@pytest.mark.parametrize(("task", "option"), [(task, option) for task, names in COUNTS.items() for option in names])
def test_counts_are_whole_and_at_least_one(task: str, option: str) -> None:
    for value, message in ((0, AT_LEAST_ONE), (2.5, "Input should be a valid integer"), (True, "Input should be a")):
        with pytest.raises(UserError, match=f"^task.{option}={value}: {message}"):
            checked("task", options_of(task), {option: value})


@pytest.mark.parametrize(
    ("task", "option", "value", "message"),
    [
        ("forecasting", "variables", "both", "Input should be 'multivariate' or 'univariate'"),
        ("forecasting", "split", "half", "Input should be 'fractions' or 'ett'"),
        ("lm", "vocabulary", 100, VOCABULARY),
        ("lm", "vocabulary", "words", VOCABULARY),
        ("lm", "vocabulary", True, VOCABULARY),
        ("lm", "vocabulary", 1_000_000, VOCABULARY),
        ("summarization", "vocabulary", 10**9, VOCABULARY),
        ("forecasting", "positions", "rotary", POSITIONS),
        ("lm", "positions", "alibi", "Input should be 'rotary', 'sinusoidal', 'learned' or 'none'"),
        ("lm", "column", 3, "Input should be a valid string"),
        ("mlm", "masked", 0, "Input should be greater than 0"),
        ("mlm", "masked", 1.0, "Input should be less than 1"),
        ("point_cloud", "geometric_layers", -1, "Input should be greater than or equal to 0"),
        ("point_cloud", "width", 4, "Input should be greater than or equal to 8"),
        ("recall", "vocabulary", 7, "Input should be greater than or equal to 8"),
        ("recall", "gap_power", -0.1, "Input should be greater than or equal to 0"),
        ("recall", "settings", [], "List should have at least 1 item after validation, not 0"),
        ("recall", "delay", -1, "Input should be greater than or equal to 0"),
        ("summarization", "label_smoothing", 1.0, "Input should be less than 1"),
        ("summarization", "least_length", -1, "Input should be greater than or equal to 0"),
        ("super_resolution", "factor", 1, "Input should be greater than or equal to 2"),
        ("super_resolution", "multipliers", [], "List should have at least 1 item after validation, not 0"),
        ("super_resolution", "dropout", 1.0, "Input should be less than 1"),
        ("super_resolution", "prediction", "speed", "Input should be 'noise' or 'image'"),
        ("super_resolution", "crop", "centre", "Input should be 'whole' or 'tiles'"),
        ("super_resolution", "sampling_steps", 2001, "Input should be less than or equal to 2000"),
        ("tts", "dropout", -0.1, "Input should be greater than or equal to 0"),
        ("tts", "stop_weight", 0.0, "Input should be greater than 0"),
        ("tts", "frames", 1, "no such option; it has positions, validation_clips"),
    ],
)
def test_limits_are_one_line(task: str, option: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"task.{option}={value!r}: {message}")) as error:
        checked("task", options_of(task), {option: value})
    assert "\n" not in str(error.value)


def test_limits_of_list_items_name_the_item() -> None:
    with pytest.raises(UserError, match=r"task\.contexts\.1=0: Input should be greater than 0"):
        checked("task", options_of("lm"), {"contexts": [0.5, 0]})
    with pytest.raises(UserError, match=r"task\.settings\.1=\[64\]: List should have at least 2 items"):
        checked("task", options_of("recall"), {"settings": [[32, 2], [64]]})
    with pytest.raises(UserError, match=r"task\.settings\.0\.1=0: Input should be greater than or equal to 1"):
        checked("task", options_of("recall"), {"settings": [[32, 0]]})
    with pytest.raises(UserError, match=r"task\.multipliers\.0=0: Input should be greater than or equal to 1"):
        checked("task", options_of("super_resolution"), {"multipliers": [0]})


@pytest.mark.parametrize("task", TASKS)
def test_other_patterns_are_refused(task: str) -> None:
    made = task_class(task)
    for pattern in set(Pattern) - set(made.patterns):
        context = TaskContext(pattern, SHAPE, Data(), 0, Path())
        message = f"task {task} has no pattern {pattern}: use one of {', '.join(made.patterns)}"
        with pytest.raises(ValueError, match=f"^{message}$"):
            made(context, options_of(task)())


NOT_EMBEDDED = Data("local", "somewhere")
NO_EFFECT = [
    (
        "lm",
        Pattern.CAUSAL_SELF,
        {"column": "body"},
        Data(),
        "task.column=body: has no effect with data.source=embedded",
    ),
    ("mlm", Pattern.NONCAUSAL_SELF, {"column": "body"}, NOT_EMBEDDED, "task.column=body: has no effect with"),
    (
        "summarization",
        Pattern.CAUSAL_CROSS,
        {"summary_column": "x"},
        Data(),
        "task.summary_column=x: has no effect with",
    ),
    ("summarization", Pattern.CAUSAL_CROSS, {"document_column": "x"}, Data(), "task.document_column=x: has no effect"),
    (
        "super_resolution",
        Pattern.NONCAUSAL_SELF,
        {"image_column": "x"},
        NOT_EMBEDDED,
        "task.image_column=x: has no eff",
    ),
    (
        "point_cloud",
        Pattern.NONCAUSAL_SELF,
        {"solids": 9},
        NOT_EMBEDDED,
        "task.solids=9: has no effect with data.source",
    ),
    ("forecasting", Pattern.NONCAUSAL_SELF, {"target": "x"}, Data(), "task.target=x: has no effect with variables=mul"),
    ("recall", Pattern.NONCAUSAL_CROSS, {"delay": 3}, Data(), "task.delay=3: has no effect in noncausal_cross: leave"),
    ("recall", Pattern.CAUSAL_CROSS, {"gap_power": 1.0}, Data(), "task.gap_power=1.0: has no effect in causal_cross"),
]


@pytest.mark.parametrize(("task", "pattern", "options", "data", "message"), NO_EFFECT)
def test_an_option_without_an_effect_is_refused(
    task: str, pattern: Pattern, options: dict, data: Data, message: str
) -> None:
    """It would be another cell with the same numbers."""
    shape = replace(SHAPE, memory=SHAPE.memory if task_class(task).uses_memory else 0)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        task_class(task)(TaskContext(pattern, shape, data, 0, Path()), options_of(task)(**options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", TASKS)
def test_a_memory_is_refused_where_there_is_none(task: str) -> None:
    made = task_class(task)
    assert made.uses_memory == (task in ("point_cloud", "recall", "summarization", "tts", "tts_fastspeech2"))
    if not made.uses_memory:
        context = TaskContext(made.patterns[0], SHAPE, Data(), 0, Path())
        with pytest.raises(ValueError, match=f"^memory=64: has no effect in {task}: use model.memory=0$"):
            made(context, options_of(task)())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"path": "/x"}, "data: path=/x: has no effect with data=embedded: leave it out, or use data=local"),
        ({"id": "a/b"}, "data: id=a/b: has no effect with data=embedded: leave it out, or use data=hub"),
        ({"source": "local", "path": "/x", "revision": "v1"}, "data: revision=v1: has no effect with data=local"),
        (
            {"source": "hub", "path": "/x"},
            "data: path=/x: has no effect with data=hub: leave it out, or use data=local",
        ),
    ],
)
def test_data_settings_without_an_effect_are_refused(data: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked("data", Data, data)


def test_a_task_has_to_declare_its_options() -> None:
    with pytest.raises(UserError, match=r"^task: tasks.base.Task has to be a Task with `options: MyOptions`"):
        task_factory({"_target_": "tasks.base.Task", "_partial_": True})
