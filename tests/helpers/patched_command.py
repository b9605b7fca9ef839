"""Runs a command after lines of Python: `python -m tests.helpers.patched_command PATCH... -- MODULE ARGUMENT...`.

For processes that a test kills or starts beside each other: what is patched there cannot be patched in the test.
"""

import runpy
import sys

cut = sys.argv.index("--")
patches, sys.argv = sys.argv[1:cut], sys.argv[cut + 1 :]
for patch in patches:
    exec(patch, {})
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
