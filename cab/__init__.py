"""CAB: a long-sequence attention benchmark."""

import os

# Before torch is imported: OpenMP threads that wait shall spin for some microseconds and then sleep. By default they
# spin for milliseconds, and with one other busy process on the machine timings grow up to a hundredfold; if they sleep
# at once, small operations take three times as long. The same for everyone, and recorded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
