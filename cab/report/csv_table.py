"""CSV files from dataclasses: the columns of a row are its fields.

field                     columns
mean: Estimate | None     mean, mean_low, mean_high
from: Crossing | None     from, from_length, from_bound
a dataclass               its own columns
anything else             itself
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from cab.report.efficiency import Crossing
from cab.report.stats import Estimate
from cab.store.record import write_atomically


def columns(row: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(type(row)).items():
        value, kinds = getattr(row, name), (hint, *get_args(hint))
        if Estimate in kinds:
            low, high = value.interval if value and value.interval else (None, None)
            found |= {name: value.value if value else None, f"{name}_low": low, f"{name}_high": high}
        elif Crossing in kinds:
            found[name] = value.text if value else None
            found[f"{name}_length"] = value.value if value else None
            found[f"{name}_bound"] = value.bound if value else None
        elif is_dataclass(value):
            found |= columns(value)
        else:
            found[name] = value
    return found


def write_csv(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    import pandas as pd

    table = pd.DataFrame(list(rows), dtype=object)  # whole numbers stay whole
    write_atomically(path, table.to_csv(index=False).encode())
