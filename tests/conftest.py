"""Tests run with the same OpenMP setting as the project, whichever module imports torch first."""

import pytest

import cab  # noqa: F401


@pytest.fixture(autouse=True, scope="session")
def own_device_locks(tmp_path_factory):
    """Tests do not wait while something else is measured on this machine, nor hold it up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAB_LOCK_FOLDER", str(tmp_path_factory.mktemp("machine")))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_lines_about_slow_work():
    """On a busy machine everything is slow, and tests compare what is printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.data.progress.DELAY", 600.0)
        yield


@pytest.fixture(autouse=True, scope="session")
def little_text_for_predictors():
    """Counting and compressing all of the embedded text takes half a minute in every fresh results folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.common.text_predictors.COUNTED_TOKENS", 2**16)
        patch.setattr("tasks.lm.XZ_BYTES", 2**16)
        yield
