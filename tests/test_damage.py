"""What lies in the wrong place or is not what it should be is set aside with one line; nothing hangs, and cells run."""

import json
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest
from helpers import obstacles, synthetic
from helpers.obstacles import NO_FILE, NO_FOLDER, put
from test_run import TINY, cab, records  # noqa: F401
from test_store_cells import KEY, record

from cab import leaderboard, plan, show
from cab.store.record import DamagedRecord, Record, all_records, read_record
from cab.store.store import State, Store
from tasks.data import set_aside
from tasks.data.cache_folder import stored
from tasks.data.file_digests import file_digests

pytestmark = pytest.mark.timeout(120)
CELL = Path("runs/quality") / KEY.hash
PLACES = {
    "record": (CELL / "result.json", NO_FILE),
    "checkpoint": (CELL / "checkpoint.pt", NO_FILE),
    "lock": (CELL / "lock", NO_FILE),
    "cell": (CELL, NO_FOLDER),
    "kind": (CELL.parent, NO_FOLDER),
    "runs": (CELL.parent.parent, NO_FOLDER),
}


@pytest.mark.parametrize(("place", "what"), [(p, w) for p, (_, kinds) in PLACES.items() for w in kinds])
def test_what_is_in_the_way_of_a_cell_is_set_aside_once(tmp_path, capsys, place, what):
    name, kinds = PLACES[place]
    path, store = tmp_path / name, Store(tmp_path)
    put(kinds[what], path)
    before = path.lstat().st_ino
    looked = store.state(KEY)
    assert looked.state is (State.NEW if place in ("checkpoint", "lock") else State.DAMAGED)
    assert path.lstat().st_ino == before  # looking changes nothing
    assert capsys.readouterr().out == ""
    with store.claim(KEY) as state:
        assert state.state in (State.NEW, State.DAMAGED)
        store.write(record())
    said = capsys.readouterr().out
    assert said.count("\n") == 1, said
    assert said.startswith(f"warning: {path}: ")
    assert f"; renamed to {path.name}.damaged-1" in said
    assert path.with_name(f"{path.name}.damaged-1").lstat().st_ino == before
    assert store.state(KEY, "a").state is State.DONE
    with Store(tmp_path, rerun=True).claim(KEY):
        pass
    assert capsys.readouterr().out == ""


def test_links_that_lead_somewhere_are_used(tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "results" / "runs").mkdir(parents=True)
    (tmp_path / "results" / "runs" / "quality").symlink_to(elsewhere)
    store = Store(tmp_path / "results")
    with store.claim(KEY):
        store.write(record())
    assert (elsewhere / KEY.hash / "result.json").is_file()
    assert store.state(KEY, "a").state is State.DONE
    assert capsys.readouterr().out == ""


def test_a_second_one_gets_another_name(tmp_path):
    for number in (1, 2):
        put(obstacles.loop, tmp_path / "it")
        set_aside.make_way(tmp_path / "it", "file")
        assert (tmp_path / f"it.damaged-{number}").is_symlink()


@pytest.fixture
def as_user(monkeypatch):
    """Permissions count as for a user, whoever runs the tests."""

    def access(path, mode, **_):
        bits = stat.S_IMODE(os.stat(path).st_mode) >> 6
        return bits & mode == mode

    monkeypatch.setattr(os, "access", access)


@pytest.mark.parametrize("place", ["record", "checkpoint", "lock", "cell"])
def test_a_file_without_permission(tmp_path, capsys, as_user, place):
    store, path = Store(tmp_path), tmp_path / PLACES[place][0]
    put(obstacles.folder if place == "cell" else obstacles.file, path)
    path.chmod(0)
    with store.claim(KEY):
        store.write(record())
    assert "permission denied (" in (said := capsys.readouterr().out)
    assert said.count("\n") == 1
    assert store.state(KEY, "a").state is State.DONE
    path.with_name(f"{path.name}.damaged-1").chmod(0o700)


def test_what_belongs_to_another_user_is_left_alone(tmp_path, as_user, monkeypatch):
    put(obstacles.file, tmp_path / "it")
    (tmp_path / "it").chmod(0)
    assert set_aside.in_the_way(tmp_path / "it", "file", os.R_OK)
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "it").stat().st_uid + 1)
    assert not set_aside.in_the_way(tmp_path / "it", "file", os.R_OK)
    set_aside.make_way(tmp_path / "it", "file", os.R_OK)
    assert (tmp_path / "it").exists()


def test_two_processes_do_not_set_aside_what_the_other_made(tmp_path, monkeypatch):
    """Both see a file where the folder belongs; the second must not rename the folder that the first has made."""
    path, looked, looks = tmp_path / "runs", threading.Barrier(2), set_aside.in_the_way
    put(obstacles.file, path)
    seen = threading.local()

    def look(*arguments):
        found = looks(*arguments)
        if not getattr(seen, "before", False):
            seen.before = True
            looked.wait()
        return found

    def make():
        set_aside.make_way(path, "folder")
        path.mkdir(exist_ok=True)

    monkeypatch.setattr(set_aside, "in_the_way", look)
    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found.name for found in tmp_path.iterdir()) == ["runs", "runs.damaged-1"]
    assert path.is_dir()


# Records with the right digest and the wrong content


def forged(path: Path, change) -> None:
    """Changes a record and gives it the digest, and the hash, of what it says then."""
    content = json.loads(path.read_text())
    change(content)
    fields = {name: value for name, value in content.items() if name not in ("hash", "digest")}
    made = Record(**fields)
    body = fields | {"hash": made.hash}
    from cab.store.record import _digest

    path.write_text(json.dumps(body | {"digest": _digest(body)}))


WRONG = {
    "a type": lambda content: content["result"].update(metrics=[1.0]),
    "a missing key": lambda content: content["result"].pop("headline"),
    "a score that is text": lambda content: content["result"]["metrics"].update(bits_per_byte="1.9"),
    "a headline without metric": lambda content: content["result"].update(headline="other"),
    "no result": lambda content: content.update(result={}),
    "no cell": lambda content: content.update(cell={}),
    "another cell": lambda content: content["cell"].update(seed=5),
    "another hash": lambda content: content["identity"].update(seed=7),
    "another kind": lambda content: content.update(kind="efficiency"),
    "a reason that is none": lambda content: content.update(reason=None),
    "a provenance of text": lambda content: content.update(provenance={"device": "a CPU"}),
    "a step of text": lambda content: content["result"]["curve"][0].update(step="1"),
    "a table that is none": lambda content: content["result"].update(tables={"texts": "a"}),
    "a bin without share": lambda content: content["result"].update(
        tables={"loss_by_position": [{"from": 0, "to": 1, "tokens": 2}]}
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_record_with_wrong_content_is_set_aside(tmp_path, capsys, what):
    from cab.store.identity import CellKey

    good = synthetic.quality("vanilla", 0)
    key, store = CellKey("quality", good.cell, good.identity), Store(tmp_path)
    path = good.write(tmp_path)
    assert store.state(key).state is State.DONE
    forged(path, WRONG[what])
    assert store.state(key).state is State.DAMAGED
    assert isinstance(dict(all_records(tmp_path))[path], DamagedRecord) or what in ("another kind",)
    assert leaderboard.main(["--results", str(tmp_path), "--no-plots"]) == 2
    assert f"warning: {path}: " in capsys.readouterr().err
    with store.claim(key) as state:
        assert state.state is State.DAMAGED
        store.write(good)
    assert (said := capsys.readouterr().out).count("\n") == 1
    assert "; renamed to result.json.damaged-1, the cell runs again" in said
    assert store.state(key).record == good


def mutations(value, path=()):
    """Every value in a record but its names, replaced by what it is not, or left out."""
    if isinstance(value, dict):
        for name in value:
            yield from mutations(value[name], (*path, name))
    elif isinstance(value, list) and value:
        yield from mutations(value[0], (*path, 0))
    if path:
        yield from ((path, other) for other in (None, "text", -3, [], {}, [1, None], True, ...) if other != value)


def changed(content, path, value):
    content = json.loads(json.dumps(content))
    at = content
    for name in path[:-1]:
        at = at[name]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return content


@pytest.mark.parametrize("kind", ["quality", "efficiency"])
def test_no_value_of_a_record_ends_the_leaderboard(tmp_path, capsys, monkeypatch, kind):
    """Every value once: what is read then is good enough for every table, and the rest is named."""
    good = synthetic.quality("vanilla", 0) if kind == "quality" else synthetic.efficiency("lightning", rounds=3)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # a thousand files
    assert good.write(tmp_path)
    table = {"loss_by_position": [{"from": 0, "to": 1, "tokens": 2, "share": 0.5, "bits_per_byte": 1.0}]}
    table["loss_by_context"] = [{"context": 4, "bits_per_byte": 1.0}]
    fields = {name: getattr(good, name) for name in ("cell", "identity", "result", "config", "provenance")}
    if kind == "quality":
        fields["result"]["tables"] |= table
        fields["result"]["curve"] = fields["result"]["curve"][:1]
    number = 0
    for path, value in mutations(fields):
        number += 1
        other = changed(fields, path, value)
        if isinstance(other.get("identity"), dict):
            other["identity"]["number"] = number
        try:
            made = Record(kind, "ok", **other)
            made.write(tmp_path)
        except (TypeError, AttributeError):
            continue  # no record can be made of it
    assert number > 300
    assert leaderboard.main(["--results", str(tmp_path), "--no-plots"]) == 0
    printed = capsys.readouterr()
    assert 100 < printed.err.count("; left out\n") < number


# Checkpoints


def test_a_record_of_another_cell_does_not_count(tmp_path):
    """Copied into its folder: it is whole, and not of this cell."""
    store = Store(tmp_path)
    other = synthetic.quality("lightning", 5)
    copied = tmp_path / CELL / "result.json"
    copied.parent.mkdir(parents=True)
    shutil.move(other.write(tmp_path / "other"), copied)
    assert store.state(KEY).state is State.DAMAGED


# The cache


def build(folder: Path) -> None:
    (folder / "a").write_text("whole")


@pytest.mark.parametrize("what", [*NO_FOLDER, "inside", "checksums"])
def test_what_is_in_the_way_of_a_cache_is_set_aside_and_it_is_made_again(tmp_path, capsys, what):
    folder = stored(tmp_path / "cache" / "it", build)
    assert capsys.readouterr().out == ""  # making it the first time is no news
    places = {"inside": folder / "a", "checksums": folder / "checksums.json"}
    put(obstacles.fifo if what in places else NO_FOLDER[what], places.get(what, folder))
    assert (stored(folder, build) / "a").read_text() == "whole"
    said = capsys.readouterr().out
    assert said.count("\n") == 1, said
    assert said.startswith(f"warning: {folder}: ")
    assert said.endswith("; renamed to it.damaged-1, it is made again\n")
    stored(folder, build)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("what", NO_FILE)
@pytest.mark.parametrize("place", ["it.lock", "../cache"])
def test_what_is_in_the_way_of_the_lock_or_the_folder_of_a_cache(tmp_path, capsys, place, what):
    (tmp_path / "cache").mkdir()
    path = (tmp_path / "cache").resolve() / place
    kinds = NO_FILE if place == "it.lock" else NO_FOLDER
    put(kinds[what], Path(os.path.normpath(path)))
    assert (stored(tmp_path / "cache" / "it", build) / "a").read_text() == "whole"
    assert "; renamed to " in (said := capsys.readouterr().out)
    assert said.count("\n") == 1


@pytest.mark.parametrize("what", NO_FILE)
def test_what_is_in_the_way_of_digests(tmp_path, capsys, what):
    data = tmp_path / "data"
    data.write_text("content")
    expected = file_digests([data], tmp_path / "cache")
    [index] = (tmp_path / "cache" / "digests").iterdir()
    put(NO_FILE[what], index)
    assert file_digests([data], tmp_path / "cache") == expected
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "files are read again" in said
    file_digests([data], tmp_path / "cache")
    assert capsys.readouterr().out == ""


# The commands


def test_a_cell_runs_whatever_lies_in_its_way(cab, capsys):  # noqa: F811
    """Everything at once, by the command line; the second time nothing is left to say."""
    own = ["attention=none", "device.threads=1"]
    assert cab(*own)[0] == 0
    [good] = records(cab.results, "quality")
    names = sorted(path.parent.relative_to(cab.results) for path in cab.results.glob("runs/*/*/result.json"))
    damage = {path / name: list(NO_FILE)[at] for path in names for at, name in enumerate(("result.json", "lock"))}
    damage |= dict.fromkeys((Path("sweeps"), Path("leaderboard")), "fifo")
    damage |= {path.parent.relative_to(cab.results): "fifo" for path in cab.results.glob("cache/*/checksums.json")}
    damage |= {Path("runs/quality/stray"): "loop"}
    for path, what in damage.items():
        put(NO_FILE[what], cab.results / path)
    planned = plan.main([f"results={cab.results}", *TINY, *own])
    assert (planned, "1 damaged record" in capsys.readouterr().out) == (0, True)
    shown = show.main([str(cab.results / "runs" / "quality" / good.hash / "result.json"), str(cab.results / "shown")])
    shown_err = capsys.readouterr().err
    assert (shown, "a FIFO where a file belongs" in shown_err) == (2, True), shown_err
    code, out, err = cab("-m", *own)
    assert (code, err) == (0, ""), out
    assert records(cab.results, "quality")[0].result["metrics"] == good.result["metrics"]
    for path, what in damage.items():
        if path.name not in ("stray", "leaderboard", "sweeps"):
            assert f"warning: {cab.results / path}: " in out, (path, what)
    assert leaderboard.main(["--results", str(cab.results), "--no-plots"]) == 0
    printed = capsys.readouterr()
    assert f"{cab.results}/runs/quality/stray: a link that leads nowhere" in printed.err
    assert f"warning: {cab.results}/leaderboard: a FIFO where a folder belongs" in printed.out
    code, out, err = cab("-m", *own)
    assert (code, err, "warning" in out) == (0, "", False)


@pytest.mark.parametrize("plots", [True, False])
def test_the_leaderboard_is_written_whatever_lies_there(tmp_path, capsys, plots):
    synthetic.quality("vanilla", 0).write(tmp_path)
    arguments = ["--results", str(tmp_path), *([] if plots else ["--no-plots"])]
    assert leaderboard.main(arguments) == 0
    folder = tmp_path / "leaderboard"
    made = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for place, path in enumerate(made):
        put(list(NO_FILE.values())[place % len(NO_FILE)], path)
    capsys.readouterr()
    assert leaderboard.main(arguments) == 0
    assert all(path.is_file() for path in made)
    put(obstacles.file, folder / "analyses")
    put(obstacles.fifo, folder / "plots")
    assert leaderboard.main(arguments) == 0
    assert all(path.is_file() for path in made)


@pytest.mark.parametrize("what", NO_FILE)
def test_show_and_leaderboard_name_what_they_leave_out(tmp_path, capsys, what):
    good, other = synthetic.quality("vanilla", 0).write(tmp_path), synthetic.quality("vanilla", 1).write(tmp_path)
    put(NO_FILE[what], good)
    assert leaderboard.main(["--results", str(tmp_path), "--no-plots"]) == 0
    assert (said := capsys.readouterr().err).count("\n") == 1
    assert said.startswith(f"warning: {good}: a ")
    assert read_record(other)
    assert show.main([str(good), str(tmp_path / "out")]) == 2
    assert (said := capsys.readouterr().err).count("\n") == 1
    assert str(good) in said
