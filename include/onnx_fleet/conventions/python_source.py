"""Python source as a syntax tree, built in one thread at a time.

Python 3.11 counts how deep it is in the trees of all threads together. Where the garbage collector hands over to
another thread amid a tree, ``ast.parse`` ends with ``SystemError: AST constructor recursion depth mismatch``.
"""

from __future__ import annotations

import ast
from threading import Lock
from typing import Final

_ONE_AT_A_TIME: Final = Lock()


def module(source: str) -> ast.Module:
    """Return the tree of a file.

    Raises:
        SyntaxError, ValueError: it is no Python.
        RecursionError, MemoryError: it is nested too deeply.
    """
    with _ONE_AT_A_TIME:
        return ast.parse(source)


def expression(source: str) -> ast.expr:
    """Return the tree of one expression, likewise."""
    with _ONE_AT_A_TIME:
        return ast.parse(source, mode="eval").body
