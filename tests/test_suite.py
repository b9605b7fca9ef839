"""`make test` cannot hang: every test has a time limit, and nothing forks a process that may have threads."""

import ast
import re
import subprocess
import sys

import pytest

from cab import ROOT

HANGS = """\
import threading
def test_hangs():
    try:
        threading.Event().wait()
    finally:
        threading.Event().wait()
"""
MAKE_TEST = re.search(r"-m pytest (.*) \$\(ARGS\)", (ROOT / "Makefile").read_text())[1].split()
"""The options of `make test`."""
FOLDERS = ("attentions", "cab", "dev", "tasks", "tests")


def test_every_test_has_a_time_limit(pytestconfig):
    assert pytestconfig.pluginmanager.hasplugin("timeout")
    assert 0 < float(pytestconfig.getini("faulthandler_timeout")) < float(pytestconfig.getini("timeout")) <= 300
    assert pytestconfig.getini("timeout_method") == "thread"


@pytest.mark.parametrize("options", [[], MAKE_TEST], ids=["pytest", "make"])
def test_a_test_that_hangs_ends_the_run_with_its_stack(tmp_path, options):
    """This one hangs again when an exception ends it, as a pool does whose workers wait for each other."""
    (tmp_path / "test_hang.py").write_text(HANGS)
    command = [sys.executable, "-m", "pytest", f"--config-file={ROOT / 'pyproject.toml'}", *options]
    command += ["--timeout=3", "--override-ini=faulthandler_timeout=2", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 1
    output = done.stdout + done.stderr
    assert output.count('test_hang.py", line 4 in test_hangs') == 1  # and it is not run again


def forks(code: str) -> list[int]:
    """Lines that start a process by fork."""
    lines = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        name = function.split(".")[-1]
        method = ast.unparse(node.args[0]) if node.args else "None"
        pool_by_fork = name == "ProcessPoolExecutor" and "mp_context" not in {keyword.arg for keyword in node.keywords}
        if (
            function in ("os.fork", "os.forkpty", "multiprocessing.Pool", "multiprocessing.Process")
            or (name in ("get_context", "set_start_method") and method in ("None", "'fork'"))
            or pool_by_fork
        ):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "code",
    [
        "os.fork()",
        "multiprocessing.get_context('fork')",
        "get_context()",
        "multiprocessing.set_start_method('fork')",
        "multiprocessing.Process(target=print)",
        "multiprocessing.Pool(2)",
        "ProcessPoolExecutor(2)",
    ],
)
def test_a_fork_is_found(code):
    assert forks(code) == [1]


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_starts_a_process_by_fork(folder):
    """A lock that another thread holds at the moment of the fork stays locked in the child: it waits forever."""
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in forks(path.read_text())
    }
    assert not found
