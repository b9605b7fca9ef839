"""Series: bad files are named in one line, splits are the published ones, nothing of the future reaches the scaling."""

import codecs
import gzip
import math
import os
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.base import Data
from tasks.data import synthetic_series
from tasks.data.series import Series, read_csv, series, split_parts, standardised, time_features

HOUR = 3600


def table(rows: int = 48, freq: str = "h", start: str = "2016-07-01") -> pd.DataFrame:
    rng = np.random.default_rng(0)
    dates = pd.date_range(start, periods=rows, freq=freq).strftime("%Y-%m-%d %H:%M:%S")
    return pd.DataFrame({"date": dates, "load": rng.normal(size=rows), "OT": 3 + 2 * rng.normal(size=rows)})


def write(tmp_path: Path, frame: pd.DataFrame, name: str = "series.csv") -> str:
    frame.to_csv(tmp_path / name, index=False)
    return str(tmp_path / name)


def made(steps: int, step: int = HOUR, channels: int = 2) -> Series:
    dates = np.datetime64("2016-07-01T00:00:00") + np.arange(steps) * np.timedelta64(step, "s")
    values = np.random.default_rng(0).normal(2, 3, (steps, channels))
    return Series("made", False, "", tuple("abcdefgh"[:channels]), dates, values)


def test_a_csv_is_read_as_it_is(tmp_path: Path) -> None:
    frame = table()
    found = series(Data("local", write(tmp_path, frame)))
    assert (found.columns, found.real, found.step) == (("load", "OT"), True, HOUR)
    np.testing.assert_allclose(found.values, frame[["load", "OT"]])
    assert str(found.dates[25]) == "2016-07-02T01:00:00"


def test_content_is_of_what_is_in_the_file(tmp_path: Path) -> None:
    plain = Path(write(tmp_path, table()))
    packed = tmp_path / "packed.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    changed = table()
    changed.loc[7, "load"] += 1e-6
    renamed, later = table().rename(columns={"load": "lord"}), table(start="2016-07-02")
    others = [write(tmp_path, frame, f"{i}.csv") for i, frame in enumerate([changed, renamed, later])]
    contents = [read_csv(str(path)).content for path in (plain, packed, *others)]
    assert contents[0] == contents[1]
    assert len(set(contents)) == 4


def test_dates_as_spreadsheets_write_them(tmp_path: Path) -> None:
    frame = table(24 * 40)
    stamps = pd.to_datetime(frame["date"])
    frame["date"] = [f"{d.month}/{d.day}/{d.year} {d.hour}:{d.minute:02}" for d in stamps]
    np.testing.assert_array_equal(read_csv(write(tmp_path, frame)).dates, stamps.to_numpy().astype("datetime64[s]"))


def without(frame: pd.DataFrame, *rows: int) -> pd.DataFrame:
    return frame.drop(index=list(rows)).reset_index(drop=True)


def changed(column: str, row: int, value: object) -> pd.DataFrame:
    frame = table().astype({column: object})
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (table().rename(columns={"date": "time"}), r"no column 'date' \(it has time, load, OT\): name the dates so"),
        (table()[["date"]], "no column besides 'date': add the series"),
        (table(1), "1 rows: a series needs more"),
        (changed("date", 5, "soon"), "row 6: 'soon' is no date like the others"),
        (changed("date", 0, "31/31/2016"), "row 1: '31/31/2016' is no date like the others"),
        (changed("date", 9, None), "row 10: nan is no date like the others"),
        (
            without(table(), 1),
            "row 2: 2016-07-01 02:00:00 is 0 days 02:00:00 after the row before, elsewhere 0 days 01",
        ),
        (without(table(), 30, 31), "row 31: 2016-07-02 08:00:00 is 0 days 03:00:00 after the row before"),
        (changed("date", 5, "2016-07-01 05:20:00"), "row 6: 2016-07-01 05:20:00 is 0 days 01:20:00 after"),
        (changed("date", 5, "2016-07-01 04:00:00"), "row 6: 2016-07-01 04:00:00 comes twice: one row per step"),
        (table()[::-1], "row 2: 2016-07-02 22:00:00 is earlier than the row before"),
        (changed("load", 3, "broken"), "column 'load', row 4: 'broken' is no finite number: remove the column"),
        (changed("OT", 47, None), "column 'OT', row 48: no value: fill it"),
        (changed("OT", 2, "inf"), "column 'OT', row 3: .*inf.* is no finite number"),
    ],
)
def test_bad_files(tmp_path: Path, frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read_csv(write(tmp_path, frame))
    assert str(raised.value).startswith(f"data.path={tmp_path}")
    assert "\n" not in str(raised.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    for name in (None, str(tmp_path / "absent.csv")):
        with pytest.raises(ValueError, match="no such file: give a CSV"):
            read_csv(name)
    os.mkfifo(tmp_path / "fifo.csv")
    for name in (str(tmp_path), str(tmp_path / "fifo.csv")):
        with pytest.raises(ValueError, match="not a file: give a CSV"):
            read_csv(name)
    with pytest.raises(ValueError, match=r"data\.source=hub: forecasting has none: use data=local"):
        series(Data("hub"))


CSV = table().to_csv(index=False).encode()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "empty: give a CSV"),
        (b"date,OT\n" * 1000, "no column.*|row 1: 'date' is no date"),
        (CSV.decode().encode("utf-16"), r"not UTF-8 \(byte 0\): save it as a CSV in UTF-8"),
        (CSV.replace(b",OT", b",Gr\xfc\xdfe"), r"not UTF-8 \(byte 12\): save it"),
        (CSV + bytes(9), "has a zero byte at character"),
        (CSV.replace(b",", b";"), r"no column 'date' \(it has date;load;OT\): separate columns by commas"),
        (CSV.replace(b"load", b"OT", 1), "several columns are named 'OT': rename them"),
        (CSV + b"2020-01-01,1,2,3,4\n", "line 50 has 5 columns, not 3: repair it"),
        (
            b"date,a\n" + b"".join(b"%d,2020-01-01 0%d:00:00,1\n" % (i, i) for i in range(9)),
            "rows have 3 columns, the header 2: name all",
        ),
        (b'date,OT\n2020-01-01,1\n2020-01-02,"2', "not readable as CSV: check its quotes and commas"),
        (
            table().to_csv().encode(),
            r"column 1 has no name: write it without an index \(index=False in pandas\), or give",
        ),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, raw: bytes, message: str) -> None:
    for name, content in (("series.csv", raw), ("series.csv.gz", gzip.compress(raw))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as raised:
            read_csv(str(tmp_path / name))
        assert "\n" not in str(raised.value)
        assert not re.search("codec|tokenizing|utc=True|pandas error", str(raised.value))


def test_torn_and_false_gzip(tmp_path: Path) -> None:
    for raw in (gzip.compress(CSV)[:-9], CSV, gzip.compress(CSV)[:30] + b"x" * 30):
        (tmp_path / "series.csv.gz").write_bytes(raw)
        with pytest.raises(ValueError, match="not readable by gzip: make or copy it again"):
            read_csv(str(tmp_path / "series.csv.gz"))


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "marked.csv").write_bytes(codecs.BOM_UTF8 + CSV)
    assert read_csv(str(tmp_path / "marked.csv")).content == read_csv(write(tmp_path, table())).content


def test_one_time_zone_is_read_as_local_time_and_several_are_refused(tmp_path: Path) -> None:
    plain = read_csv(write(tmp_path, table()))
    for zone in ("+02:00", "-0330", "Z"):
        frame = table().assign(date=table()["date"] + zone)
        np.testing.assert_array_equal(read_csv(write(tmp_path, frame)).dates, plain.dates)
    frame.loc[30:, "date"] = table()["date"][30:] + "+01:00"
    with pytest.raises(ValueError, match=r"row 31: '.*\+01:00' has another time zone \(\+01:00\) than "):
        read_csv(write(tmp_path, frame))
    frame.loc[30:, "date"] = table()["date"][30:]
    with pytest.raises(ValueError, match=r"row 31: .* has another time zone \(none\) than the rows before "):
        read_csv(write(tmp_path, frame))


@pytest.mark.parametrize("step", ["100ms", "1500ms"])
def test_parts_of_a_second_are_refused(tmp_path: Path, step: str) -> None:
    stamps = pd.date_range("2016-07-01", periods=48, freq=step).strftime("%Y-%m-%d %H:%M:%S.%f")
    with pytest.raises(ValueError, match=r"row 2: 2016-07-01 .* has a part of a second: dates need whole seconds"):
        read_csv(write(tmp_path, table().assign(date=stamps)))


def test_numbers_are_no_dates(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 1: 1467331200 is no date like the others: use YYYY-MM-DD"):
        read_csv(write(tmp_path, table().assign(date=1467331200 + HOUR * np.arange(48))))


def test_published_split_of_ett() -> None:
    """The rows in Informer's data loader, hourly and for steps of a quarter of an hour."""
    hourly = split_parts(made(17_420), "ett")
    assert hourly == {"train": (0, 8640), "validation": (8640, 11_520), "test": (11_520, 14_400)}
    quarters = split_parts(made(69_680, HOUR // 4), "ett")
    assert quarters == {"train": (0, 34_560), "validation": (34_560, 46_080), "test": (46_080, 57_600)}
    with pytest.raises(ValueError, match="split=ett: 20 months are 14,400 steps, the series has 14,399: use fractions"):
        split_parts(made(14_399), "ett")


@pytest.mark.parametrize("steps", [10, 101, 35_064])
def test_fractions_cover_everything_once(steps: int) -> None:
    parts = split_parts(made(steps), "fractions")
    assert parts["train"][0] == 0
    assert parts["train"][1] == int(0.7 * steps) == parts["validation"][0]
    assert parts["validation"][1] == steps - int(0.2 * steps) == parts["test"][0]
    assert parts["test"][1] == steps


def test_scaling_knows_the_train_part_only() -> None:
    whole = made(100)
    train = standardised(whole, (0, 70))
    np.testing.assert_allclose(train[:70].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(train[:70].std(0), 1, rtol=1e-6)
    whole.values[70:] = 1000
    np.testing.assert_array_equal(standardised(whole, (0, 70))[:70], train[:70])


def channel(train: np.ndarray, later: np.ndarray) -> Series:
    """Two channels, the second as given."""
    whole = made(len(train) + len(later))
    whole.values[:, 1] = np.concatenate([train, later])
    return whole


@pytest.mark.parametrize("value", [0.0, 1.0, 4.0, 0.1, -0.1, 1 / 3, 1e8, 1e-300, 1e300])
@pytest.mark.parametrize("noise", [0.0, 1e-16])
def test_a_constant_channel_is_refused_whatever_its_value(value: float, noise: float) -> None:
    """Rounding leaves most constants a deviation that is not 0, and the mean another value than theirs."""
    constant = value + noise * value * (np.arange(70) % 3)
    for later in (constant[:30], np.full(30, value + 0.1)):
        with pytest.raises(ValueError, match=r"column 'b' is constant in the train part .*: remove it") as raised:
            standardised(channel(constant, later), (0, 70))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("centre", [0.1, 1e8])
@pytest.mark.parametrize("relative", [1e-3, 1e-6, 1e-9])
def test_a_channel_far_from_zero_is_scaled_exactly(centre: float, relative: float) -> None:
    """Against rational arithmetic."""
    values = centre * (1 + relative * np.random.default_rng(3).normal(size=100))
    exact = [Fraction(value) for value in values.tolist()]
    mean = sum(exact[:70]) / 70
    deviation = math.sqrt(sum((value - mean) ** 2 for value in exact[:70]) / 70)
    wanted = [float(value - mean) / deviation for value in exact]
    found = standardised(channel(values[:70], values[70:]), (0, 70))[:, 1]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-300, 1e300])
def test_tiny_and_huge_channels_are_scaled_as_others(factor: float) -> None:
    steps = np.arange(100) % 5 - 2.0
    found = standardised(channel(factor * steps[:70], factor * steps[70:]), (0, 70))[:, 1]
    np.testing.assert_allclose(found, steps / math.sqrt(2), rtol=1e-6)


def test_a_channel_that_leaves_what_it_was_in_train_is_refused() -> None:
    train = 0.1 + 1e-10 * (np.arange(70) % 2)
    message = r"column 'b', row 75: 0\.2 is 2e\+09 standard deviations of the train part from its mean: correct it"
    with pytest.raises(ValueError, match=message):
        standardised(channel(train, np.array([0.1] * 4 + [0.2] + [0.1] * 25)), (0, 70))


def test_time_features_by_hand() -> None:
    found = made(24 * 400)  # from Friday, 1 July 2016
    features = time_features(found)
    assert features.shape == (24 * 400, 4)
    np.testing.assert_allclose(features[0], [-0.5, 4 / 6 - 0.5, -0.5, 182 / 365 - 0.5], atol=1e-6)
    np.testing.assert_allclose(features[24 * 2 + 23], [0.5, 0.5, 2 / 30 - 0.5, 184 / 365 - 0.5], atol=1e-6)
    assert np.abs(features).max() == 0.5
    quarters = time_features(made(100, HOUR // 4))
    assert quarters.shape == (100, 5)
    np.testing.assert_allclose(quarters[:5, 0], [m / 59 - 0.5 for m in (0, 15, 30, 45, 0)], atol=1e-6)
    np.testing.assert_allclose(quarters[::4, 1:], features[:25], atol=1e-6)


def test_the_generator_is_pinned() -> None:
    """Other values need another VERSION: results on both would be mixed."""
    columns, dates, values = synthetic_series.seasonal()
    assert synthetic_series.VERSION == 1
    assert (len(columns), len(dates), values.shape) == (7, 14_400, (14_400, 7))
    np.testing.assert_allclose(values[[0, 5000, -1], [0, 3, 6]], [49.9656442358, 42.8233333314, 28.2629936535])
    np.testing.assert_array_equal(synthetic_series.seasonal()[2], values)
    assert pd.Timestamp(dates[0]).weekday() == 0
    found = series(Data())
    assert not found.real
    split_parts(found, "ett")


def test_followers_follow_their_drivers() -> None:
    """What a driver's noise was is seen later in its follower, at the hours declared and less at any other."""
    noise = synthetic_series.noise_of_channels(np.random.default_rng(0))
    for i, lag in enumerate(synthetic_series.LAGS):
        driver, follower = noise[:, i % synthetic_series.DRIVERS], noise[:, synthetic_series.DRIVERS + i]
        at = [np.corrcoef(driver[: len(driver) - late], follower[late:])[0, 1] for late in range(1, 100)]
        assert 1 + int(np.argmax(at)) == lag
        assert at[lag - 1] > 0.9
