"""A family for tests of jobs that are interrupted: in training it waits for as long as a file is there.

The file is called after the job's number in its array and lies in the folder CAB_HELD. `<number>.here` says that the
job waits, and under which process id; "memory" in the file makes it take more and more memory, too.
"""

import os
import time
from pathlib import Path

from attentions.vanilla import Vanilla

STEP = 6
PATIENCE_SECONDS = 600.0
MORE_BYTES = 100 << 20


class Held(Vanilla):
    def __init__(self, shape, pattern, layer, layers):
        super().__init__(shape, pattern, layer, layers)
        self.steps = 0

    def after_step(self):
        super().after_step()
        self.steps += 1
        if self.steps == STEP and "CAB_HELD" in os.environ:
            wait(Path(os.environ["CAB_HELD"]) / os.environ["SLURM_ARRAY_TASK_ID"])


def wait(file: Path) -> None:
    taken, end = [], time.monotonic() + PATIENCE_SECONDS
    while file.exists() and time.monotonic() < end:
        file.with_suffix(".here").write_text(str(os.getpid()))
        if file.read_text() == "memory":
            taken.append(bytes(MORE_BYTES).replace(b"\0", b"x"))
        time.sleep(0.2)
