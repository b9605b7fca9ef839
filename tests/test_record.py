import json

import pytest

from cab.store.record import (
    SCIENCE_VERSION,
    DamagedRecord,
    Record,
    all_records,
    find_record,
    identity_hash,
    read_record,
    write_atomically,
)


def make(**changes) -> Record:
    content = {
        "kind": "quality",
        "status": "ok",
        "cell": {"attention": "vanilla", "seed": 0},
        "identity": {"attention": "vanilla", "seed": 0},
        "result": {"metrics": {"loss": 1.5}, "curve": [{"step": 1, "loss": 2.0}]},
    }
    return Record(**(content | changes))


def test_round_trip(tmp_path):
    record = make()
    path = record.write(tmp_path)
    assert path == tmp_path / "runs" / "quality" / record.hash / "result.json"
    assert read_record(path) == record
    assert find_record(tmp_path, "quality", record.hash) == record
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_hash_depends_on_identity_and_science_version_only():
    record = make()
    assert make(config={"threads": 8}, provenance={"git": "abc"}).hash == record.hash
    assert make(identity={"attention": "vanilla", "seed": 1}).hash != record.hash
    assert make(science_version=SCIENCE_VERSION + 1).hash != record.hash
    assert identity_hash({"a": 1, "b": 2}) == identity_hash({"b": 2, "a": 1})


def test_numbers_that_are_not_finite_become_missing(tmp_path):
    path = make(result={"metrics": {"loss": float("nan"), "gain": float("inf")}}).write(tmp_path)
    assert read_record(path).result["metrics"] == {"loss": None, "gain": None}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[: len(text) // 2], "not whole JSON"),
        (lambda text: "", "not whole JSON"),
        (lambda text: text.replace("1.5", "NaN"), "not whole JSON"),
        (lambda text: text.replace("1.5", "1e999"), "not whole JSON"),
        (lambda text: text.replace("1.5", "9" * 5000), "not whole JSON"),
        (lambda text: "[]", "not a record"),
        (lambda text: text.replace("1.5", "1.4"), "digest"),
        (lambda text: text.replace('"schema": 1', '"schema": 7'), "schema 7"),
    ],
)
def test_a_damaged_record_is_named_set_aside_and_never_used(tmp_path, capsys, damage, reason):
    good = make(identity={"seed": 1})
    good.write(tmp_path)
    record = make()
    path = record.write(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(DamagedRecord, match=reason):
        read_record(path)
    found = dict(all_records(tmp_path))
    assert isinstance(found[path], DamagedRecord)
    assert good in found.values()
    assert find_record(tmp_path, "quality", record.hash) is None
    said = capsys.readouterr().out
    assert str(path) in said
    assert reason in said
    assert not path.exists()
    assert path.with_name("result.json.damaged-1").exists()
    assert find_record(tmp_path, "quality", good.hash) == good


def test_a_copied_record_is_not_counted_twice(tmp_path):
    path = make().write(tmp_path)
    copy = tmp_path / "runs" / "quality" / "0123456789abcdef" / "result.json"
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    found = dict(all_records(tmp_path))
    assert isinstance(found[path], Record)
    assert "a copy" in str(found[copy])


def test_unknown_fields_are_refused(tmp_path):
    path = make().write(tmp_path)
    content = json.loads(path.read_text())
    content["extra"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedRecord):
        read_record(path)


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left on device") as error:
        write_atomically(path, b"new")
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_which_endings_are_tried_again():
    assert make().final
    assert make(status="unsupported").final
    assert not make(status="error").final
    assert not make(status="timeout").final
