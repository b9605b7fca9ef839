"""Reads a .wandb file back: LevelDB's log framing around protobuf records.

Blocks of 32 KiB. A file begins with `:W&B`, a magic number and a version (7 bytes). Each piece has a header of
checksum (4), length (2) and type (1): 1 = a whole record, 2, 3, 4 = its first, middle and last piece. Fewer than
7 bytes at the end of a block are padding.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7


@dataclass
class Run:
    id: str = ""
    project: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


def raw_records(content: bytes) -> Iterator[bytes]:
    assert content[:4] == b":W&B"
    assert struct.unpack("<H", content[4:6])[0] == 0xBEE1
    place, whole = HEADER, b""
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + HEADER])
        if kind == 0:  # zeros at the end
            return
        if place + HEADER + length > len(content):  # still being written
            return
        whole += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):
            yield whole
            whole = b""


def read_run(path: Path) -> Run:
    from wandb.proto.wandb_internal_pb2 import Record

    run = Run()
    for raw in raw_records(path.read_bytes()):
        record = Record()
        record.ParseFromString(raw)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.project, run.group = record.run.run_id, record.run.project, record.run.run_group
            run.tags = list(record.run.tags)
            run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            run.history.append(_items(record.history.item))
        elif kind == "summary":
            run.summary |= _items(record.summary.update)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _items(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
