"""`python -m cab.run` with a checkpoint at every point of the curve."""

import runpy

from cab import train

train.CHECKPOINT_SECONDS = 0.0
runpy.run_module("cab.run", run_name="__main__")
