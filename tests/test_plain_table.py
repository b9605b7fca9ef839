"""Tables on a terminal of 80 columns."""

import os
from argparse import Namespace

import pytest
from helpers import synthetic
from helpers.leaderboard_files import build

from cab.report import plain_table


@pytest.fixture
def narrow(monkeypatch):
    """A terminal of 80 columns."""
    size = os.terminal_size((80, 24))
    monkeypatch.setattr(plain_table.shutil, "get_terminal_size", lambda: size)
    monkeypatch.setattr(plain_table, "sys", Namespace(stdout=Namespace(isatty=lambda: True)))


def shown(tmp_path, capsys) -> list[str]:
    """What the leaderboard prints of rows with every figure, and of one with a long reason."""
    families = ("vanilla", "lightning", "none")
    records = [synthetic.quality(name, seed) for name in families for seed in range(3)]
    records += [synthetic.efficiency(name, scatter=0.4) for name in families]
    reason = "RuntimeError: " + " ".join(["the size of tensor a (3) must match that of tensor b (4)"] * 4)
    build(tmp_path, *records, synthetic.quality("fit", 0, status="error", reason=reason))
    return capsys.readouterr().out.splitlines()


def test_no_line_is_wider_than_the_terminal(tmp_path, capsys, narrow):
    lines = shown(tmp_path / "a", capsys)
    table = lines[: lines.index("")]
    assert max(map(len, table)) <= 80
    text = "\n".join(table)
    assert all(word in text for word in ("vanilla", "lightning", "(lower is", "at 2,048", "RuntimeError"))
    assert " ".join(text.split()).count("the size of tensor a (3) must match that of tensor b (4)") == 4


def test_elsewhere_a_row_is_a_line_and_a_reason_stands_below_the_table(tmp_path, capsys):
    lines = shown(tmp_path, capsys)
    rule = next(place for place, line in enumerate(lines) if line.startswith("----"))
    rows = lines[rule + 1 : rule + 6]
    assert [row.split()[1] for row in rows[:2]] == ["vanilla", "lightning"]
    assert rows[-1].split()[-1] == "error"
    assert max(map(len, rows)) <= 160
    assert lines[rule + 6].startswith("fit: error: RuntimeError: the size")


def test_a_narrow_table_stays_as_it_is(narrow):
    rows, headers = [["a (b)", "1"], ["c", "2"]], ["name", "value"]
    assert plain_table.plain_table(rows, headers).splitlines() == [
        "name   value",
        "-----  -----",
        "a (b)  1",
        "c      2",
    ]


def test_names_break_after_an_underscore_and_bounds_nowhere(narrow):
    rows = [["block_transformer", "tie (<= 128 to > 2,048)", "of_many_words_" * 9]]
    made = plain_table.plain_table(rows, ["a", "b", "c"])
    assert max(map(len, made.splitlines())) <= 80
    assert "(<= 128 to > 2,048)" in made
    assert {line.split()[-1][-1] for line in made.splitlines()[2:]} == {"_"}
