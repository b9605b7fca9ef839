"""The costs of a cell in Weights & Biases, with their figure, which W&B cannot draw by itself as it does curves."""

from cab.config import Request
from cab.quality.tracker import Tracker
from cab.report.figures import costplot
from cab.store.record import Record


def mirror_costs(request: Request, record: Record) -> None:
    tracker = Tracker(request.tracking, record.cell, request.resolved, record.hash, request.results)
    tracker.finish(record, None if request.tracking.mode == "disabled" else costplot.costs([record]))
