"""The store: what is there of a cell, and who may write it. All commands that run or plan cells ask here.

state, request_state    what is there of a cell; these only read
claim                   the right to run a cell, which one process has at a time
write                   the record, at the end of a claim
"""

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from cab.config import Request, user_errors
from cab.errors import UserError
from cab.machine import set_allocator
from cab.store.checkpoint import ANEW, CHECKPOINT, Checkpoint
from cab.store.identity import CellKey, efficiency_key, quality_key
from cab.store.lock import LOCK, Busy, holder, locked
from cab.store.record import DamagedRecord, Record, Status, read_record, record_path, remove_unfinished
from tasks.data.set_aside import in_the_way, make_folder, make_way, set_aside

MEASURED: tuple[Status, ...] = ("ok", "diverged")
"""The efficiency of a cell is measured if its training ended so."""


class State(StrEnum):
    """DONE and UNSUPPORTED cells are done, LEFT_OUT ones cannot run, and all others are to run."""

    DONE = "done"
    UNSUPPORTED = "unsupported"
    LEFT_OUT = "left out"
    """The task has no such pattern. Found when the request is composed, not by the store."""
    NOT_MEASURED = "to measure"
    STALE = "stale data"
    NO_DATA = "no data"
    """There is a record, but its data cannot be read."""
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    DAMAGED = "damaged record"
    NEW = "new"


@dataclass(frozen=True)
class CellState:
    state: State
    detail: str = ""
    """Why, or who runs it; one line."""
    record: Record | None = None
    """The record of a cell that is done."""

    def __str__(self) -> str:
        if self.state is State.RUNNING:
            return f"being run by {self.detail}"
        return f"{self.state}: {self.detail}" if self.detail else str(self.state)


@dataclass(frozen=True)
class Outcome:
    """What a function that runs a cell returns."""

    record: Record
    was_done: bool
    """Whether the record was there already, so that nothing was run."""


class Store:
    """The cells of a results folder. With `rerun`, a cell that is done counts as new."""

    def __init__(self, results: Path, rerun: bool = False) -> None:
        self.results, self.rerun = results, rerun
        self._contents: dict[str, str | UserError] = {}

    def request_state(self, request: Request, device: torch.device) -> CellState:
        """What is there of the cell of `cab.run`: its training and, if the request asks for it, its efficiency.

        Prepares the data of a cell that has a record, once for all requests that share it, to compare the content.
        """
        key = quality_key(request, device)
        found = self._read(key)
        content = None
        if isinstance(found, Record) and found.final and not self.rerun:
            try:
                content = self._content(request)
            except UserError as error:
                return CellState(State.NO_DATA, str(error))
        trained = self._unless_running(key, self._state(key, found, content))
        if trained.record is None or not wants_efficiency(request, trained.record):
            return trained
        measured = self.state(efficiency_key(request, device, set_allocator()))
        if measured.record is not None:
            return trained
        detail = "trained, efficiency not measured"
        return CellState(State.NOT_MEASURED, detail if measured.state is State.NEW else f"{detail} ({measured})")

    def state(self, key: CellKey, content: str | None = None) -> CellState:
        """What is there of one cell. `content` is the hash of its data, None if it has none."""
        return self._unless_running(key, self._state(key, self._read(key), content))

    @contextmanager
    def claim(self, key: CellKey, content: str | None = None, wait: str = "") -> Iterator[CellState]:
        """The right to run a cell, and its state; another process may have finished it meanwhile.

        Removes unfinished files and a checkpoint that a record left over, and sets aside a damaged record and whatever
        lies where a file or folder of the cell belongs. Raises Busy if another process has the cell; given `wait`,
        prints that and who it is, and waits.
        """
        folder = self._folder(key)
        make_folder(folder, self.results)
        make_way(folder / LOCK, "file", os.R_OK | os.W_OK, links=False)
        with locked(folder / LOCK, wait):
            remove_unfinished(folder)
            make_way(folder / CHECKPOINT, "file", os.R_OK, then=ANEW)
            found = self._read(key)
            if self._checkpoint(key, found).is_left_over():
                (folder / CHECKPOINT).unlink()
            state = self._state(key, found, content)
            if state.state is State.DAMAGED:
                set_aside(self._path(key), state.detail, "the cell runs again")
            elif state.state is State.STALE:
                print("the data changed since this cell was trained: it runs again")
            yield state

    def checkpoint(self, key: CellKey, origin: str) -> Checkpoint:
        """The checkpoint of a cell, to be used under its claim. `origin` is explained there."""
        return self._checkpoint(key, self._read(key), origin)

    def write(self, record: Record) -> None:
        """Writes the record of a cell and, if it is final, removes its checkpoint. Only under the cell's claim."""
        path = record.write(self.results)
        if record.final:
            path.with_name(CHECKPOINT).unlink(missing_ok=True)

    def remove_checkpoint_left_over(self, key: CellKey, record: Record) -> None:
        """Removes a checkpoint of a cell that is done: the run was killed between `write`'s two steps."""
        if self._checkpoint(key, record).is_left_over():
            with contextlib.suppress(Busy), self.claim(key):
                pass

    def _state(self, key: CellKey, found: Record | DamagedRecord | None, content: str | None) -> CellState:
        """The state, except that it does not say whether another process runs the cell."""
        state = self._state_of_record(found, content)
        if state.state not in (State.NEW, State.STALE):
            return state
        checkpoint = self._checkpoint(key, found)
        has_checkpoint = checkpoint.path.is_file() and not checkpoint.is_left_over()
        return CellState(State.INTERRUPTED) if has_checkpoint else state

    def _state_of_record(self, found: Record | DamagedRecord | None, content: str | None) -> CellState:
        if found is None:
            return CellState(State.NEW)
        if isinstance(found, DamagedRecord):
            return CellState(State.DAMAGED, str(found))
        if not found.final:
            return CellState(State.FAILED, f"{found.status}: {found.reason}")
        if self.rerun:
            return CellState(State.NEW, "rerun=true")
        if content is not None and _content_of(found) not in (None, content):
            return CellState(State.STALE)
        if found.status == "unsupported":
            return CellState(State.UNSUPPORTED, found.reason, found)
        return CellState(State.DONE, "" if found.status == "ok" else f"{found.status}: {found.reason}", found)

    def _unless_running(self, key: CellKey, state: CellState) -> CellState:
        if state.record is not None:
            return state
        who = holder(self._folder(key) / LOCK)
        return state if who is None else CellState(State.RUNNING, who)

    def _read(self, key: CellKey) -> Record | DamagedRecord | None:
        path = self._path(key)
        for folder in reversed(path.relative_to(self.results).parents):
            if what := in_the_way(self.results / folder, "folder", os.X_OK):
                return DamagedRecord(f"{self.results / folder}: {what}")
        try:
            record = read_record(path)
        except FileNotFoundError:
            return None
        except DamagedRecord as error:
            return error
        same_cell = all(record.cell.get(name, value) == value for name, value in key.cell.items())
        if (record.kind, record.hash) != (key.kind, key.hash) or not same_cell:
            return DamagedRecord(f"the record of another cell, {record.kind} {record.hash}")
        return record

    def _checkpoint(self, key: CellKey, found: Record | DamagedRecord | None, origin: str = "") -> Checkpoint:
        beside = found.digest if isinstance(found, Record) and found.final else ""
        return Checkpoint(self._folder(key) / CHECKPOINT, origin, key.hash, beside)

    def _content(self, request: Request) -> str:
        """The hash of the request's data. Raises UserError where it cannot be read."""
        options = {name: request.resolved[name] for name in ("pattern", "task", "data", "model")}
        data = json.dumps([request.task, options], sort_keys=True)
        if data not in self._contents:
            try:
                with user_errors():
                    self._contents[data] = request.build_task().prepare().content
            except UserError as error:
                self._contents[data] = error
        content = self._contents[data]
        if isinstance(content, UserError):
            raise content
        return content

    def _path(self, key: CellKey) -> Path:
        return record_path(self.results, key.kind, key.hash)

    def _folder(self, key: CellKey) -> Path:
        return self._path(key).parent


def wants_efficiency(request: Request, quality: Record) -> bool:
    """Whether a request wants the efficiency of its cell measured, given how the training ended."""
    return request.measure and quality.status in MEASURED


def _content_of(record: Record) -> str | None:
    """The hash of the data that a record is of; None if its cell ended before there was any."""
    content: str | None = record.result.get("data", {}).get("content")
    return content
