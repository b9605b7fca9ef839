"""Pictures inside a record: `python -m tasks.data.strips RESULT.json PICTURE.png` writes them out, one below the other.

A record holds numbers and texts, so a picture in it is a PNG file in base64. The command looks for the first column of
such pictures in the tables of a record and needs no model: what is shown is what was scored.
"""

import base64
import binascii
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

GAP = 4
"""White pixels between two rows."""
SCALE = 3


def packed(image: np.ndarray) -> str:
    """(H, W, 3) uint8 as text."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def unpacked(text: str) -> np.ndarray:
    """What `packed` was given. Raises ValueError for any other text."""
    try:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(text, validate=True))).convert("RGB"))
    except (binascii.Error, OSError, SyntaxError) as error:
        raise ValueError(f"no picture: {error}") from None


def pictures(record: Path) -> list[np.ndarray]:
    """All pictures in the first column that has some."""
    try:
        tables = json.loads(record.read_text())["result"]["tables"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{record}: no record with tables ({type(error).__name__}): give a run's result.json"
        ) from None
    for rows in tables.values():
        for column in rows[0] if rows else ():
            try:
                return [unpacked(row[column]) for row in rows]
            except (ValueError, TypeError):
                continue
    raise ValueError(f"{record}: no pictures in its tables: give the result.json of a task that has some")


def main(arguments: list[str]) -> str:
    """What the command says; raises ValueError for what it cannot do."""
    if len(arguments) != 2:
        raise ValueError("python -m tasks.data.strips RESULT.json PICTURE.png")
    found = pictures(Path(arguments[0]))
    rows = [np.pad(row, ((0, GAP), (0, 0), (0, 0)), constant_values=255) for row in found]
    Image.fromarray(np.concatenate(rows)[:-GAP].repeat(SCALE, 0).repeat(SCALE, 1)).save(arguments[1])
    return f"{arguments[1]}: {len(found)} rows"


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except ValueError as problem:
        sys.exit(str(problem))
