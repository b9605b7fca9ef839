"""Runs a command after lines of Python: `python -m tests.helpers.patched_command PATCH... -- MODULE ARGUMENT...`.

For commands that a test starts beside each other, in processes of their own.
"""

import runpy
import sys

end = sys.argv.index("--")
patches, sys.argv = sys.argv[1:end], sys.argv[end + 1 :]
for patch in patches:
    exec(patch, {})
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
