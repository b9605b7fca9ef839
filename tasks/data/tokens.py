"""Text as one stream of token ids per split, a separator after every document.

`bytes`     the 256 bytes and a separator
a number    byte-level BPE (Sennrich et al. 2016, arXiv 1508.07909; on bytes as in GPT-2), trained on the train split
            only, by the `tokenizers` library; the separator is the last id

Every token stands for a known number of bytes of the text (the separator for 0), so that bits per byte is exact. BPE
tokens, and those of texts too large for memory, are cached by content.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import PlainValidator

from tasks.base import SPLITS, Split
from tasks.data.cache_folder import stored
from tasks.data.progress import each
from tasks.data.text import Corpus

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 1
"""Increased when the same text and vocabulary would give other tokens."""
LEAST_VOCABULARY, MOST_VOCABULARY = 257, 2**18
"""The largest vocabularies in use are of that size."""
TRAINING_BYTES = 2**28
"""BPE merges are learned from the beginning of the train split: more changes little and does not fit into memory."""
ENCODED_AT_ONCE = 256


def _checked(vocabulary: object) -> object:
    number = vocabulary if isinstance(vocabulary, int) and not isinstance(vocabulary, bool) else 0
    if vocabulary != "bytes" and not LEAST_VOCABULARY <= number <= MOST_VOCABULARY:
        raise ValueError(f"use bytes, or a number from {LEAST_VOCABULARY} to {MOST_VOCABULARY:,} for BPE")
    return vocabulary


Vocabulary = Annotated[int | Literal["bytes"], PlainValidator(_checked)]
"""An option of tasks on text."""


@dataclass(frozen=True)
class Tokens:
    streams: Mapping[Split, np.ndarray]
    """(T,) uint16 or uint32 each."""
    size: int
    """Size of the vocabulary, with the separator: the last id."""
    bytes_of: np.ndarray
    """(size,) int64: the number of bytes of text behind each id."""
    tokenizer: "Tokenizer | None" = None

    def decode(self, ids: np.ndarray) -> bytes:
        """The text of the ids (T,), without separators."""
        kept = ids[ids != self.size - 1]
        if self.tokenizer is None:
            return kept.astype(np.uint8).tobytes()
        different, places = np.unique(kept, return_inverse=True)
        letters = _bytes_of_letters()
        pieces = [self.tokenizer.id_to_token(int(i)) or "" for i in different]
        texts = [bytes(letters[letter] for letter in piece) for piece in pieces]
        return b"".join(texts[place] for place in places)


def vocabulary_size(vocabulary: Vocabulary) -> int:
    """The number of ids, with the separator."""
    return 257 if vocabulary == "bytes" else vocabulary


def tokenise(corpus: Corpus, vocabulary: Vocabulary, cache: Path) -> Tokens:
    """The corpus in tokens, cached if that saves time or memory. A small text can give fewer BPE tokens."""
    if vocabulary == "bytes" and not corpus.large:
        return Tokens({split: _joined(_encode_bytes(corpus.read(split))) for split in SPLITS}, 257, _byte_sizes())
    key = hashlib.sha256(f"{FORMAT}:{corpus.content}:{vocabulary}".encode()).hexdigest()[:24]
    folder = stored(cache / f"tokens-{key}", partial(_build, corpus, vocabulary), f"tokens ({corpus.description})")
    streams = {split: np.load(folder / f"{split}.npy", mmap_mode="r") for split in SPLITS}
    if vocabulary == "bytes":
        return Tokens(streams, 257, _byte_sizes())
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Tokens(streams, tokenizer.get_vocab_size() + 1, _bpe_sizes(tokenizer), tokenizer)


def check_reached(tokens: Tokens, vocabulary: Vocabulary) -> None:
    """Raises ValueError if the train text does not give so many tokens: a model would have ids that never occur."""
    if tokens.size < vocabulary_size(vocabulary):
        given = f"the train text gives {tokens.size} tokens at most"
        raise ValueError(f"task.vocabulary={vocabulary}: {given}: use bytes or a smaller number")


def _build(corpus: Corpus, vocabulary: Vocabulary, folder: Path) -> None:
    """Writes the cache that `tokenise` reads."""
    tokenizer = None if vocabulary == "bytes" else _train(corpus.read("train"), vocabulary)
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
    for split in SPLITS:
        documents = each(corpus.read(split), f"tokens, {split}", "document")
        parts = _encode_bytes(documents) if tokenizer is None else _encode_bpe(tokenizer, documents)
        _write(parts, folder / f"{split}.npy")
    (folder / "about.json").write_text(
        json.dumps({"text": corpus.description, "content": corpus.content, "vocabulary": vocabulary})
    )


def _write(parts: Iterable[np.ndarray], path: Path) -> None:
    """Writes parts of a stream to one .npy, without the whole stream in memory."""
    with tempfile.TemporaryFile(dir=path.parent) as raw:
        count, dtype = 0, np.dtype(np.uint16)
        for part in parts:
            raw.write(part.tobytes())
            count, dtype = count + len(part), part.dtype
        raw.seek(0)
        with path.open("wb") as out:
            np.lib.format.write_array_header_1_0(out, {"descr": dtype.str, "fortran_order": False, "shape": (count,)})
            while block := raw.read(2**24):
                out.write(block)


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(parts))


def _encode_bytes(documents: Iterable[bytes]) -> Iterator[np.ndarray]:
    separator = np.array([256], np.uint16)
    for document in documents:
        yield np.frombuffer(document, np.uint8).astype(np.uint16)
        yield separator


def _train(documents: Iterable[bytes], vocabulary: int) -> "Tokenizer":
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    def beginning() -> Iterator[str]:
        left = TRAINING_BYTES
        for document in documents:
            if left <= 0:
                return
            yield document[:left].decode(errors="ignore")  # a cut may fall inside a character
            left -= len(document)

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(beginning(), trainer)
    return tokenizer


def _encode_bpe(tokenizer: "Tokenizer", documents: Iterable[bytes]) -> Iterator[np.ndarray]:
    separator = tokenizer.get_vocab_size()
    dtype = np.uint16 if separator < 2**16 else np.uint32
    for batch in _batched(documents, ENCODED_AT_ONCE):
        for encoding in tokenizer.encode_batch([document.decode() for document in batch], add_special_tokens=False):
            yield np.array([*encoding.ids, separator], dtype)


def _batched(items: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _byte_sizes() -> np.ndarray:
    return np.array([1] * 256 + [0])


def _bpe_sizes(tokenizer: "Tokenizer") -> np.ndarray:
    """One letter of a byte-level token stands for one byte."""
    pieces: dict[str, int] = tokenizer.get_vocab()
    sizes = np.zeros(len(pieces) + 1, np.int64)
    for piece, number in pieces.items():
        sizes[number] = len(piece)
    return sizes


@cache
def _bytes_of_letters() -> dict[str, int]:
    """The printable letter that stands for each byte in byte-level BPE, as in GPT-2's encoder."""
    printable: list[Any] = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
