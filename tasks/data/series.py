"""Regular time series of several channels: sources, splits, scaling and time features.

embedded   a synthetic series (`tasks.data.synthetic_series`)
local      a CSV file (also .csv.gz) with a `date` column and otherwise numbers, one row per step, without gaps: the
           layout of ETTh1, ECL and Weather (Zhou et al., AAAI 2021, arXiv 2012.07436)

Splits follow the order of time. `ett` is the one published for ETT: 12, 4 and 4 months of 30 days, the rest unused;
`fractions` the one for all others: 70%, 10%, 20%. Channels are standardised by mean and standard deviation of the train
part alone; a channel that is constant there, or that leaves it by a million deviations, is refused.
"""

import csv
import gzip
import hashlib
import io
import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from tasks.base import Data, Split
from tasks.data import synthetic_series
from tasks.data.files import given_path
from tasks.data.progress import announced

SplitKind = Literal["fractions", "ett"]
ETT_MONTHS = (12, 4, 4)
TRAIN_SHARE, TEST_SHARE = 0.7, 0.2
DATE = "date"
WANTED = f"give a CSV (or .csv.gz) with a {DATE!r} column and columns of numbers"
ZONE = r"\d:\d\d(?::\d\d(?:\.\d+)?)?\s*(Z|UTC|[+-]\d\d:?\d\d)$"
"""The time zone at the end of a date with a time."""
ROUNDING = 1e-12
"""A channel that varies less, relative to its largest value, varies by rounding only."""
MOST_DEVIATIONS = 1e6
"""Beyond it, a channel was as good as constant in train, and an error of it would hide all others."""
HOUR, DAY, MONTH = 3600, 24 * 3600, 30 * 24 * 3600
"""In seconds."""


@dataclass(frozen=True)
class Series:
    description: str
    real: bool
    content: str
    """SHA-256 of names, dates and values; of the generator's version for synthetic data."""
    columns: tuple[str, ...]
    dates: np.ndarray
    """(T,) datetime64 in seconds, evenly spaced."""
    values: np.ndarray
    """(T, C) float64."""

    @property
    def step(self) -> int:
        """Seconds between two rows."""
        return int((self.dates[1] - self.dates[0]).astype(np.int64))


def series(data: Data) -> Series:
    """The series of the data source."""
    if data.source == "embedded":
        columns, dates, values = synthetic_series.seasonal()
        content = hashlib.sha256(f"seasonal {synthetic_series.VERSION}".encode()).hexdigest()
        return Series("synthetic seasonal series", False, content, columns, dates, values)
    if data.source == "local":
        return read_csv(data.path)
    raise ValueError(f"data.source={data.source}: forecasting has none: use data=local data.path=FILE.csv, or embedded")


def read_csv(path: str | None) -> Series:
    """The series in a CSV file, checked. Rows are counted from 1, without the header."""
    where = f"data.path={path}"
    file = given_path(path)
    if not path or not file.exists():
        raise ValueError(f"{where}: no such file: {WANTED}")
    if not file.is_file():
        raise ValueError(f"{where}: not a file: {WANTED}")
    with announced(f"reading {file.name}"):
        table = _table(where, _text(where, file))
    dates = _dates(where, table[DATE])
    numbers = table.drop(columns=DATE)
    if numbers.empty:
        raise ValueError(f"{where}: no column besides {DATE!r}: add the series to forecast")
    columns = tuple(map(str, numbers))
    values = np.stack([_numbers(where, str(name), column) for name, column in numbers.items()], 1)
    digest = hashlib.sha256("\0".join(columns).encode())
    digest.update(dates.astype("<i8").tobytes())
    digest.update(values.astype("<f8").tobytes())
    return Series("local CSV", True, digest.hexdigest(), columns, dates, values)


def _text(where: str, file: Path) -> str:
    try:
        raw = file.read_bytes()
        raw = gzip.decompress(raw) if file.suffix == ".gz" else raw
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise ValueError(f"{where}: not readable by gzip: make or copy it again") from None
    except OSError as error:
        raise ValueError(f"{where}: not readable ({error.strerror}): make it readable") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 (byte {error.start}): save it as a CSV in UTF-8") from None
    if not text.strip():
        raise ValueError(f"{where}: empty: {WANTED}")
    if "\0" in text:
        raise ValueError(f"{where}: has a zero byte at character {text.index(chr(0))}: save it as a CSV again")
    return text


def _table(where: str, text: str) -> pd.DataFrame:
    try:
        rows = csv.reader(io.StringIO(text))
        names, first = next(rows), next(rows, [])
    except csv.Error:
        raise ValueError(f"{where}: not readable as CSV: check its quotes and commas") from None
    for name in names:
        if not name.strip():
            needed = "write it without an index (index=False in pandas), or give the column a name"
            raise ValueError(f"{where}: column {names.index(name) + 1} has no name: {needed}")
        if names.count(name) > 1:
            raise ValueError(f"{where}: several columns are named {name!r}: rename them")
    if len(first) > len(names):  # pandas would take the first as an index
        raise ValueError(f"{where}: rows have {len(first)} columns, the header {len(names)}: name all of them")
    if DATE not in names:
        advice = "separate columns by commas" if len(names) < 2 else "name the dates so"
        raise ValueError(f"{where}: no column {DATE!r} (it has {', '.join(names)}): {advice}")
    try:
        table = pd.read_csv(io.StringIO(text), low_memory=False)
    except ValueError as error:  # what pandas raises for all that is no table
        if wider := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error)):
            expected, line, found = wider.groups()
            raise ValueError(f"{where}: line {line} has {found} columns, not {expected}: repair it") from None
        raise ValueError(f"{where}: not readable as CSV: check its quotes and commas") from None
    if len(table) < 2:
        raise ValueError(f"{where}: {len(table)} rows: a series needs more")
    return table


def _dates(where: str, column: "pd.Series[str]") -> np.ndarray:
    written = column.astype("string")
    zone = written.str.extract(ZONE, expand=False).fillna("none")
    if (zone != zone[0]).any():
        row = int((zone != zone[0]).to_numpy().argmax())
        zones = f"another time zone ({zone[row]}) than the rows before ({zone[0]})"
        raise ValueError(f"{where}: row {row + 1}: {column[row]!r} has {zones}: write all dates in one, such as UTC")
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that a format cannot be guessed
        parsed = pd.to_datetime(written, errors="coerce")
    if parsed.isna().any():
        row = int(parsed.isna().to_numpy().argmax())
        shown = repr(column[row]) if isinstance(column[row], str) else column[row]
        raise ValueError(f"{where}: row {row + 1}: {shown} is no date like the others: use YYYY-MM-DD HH:MM:SS")
    if parsed.dt.tz is not None:
        parsed = parsed.dt.tz_localize(None)
    fractions = (parsed != parsed.dt.floor("s")).to_numpy()
    if fractions.any():
        row = int(fractions.argmax())
        raise ValueError(f"{where}: row {row + 1}: {column[row]} has a part of a second: dates need whole seconds")
    dates = parsed.to_numpy().astype("datetime64[s]")
    steps = np.diff(dates).astype(np.int64)
    usual = int(np.median(steps))
    if (steps <= 0).any():
        row = int((steps <= 0).argmax())
        how = "comes twice" if steps[row] == 0 else "is earlier than the row before"
        raise ValueError(f"{where}: row {row + 2}: {column[row + 1]} {how}: one row per step, in the order of time")
    if (steps != usual).any():
        row = int((steps != usual).argmax())
        raise ValueError(
            f"{where}: row {row + 2}: {column[row + 1]} is {pd.Timedelta(steps[row], 's')} after the row before, "
            f"elsewhere {pd.Timedelta(usual, 's')}: fill the gaps, or resample"
        )
    return dates


def _numbers(where: str, name: str, column: "pd.Series[float]") -> np.ndarray:
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    finite = np.isfinite(values)
    if not finite.all():
        row = int(finite.argmin())
        found = column.iloc[row]
        missing = pd.isna(found)
        advice = "fill it" if missing else "remove the column, or make it numeric"
        shown = "no value" if missing else f"{found!r} is no finite number"
        raise ValueError(f"{where}: column {name!r}, row {row + 1}: {shown}: {advice}")
    return values


def split_parts(series: Series, kind: SplitKind) -> dict[Split, tuple[int, int]]:
    """First row of each part and the row after its last."""
    steps = len(series.dates)
    if kind == "ett":
        ends = (np.cumsum(ETT_MONTHS) * MONTH // series.step).tolist()
        if ends[-1] > steps:
            raise ValueError(f"split=ett: 20 months are {ends[-1]:,} steps, the series has {steps:,}: use fractions")
    else:
        train, test = int(TRAIN_SHARE * steps), int(TEST_SHARE * steps)
        ends = [train, steps - test, steps]
    return {"train": (0, ends[0]), "validation": (ends[0], ends[1]), "test": (ends[1], ends[2])}


def standardised(series: Series, train: tuple[int, int]) -> np.ndarray:
    """(T, C) float32: mean 0 and standard deviation 1 over the rows `train`.

    Values are brought to [0, 1] before squares are taken, which keeps all digits of a channel far from 0.
    """
    own = series.values[slice(*train)]
    low, high = own.min(0), own.max(0)
    with np.errstate(over="ignore"):
        spread = high - low
    largest = np.maximum(np.abs(low), np.abs(high))
    for place in np.flatnonzero((spread <= ROUNDING * largest) | ~np.isfinite(spread)):
        how = "is constant" if np.isfinite(spread[place]) else "spans more than a number can hold"
        shown = f"{low[place]:.13g} to {high[place]:.13g}"
        name = series.columns[place]
        raise ValueError(f"column {name!r} {how} in the train part ({shown}): it cannot be standardised: remove it")
    scaled = (series.values - low) / spread
    mean, deviation = scaled[slice(*train)].mean(0), scaled[slice(*train)].std(0)
    values = (scaled - mean) / deviation
    if not np.abs(values).max() <= MOST_DEVIATIONS:
        row, place = np.unravel_index(np.abs(values).argmax(), values.shape)
        found = f"{series.values[row, place]:g} is {abs(values[row, place]):.2g} standard deviations of the train part"
        name = series.columns[place]
        raise ValueError(f"column {name!r}, row {row + 1}: {found} from its mean: correct it, or remove the column")
    return values.astype(np.float32)


def time_features(series: Series) -> np.ndarray:
    """(T, F) float32 in [-0.5, 0.5], as in Informer's published code: hour of the day, day of the week, of the month
    and of the year; before them, for steps below an hour, the minute of the hour."""
    dates = pd.DatetimeIndex(series.dates)
    features = [dates.hour / 23, dates.day_of_week / 6, (dates.day - 1) / 30, (dates.day_of_year - 1) / 365]
    if series.step < HOUR:
        features.insert(0, dates.minute / 59)
    return np.stack([np.asarray(feature, np.float32) - np.float32(0.5) for feature in features], 1)
