"""The efficiency of a cell in Weights & Biases, with its figure, which W&B cannot draw by itself."""

from cab.config import Request
from cab.quality.tracker import Tracker
from cab.store.record import Record


def mirror_costs(request: Request, record: Record) -> None:
    tracker = Tracker(request.tracking, record.cell, request.resolved, record.hash, request.results)
    figure = None
    if request.tracking.mode != "disabled":
        from cab.report.figures import lengths

        figure = lengths.draw([record]) if lengths.measured_rows(record) else None
    tracker.finish(record, figure)
