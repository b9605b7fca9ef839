"""CAB: a long-sequence attention benchmark."""

import os
from pathlib import Path

from cab.quality.distributed import world_size

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""

# Before torch is imported: OpenMP threads that wait shall spin for some microseconds and then sleep. By default they
# spin for milliseconds, and with one other busy process on the machine timings grow up to a hundredfold; if they sleep
# at once, small operations take three times as long. The same for everyone, and recorded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Also before: of several processes, each would tell at length that a search for parameters without gradient, which some
# models need, has found none.
if world_size() > 1:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
