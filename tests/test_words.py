"""Words for ROUGE: of ASCII those of rouge-score, of every other script those of a plain reading of the rule."""

import unicodedata
from collections import Counter

import pytest
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from tasks.base import Data
from tasks.data.text import corpus
from tasks.metrics.words import Tokenizer, first_words, words

SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "IDEOGRAPHIC")
TEXTS = [
    "The cats' naïve co-operation: don\u2019t stop, 3.5 times_more!",
    "Мама мыла раму; ёлка и её тень №5",
    "今天天气很好\uff0c我们去公园2024年。",
    "東京タワーは高いです。ビル・ゲイツ",
    "สวัสดีชาวโลก น้ำแข็ง ๑๒",
    "ភាសាខ្មែរ និង ພາສາລາວ",
    "हिन्दी में लिखा हुआ क्षेत्र",
    "العربيّة مكتوبة من اليمين",
    "한국어 문장입니다",
    "e\u0301te\u0301 et été",
    "",
    "… — !?",
]


def by_character(text: str) -> list[str]:
    """One character after the other, by its Unicode name and category."""
    found: list[str] = []
    ended = True
    for character in unicodedata.normalize("NFC", text):
        kind = unicodedata.category(character)[0]
        alone = unicodedata.name(character, "").startswith(SPACELESS)
        if kind == "M" and not ended:
            found[-1] += character
        elif kind in "LN" and (ended or alone or unicodedata.name(found[-1][0], "").startswith(SPACELESS)):
            found.append(character)
            ended = False
        elif kind in "LN":
            found[-1] += character
        else:
            ended = True
    return [word.lower() for word in found]


@pytest.mark.parametrize("text", TEXTS)
def test_words_by_character(text: str) -> None:
    assert words(text) == by_character(text)


def test_first_words_keep_what_is_between() -> None:
    assert first_words("«Мама, мыла» раму", 2) == "«Мама, мыла"
    assert first_words("今天\uff0c天气", 3) == "今天\uff0c天"
    assert first_words("one two", 9) == "one two"
    assert first_words("...", 2) == ""


def longest_common(one: list[str], other: list[str]) -> int:
    before = [0] * (len(other) + 1)
    for left in one:
        row = [0]
        for place, right in enumerate(other):
            row.append(before[place] + 1 if left == right else max(row[-1], before[place + 1]))
        before = row
    return before[-1]


@pytest.mark.parametrize("reference", TEXTS[:-2])
def test_rouge_by_counting(reference: str) -> None:
    """No word here is stemmed to another one."""
    scorer = RougeScorer(["rouge1", "rougeL"], tokenizer=Tokenizer())
    for text in (reference, reference[: len(reference) // 2], reference[::2] + " " + reference, "other words 天 и"):
        one, two = by_character(text), by_character(reference)
        scores = scorer.score(reference, text)
        total = len(one) + len(two)
        assert scores["rougeL"].fmeasure == pytest.approx(2 * longest_common(one, two) / total, abs=1e-12)
        same = sum((Counter(one) & Counter(two)).values())
        assert scores["rouge1"].fmeasure == pytest.approx(2 * same / total, abs=1e-12)


def test_ascii_is_read_as_rouge_score_reads_it() -> None:
    """Some of the embedded text, stemmed."""
    own, theirs = Tokenizer(), DefaultTokenizer(use_stemmer=True)
    lines = b"".join(corpus(Data(), "text").read("test"))[:150_000].decode(errors="replace").splitlines()
    plain = [line for line in lines if line.isascii()]
    assert len(plain) > 1000
    for text in [*plain, "A_b c-d's 4x4 RUNNING cities\n\x00 \t"]:
        assert own.tokenize(text) == theirs.tokenize(text)
