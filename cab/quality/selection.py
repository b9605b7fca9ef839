"""Which weights of a training are tested, and whether a validation ends it. Only the validation split has a say.

    select=last   the weights of the last step
    select=best   those of the validation with the best headline metric, of several the earliest

A copy of the best weights so far is kept on the CPU and is part of every checkpoint. Of several processes rank 0, which
evaluates, has it.
"""

from typing import Any

from torch import nn

from cab.config import Training
from tasks.base import Metric


class Selection:
    """What rank 0 knows of the validations so far."""

    def __init__(self, training: Training, metric: Metric) -> None:
        self.keeps_best, self.stop_at, self.metric = training.select == "best", training.stop_at, metric
        self.step: int | None = None
        """Of the selected weights; None before the first validation."""
        self.validation: float | None = None
        """The headline metric on validation at that step."""
        self._weights: dict[str, Any] | None = None

    def update(self, step: int, validation: float, model: nn.Module) -> bool:
        """Takes note of a validation. Returns whether the training ends with it."""
        if not self.keeps_best or self.validation is None or self._is_better(validation, self.validation):
            self.step, self.validation = step, validation
            if self.keeps_best:
                self._weights = {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}
        return self.stop_at is not None and (validation == self.stop_at or self._is_better(validation, self.stop_at))

    def load_into(self, model: nn.Module) -> None:
        """Gives the model the selected weights, if they are not those of the last step."""
        if self._weights is not None:
            model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "validation": self.validation, "weights": self._weights}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.step, self.validation, self._weights = saved["step"], saved["validation"], saved["weights"]

    def _is_better(self, value: float, than: float) -> bool:
        """A value that is not a number is never better, and every number is better than it."""
        if than != than:
            return value == value
        return value > than if self.metric.better == "higher" else value < than
