"""Points from a .pcd file (Point Cloud Library, version 0.7), ascii or binary: its fields x, y and z."""

from pathlib import Path

import numpy as np

CODES = {"F": "f", "I": "i", "U": "u"}


def read_pcd(path: Path) -> np.ndarray:
    """(P, 3) float32."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}: is the folder complete?") from None
    header, body = _header(path, raw)
    try:
        layout = _layout(header)
        count, kind = int(header["POINTS"][0]), header["DATA"][0]
        names = layout.names or ()
    except (KeyError, IndexError, ValueError, TypeError):
        raise _damaged(path, "its header is not that of a pcd file") from None
    if not {"x", "y", "z"} <= set(names):
        raise _damaged(path, "there is no field x, y, z in it")
    if kind == "binary":
        if len(body) < count * layout.itemsize:
            raise _damaged(path, f"it ends before its {count:,} points do")
        table = np.frombuffer(body, layout, count)
        points = np.stack([table[name].reshape(count, -1)[:, 0] for name in "xyz"], 1)
    elif kind == "ascii":
        points = _ascii(path, body, layout, count)
    else:
        raise ValueError(f"{path}: DATA {kind} is not read: save it as ascii or binary")
    return points.astype(np.float32)


def _header(path: Path, raw: bytes) -> tuple[dict[str, list[str]], bytes]:
    """The words of each line of the header, and what comes after it."""
    header: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in header:
        end = raw.find(b"\n", start)
        if end < 0 or end - start > 1000:
            raise _damaged(path, "its header is not that of a pcd file")
        words = raw[start:end].decode("latin-1").split()
        if words and not words[0].startswith("#"):
            header[words[0]] = words[1:]
        start = end + 1
    return header, raw[start:]


def _layout(header: dict[str, list[str]]) -> np.dtype:
    """Of a point, one field after the other."""
    fields = header["FIELDS"]
    counts = header.get("COUNT", ["1"] * len(fields))
    parts = zip(fields, header["TYPE"], header["SIZE"], counts, strict=True)
    return np.dtype([(name, f"<{CODES[code]}{size}", (int(count),)) for name, code, size, count in parts])


def _ascii(path: Path, body: bytes, layout: np.dtype, count: int) -> np.ndarray:
    lines = body.split(b"\n")[:count]
    columns, width = {}, 0
    for name in layout.names or ():
        columns[name] = width
        width += layout[name].shape[0]
    try:
        table = np.array([line.split() for line in lines], dtype=np.float64).reshape(len(lines), -1)
        if table.shape != (count, width):
            raise ValueError("another size")
    except ValueError:
        raise _damaged(path, f"it does not hold {count:,} points of {width} numbers") from None
    return table[:, [columns[name] for name in "xyz"]]


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path}: {reason}: get the file again, or remove it")
