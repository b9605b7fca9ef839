"""The words of a text, in any script, for ROUGE.

A word is a run of Unicode letters and digits with the marks on them, in lower case and composed (NFC). In scripts that
are written without spaces, every letter is a word of its own, as is usual for ROUGE of Chinese. Words of the letters a
to z and digits are stemmed if they are longer than 3 letters (Porter 1980). For text in ASCII this is what
`rouge-score` does, which knows no other letters.
"""

import re
import sys
import unicodedata
from functools import cache

DESCRIPTION = (
    "runs of Unicode letters and digits, those of a to z stemmed as English; in Chinese, Japanese, Thai, Lao, Khmer "
    "and Burmese single letters"
)
"""For records."""
SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese
)
"""Ranges of the scripts without spaces."""
LEAST_STEMMED = 4


def words(text: str) -> list[str]:
    """In order, without stemming."""
    return [text[begin:end].lower() for text, begin, end in _found(text)]


def first_words(text: str, count: int) -> str:
    """The text up to the end of its word number `count`."""
    found = _found(text)[:count]
    return found[-1][0][: found[-1][2]] if found else ""


class Tokenizer:
    """What `rouge-score` takes as a tokenizer."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self.stem = PorterStemmer().stem

    def tokenize(self, text: str) -> list[str]:
        return [
            self.stem(word) if len(word) >= LEAST_STEMMED and word.isascii() else word for word in words(text.lower())
        ]


def _found(text: str) -> list[tuple[str, int, int]]:
    """The composed text, beginning and end of every word."""
    text = unicodedata.normalize("NFC", text)
    pattern = re.compile("[A-Za-z0-9]+") if text.isascii() else _any_script()
    return [(text, *match.span()) for match in pattern.finditer(text)]


@cache
def _any_script() -> re.Pattern[str]:
    marks = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c).startswith("M"))
    letter = r"[^\W_]"
    alone, together = f"(?={letter})[{SPACELESS}][{marks}]*", f"(?:(?![{SPACELESS}]){letter}[{marks}]*)+"
    return re.compile(f"{alone}|{together}")
