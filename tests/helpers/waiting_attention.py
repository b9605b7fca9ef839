"""A family for tests of interrupted jobs: in training it waits for as long as a file exists.

The file is named after the job's number in its array and lies in the folder WAIT_FOLDER. While it waits, the job writes
its process id into `<number>.waiting`. If the file's content is "memory", it also allocates more and more memory.
"""

import os
import time
from pathlib import Path

from attentions.vanilla import Vanilla

STEP = 6
"""The training step after which it waits."""
LONGEST_WAIT_SECONDS = 600.0
CHUNK_BYTES = 100 << 20


class Waiting(Vanilla):
    def __init__(self, shape, pattern, layer, layers):
        super().__init__(shape, pattern, layer, layers)
        self.steps = 0

    def after_step(self):
        super().after_step()
        self.steps += 1
        if self.steps == STEP and "WAIT_FOLDER" in os.environ:
            wait(Path(os.environ["WAIT_FOLDER"]) / os.environ["SLURM_ARRAY_TASK_ID"])


def wait(file: Path) -> None:
    chunks, end = [], time.monotonic() + LONGEST_WAIT_SECONDS
    while file.exists() and time.monotonic() < end:
        file.with_suffix(".waiting").write_text(str(os.getpid()))
        if file.read_text() == "memory":
            chunks.append(b"x" * CHUNK_BYTES)
        time.sleep(0.2)
