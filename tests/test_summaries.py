"""Documents and summaries: what is taken from source code, grouped, kept apart, refused, and found again in tokens."""

import codecs
import gzip
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from tasks.base import SPLITS, Data
from tasks.data import hub, summaries, text
from tasks.data.docstrings import documented
from tasks.data.summaries import Collection, Columns
from tasks.data.text import Corpus, library_split
from tasks.data.tokens import tokenise

SOURCE = '''# é: columns are counted in bytes
"""What the module does.

More of it.
"""
import functools


class Box:
    """A box of
    things,   with a lid."""

    @functools.cache
    def size(self):
        """Return the size, measured.

        With care.
        """
        return 1  # the size

    def label(self):
        "Too short"

    def shown(self):
        """>>> Box().shown()
        an example session"""

    async def close(self): "é: close the lid"; return "é"


def plain():
    return 2
'''


def split_of(examples) -> list[tuple[bytes, list[bytes]]]:
    """A row of texts back to documents and their summaries."""
    found, row = [], []
    for part in examples:
        if part:
            row.append(part)
        else:
            found.append((row[0], row[1:]))
            row = []
    assert not row
    return found


# Source code


def test_summaries_are_first_paragraphs_and_documents_are_without_them() -> None:
    found = dict(documented(SOURCE.encode()))
    assert {summary: document for document, summary in found.items()} == {
        "What the module does.": SOURCE.replace('"""What the module does.\n\nMore of it.\n"""\n', ""),
        "A box of things, with a lid.": SOURCE[SOURCE.index("class Box") : SOURCE.index("\n\n\ndef plain")].replace(
            '    """A box of\n    things,   with a lid."""\n', ""
        )
        + "\n",
        "Return the size, measured.": "@functools.cache\ndef size(self):\n    return 1  # the size\n",
        "é: close the lid": 'async def close(self): ; return "é"\n',
    }
    [box] = [document for document, summary in found.items() if summary.startswith("A box")]
    assert '        """Return the size, measured.' in box  # nested definitions keep theirs


@pytest.mark.parametrize(
    "source",
    [b"def f(:", b'"""caf\xe9 in latin letters"""', b"\x00", b"", b'def f(x):\n    x = """not a docstring at all"""\n'],
)
def test_files_without_docstrings_or_sense(source: bytes) -> None:
    assert list(documented(source)) == []


def test_byte_order_mark_and_line_endings() -> None:
    [(document, summary)] = documented(b'\xef\xbb\xbfdef f():\r\n    """One two three."""\r\n    return 1\r\n')
    assert (document, summary) == ("def f():\r\n    return 1\r\n", "One two three.")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in every split; one function is in a file of each."""
    monkeypatch.setattr(text.sysconfig, "get_path", lambda name: str(tmp_path))
    counts = dict.fromkeys(SPLITS, 0)
    for number in range(200):
        name, split = f"m{number}.py", library_split(f"m{number}.py")
        if counts[split] == 3:
            continue
        shared = 'def shared():\n    """Found in every split."""\n    return 0\n'
        pair = f'def pair{number % 2}():\n    """{split} docstring {number}."""\n'
        (tmp_path / name).write_text((shared if counts[split] == 0 else "") + pair)
        counts[split] += 1
    assert set(counts.values()) == {3}
    return tmp_path


def test_library_files_keep_to_their_split(library: Path) -> None:
    found = {split: dict(split_of(summaries.summaries(Data(), Columns()).read(split))) for split in SPLITS}
    for split in SPLITS:
        others = [references for document, references in found[split].items() if b"shared" not in document]
        assert all(reference.startswith(split.encode()) for references in others for reference in references)
    assert [b"shared" in b"".join(found[split]) for split in SPLITS] == [False, False, True]  # only in test
    assert not set(found["train"]) & (set(found["validation"]) | set(found["test"]))


@pytest.mark.slow  # parses the whole standard library
def test_library_examples_are_many_and_do_not_hold_their_summary() -> None:
    corpus = summaries.summaries(Data(), Columns())
    found = {split: split_of(corpus.read(split)) for split in SPLITS}
    assert len(found["train"]) > 4000
    assert min(len(found["validation"]), len(found["test"])) > 100
    given_away = [
        reference in b" ".join(document.split()) for document, references in found["train"] for reference in references
    ]
    assert np.mean(given_away) < 0.01  # some classes say the same of a method
    assert "standard library of Python" in corpus.description


# Local


def write(folder: Path, **rows) -> Data:
    for split, content in rows.items():
        lines = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return Data("local", str(folder))


def row(document="a document", summary="its summary") -> dict:
    return {"document": document, "summary": summary, "id": 1}


GOOD = {split: [row(f"{split} document", f"{split} summary")] for split in SPLITS}


def test_rows_with_the_same_document_are_one_document(tmp_path: Path) -> None:
    rows = [row("one", "é first"), row("two", "second"), row("one", "third"), row("one", "third")]
    data = write(tmp_path, **{**GOOD, "train": rows})
    (tmp_path / "test.jsonl").unlink()
    with gzip.open(tmp_path / "test.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps(row("long", "y")) + "\n\n")
    corpus = summaries.summaries(data, Columns())
    assert split_of(corpus.read("train")) == [(b"one", ["é first".encode(), b"third"]), (b"two", [b"second"])]
    assert split_of(corpus.read("test")) == [(b"long", [b"y"])]


def test_lists_of_summaries_and_other_columns(tmp_path: Path) -> None:
    data = write(tmp_path, **{s: [{"report": s, "said": [f"{s} 1", f"{s} 2"]}] for s in SPLITS})
    corpus = summaries.summaries(data, Columns("report", "said"))
    assert split_of(corpus.read("test")) == [(b"test", [b"test 1", b"test 2"])]


def test_content_hash_follows_texts_and_their_order(tmp_path: Path) -> None:
    seen = set()
    for train in (
        [row("a", "b"), row("c", "d")],
        [row("c", "d"), row("a", "b")],
        [row("a", "b"), row("c", "e")],
        [row("a", "b"), row("a", "c"), row("c", "d")],
    ):
        data = write(tmp_path, **{**GOOD, "train": train})
        assert summaries.summaries(data, Columns()).content == summaries.summaries(data, Columns()).content
        seen.add(summaries.summaries(data, Columns()).content)
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, r"no train.jsonl or train.jsonl.gz: all of train, validation, test are needed"),
        ({**GOOD, "validation": ""}, r"validation.jsonl: empty: put at least one document with its summary there"),
        ({**GOOD, "test": "\n \n"}, r"test.jsonl: empty"),
        ({**GOOD, "train": '{"document": "a", '}, r"train.jsonl:1: no JSON \(.+\): every line must be one object"),
        ({**GOOD, "train": [row(), [1]]}, r"train.jsonl:2: is a list: every line must be one object"),
        (
            {**GOOD, "train": [row(), {"document": "a", "id": 3}]},
            r"train.jsonl:2: no 'summary' \(it has document, id\): add it, or set task.summary_column to its name",
        ),
        (
            {**GOOD, "train": [{"report": "a", "summary": "b"}]},
            r"train.jsonl:1: no 'document' \(it has report, summary\): add it, or set task.document_column to its name",
        ),
        ({**GOOD, "train": [row(), row(summary=" \n")]}, r"train.jsonl:2: 'summary' is empty: write some text, or"),
        ({**GOOD, "train": [row(document="")]}, r"train.jsonl:1: 'document' is empty: write some text, or remove"),
        ({**GOOD, "train": [row(summary=None)]}, r"train.jsonl:1: 'summary' is a NoneType: text is needed"),
        ({**GOOD, "train": [row(document=3)]}, r"train.jsonl:1: 'document' is a int: text is needed"),
        ({**GOOD, "train": [row(summary=[])]}, r"train.jsonl:1: 'summary' is an empty list: at least one text"),
        ({**GOOD, "train": [row(summary=["a", 1])]}, r"train.jsonl:1: 'summary\[1\]' is a int: text is needed"),
        (
            {**GOOD, "train": [row(), row("b", ["c"])]},
            r"train.jsonl:2: 'summary' is a list, before it was a str: use one type in all lines",
        ),
        (
            {**GOOD, "train": '{"document": "\\ud800", "summary": "a"}'},
            r"train.jsonl:1: 'document' has half a character",
        ),
        (
            {**GOOD, "test": [row("train document", "another")]},
            r"the document 'train document'... is in train and in test: keep it in one split only",
        ),
    ],
)
def test_bad_folders(tmp_path: Path, rows: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        summaries.summaries(write(tmp_path, **rows), Columns())
    assert "\n" not in str(error.value)


def test_bad_files(tmp_path: Path) -> None:
    data = write(tmp_path, **GOOD)
    (tmp_path / "test.jsonl.gz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"both test.jsonl and test.jsonl.gz: keep one of them"):
        summaries.summaries(data, Columns())
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(ValueError, match=r"test.jsonl.gz: not readable by gzip \(.+\): make or copy it again"):
        summaries.summaries(data, Columns())
    whole = gzip.compress(json.dumps(row("x" * 999)).encode())
    (tmp_path / "test.jsonl.gz").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"test.jsonl.gz: not readable by gzip"):
        summaries.summaries(data, Columns())
    (tmp_path / "test.jsonl.gz").write_bytes(gzip.compress(b'{"document": "caf\xe9", "summary": "a"}'))
    with pytest.raises(ValueError, match=r"test.jsonl.gz:1: no JSON \(not UTF-8\)"):
        summaries.summaries(data, Columns())


def test_names_in_any_case_marks_and_what_is_left_out(tmp_path: Path, capsys) -> None:
    data = write(tmp_path, **GOOD)
    before = summaries.summaries(data, Columns()).content
    assert capsys.readouterr().err == ""
    for split in SPLITS:
        raw = codecs.BOM_UTF8 + (tmp_path / f"{split}.jsonl").read_bytes()
        (tmp_path / f"{split}.jsonl").unlink()
        (tmp_path / f"{split}.JSONL.GZ").write_bytes(gzip.compress(raw))
    (tmp_path / "train2.jsonl").touch()
    (tmp_path / "more").mkdir()
    assert summaries.summaries(data, Columns()).content == before
    assert capsys.readouterr().err.endswith(
        "train.JSONL.GZ, validation.JSONL.GZ, test.JSONL.GZ are read; 2 left out: more, train2.jsonl\n"
    )


def test_what_is_no_file_and_no_json(tmp_path: Path) -> None:
    data = write(tmp_path, **GOOD)
    (tmp_path / "test.jsonl").write_text('{"document": ' + "[" * 100_000)
    with pytest.raises(ValueError, match=r"test.jsonl:1: no JSON \(nested too deeply\): every line must be one object"):
        summaries.summaries(data, Columns())
    for make in (Path.mkdir, os.mkfifo):
        (tmp_path / "test.jsonl").unlink() if (tmp_path / "test.jsonl").is_file() else (tmp_path / "test.jsonl").rmdir()
        make(tmp_path / "test.jsonl")
        with pytest.raises(ValueError, match=r"test.jsonl: is no file: put one there"):
            summaries.summaries(data, Columns())


def test_missing_folder_and_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no such folder: give a folder with train, validation and test"):
        summaries.summaries(Data("local", str(tmp_path / "nowhere")), Columns())
    with pytest.raises(ValueError, match=r"data.source=local needs data.path: a folder with train"):
        summaries.summaries(Data("local"), Columns())


# Hub


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list:
    """Snapshots come from a folder of parquet laid out as the hub's own conversions, and what was asked for is kept."""
    import datasets

    folder, calls = tmp_path / "snapshots" / "c0ffee", []
    for split in SPLITS:
        (folder / "default" / split).mkdir(parents=True)
        columns = {"document": [f"{split} 1", "", f"{split} 2", "x"], "summary": ["a", "b", "c", None]}
        datasets.Dataset.from_dict(columns).to_parquet(folder / "default" / split / "0000.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(text, "snapshot", lambda *which: calls.append(which) or (folder, folder.name))
    return calls


def test_hub_documents_of_several_splits_are_kept_where_they_are_evaluated(asked: list, tmp_path: Path) -> None:
    import datasets

    rows = {"train": "abc", "validation": "bd", "test": "ade"}
    for split in SPLITS:
        columns = {"document": list(rows[split]), "summary": [f"{split} {document}" for document in rows[split]]}
        file = tmp_path / "snapshots" / "c0ffee" / "default" / split / "0000.parquet"
        datasets.Dataset.from_dict(columns).to_parquet(file)
    corpus = summaries.summaries(Data("hub", id="a/b"), Columns())
    documents = {split: [document for document, _ in split_of(corpus.read(split))] for split in SPLITS}
    assert documents == {"train": [b"c"], "validation": [b"b"], "test": [b"a", b"d", b"e"]}


def test_hub(asked: list) -> None:
    corpus = summaries.summaries(Data("hub"), Columns())
    assert split_of(corpus.read("test")) == [(b"test 1", [b"a"]), (b"test 2", [b"c"])]
    assert corpus.facts == {"train_rows": 4, "validation_rows": 4, "test_rows": 4, "commit": "c0ffee"}
    summaries.summaries(Data("hub", revision="v1"), Columns())
    summaries.summaries(Data("hub", id="some/reports"), Columns())
    assert asked == [
        ("alexfabbri/multi_news", "refs/convert/parquet"),
        ("alexfabbri/multi_news", "v1"),
        ("some/reports", None),
    ]


def test_hub_without_the_column(asked: list) -> None:
    with pytest.raises(
        ValueError,
        match=r"no column 'report' \(it has document, summary\): set task.document_column to one of these",
    ):
        summaries.summaries(Data("hub"), Columns("report"))


def test_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "reachable", lambda endpoint: False)
    with pytest.raises(
        ValueError, match=r"is not in the local cache and .*: use data.source=embedded or local"
    ) as error:
        summaries.summaries(Data("hub", id="nobody/nothing"), Columns())
    assert "\n" not in str(error.value)


# Tokens

PAIRS = {
    "train": [("one two three " * 40, ["naïve 漢字"]), ("drei", ["x", "one two 🙂"])],
    "validation": [("quite other words " * 30, ["vvv"])],
    "test": [("zwei", ["www", "yyy", "zzz"])],
}


def corpus_of(pairs, content: str = "0") -> Corpus:
    def read(split):
        for document, references in pairs[split]:
            yield from (part.encode() for part in (document, *references, ""))

    return Corpus("a test", content * 64, read)


@pytest.mark.parametrize("vocabulary", ["bytes", 300])
def test_collections_find_everything_again(tmp_path: Path, vocabulary) -> None:
    tokens = tokenise(corpus_of(PAIRS), vocabulary, tmp_path)
    for split in SPLITS:
        found = Collection.of(tokens.streams[split], tokens.size - 1)
        back = [
            (
                tokens.decode(found.document(i)).decode(),
                [tokens.decode(found.summary(j)).decode() for j in found.references(i)],
            )
            for i in range(len(found.documents))
        ]
        assert back == PAIRS[split]
        assert found.owner.tolist() == [i for i, (_, r) in enumerate(PAIRS[split]) for _ in r]


def test_the_vocabulary_is_learned_from_train_only(tmp_path: Path) -> None:
    one = tokenise(corpus_of(PAIRS), 300, tmp_path)
    others = {**PAIRS, "test": [("other " * 90, ["texts " * 50])], "validation": [("b", ["c " * 99])]}
    two = tokenise(corpus_of(others, "1"), 300, tmp_path)
    assert one.tokenizer.to_str() == two.tokenizer.to_str()
    pieces = set(re.sub("[ĠĊ]", "", " ".join(one.tokenizer.get_vocab())).split())
    assert any(len(piece) > 2 for piece in pieces)
    three = tokenise(corpus_of({**PAIRS, "train": [("drei", ["summary " * 90])]}, "2"), 300, tmp_path)
    assert "summary" in "".join(three.tokenizer.get_vocab())  # summaries are learned from, too
