"""Tests run with the same OpenMP setting as the project, whichever module imports torch first."""

import pytest

import cab  # noqa: F401


@pytest.fixture(autouse=True, scope="session")
def own_device_locks(tmp_path_factory):
    """Tests do not wait while something else is measured on this machine, nor hold it up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAB_LOCK_FOLDER", str(tmp_path_factory.mktemp("machine")))
        yield
