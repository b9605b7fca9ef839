"""The efficiency of a cell in Weights & Biases, with its figure, which W&B cannot draw by itself."""

from cab.config import Request
from cab.quality.tracker import Tracker
from cab.report.figures import lengths
from cab.store.record import Record


def mirror_costs(request: Request, record: Record) -> None:
    tracker = Tracker(request.tracking, record.cell, request.resolved, record.hash, request.results)
    drawn = request.tracking.mode != "disabled" and bool(lengths.measured_rows(record))
    tracker.finish(record, lengths.draw([record]) if drawn else None)
