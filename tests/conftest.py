"""Tests run with the same OpenMP setting as the project, whichever module imports torch first."""

import cab  # noqa: F401
