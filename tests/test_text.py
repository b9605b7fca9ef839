"""Text from three sources, and its tokens: what is refused, what is exact, what survives several jobs and damage."""

import codecs
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.base import SPLITS, Data
from tasks.data import hub, text
from tasks.data.cache_folder import stored
from tasks.data.text import Corpus, corpus, library_split
from tasks.data.tokens import tokenise

TEXTS = {
    "train": [b"one two three one two three\n" * 20, "naïve «quotes» 漢字 🙂 é".encode() * 5],
    "validation": [b"two three four\n" * 9],
    "test": ["drei vier 🙂 <|endoftext|>\r\n\x00 one".encode() * 4, b"", b"last"],
}
REAL = Corpus("a test", "0" * 64, lambda split: TEXTS[split])


def folder_of(tmp_path: Path, **files: dict[str, bytes]) -> Data:
    for split, named in files.items():
        (tmp_path / split).mkdir()
        for name, raw in named.items():
            (tmp_path / split / name).write_bytes(raw)
    return Data("local", str(tmp_path))


# Embedded


def test_library_splits_share_no_file_and_hold_what_they_should() -> None:
    library = corpus(Data(), "text")
    documents = {split: list(library.read(split)) for split in SPLITS}
    sizes = {split: sum(map(len, documents[split])) for split in SPLITS}
    assert all(sizes[split] > 100_000 for split in SPLITS)
    assert sizes["train"] > 4 * (sizes["validation"] + sizes["test"])
    seen = {split: {d for d in documents[split] if d} for split in SPLITS}  # __init__.py may be empty
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_library_has_no_foreign_and_no_generated_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {*(f"x/e{number}.py" for number in range(100)), "a.py"}  # so many that every split has some
    for name in {*kept, "site-packages/b.py", "test/c.py", "x/tests/d.py", "_sysconfigdata_1.py", "f.txt"}:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.setattr(text.sysconfig, "get_path", lambda name: str(tmp_path))
    library = corpus(Data(), "text")
    assert {document.decode() for split in SPLITS for document in library.read(split)} == kept


def test_a_library_file_that_is_in_test_is_not_in_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"x/e{number}.py" for number in range(300)]
    of_split = {split: [name for name in names if library_split(name) == split] for split in SPLITS}
    copies = {of_split["train"][0]: b"one", of_split["test"][0]: b"one", of_split["validation"][0]: b"two"}
    copies |= {of_split["train"][1]: b"two", of_split["train"][2]: b"", of_split["test"][1]: b""}
    (tmp_path / "x").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(copies.get(name, name.encode()))
    monkeypatch.setattr(text.sysconfig, "get_path", lambda name: str(tmp_path))
    library = corpus(Data(), "text")
    documents = {split: list(library.read(split)) for split in SPLITS}
    assert {split: len(documents[split]) for split in SPLITS} == {
        "train": len(of_split["train"]) - 2,
        "validation": len(of_split["validation"]),
        "test": len(of_split["test"]),
    }
    assert b"one" not in documents["train"]
    assert b"two" not in documents["train"]


def test_library_split_depends_on_the_path_alone() -> None:
    names = [f"package/module{i}.py" for i in range(4000)]
    shares = {split: sum(library_split(name) == split for name in names) / 4000 for split in SPLITS}
    assert shares["validation"] == pytest.approx(0.05, abs=0.015)
    assert shares["test"] == pytest.approx(0.05, abs=0.015)
    assert [library_split(name) for name in ("os.py", "json/decoder.py", "ast.py")] == [
        library_split(name) for name in ("os.py", "json/decoder.py", "ast.py")
    ]


def test_python_without_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match=r"data.source=embedded: no Python sources for train below .*: use data"):
        corpus(Data(), "text")


# Local


def test_content_hash_follows_the_text(tmp_path: Path) -> None:
    files = {"train": {"a.txt": b"a"}, "validation": {"b.txt": b"b"}, "test": {"c.txt": b"c"}}
    data = folder_of(tmp_path, **files)
    before = corpus(data, "text").content
    assert before == corpus(data, "text").content
    (tmp_path / "test" / "c.txt").write_bytes(b"d")
    assert corpus(data, "text").content != before


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no folder train/: train/, validation/ and test/ are all needed"),
        ({"train": {"a.txt": b"a"}, "validation": {"b.txt": b"b"}}, "no folder test/"),
        ({"train": {"a.md": b"a"}}, r"no \*.txt file in train/: put at least one there"),
        ({"train": {"a.txt": b""}}, r"every \*.txt file in train/ is empty: put some text there"),
        ({"train": {"a.txt": b"caf\xe9 !"}}, r"a.txt: not UTF-8 \(byte 3\): convert it"),
        (
            {"train": {"a.txt": b"a"}, "validation": {"b.txt": b"b"}, "test": {"c.txt": b"a"}},
            "test/c.txt is the same text as train/a.txt: keep it in one split only",
        ),
    ],
)
def test_bad_folders(tmp_path: Path, files: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        corpus(folder_of(tmp_path, **files), "text")
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    files = {"train": {"a.txt": b"a"}, "validation": {"b.txt": b"b"}, "test": {"c.txt": b"c"}}
    data = folder_of(tmp_path, **files)
    before = corpus(data, "text")
    (tmp_path / "train" / "a.txt").write_bytes(codecs.BOM_UTF8 + b"a")
    after = corpus(data, "text")
    assert (list(after.read("train")), after.content) == ([b"a"], before.content)
    (tmp_path / "test" / "c.txt").write_bytes(codecs.BOM_UTF8 + b"a")
    with pytest.raises(ValueError, match=r"test/c.txt is the same text as train/a.txt"):
        corpus(data, "text")


def test_all_texts_are_read_and_the_rest_is_named(tmp_path: Path, capsys) -> None:
    data = folder_of(tmp_path, train={"a.txt": b"a", "B.TXT": b"B"}, validation={"b.txt": b"b"}, test={"c.txt": b"c"})
    (tmp_path / "train" / "more").mkdir()
    (tmp_path / "train" / "more" / "x.txt").write_bytes(b"x")
    (tmp_path / "train" / "again").symlink_to(tmp_path / "train")
    found = corpus(data, "text")
    assert sorted(found.read("train")) == [b"B", b"a", b"x"]
    assert found.facts == {"train_documents": 3, "validation_documents": 1, "test_documents": 1}
    assert capsys.readouterr().err == ""
    (tmp_path / "stray.txt").write_bytes(b"s")
    (tmp_path / "other").mkdir()
    (tmp_path / "test" / "notes.md").write_bytes(b"n")
    again = corpus(data, "text")
    assert (again.content, again.facts["left_out"]) == (found.content, 3)
    assert capsys.readouterr().err.endswith("is read; 3 left out: other/, stray.txt, test/notes.md\n")


def test_missing_folder_and_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such folder: give one with train/"):
        corpus(Data("local", str(tmp_path / "nowhere")), "text")
    with pytest.raises(ValueError, match=r"data.source=local needs data.path: a folder with"):
        corpus(Data("local"), "text")


# Hub


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*hub.PROXIES, "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict]:
    """Snapshots come from a folder of parquet, and what was asked for is kept."""
    import datasets
    import huggingface_hub

    calls: list[dict] = []
    folder = tmp_path / "snapshots" / "c0ffee"
    (folder / "data").mkdir(parents=True)
    for split in SPLITS:
        rows = {"text": [d.decode() for d in TEXTS[split]], "title": ["t"] * len(TEXTS[split])}
        datasets.Dataset.from_dict(rows).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")

    def download(id: str, **options) -> str:
        calls.append({"id": id, **options})
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def test_hub_records_the_commit_and_reads_the_text(no_proxy, asked, monkeypatch) -> None:
    monkeypatch.setattr(hub, "reachable", lambda endpoint: True)
    found = corpus(Data("hub"), "text")
    assert asked == [{"id": "emozilla/pg19", "repo_type": "dataset", "revision": None, "local_files_only": False}]
    assert found.facts["commit"] == "c0ffee"
    assert "c0ffee" in found.description
    assert {split: list(found.read(split)) for split in SPLITS} == TEXTS


def test_a_document_of_several_splits_is_kept_where_it_is_evaluated(no_proxy, asked, tmp_path, monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(hub, "reachable", lambda endpoint: True)
    rows = {"train": ["a", "b", "c", "", "c"], "validation": ["b", "d", ""], "test": ["a", "d", "e", ""]}
    for split in SPLITS:
        file = tmp_path / "snapshots" / "c0ffee" / "data" / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_dict({"text": rows[split]}).to_parquet(file)
    found = corpus(Data("hub", id="some/books"), "text")
    assert {split: list(found.read(split)) for split in SPLITS} == {
        "train": [b"c", b"", b"c"],
        "validation": [b"b", b""],
        "test": [b"a", b"d", b"e", b""],
    }


def test_hub_revision_is_passed_on_and_changes_nothing_else(no_proxy, asked, monkeypatch) -> None:
    monkeypatch.setattr(hub, "reachable", lambda endpoint: True)
    corpus(Data("hub", id="some/books", revision="v1"), "text")
    assert (asked[0]["id"], asked[0]["revision"]) == ("some/books", "v1")


def test_hub_without_the_column(no_proxy, asked, monkeypatch) -> None:
    monkeypatch.setattr(hub, "reachable", lambda endpoint: True)
    with pytest.raises(ValueError, match=r"no column 'body' \(it has text, title\): set column to one of these"):
        corpus(Data("hub"), "body")


def test_hub_offline_uses_the_cache_without_a_probe(no_proxy, asked, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "reachable", lambda endpoint: pytest.fail("asked the network"))
    corpus(Data("hub"), "text")
    assert asked[0]["local_files_only"] is True


def test_unreachable_hub_is_one_line_within_a_second(no_proxy, monkeypatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(socket, "create_connection", lambda *args, **options: never.wait())  # as a name look-up may
    start = time.monotonic()
    assert not hub.reachable("https://huggingface.co")
    assert time.monotonic() - start < 1.2

    monkeypatch.setattr(hub, "reachable", lambda endpoint: False)
    with pytest.raises(
        ValueError, match="hub data set 'nobody/nothing' at main is not in the local cache and the hub"
    ) as e:
        corpus(Data("hub", id="nobody/nothing"), "text")
    assert "\n" not in str(e.value)
    assert "use data.source=embedded or local" in str(e.value)


def test_probe_goes_to_the_endpoint(no_proxy, monkeypatch) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    assert hub.reachable(f"http://127.0.0.1:{port}")
    listener.close()
    assert not hub.reachable(f"http://127.0.0.1:{port}")
    assert not hub.reachable("nonsense")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert hub.reachable(f"http://127.0.0.1:{port}")  # only the client can tell


def test_other_hub_errors_are_one_line(no_proxy, monkeypatch) -> None:
    import huggingface_hub

    def fail(*args, **options):
        raise RuntimeError("404 Client Error.\nRepository Not Found")

    monkeypatch.setattr(hub, "reachable", lambda endpoint: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match=r"'a/b' at v9: 404 Client Error.: check data.id and data.revision") as error:
        hub.snapshot("a/b", "v9")
    assert "\n" not in str(error.value)


def test_importing_the_task_imports_nothing_heavy() -> None:
    code = "import sys, tasks.lm; print([m for m in ('tokenizers', 'datasets', 'huggingface_hub') if m in sys.modules])"
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Tokens


@pytest.mark.parametrize("vocabulary", ["bytes", 257, 300, 5000])
def test_tokens_give_the_text_back_with_exact_byte_counts(tmp_path: Path, vocabulary) -> None:
    found = tokenise(REAL, vocabulary, tmp_path)
    for split in SPLITS:
        stream = np.asarray(found.streams[split])
        assert found.decode(stream) == b"".join(TEXTS[split])
        assert found.bytes_of[stream].sum() == sum(map(len, TEXTS[split]))
        documents = np.split(stream, np.flatnonzero(stream == found.size - 1) + 1)
        assert [found.decode(d) for d in documents[:-1]] == TEXTS[split]
        for token in set(stream.tolist()):
            assert found.bytes_of[token] == len(found.decode(np.array([token])))


def test_bpe_compresses_and_learns_from_train_only(tmp_path: Path) -> None:
    found = tokenise(REAL, 300, tmp_path)
    assert 257 < found.size <= 300
    assert len(found.streams["train"]) < sum(map(len, TEXTS["train"])) / 2
    others = {**TEXTS, "test": [b"quite other words " * 50], "validation": [b"vvv www " * 50]}
    other = tokenise(Corpus("other", "1" * 64, lambda split: others[split]), 300, tmp_path)
    assert found.tokenizer.to_str() == other.tokenizer.to_str()


def test_tokens_come_from_the_cache_by_content_and_vocabulary(tmp_path: Path) -> None:
    first = tokenise(REAL, 300, tmp_path)
    tokenise(REAL, 290, tmp_path)
    tokenise(Corpus("other", "1" * 64, lambda split: [b"other"]), 300, tmp_path)
    assert len(list(tmp_path.glob("tokens-*/"))) == 3
    unreadable = replace(REAL, read=lambda split: pytest.fail("read again"))
    again = tokenise(unreadable, 300, tmp_path)
    assert all(np.array_equal(first.streams[split], again.streams[split]) for split in SPLITS)
    assert isinstance(again.streams["train"], np.memmap)


def test_large_texts_are_cached_as_bytes_too(tmp_path: Path) -> None:
    large = Corpus("large", "2" * 64, lambda split: TEXTS[split], large=True)
    found, plain = tokenise(large, "bytes", tmp_path), tokenise(REAL, "bytes", tmp_path)
    assert isinstance(found.streams["train"], np.memmap)
    assert all(np.array_equal(found.streams[split], plain.streams[split]) for split in SPLITS)


@pytest.mark.parametrize("damage", ["shorter", "changed", "missing", "checksums"])
def test_damaged_tokens_are_set_aside_and_made_again(tmp_path: Path, damage: str, capsys) -> None:
    before = {split: np.array(s) for split, s in tokenise(REAL, 300, tmp_path).streams.items()}
    folder = next(tmp_path.glob("tokens-*/"))
    file = folder / "train.npy"
    raw = bytearray(file.read_bytes())
    if damage == "shorter":
        file.write_bytes(raw[:-7])
    elif damage == "changed":
        raw[-3] ^= 1
        file.write_bytes(raw)
    elif damage == "missing":
        file.unlink()
    else:
        (folder / "checksums.json").write_text("{")
    assert capsys.readouterr().out == ""
    after = tokenise(REAL, 300, tmp_path)
    assert all(np.array_equal(before[split], after.streams[split]) for split in SPLITS)
    [aside] = tmp_path.glob("tokens-*.damaged-*")
    said = capsys.readouterr().out
    assert said.startswith(f"warning: {folder}: ")
    assert said.endswith(f"renamed to {aside.name}, it is made again\n")
    assert said.count("\n") == 1


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        stored(tmp_path / "it", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["it.lock"]
