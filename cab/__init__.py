"""CAB: a long-sequence attention benchmark."""

import os

# Before torch is imported: OpenMP threads that wait shall sleep, not spin. With one other busy process on the machine,
# spinning makes timings up to a hundred times longer; the setting is the same for everyone and is recorded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
