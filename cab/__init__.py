"""CAB: a long-sequence attention benchmark."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""

# Before torch is imported: OpenMP threads that wait shall spin for some microseconds and then sleep. By default they
# spin for milliseconds, and with one other busy process on the machine timings grow up to a hundredfold; if they sleep
# at once, small operations take three times as long. The same for everyone, and recorded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Also before: torch's errors only. It warns in the middle of a measurement that memory from before the profile was
# freed within, which is meant; and each of several processes, at length, that a search for parameters without gradient,
# which some models need, has found none.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
