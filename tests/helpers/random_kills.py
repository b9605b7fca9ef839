"""A cell that is killed (SIGKILL) at random moments until it is done: `python -m helpers.random_kills 50`.

Every moment of the cell counts alike: reading and caching data, the checks, training, evaluation, measuring. The
numbers of every record that results, and the files beside it, are compared with those of a cell that nobody killed.
Prints how many kills fell into which part, and how many cells were equal.
"""

import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import killable_runs

from cab.store.record import Record, all_records

KILLED = -signal.SIGKILL
START = 0.1
"""Of the kills, the part within the first seconds: otherwise few would fall into the preparation of data."""


@dataclass
class Tally:
    kills: Counter[str] = field(default_factory=Counter)
    """By what the cell was doing."""
    cells: int = 0
    equal: int = 0

    def __str__(self) -> str:
        parts = ", ".join(f"{count} {part}" for part, count in self.kills.most_common())
        return f"{sum(self.kills.values())} kills ({parts}); {self.equal} of {self.cells} cells equal bit for bit"


def run_cell(cell: list[str], results: Path, patch: str = "", seconds: float | None = None) -> tuple[int, float, str]:
    """Runs a cell: its exit code, or minus the signal that killed it after so many seconds; its seconds; its output."""
    results.mkdir(exist_ok=True)
    output = results / "output"
    begin = time.monotonic()
    process = killable_runs.start([f"results={results}", *cell], patch, output)
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, time.monotonic() - begin, output.read_text()


def numbers(results: Path) -> dict[str, Any]:
    """All numbers of the cell except times."""
    [record] = [r for p, r in all_records(results) if p.parent.parent.name == "quality"]
    assert isinstance(record, Record)
    found = {name: record.result[name] for name in ("metrics", "tables", "predictors", "model", "data")}
    curve = [{key: value for key, value in point.items() if key != "seconds"} for point in record.result["curve"]]
    training = {name: record.result["training"][name] for name in ("steps", "selected_step", "validation")}
    return found | {"curve": curve, "hash": record.hash} | training


def files(results: Path) -> list[str]:
    """All files of cells and of the cache, without those of a cache entry whose making was killed."""
    cells = [str(path.relative_to(results)) for path in results.glob("runs/*/*/*")]
    return sorted(cells) + sorted(path.name for path in (results / "cache").iterdir() if ".making-" not in path.name)


def part(results: Path) -> str:
    """What a cell was doing when it was killed, by what it has left."""
    if list(results.glob("runs/efficiency/*/result.json")):
        return "after measuring"
    if list(results.glob("runs/quality/*/result.json")):
        return "measuring"
    if list(results.glob("runs/quality/*/checkpoint.pt")):
        return "training or evaluating"
    if list(results.glob("runs/quality/*")):
        return "before the first checkpoint"
    return "preparing data"


def kill_at_random(cell: list[str], undisturbed: Path, folder: Path, kills: int, seed: int = 0) -> Iterator[Tally]:
    """Runs the cell in new results folders, and kills it, until there were so many kills; a tally after every cell."""
    draw, tally = random.Random(seed), Tally()
    known = undisturbed / "runs" / "checks"
    shutil.copytree(known, folder / "first" / "runs" / "checks")
    code, longest, output = run_cell(cell, folder / "first")  # with imports that are warm
    assert code == 0, output
    while sum(tally.kills.values()) < kills:
        results, code = folder / str(tally.cells), KILLED
        shutil.copytree(known, results / "runs" / "checks")
        while code == KILLED:
            moment = draw.uniform(0, longest * (START if draw.random() < 0.25 else 1.0))
            code, took, output = run_cell(cell, results, seconds=moment)
            if code == KILLED:
                tally.kills[part(results)] += 1
        longest = min(longest, 1.5 * took)  # the machine may be less busy now
        assert code == 0, output
        tally.cells += 1
        tally.equal += numbers(results) == numbers(undisturbed) and files(results) == files(undisturbed)
        shutil.rmtree(results)
        yield tally


def main(kills: int, make: Callable[[Path], list[str]]) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cell = make(folder / "text")
        code, _, output = run_cell(cell, folder / "undisturbed")
        assert code == 0, output
        for tally in kill_at_random(cell, folder / "undisturbed", folder, kills):
            print(tally, flush=True)
    return int(tally.equal < tally.cells)


if __name__ == "__main__":
    from test_resume import cell_on_text

    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, cell_on_text))
