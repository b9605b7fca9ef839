"""Splits of recordings: no text in two of them, sizes, files of them and what is wrong with one."""

from pathlib import Path

import pytest

from tasks.base import SPLITS
from tasks.data.clip_splits import held_out, split_by_text, split_from_file

TEXTS = {f"LJ-{n}": f"text {n // 4}." for n in range(60)}
"""Every text is said by four clips."""


def test_a_text_is_in_one_split_only() -> None:
    splits = split_by_text(TEXTS)
    assert sorted(id for ids in splits.values() for id in ids) == sorted(TEXTS)
    texts = [{TEXTS[id] for id in splits[split]} for split in SPLITS]
    assert sum(map(len, texts)) == len(set(TEXTS.values()))
    assert [len(splits[split]) for split in SPLITS] == [44, 8, 8]


def test_it_depends_on_texts_alone() -> None:
    """Other ids and another order in the file: the same texts held out. One clip more moves few others."""
    splits = split_by_text(TEXTS)
    other = split_by_text({f"x{id}": text for id, text in reversed(TEXTS.items())})
    for split in SPLITS:
        assert {TEXTS[id] for id in splits[split]} == {TEXTS[id[1:]] for id in other[split]}
    more = split_by_text(TEXTS | {"new": "one more."})
    assert len(set(splits["test"]) & set(more["test"])) >= 4


@pytest.mark.parametrize(
    ("clips", "count"),
    [(3, 1), (9, 1), (10, 2), (20, 2), (35, 3), (60, 6), (100, 8), (300, 12), (13100, 524)],
)
def test_how_many_are_held_out(clips: int, count: int) -> None:
    assert held_out(clips) == count
    splits = split_by_text({str(n): str(n) for n in range(clips)})
    assert [len(splits[split]) for split in SPLITS] == [clips - 2 * count, count, count]


def test_every_split_has_a_text_where_there_are_three() -> None:
    for sizes in ((1, 1, 18), (18, 1, 1), (1, 18, 1)):
        texts = {f"{text}-{n}": text for text, size in zip("abc", sizes, strict=True) for n in range(size)}
        assert all(split_by_text(texts).values())
    with pytest.raises(ValueError, match="2 different transcripts: train, validation and test need one each"):
        split_by_text({str(n): "ab"[n % 2] for n in range(20)})


def test_a_file_of_splits(tmp_path: Path) -> None:
    """As it says, though a text is then in two splits."""
    file = tmp_path / "splits.csv"
    texts = dict.fromkeys("abcd", "same.")
    file.write_text("c|test\n\na| train\nb |validation\nd|test\n")
    assert split_from_file(file, texts) == {"test": ["c", "d"], "validation": ["b"], "train": ["a"]}
    for content, message in (
        ("a|train\nb|dev\n", r"splits.csv:2: 'b\|dev': write id\|train, id\|validation or id\|test"),
        ("a|train\ne|test\n", r"splits.csv:2: e: not in metadata.csv: add it"),
        ("a|train\nb|test\na|test\n", r"splits.csv:3: a is in line 1, too: keep one"),
        ("a|train\nb|test\nc|validation\n", r"splits.csv: no line for d: name the split"),
        ("a|train\nb|test\nc|test\nd|test\n", r"splits.csv: no validation clip: train, validation and test need one"),
    ):
        file.write_text(content)
        with pytest.raises(ValueError, match=message) as caught:
            split_from_file(file, texts)
        assert "\n" not in str(caught.value)
