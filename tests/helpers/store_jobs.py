"""What another process does to a stored folder. Imports nothing heavy, so that the process starts quickly."""

import json
import os
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from tasks.data.cache_folder import stored

CONTENT = list(range(1000))


def build_slowly(folder: Path) -> None:
    """Notes every call in `builds`, beside the cache."""
    with (folder.parent.parent / "builds").open("a") as log:
        log.write("x")
    time.sleep(0.3)
    (folder / "a.json").write_text(json.dumps(CONTENT))


def store_together(folder: Path, barrier: Barrier, results: Queue) -> None:
    """Starts when all others do, and says whether the folder is as it should be."""
    barrier.wait()
    stored(folder, build_slowly)
    results.put(json.loads((folder / "a.json").read_text()) == CONTENT)


def die_while_storing(folder: Path) -> None:
    stored(folder, lambda _: os._exit(9))
