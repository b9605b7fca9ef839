"""The symbols of texts that are spoken, and the ids of a text.

Letters, not phonemes: lower-case a to z, space, some marks, and an edge at both ends, which stands for the silence
there. Accents are removed and typographic quotes and dashes replaced; any other character is an error, so that
numbers and abbreviations are spelled out as in LJSpeech's third column.
"""

import string
import unicodedata

import numpy as np

EDGE = "|"
MARKS = "'\"-,.;:!?()"
SYMBOLS: tuple[str, ...] = (EDGE, " ", *string.ascii_lowercase, *MARKS)
"""The alphabet: a symbol's id is its place here."""
PLAIN = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "[": "(", "]": ")"}
)


def clean(text: str) -> str:
    """The text in these symbols. Raises ValueError for any other character."""
    parts = unicodedata.normalize("NFKD", text.translate(PLAIN).lower())
    plain = " ".join("".join(part for part in parts if not unicodedata.combining(part)).split())
    for character in plain:
        if character == EDGE or character not in SYMBOLS:
            known = "".join(SYMBOLS[28:])
            raise ValueError(f"unknown character {character!r}: spell it out in letters a to z, spaces and {known}")
    return plain


def symbols(plain: str) -> np.ndarray:
    """(S,) uint8: the ids of a clean text between two edges."""
    return np.array([SYMBOLS.index(character) for character in (EDGE, *plain, EDGE)], np.uint8)
