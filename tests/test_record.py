"""Record files: written atomically, never read when damaged, and the hashes that name them."""

import json

import pytest
import torch
from helpers import synthetic

from cab.compose import compose_one
from cab.store.identity import efficiency_key, quality_key
from cab.store.record import (
    SCIENCE_VERSION,
    DamagedRecord,
    Record,
    all_records,
    identity_hash,
    read_record,
    write_atomically,
)

GOOD = synthetic.quality("vanilla", 0)


def make(**changes) -> Record:
    content = {
        "kind": "quality",
        "status": "ok",
        "cell": GOOD.cell,
        "identity": {"attention": {"name": "vanilla"}, "seed": 0},
        "result": GOOD.result | {"metrics": {"bits_per_byte": 1.5}},
    }
    return Record(**(content | changes))


def test_round_trip(tmp_path):
    record = make()
    path = record.write(tmp_path)
    assert path == tmp_path / "runs" / "quality" / record.hash / "result.json"
    assert read_record(path) == record
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_hash_depends_on_identity_and_science_version_only():
    record = make()
    assert make(config={"threads": 8}, provenance={"git": "abc"}).hash == record.hash
    assert make(identity={"attention": {"name": "vanilla"}, "seed": 1}).hash != record.hash
    assert make(science_version=SCIENCE_VERSION + 1).hash != record.hash
    assert identity_hash({"a": 1, "b": 2}) == identity_hash({"b": 2, "a": 1})


PINNED = {
    ("attention=lightning", "pattern=causal_self", "task=lm", "seed=3"): ("853ec53ed54783d1", "5fdf31f6189d3fd4"),
    ("attention=fit", "pattern=noncausal_cross", "task=recall", "seed=0"): ("f6e0df638cbe6574", "16cbb1db356ba2fc"),
}
"""Hashes of the quality and the efficiency cell of size smoke. If they change, all records made before are lost."""


@pytest.mark.parametrize("overrides", PINNED)
def test_hashes_have_not_changed(overrides, tmp_path):
    request, device = compose_one([f"results={tmp_path}", "size=smoke", "device=cpu", *overrides]), torch.device("cpu")
    quality = quality_key(request, device).hash
    identity = efficiency_key(request, device, "an allocator").identity
    machine = {"device": "a processor", "threads": 2, "gomp_spincount": "10000", "torch": "2.0"}
    assert machine.keys() < identity.keys()
    assert (quality, identity_hash(identity | machine)) == PINNED[overrides]


def test_numbers_that_are_not_finite_become_missing(tmp_path):
    path = make(result=GOOD.result | {"metrics": {"bits_per_byte": float("nan"), "gain": float("inf")}}).write(tmp_path)
    assert read_record(path).result["metrics"] == {"bits_per_byte": None, "gain": None}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[: len(text) // 2], "not valid JSON"),
        (lambda text: "", "not valid JSON"),
        (lambda text: text.replace("1.5", "NaN"), "not valid JSON"),
        (lambda text: text.replace("1.5", "1e999"), "not valid JSON"),
        (lambda text: text.replace("1.5", "9" * 5000), "not valid JSON"),
        (lambda text: "[]", "not a record"),
        (lambda text: text.replace("1.5", "1.4"), "digest"),
        (lambda text: text.replace('"schema": 1', '"schema": 7'), "schema 7"),
    ],
)
def test_a_damaged_record_is_never_read(tmp_path, damage, reason):
    good = make(cell=GOOD.cell | {"seed": 1}, identity={"seed": 1})
    good.write(tmp_path)
    record = make()
    path = record.write(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(DamagedRecord, match=reason):
        read_record(path)
    found = dict(all_records(tmp_path))
    assert isinstance(found[path], DamagedRecord)
    assert good in found.values()
    assert path.exists()


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


def test_a_failed_write_leaves_the_old_content_and_no_other_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left on device") as error:
        write_atomically(path, b"new")
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_which_statuses_are_final():
    assert make().final
    assert make(status="unsupported").final
    assert not make(status="error").final
    assert not make(status="timeout").final
    assert not make(status="failed_check").final
    assert make(status="failed_check", kind="checks").final
