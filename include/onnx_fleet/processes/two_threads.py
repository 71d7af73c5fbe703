"""Two calls at the same time, of which each computes in a library that leaves Python's lock to the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Beside = TypeVar("Beside")
Here = TypeVar("Here")


def beside(other: Callable[[], Beside], here: Callable[[], Here]) -> tuple[Beside, Here]:
    """Return what two calls return: the first one's, from a thread of its own, and the second one's, from this thread.

    PyTorch, onnxruntime and numpy compute so, each with its own threads; neither's values change.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="beside") as pool:
        told = pool.submit(other)
        found = here()
        return told.result(), found
