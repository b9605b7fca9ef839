"""Series: bad files are named in one line, splits are the published ones, nothing of the future reaches the scaling."""

import gzip
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
    (tmp_path / "empty.csv").touch()
    (tmp_path / "torn.csv.gz").write_bytes(gzip.compress(b"date,OT\n" * 1000)[:-9])
    for name in (None, str(tmp_path), str(tmp_path / "absent.csv")):
        with pytest.raises(ValueError, match="no such file: give a CSV"):
            read_csv(name)
    for name in ("empty.csv", "torn.csv.gz"):
        with pytest.raises(ValueError, match="not readable as CSV"):
            read_csv(str(tmp_path / name))
    with pytest.raises(ValueError, match=r"data\.source=hub: forecasting has none: use data=local"):
        series(Data("hub"))


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
    whole.values[:70, 1] = 4
    with pytest.raises(ValueError, match="column 'b' is constant in the train part"):
        standardised(whole, (0, 70))


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
