"""Source code and the first paragraph of its docstring: examples of summaries in every Python installation.

The document is the source of a module, class or function without its own docstring, the summary is the first paragraph
of that docstring (PEP 257 asks for a summary there). Nested definitions keep theirs.
"""

import ast
import inspect
import re
import warnings
from collections.abc import Iterator

LEAST_WORDS = 3
"""A shorter paragraph is a label, not a summary."""
VERSION = 1
"""Increased when the same source would give other examples."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documented(source: bytes) -> Iterator[tuple[str, str]]:
    """(document, summary) of everything with a docstring in a file; nothing if it is not UTF-8 or not Python."""
    try:
        source.decode()
        with warnings.catch_warnings():  # old files have invalid escapes
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    lines = source.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)
    for node in ast.walk(tree):
        if isinstance(node, Documented):
            summary = _first_paragraph(ast.get_docstring(node, clean=False) or "")
            document = _without_docstring(node, lines) if len(summary.split()) >= LEAST_WORDS else ""
            if document.strip():
                yield document, summary


def _first_paragraph(docstring: str) -> str:
    """In one line; "" where it is an example session."""
    paragraph = " ".join(re.split(r"\n\s*\n", inspect.cleandoc(docstring), maxsplit=1)[0].split())
    return "" if paragraph.startswith(">>>") else paragraph


def _without_docstring(node: Documented, lines: list[bytes]) -> str:
    """The node's source with its decorators, without the common indentation."""
    first, last, indent = 0, len(lines), 0
    if not isinstance(node, ast.Module):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
        last, indent = node.end_lineno or last, node.col_offset
    docstring = node.body[0]
    begin, end = docstring.lineno - 1, (docstring.end_lineno or docstring.lineno) - 1
    rest = lines[begin][: docstring.col_offset] + lines[end][docstring.end_col_offset :]  # a statement may share a line
    kept = lines[first:begin] + ([rest] if rest.strip() else []) + lines[end + 1 : last]
    text = b"".join(kept).decode()
    return re.sub(rf"^[ \t]{{{indent}}}", "", text, flags=re.MULTILINE)
