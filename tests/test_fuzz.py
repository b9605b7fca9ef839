"""Random command lines, right and wrong: every command has one short answer to each, and never a traceback."""

import pytest
from helpers import random_lines

PARTS = 8
COUNT = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("lines")
    (made / "file").write_text("a file")
    (made / "empty").mkdir()
    with pytest.MonkeyPatch.context() as patch, random_lines.nothing_is_done(patch):
        patch.chdir(made)
        yield made


def problems(seed: int, part: int, folder) -> list[str]:
    found = []
    for line in random_lines.lines(seed, COUNT, folder)[part::PARTS]:
        answer = random_lines.answer(line)
        if problem := answer.problem(line):
            found.append(f"{problem}: {line}\n{answer.crash}{answer.out[-1000:]}{answer.err[-1000:]}")
    return found


@pytest.mark.parametrize("part", range(PARTS))
def test_every_line_has_one_answer(part, folder):
    assert problems(0, part, folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_further_line_has_one_answer(seed, part, folder):
    assert problems(seed, part, folder) == []
